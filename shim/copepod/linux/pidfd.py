"""Processes by pidfd: a signal or a wait that can't hit a stranger who got the number.

It keeps no state. Sources: pidfd_open(2), pidfd_send_signal(2), waitid(2).
"""

from __future__ import annotations

import os
import signal


def pidfd_open(pid: int) -> int:
    """pidfd_open(2); the fd is close-on-exec and readable once the process has ended."""
    return os.pidfd_open(pid)


def send_signal(pidfd: int, number: int) -> None:
    """pidfd_send_signal(2); ProcessLookupError when the process has ended."""
    signal.pidfd_send_signal(pidfd, number)


def wait(pidfd: int) -> int | None:
    """Reaps a child that has ended and gives its status as shells do (128 + n for a signal);
    None while it lives. ChildProcessError when it has been reaped or is no child."""
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return result.si_status
    return 128 + result.si_status


def reap_group(group: int) -> bool:
    """Reaps a child in that process group that has ended; False if there is one that has not."""
    try:
        return os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return True
