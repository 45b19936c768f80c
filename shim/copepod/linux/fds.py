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
    """Gives `fd`, moved out of 0 to 2 if it is there, so that stdio can't overwrite it."""
    if fd > 2:
        return fd
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved


def set_stdio(fds: tuple[int, int, int]) -> None:
    """Makes the three fds 0, 1 and 2, inheritable; -1 is /dev/null. All have to be above 2."""
    null = -1
    for number, fd in enumerate(fds):
        source = fd
        if fd < 0:
            if null < 0:
                null = above_stdio(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
            source = null
        os.dup2(source, number, inheritable=True)
    if null >= 0:
        os.close(null)
