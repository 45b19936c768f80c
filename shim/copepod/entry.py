"""The first code in a fresh fork that is to become a shim: cuts it off from its parent.

It decides nothing about containers; it never returns (a forked child must not run its parent's
code), and whatever goes wrong is written to the shim's log.
"""

from __future__ import annotations

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import NoReturn

# Meant for containerd itself (sd_notify(3), sd_listen_fds(3)); a shim that kept them could end
# containerd's unit or confuse a native container.
FOREIGN_ENVIRONMENT = (
    b"NOTIFY_SOCKET",
    b"LISTEN_FDS",
    b"LISTEN_PID",
    b"LISTEN_FDNAMES",
    b"WATCHDOG_USEC",
    b"WATCHDOG_PID",
)
# The kernel closes a dying process's files from the highest down (__fput is queued as task work,
# and kernel/task_work.c begins with what came last). So nobody listens any more when containerd
# hears the end of its connection, and the `delete` that it then runs finds the socket dead.
LISTENER = 255
LOW_LISTENER = 3  # where the limit of open files is lower than that
# How `given` crosses an execve: one variable, whose words no path or name of ours holds.
GIVEN = b"COPEPOD_SHIM"
SEPARATOR = "\x1f"


def become_shim(listener: int, given: dict[str, str]) -> NoReturn:
    """Serves the pod's tasks on `listener` until the last one is gone, then ends the process.

    `given` is what `start` learnt: address, ttrpc_address, namespace, id, bundle, socket, config,
    debug.
    """
    try:
        given = {**given, "listener": str(_detach(listener, given["bundle"]))}
        _protect(given)
        _serve(given)
    except BaseException as error:
        _report(error)
    finally:
        posix._exit(1)


def resume() -> NoReturn:
    """Goes on where `_protect` left off, in the program that it executed."""
    try:
        words = posix.environ.pop(GIVEN).decode().split(SEPARATOR)
        given = dict(zip(words[::2], words[1::2], strict=True))
        posix.set_inheritable(int(given["listener"]), False)
        _write_proc("comm", b"copepod-shim")
        _serve(given)
    except BaseException as error:
        _report(error)
    finally:
        posix._exit(1)


def _serve(given: dict[str, str]) -> NoReturn:
    lean_imports()
    from copepod import serve

    serve.serve(int(given["listener"]), given)
    posix._exit(0)


def _protect(given: dict[str, str]) -> None:
    """Executes this program again from where no container can write to it (CVE-2019-5736).

    A shim that the zygote forked is there already; else it costs one start of the interpreter.
    """
    import sys

    from copepod.linux import selfexe

    if selfexe.is_protected():
        return
    # The interpreter's own words, then what `ps` should show.
    words = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    words += ["-namespace", given["namespace"], "-id", given["id"], "-address", given["address"]]
    text = SEPARATOR.join(word for pair in given.items() for word in pair)
    listener = int(given["listener"])
    posix.set_inheritable(listener, True)
    try:
        selfexe.execute_protected([*words, "shim"], posix.environ | {GIVEN: text.encode()})
    except OSError as error:
        # Kernels before 5.12 have no mount_setattr(2); such a node is no worse off than before.
        posix.set_inheritable(listener, False)
        posix.write(2, f"copepod shim: not protected from its containers: {error}\n".encode())


def lean_imports() -> None:
    """Imports asyncio and protobuf without what they import and a shim never uses; to be called
    before anything else does. It saves 25 ms of a shim's start and 2 MB of its memory."""
    _import_asyncio()
    _import_protobuf()


def _import_asyncio() -> None:
    """Imports asyncio without ssl, which is a tenth of all that a shim imports, and without
    inspect, which it has for its users' errors.

    asyncio does without ssl where Python was built so (its own `try: import ssl`); None in
    sys.modules is how an import is made to fail. For inspect, and for its own half of TLS, stands
    a module that becomes it at the first use. threading and logging would make all their locks
    anew in every fork, for fear of other threads that held them: there are none, and it takes a
    child 0.4 ms. (asyncio forgets its loop so since Python 3.12; no child of a shim has one, and a
    shim is forked where none runs.)
    """
    import os
    import sys

    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    os.register_at_fork = lambda **_: None
    try:
        with (
            _StandIn("ssl", None),
            _StandIn("inspect", _later("inspect")),
            _StandIn("asyncio.sslproto", _later("asyncio.sslproto")),
        ):
            import asyncio  # noqa: F401
    finally:
        os.register_at_fork = posix.register_at_fork


class _StandIn:
    """Inside, an import of `name` gives `module`, unless the real one is there already."""

    def __init__(self, name: str, module: ModuleType | None) -> None:
        self._name, self._module = name, module

    def __enter__(self) -> None:
        import sys

        sys.modules.setdefault(self._name, self._module)  # type: ignore[arg-type]  # it may be None

    def __exit__(self, *_: object) -> None:
        import sys

        if sys.modules.get(self._name, self) is self._module:
            del sys.modules[self._name]


def _later(name: str) -> ModuleType:
    """Gives a module that imports the real one when it is asked for anything."""
    import sys

    stand_in = type(sys)(name)

    def get(attribute: str) -> object:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        from importlib import import_module

        return getattr(import_module(name), attribute)

    stand_in.__getattr__ = get  # type: ignore[method-assign]  # PEP 562
    return stand_in


def _import_protobuf() -> None:
    """Imports protobuf without the messages in Python that it has for want of its C library: it
    imports them in any case, with date and time, pickle and text formats, 9 ms."""
    import sys

    name = "google.protobuf.internal.python_message"
    if name in sys.modules:
        return
    from google.protobuf.internal import api_implementation

    if api_implementation.Type() != "upb":
        return
    with _StandIn(name, type(sys)(name)):
        import google.protobuf.any_pb2  # noqa: F401


def _detach(listener: int, bundle: str) -> int:
    """Own session, no inherited fd but the listener, whose new number it gives, the log FIFO as
    stderr."""
    # First of all: containerd reads `start`'s output until nobody holds its fds 1 and 2.
    null = posix.open("/dev/null", posix.O_RDWR)
    posix.dup2(null, 0)
    posix.dup2(null, 1)
    posix.dup2(_open_log(bundle, null), 2)
    listener = _moved(listener)
    posix.closerange(3, listener)  # close_range(2) underneath
    posix.closerange(listener + 1, 1 << 20)
    posix.setsid()
    posix.chdir("/")
    posix.umask(0o022)
    for name in FOREIGN_ENVIRONMENT:
        posix.environ.pop(name, None)
    _write_proc("comm", b"copepod-shim")
    # One above containerd's own, as runc's shim does: the kernel prefers us to containerd.
    score = _read_proc("oom_score_adj")
    if score and score < 1000:
        _write_proc("oom_score_adj", b"%d" % (score + 1))
    return listener


def _moved(listener: int) -> int:
    for number in (LISTENER, LOW_LISTENER):
        if listener == number:
            break
        try:
            return posix.dup2(listener, number, inheritable=False)
        except OSError:
            continue
    return listener


def _open_log(bundle: str, fallback: int) -> int:
    """The FIFO that containerd copies into its own log; it is never waited for."""
    try:
        return posix.open(f"{bundle}/log", posix.O_WRONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    except OSError:
        return fallback


def _read_proc(name: str) -> int:
    try:
        fd = posix.open(f"/proc/self/{name}", posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            return int(posix.read(fd, 64))
        finally:
            posix.close(fd)
    except OSError:
        return 0


def _write_proc(name: str, value: bytes) -> None:
    try:
        fd = posix.open(f"/proc/self/{name}", posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            posix.write(fd, value)
        finally:
            posix.close(fd)
    except OSError:
        pass


def _report(error: BaseException) -> None:
    try:
        import traceback

        text = "".join(traceback.format_exception(error))
        posix.write(2, b"copepod shim: " + text.encode())
    except BaseException:
        pass
