"""File descriptors of a fresh fork: everything closed but what is named, 0, 1 and 2 put in place.

It opens nothing but /dev/null. Sources: close_range(2), dup2(2).
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from copepod.linux import libc

if TYPE_CHECKING:
    from collections.abc import Iterable

_LAST = 0xFFFFFFFF


def close_all_but(keep: Iterable[int]) -> None:
    """Closes every fd that is not in `keep`; close-on-exec does nothing at a fork."""
    start = 0
    for fd in sorted(set(keep)):
        if fd > start:
            libc.syscall(libc.SYS_close_range, start, fd - 1, 0)
        start = fd + 1
    libc.syscall(libc.SYS_close_range, start, _LAST, 0)


def above_stdio(fd: int) -> int:
    """Gives a copy of `fd` (not negative) that is none of 0 to 2, or `fd` itself if it is none."""
    return fd if fd > 2 or fd < 0 else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def is_open(fd: int) -> bool:
    """Whether the number stands for an open fd."""
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def occupy_stdio() -> None:
    """Opens /dev/null on whichever of 0 to 2 is free, so that nothing else is opened there and
    overwritten when stdio is put in place."""
    while (fd := os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)) <= 2:
        pass
    os.close(fd)


def set_stdio(fds: tuple[int, int, int], null: int) -> None:
    """Makes the three fds 0, 1 and 2, inheritable; -1 is `null`. All have to be above 2, and 0 to
    2 to be open (`occupy_stdio`)."""
    for number, fd in enumerate(fds):
        os.dup2(fd if fd >= 0 else null, number, inheritable=True)
