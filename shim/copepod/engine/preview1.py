"""WASI preview 1's numbers and structures, as far as functions of ours answer in its place.

Every address and size comes from the guest: what lies outside of its memory is refused (fault).
Source: the witx description of wasi_snapshot_preview1.
"""

from __future__ import annotations

import ctypes
import errno as posix
import fcntl
import select
import struct
import termios
import time

MODULE = "wasi_snapshot_preview1"
SOCKET_STREAM = 6  # filetype
NONBLOCK = 4  # fdflags
EBADF, EINVAL, EMFILE = posix.EBADF, posix.EINVAL, posix.EMFILE
BADF, INVAL, IO = 8, 28, 29

# The errno names of the witx, in its order.
_NAMES = (
    "SUCCESS 2BIG ACCES ADDRINUSE ADDRNOTAVAIL AFNOSUPPORT AGAIN ALREADY BADF BADMSG BUSY CANCELED "
    "CHILD CONNABORTED CONNREFUSED CONNRESET DEADLK DESTADDRREQ DOM DQUOT EXIST FAULT FBIG "
    "HOSTUNREACH IDRM ILSEQ INPROGRESS INTR INVAL IO ISCONN ISDIR LOOP MFILE MLINK MSGSIZE "
    "MULTIHOP NAMETOOLONG NETDOWN NETRESET NETUNREACH NFILE NOBUFS NODEV NOENT NOEXEC NOLCK NOLINK "
    "NOMEM NOMSG NOPROTOOPT NOSPC NOSYS NOTCONN NOTDIR NOTEMPTY NOTRECOVERABLE NOTSOCK NOTSUP "
    "NOTTY NXIO OVERFLOW OWNERDEAD PERM PIPE PROTO PROTONOSUPPORT PROTOTYPE RANGE ROFS SPIPE SRCH "
    "STALE TIMEDOUT TXTBSY XDEV"
)
_RIGHTS = (
    1 << 1 | 1 << 3 | 1 << 6 | 1 << 21 | 1 << 27 | 1 << 28 | 1 << 29
)  # read, set flags, write, filestat, poll, shutdown, accept
_CLOCKS = {0: time.CLOCK_REALTIME, 1: time.CLOCK_MONOTONIC}
_CLOCK, _READ, _WRITE = 0, 1, 2
_HANGUP = 1
_LONGEST = (1 << 31) - 1  # poll(2)'s milliseconds are an int


def errno(error: OSError) -> int:
    """WASI's number for an error of the kernel."""
    name = posix.errorcode.get(error.errno or 0, "EIO")[1:]
    names = _NAMES.split(" ")
    return names.index(name) if name in names else IO


def fdstat(filetype: int, flags: int) -> bytes:
    """An fdstat with all rights of a socket."""
    return struct.pack("<BxHxxxxQQ", filetype, flags, _RIGHTS, _RIGHTS)


def filestat(filetype: int) -> bytes:
    """A filestat with nothing but the type."""
    return struct.pack("<QQBxxxxxxxQQQQQ", 0, 0, filetype, 1, 0, 0, 0, 0)


class Memory:
    """The guest's memory during one call."""

    def __init__(self, address: int, size: int) -> None:
        self._address, self._size = address, size

    def view(self, at: int, size: int) -> memoryview:
        """Bytes of the guest. Raises OSError (EFAULT) for what is not inside."""
        if at < 0 or size < 0 or at + size > self._size:
            raise OSError(posix.EFAULT, "not the guest's memory")
        return memoryview((ctypes.c_char * size).from_address(self._address + at)).cast("B")

    def write(self, at: int, data: bytes) -> None:
        """Puts bytes there."""
        self.view(at, len(data))[:] = data

    def vectors(self, at: int, count: int) -> list[memoryview]:
        """The buffers of an iovec array, at most as many as the kernel takes (IOV_MAX)."""
        table = bytes(self.view(at, 8 * min(count, 1024)))
        return [self.view(place, size) for place, size in struct.iter_unpack("<II", table)]


def poll(subscriptions: bytes, sockets: dict[int, int]) -> list[bytes]:
    """Waits as poll_oneoff does; `sockets` are the kernel's numbers of descriptors of ours.

    Descriptors 0 to 2 are the process's own; all others are files, which are always ready. Gives
    the events. Raises OSError (EINVAL) for none, and for an unknown kind or clock.
    """
    if not subscriptions:
        raise OSError(posix.EINVAL, "nothing to wait for")
    deadline: float | None = None
    clocks: list[tuple[float, bytes]] = []
    waits: list[tuple[int, int, bytes]] = []
    events: list[bytes] = []
    for at in range(0, len(subscriptions), 48):
        user, kind = struct.unpack_from("<QB", subscriptions, at)
        if kind == _CLOCK:
            when = _when(subscriptions, at)
            clocks.append((when, _event(user, kind)))
            deadline = when if deadline is None else min(deadline, when)
        elif kind in (_READ, _WRITE):
            fd = struct.unpack_from("<I", subscriptions, at + 16)[0]
            number = sockets.get(fd, fd if fd < 3 else -1)
            if number >= 0:
                waits.append((number, kind, struct.pack("<QHBx", user, 0, kind)))
            else:
                events.append(_event(user, kind, BADF if fd >= 1 << 16 else 0))
        else:
            raise OSError(posix.EINVAL, "no such subscription")
    events += _wait(waits, 0.0 if events else deadline)
    now = time.monotonic()
    return events + [event for when, event in clocks if when <= now]


def _when(subscriptions: bytes, at: int) -> float:
    """The moment of a clock subscription, on Python's monotonic clock."""
    clock, timeout, _, flags = struct.unpack_from("<IxxxxQQH", subscriptions, at + 16)
    if clock not in _CLOCKS:
        raise OSError(posix.EINVAL, "no such clock")
    wait = timeout - time.clock_gettime_ns(_CLOCKS[clock]) if flags & 1 else timeout
    return time.monotonic() + max(int(wait), 0) / 1e9


def _wait(waits: list[tuple[int, int, bytes]], deadline: float | None) -> list[bytes]:
    poller = select.poll()
    masks: dict[int, int] = {}
    for number, kind, _ in waits:
        masks[number] = masks.get(number, 0) | _mask(kind)
        poller.register(number, masks[number])
    while True:
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        # Rounded up: a wait that ends early would be one more for the guest.
        limit = None if left is None else min(-int(-left * 1000 // 1), _LONGEST)
        ready = dict(poller.poll(limit))
        found = [
            head + struct.pack("<xxxxQHxxxxxx", *_state(ready[number], number, kind))
            for number, kind, head in waits
            if ready.get(number, 0) & (_mask(kind) | select.POLLERR | select.POLLHUP)
        ]
        if found or (deadline is not None and time.monotonic() >= deadline):
            return found


def _mask(kind: int) -> int:
    return select.POLLIN if kind == _READ else select.POLLOUT


def _state(ready: int, number: int, kind: int) -> tuple[int, int]:
    """Bytes that can be read, about, and whether the other side hung up."""
    size = 1
    if kind == _READ:
        try:
            size = struct.unpack("i", fcntl.ioctl(number, termios.FIONREAD, bytes(4)))[0]
        except OSError:
            size = 0  # a listening socket has no bytes
    return size, _HANGUP if ready & (select.POLLHUP | select.POLLERR) else 0


def _event(user: int, kind: int, error: int = 0) -> bytes:
    return struct.pack("<QHBxxxxxQHxxxxxx", user, error, kind, 0, 0)
