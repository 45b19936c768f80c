"""A process in a container's groups, for tests on a real kernel: it waits, forks or eats memory."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable

from copepod.container.cgroup import Cgroup
from copepod.linux import cgroup

TIMEOUT = 20.0


class Guest:
    """Enters the groups as a container's process does, then runs `work`; ends with the block."""

    def __init__(self, group: Cgroup, work: Callable[[], object] = signal.pause) -> None:
        fds = group.procs_fds()
        ready, entered = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for fd in fds:
                    cgroup.enter(fd)
                os.write(entered, b"1")
                work()
            finally:
                os._exit(0)
        for fd in (*fds, entered):
            os.close(fd)
        try:
            entered_now = bool(select.select([ready], [], [], TIMEOUT)[0]) and os.read(ready, 1)
            if not entered_now:
                os.kill(self.pid, signal.SIGKILL)
            assert entered_now, "the guest could not enter its groups"
        finally:
            os.close(ready)
        self.pidfd = os.pidfd_open(self.pid)

    def wait(self) -> int:
        """The exit code, or minus the signal."""
        assert select.select([self.pidfd], [], [], TIMEOUT)[0], "the guest did not end"
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def alive(self) -> bool:
        return not select.select([self.pidfd], [], [], 0)[0]

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self.wait()
        os.close(self.pidfd)


def eat(size: int) -> Callable[[], object]:
    """Touches so many bytes of memory, then waits."""

    def work() -> None:
        data = bytearray(size)
        for at in range(0, size, 4096):
            data[at] = 1
        signal.pause()

    return work
