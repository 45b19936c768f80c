"""Exits of the processes that the shim made, by pidfd.

It knows wait statuses, nothing of tasks. No SIGCHLD handler runs and no status is lost: a pidfd
becomes readable when its process is dead (pidfd_open(2)), and the process stays a zombie until it
is waited for here. The shim is no subreaper: orphans belong to the container's pid 1 or the host's.
"""

from __future__ import annotations

import asyncio
import os

KILLED_BY_SIGNAL = 128


def exit_status(result: os.waitid_result | None) -> int:
    """Gives 0-255 as a shell would say it: the exit code, or 128 plus the signal's number."""
    if result is None:
        return 255
    if result.si_code == os.CLD_EXITED:
        return result.si_status
    return KILLED_BY_SIGNAL + result.si_status


def reap_when_dead(pidfd: int) -> asyncio.Future[int]:
    """Gives a future of the exit status of the child behind `pidfd`; 255 if others waited for it.

    The pidfd stays open and stays the caller's: a signal through it then fails with ESRCH, while
    a closed number could meanwhile mean another process.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()

    def dead() -> None:
        loop.remove_reader(pidfd)
        try:
            status = exit_status(os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG))
        except ChildProcessError:
            status = 255
        if not future.done():
            future.set_result(status)

    loop.add_reader(pidfd, dead)
    return future
