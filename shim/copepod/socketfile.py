"""A shim's socket file: claimed, asked whether somebody listens on it, removed when nobody does.

Containers of one pod may be started and removed at the same time, each by a process of its own, so
whoever makes or removes such a file holds a lock meanwhile. It imports next to nothing: `start` and
`delete` pay for it.
"""

from __future__ import annotations

import _socket
import errno
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

LOCK_TIMEOUT = 2.0
_PAUSE = 0.005


def claim(path: str) -> _socket.socket | None:
    """Binds and listens on `path`, or gives None if a living shim already does.

    A socket file that nobody listens on any more is replaced. Raises OSError.
    """
    directory = path.rpartition("/")[0]
    _make_directory(directory, 0o700)
    # Without the lock one that is bound and not yet listened on looks like a dead one.
    with _Lock(directory):
        listener = _listen(path)
        if listener is None and not alive(path):
            _unlink(path)
            listener = _listen(path)
        return listener


def remove_dead(path: str) -> None:
    """Removes `path` if no shim listens on it any more; waits at most 2 s for others."""
    if not _is_dead(path):
        return
    with _Lock(path.rpartition("/")[0]):
        if _is_dead(path):
            _unlink(path)


def alive(path: str) -> bool:
    """Whether somebody listens on `path`."""
    return _connect(path) not in (errno.ECONNREFUSED, errno.ENOENT)


def _is_dead(path: str) -> bool:
    return _connect(path) == errno.ECONNREFUSED


def _connect(path: str) -> int:
    """Tries to, once; gives errno or 0. A full backlog is EAGAIN: somebody listens."""
    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    probe.setblocking(False)
    try:
        return probe.connect_ex(path)
    finally:
        probe.close()


def _listen(path: str) -> _socket.socket | None:
    """Gives a new listener, None if there is a file of that name."""
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    old = posix.umask(0o177)
    try:
        listener.bind(path)
        listener.listen(128)
        return listener
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            return None
        error.filename = path
        raise
    finally:
        posix.umask(old)


def _unlink(path: str) -> None:
    try:
        posix.unlink(path)
    except FileNotFoundError:
        pass


def _make_directory(directory: str, mode: int) -> None:
    """Makes the directory, and what is missing above it as containerd makes /run/containerd."""
    try:
        posix.mkdir(directory, mode)
    except FileExistsError:
        pass
    except FileNotFoundError:
        _make_directory(directory.rpartition("/")[0], 0o711)
        _make_directory(directory, mode)


class _Lock:
    """flock(2) on the directory; TimeoutError after 2 s, which no holder takes."""

    __slots__ = ("_fd", "_path")

    def __init__(self, path: str) -> None:
        self._path, self._fd = path, -1

    def __enter__(self) -> None:
        import fcntl
        import time

        flags = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC
        self._fd = posix.open(self._path, flags)
        end = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    posix.close(self._fd)
                    text = f"the sockets in {self._path} are locked for more than 2 s"
                    raise TimeoutError(text) from None
            time.sleep(_PAUSE)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        posix.close(self._fd)
