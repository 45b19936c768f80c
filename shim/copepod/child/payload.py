"""Which bytes run: the program's name looked up inside the root as execvp(3) would, and its kind.

It reads the first bytes of the file and nothing else of it; a path is only resolved by openat2
inside the root, and a magic link such as /proc/self/exe leads nowhere.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from typing import TYPE_CHECKING

from copepod import errors
from copepod.linux.path import open_in_root
from copepod.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from copepod.child.job import Program

WASM = b"\0asm"
ELF = b"\x7fELF"
SCRIPT = b"#!"
_PT_INTERP = 3
# e_ident[EI_OSABI] (elf(5)) of code that wasmtime has compiled: native code in disguise.
OSABI, OSABI_WASMTIME = 7, 200
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Payload:
    """What was found. kind: "wasm", "native" or "missing".

    `name` is args[0] without #entry; `path` the file's path in the container; `fd` the wasm
    file, open for reading, else -1; `searched` what a person should know about a miss; `needs` the
    interpreter or dynamic loader that the file itself names.
    """

    kind: str
    name: str
    entry: str = ""
    path: str = ""
    fd: int = -1
    searched: str = ""
    needs: str = ""


def find(root: int, args: Sequence[str], env: Sequence[str], cwd: str) -> Payload:
    """Looks `args[0]` up. Raises errors for a file that can't run, in one sentence each."""
    if not args:
        raise errors.InvalidArgument("process.args is empty: there is no program to run")
    if args[0] in ("", "/"):
        # CRI demands a command; images that are nothing but wasm are given one of these.
        return Payload("missing", args[0], searched="a program's name")
    whole = _find(root, args[0], "", env, cwd)
    if whole.kind == "missing" and "#" in args[0]:
        # `module.wasm#function` selects an export; a file of that very name goes first.
        name, _, entry = args[0].rpartition("#")
        return _find(root, name, entry, env, cwd)
    if whole.needs:
        _check_interpreter(root, whole, cwd)
    return whole


def _find(root: int, name: str, entry: str, env: Sequence[str], cwd: str) -> Payload:
    candidates = _candidates(name, env, cwd)
    refused: errors.Error | None = None
    for path in candidates:
        fd = _open(root, path)
        if fd < 0:
            continue
        try:
            found = _judge(fd, name, entry, path)
        except errors.Error as error:
            os.close(fd)
            refused = refused or error
            continue
        if found.fd < 0:
            os.close(fd)
        return found
    if refused is not None:
        raise refused
    if "/" in name:
        return Payload("missing", name, entry, searched=f"the file {candidates[0]}")
    searched = f"{name} in $PATH ({':'.join(os.path.dirname(path) for path in candidates)})"
    return Payload("missing", name, entry, searched=searched)


def _candidates(name: str, env: Sequence[str], cwd: str) -> list[str]:
    if not name:
        return []
    if "/" in name:
        return [name if name.startswith("/") else os.path.join(cwd or "/", name)]
    # The last of several wins, as in what execve(2) hands to a shell.
    given = [word[5:] for word in env if word.startswith("PATH=")]
    folders = (given[-1] if given else DEFAULT_PATH).split(":")
    return [os.path.join(cwd or "/", folder or ".", name) for folder in folders]


def _open(root: int, path: str) -> int:
    """Gives an fd, -1 if there is no such file. O_NONBLOCK: a FIFO must not hold us."""
    try:
        return open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV):
            return -1
        if error.errno == errno.ELOOP:
            raise errors.InvalidArgument(
                f"exec {path}: a chain of links without end, or one through /proc, can't be run"
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise errors.PermissionDenied(f"exec {path}: permission denied") from None
        raise


def _judge(fd: int, name: str, entry: str, path: str) -> Payload:
    found = os.fstat(fd)
    if stat.S_ISDIR(found.st_mode):
        raise errors.PermissionDenied(f"exec {path}: it is a directory: permission denied")
    if not stat.S_ISREG(found.st_mode):
        raise errors.PermissionDenied(f"exec {path}: it is not a regular file: permission denied")
    ident = os.pread(fd, 8, 0)
    head = ident[:4]
    if head == WASM:
        return Payload("wasm", name, entry, path, fd)
    if head == ELF and ident[OSABI:] == bytes([OSABI_WASMTIME]):
        raise errors.InvalidArgument(
            f"exec {path}: the file is a precompiled wasm module: it would run as native code, "
            "past wasm's walls; put the .wasm file itself into the image"
        )
    if not found.st_mode & 0o111:
        raise errors.PermissionDenied(
            f"exec {path}: permission denied: the file is neither wasm nor executable (chmod +x)"
        )
    if head == ELF or head[:2] == SCRIPT:
        needed = _elf_interpreter(fd) if head == ELF else _script_interpreter(fd)
        return Payload("native", name, entry, path, needs=needed)
    what = "empty" if not head else "neither wasm nor ELF, and no script that starts with #!"
    raise errors.InvalidArgument(f"exec {path}: exec format error: the file is {what}")


def _script_interpreter(fd: int) -> str:
    """What the first line names (execve(2), "Interpreter scripts")."""
    line = os.pread(fd, 256, 0)[2:].partition(b"\n")[0].split()
    return os.fsdecode(line[0]) if line else ""


def _elf_interpreter(fd: int) -> str:
    """What PT_INTERP of a 64-bit file of this machine's byte order names (elf(5)), "" for none."""
    header = os.pread(fd, 64, 0)
    if len(header) < 64 or header[4] != 2 or header[5] != (1 if sys.byteorder == "little" else 2):
        return ""
    (table,) = struct.unpack_from("=Q", header, 32)
    size, count = struct.unpack_from("=HH", header, 54)
    if size < 56:
        return ""
    entries = _pread(fd, min(size * count, 1 << 16), table)
    for at in range(0, len(entries) - size + 1, size):
        if struct.unpack_from("=I", entries, at)[0] == _PT_INTERP:
            offset, _, _, length = struct.unpack_from("=QQQQ", entries, at + 8)
            return os.fsdecode(_pread(fd, min(length, 4096), offset).partition(b"\0")[0])
    return ""


def _pread(fd: int, length: int, offset: int) -> bytes:
    """Bytes at an offset that the file names itself: none where no file has any (pread(2))."""
    return os.pread(fd, length, offset) if offset < 1 << 62 else b""


def _check_interpreter(root: int, found: Payload, cwd: str) -> None:
    """execve(2) would say no more than "no such file", and only at the start."""
    fd = _open(root, os.path.join(cwd or "/", found.needs))
    if fd < 0:
        raise errors.NotFound(
            f"exec {found.path}: no such file or directory: the file is there, but not "
            f"{found.needs}, the interpreter or dynamic loader that it needs"
        )
    os.close(fd)


def environment(root: int, program: Program) -> tuple[str, ...]:
    """The process's environment; as with runc, HOME is the user's if it is not given or empty."""
    given = [word for word in program.env if word.startswith("HOME=")]
    if given and given[-1] != "HOME=":
        return program.env
    rest = (word for word in program.env if not word.startswith("HOME="))
    return (*rest, f"HOME={home(root, program.identity.uid)}")


def home(root: int, uid: int) -> str:
    """Gives the home directory that the container's /etc/passwd names for `uid`, "/" without."""
    try:
        fd = open_in_root(root, "/etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return "/"
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return "/"
        text = os.pread(fd, 1 << 20, 0)
    except OSError:
        return "/"
    finally:
        os.close(fd)
    for line in text.split(b"\n"):
        words = line.split(b":")
        if len(words) >= 6 and words[2] == b"%d" % uid and words[5]:
            return os.fsdecode(words[5])
    return "/"
