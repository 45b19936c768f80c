"""Hears of processes killed for want of memory, without asking: one descriptor, one number.

It does not decide what an exit means; it counts kills, so that an allocation that merely failed at
the limit (or a wasm guest that met its own ceiling) is not taken for one.
"""

from __future__ import annotations

import os
import select

from copepod.container.cgroup_stats import parse_pairs
from copepod.container.cgroup_tree import read_fd


class OomWatch:
    """`fd` becomes readable when something happened; `read()` says how many were killed so far.

    Version 1 signals before the kill is counted, so whoever sees the container's init end asks
    once more before telling of its exit.
    """

    def __init__(self, fd: int, counts: int) -> None:
        self.fd, self._counts, self._last = fd, counts, 0

    def read(self) -> int:
        """Kills since the group exists; never blocks, answers after the group is gone, too."""
        self._drain()
        try:
            text = read_fd(self._counts).decode(errors="replace")
        except OSError:  # the group is gone: what was last seen is all there will be
            return self._last
        self._last = max(self._last, parse_pairs(text).get("oom_kill", 0))
        return self._last

    def _drain(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Idempotent; take `fd` out of the loop first."""
        for fd in (self.fd, self._counts):
            if fd >= 0:
                os.close(fd)
        self.fd = self._counts = -1


class V1OomWatch(OomWatch):
    """cgroup-v1/memory.rst, "OOM Control": an eventfd registered in cgroup.event_control."""

    def __init__(self, group: str) -> None:
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(f"{group}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(event)
            raise
        super().__init__(event, control)
        try:
            register = os.open(f"{group}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(register, b"%d %d" % (event, control))
            finally:
                os.close(register)
        except OSError:
            self.close()
            raise

    def _drain(self) -> None:
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass


class V2OomWatch(OomWatch):
    """memory.events raises POLLPRI when a number in it changes (cgroup-v2.rst).

    A loop's add_reader waits for POLLIN only, which a file always has; an epoll descriptor is
    itself readable when what it watches has news, so it stands in between.
    """

    def __init__(self, group: str) -> None:
        events = os.open(f"{group}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._epoll = select.epoll()
        except OSError:
            os.close(events)
            raise
        super().__init__(self._epoll.fileno(), events)
        self._epoll.register(events, select.EPOLLPRI)
        self.read()  # news counts from the last reading on

    def _drain(self) -> None:
        """Reading the file is what takes the news."""

    def close(self) -> None:
        """Idempotent; take `fd` out of the loop first."""
        if self.fd >= 0:
            self._epoll.close()
        self.fd = -1
        super().close()
