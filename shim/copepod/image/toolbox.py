"""The toolbox: the node's own module for commands that an image does not have.

It knows its tools' names and where the module is. What is missing in an image is looked for here
by exec alone; a file of an image that is the very same module is the toolbox wherever it runs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from copepod import errors

if TYPE_CHECKING:
    from copepod.config import Config

# What the module answers to --list; a test compares them.
_NAMES = (
    "[ basename cat cp cut date dd dirname echo env false find grep gunzip gzip head hostname id"
    " ipcs ln ls md5sum mkdir mv netstat pgrep pidof printenv printf ps pwd readlink rm rmdir seq"
    " sh sha256sum sleep sort tail tar tee test top touch tr true uname uniq wc which whoami xargs"
)
NAMES = frozenset(_NAMES.split())
# `exec -- /bin/sh` means the shell as well; a tool is nowhere else.
FOLDERS = frozenset(("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin"))


class Tool(NamedTuple):
    """The module, open for reading, and the SHA-256 of its bytes in hex."""

    fd: int
    digest: str


_known: dict[tuple[int, int, int, int], str] = {}


def has(name: str) -> bool:
    """Whether `name`, args[0] of an exec, is a tool's."""
    folder, _, base = name.rpartition("/")
    return base in NAMES and (base == name or folder in FOLDERS)


def path(config: Config) -> str:
    """Gives where the module is: the config's path, or guests/ beside the package `copepod`."""
    beside = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return config.toolbox_path or f"{beside}/guests/toolbox.wasm"


def open_(config: Config) -> Tool:
    """Opens the module; the caller closes it. Raises errors.NotFound with its path."""
    where = path(config)
    try:
        fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise errors.NotFound(
            f"the node's toolbox can't be used: {where}: {error.strerror}"
        ) from None
    try:
        return Tool(fd, _digest(fd))
    except BaseException:
        os.close(fd)
        raise


def same(config: Config, fd: int) -> bool:
    """Whether a file of an image is this node's toolbox, byte for byte. Only one of its length is
    read."""
    try:
        if os.fstat(fd).st_size != os.stat(path(config)).st_size:
            return False
        tool = open_(config)
    except (OSError, errors.NotFound):
        return False
    os.close(tool.fd)
    return _digest(fd) == tool.digest


def _digest(fd: int) -> str:
    """Reads the file once in the shim's life, and again when it is another."""
    found = os.fstat(fd)
    key = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    if key not in _known:
        from hashlib import sha256

        state, at = sha256(), 0
        while chunk := os.pread(fd, 1 << 20, at):
            state.update(chunk)
            at += len(chunk)
        _known[key] = state.hexdigest()
    return _known[key]
