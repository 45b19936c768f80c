"""Locks between processes as files: held by flock(2), so that a killed holder lets go.

It knows nothing of what they protect. A lock of the first kind has a file as long as somebody
holds it or wants it; a turn keeps its file.
"""

from __future__ import annotations

import fcntl
import os

NOWHERE, BUSY = -1, -2
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def attempt(path: str) -> int:
    """Gives a descriptor that holds the lock, or BUSY. Raises OSError where no file can be made."""
    while True:
        fd = os.open(path, _FLAGS, 0o600)
        if not _taken(fd):
            os.close(fd)
            return BUSY
        if _same(fd, path):
            return fd
        os.close(fd)  # whoever had it removed it: a lock without a name is none


def release(fd: int, path: str) -> None:
    """Lets go of what `attempt` gave; nothing for BUSY."""
    if fd < 0:
        return
    try:
        os.unlink(path)
    except OSError:
        pass
    os.close(fd)


def turn(path: str, *, wait: bool) -> int:
    """Gives a descriptor to close afterwards, BUSY where somebody has the turn and `wait` is
    false, or NOWHERE where no file can be made."""
    try:
        fd = os.open(path, _FLAGS, 0o600)
    except OSError:
        return NOWHERE
    if wait:
        fcntl.flock(fd, fcntl.LOCK_EX)
    elif not _taken(fd):
        os.close(fd)
        return BUSY
    return fd


def _taken(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same(fd: int, path: str) -> bool:
    try:
        named = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    held = os.fstat(fd)
    return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)
