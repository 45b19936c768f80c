"""File descriptors of a fresh fork: everything closed but what is named, 0, 1 and 2 put in place.

It opens nothing but /dev/null. Sources: close_range(2), dup2(2).
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
from typing import TYPE_CHECKING

from copepod.linux import libc

if TYPE_CHECKING:
    from collections.abc import Iterable

_LAST = 0xFFFFFFFF


def close_all_but(keep: Iterable[int]) -> None:
    """Closes every fd that is not in `keep`, the highest first; close-on-exec does nothing at a
    fork.

    The order is for a child that outlives its shim: a shim's listener is above its connections,
    and the end of those is what containerd takes for the shim's.
    """
    end = _LAST
    for fd in sorted(set(keep), reverse=True):
        if fd < end:
            libc.syscall(libc.SYS_close_range, fd + 1, end, 0)
        end = fd - 1
    if end >= 0:
        libc.syscall(libc.SYS_close_range, 0, end, 0)


def receive(sock: socket.socket, size: int, count: int) -> tuple[bytes, list[int]]:
    """Gives a message of at most `size` bytes and the fds that came with it, close-on-exec.

    Not socket.recv_fds, whose fds every program that is executed later would inherit.
    """
    got = array.array("i")
    data, ancillary, _, _ = sock.recvmsg(
        size, socket.CMSG_LEN(count * got.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            got.frombytes(payload[: len(payload) - len(payload) % got.itemsize])
    return data, got.tolist()


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
