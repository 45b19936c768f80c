"""What containerd execs: reads the flags and answers `start`, `delete`, `-info` and `-v`.

It is paid for at every start and every removal of a container, so this module imports nothing but
builtin and C modules, and hand-codes the few protobuf fields it needs; everything else stands in
modules that are imported only on the path that needs them.

Source: containerd docs/runtime-v2.md, core/runtime/v2/{binary,command}.go.
"""

from __future__ import annotations

import posix
import sys

from copepod import __version__, answers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

ZYGOTE_SOCKET = "/run/copepod/zygote.sock"
USAGE = (
    "containerd-shim-copepod-v1: containerd calls this program; "
    "it takes -namespace NS -id ID -address SOCKET ... start|delete, or -info, or -v"
)


class Flags:
    """The command line of a shim (Go's flag package: `-x v`, `--x v`, `-x=v`)."""

    __slots__ = (
        "action",
        "address",
        "bundle",
        "debug",
        "id",
        "info",
        "namespace",
        "publish_binary",
        "socket",
        "version",
    )

    def __init__(self) -> None:
        self.action = self.address = self.bundle = self.id = self.namespace = ""
        self.publish_binary = self.socket = ""
        self.debug = self.info = self.version = False


_BOOLEANS = {"debug": "debug", "info": "info", "v": "version", "version": "version"}
_STRINGS = {
    "namespace": "namespace",
    "id": "id",
    "address": "address",
    "bundle": "bundle",
    "publish-binary": "publish_binary",
    "socket": "socket",
}


def parse(argv: list[str]) -> Flags:
    """Gives the flags of `argv` (without the program's name).

    Unknown flags are passed over, so that a newer containerd can add some; one that is followed
    by a word takes that word unless it is the action at the end.
    """
    flags = Flags()
    words = iter(range(len(argv)))
    for i in words:
        word = argv[i]
        if not word.startswith("-") or word == "-":
            flags.action = word
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if name in _BOOLEANS:
            setattr(flags, _BOOLEANS[name], value not in ("false", "0", "f"))
        elif equals:
            if name in _STRINGS:
                setattr(flags, _STRINGS[name], value)
        elif i + 1 < len(argv):
            if name in _STRINGS:
                setattr(flags, _STRINGS[name], argv[i + 1])
                next(words)
            elif not argv[i + 1].startswith("-") and i + 2 < len(argv):
                next(words)
    return flags


def main() -> NoReturn:
    """Runs one invocation; ends the process with 0, or 1 and one sentence on stderr."""
    try:
        code = _run(parse(sys.argv[1:]))
    except BaseException as error:
        code = 1
        _write(2, _explain(error).encode())
    # Not sys.exit: no atexit handler, no flush of buffers that we never used.
    posix._exit(code)


def _run(flags: Flags) -> int:
    if flags.version:
        _write(1, f"containerd-shim-copepod-v1 {__version__} ({answers.RUNTIME})\n".encode())
        return 0
    if flags.info:
        from copepod import features

        _write(1, features.runtime_info())
        return 0
    if flags.action == "start":
        from copepod import start

        _write(1, start.start(flags))
        return 0
    if flags.action == "delete":
        _write(1, delete(flags))
        return 0
    if flags.action == "shim":
        from copepod import entry

        entry.resume()
    if flags.action == "zygote":
        from copepod.zygote import server

        server.main(flags.socket or ZYGOTE_SOCKET)
    _write(2, USAGE.encode())
    return 1


def delete(flags: Flags) -> bytes:
    """Gives the DeleteResponse of `-id`'s bundle and frees whatever its shim left behind.

    After an ordinary removal there is no state file, hence nothing to do: that path ends here.
    """
    bundle = flags.bundle or posix.getcwd()
    # First of all: containerd ends this process when it takes more than five seconds.
    _forget_dead_socket(bundle)
    try:
        posix.stat(f"{bundle}/{answers.STATE_FILE}")
    except FileNotFoundError:
        return _gone()
    from copepod.task import cleanup

    response = cleanup.delete(bundle, flags.id, flags.namespace)
    # Again: a child that the shim had just forked held the socket until it was killed.
    _forget_dead_socket(bundle)
    return response


def _gone() -> bytes:
    """A DeleteResponse for a task that left nothing: exit status 137, now, as runc's shim says."""
    return answers.delete_response(0, 137, *_now())


def _now() -> tuple[int, int]:
    import time  # builtin

    return divmod(time.time_ns(), 1_000_000_000)


def _forget_dead_socket(bundle: str) -> None:
    """Removes the socket that the bundle's `address` names if no shim listens on it any more."""
    try:
        with open(f"{bundle}/address", encoding="utf-8") as file:
            path = file.read().strip().removeprefix("unix://")
    except OSError:
        return
    if not path.startswith("/"):
        return
    from copepod import socketfile

    try:
        socketfile.remove_dead(path)
    except OSError:
        pass  # a file that is left is no reason to leave a container


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[posix.write(fd, view) :]


def _explain(error: BaseException) -> str:
    """One sentence for the person who reads containerd's error."""
    if isinstance(error, OSError) and error.errno:
        name = f" {error.filename}" if error.filename else ""
        return f"copepod shim:{name}: {posix.strerror(error.errno)}"
    return f"copepod shim: {type(error).__name__}: {error}"
