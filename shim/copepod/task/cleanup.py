"""`delete` by a stranger: frees a container whose shim died, from the bundle's record alone.

It runs in a process of its own (containerd's `delete` call, at most 5 s), touches only what the
record names, and may be run again and again.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time

from copepod import answers
from copepod.container import cgroup_tree, record

# Of the 5 s that containerd gives. On a busy node a killed process may take seconds to be gone: it
# waits in the kernel for a mount's last reader (synchronize_rcu_expedited).
BUDGET = 4.0
KILLED = 137


def delete(bundle: str, container_id: str, namespace: str) -> bytes:
    """Kills and frees what the bundle's container left; gives the DeleteResponse in bytes.

    The exit status is the recorded one, else 137 at the time of now. Raises OSError, and leaves
    the record in place then: containerd calls again.
    """
    end = time.monotonic() + BUDGET
    found = record.read(bundle)
    # With init its whole pid namespace goes; the cgroup holds whoever has none of its own.
    if found.pid and found.starttime and record.starttime(found.pid) == found.starttime:
        _kill_and_wait(found.pid, BUDGET / 2)
    cgroup_tree.kill_paths(found.cgroups)
    if found.netns:
        from copepod.net import netns

        netns.remove(found.netns)
    left = cgroup_tree.remove_paths(found.cgroups, end - time.monotonic())
    if left:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), left[0])
    # No process of ours ever was in these; if others are, they stay.
    cgroup_tree.undo(cgroup_tree.Files(), list(found.wanted))
    found.forget()
    _poststop(bundle, container_id)
    status, when = found.exit_status, found.exited_at
    if status < 0:
        status, when = KILLED, time.time_ns()
    return answers.delete_response(found.pid, status, *divmod(when, 1_000_000_000))


def _poststop(bundle: str, container_id: str) -> None:
    """Runs the container's poststop hooks, which its shim can't any more; what fails is told on
    stderr, which containerd logs. Nothing is imported where there are none."""
    try:
        with open(f"{bundle}/config.json", "rb") as file:
            data = file.read()
    except OSError:
        return
    if b'"poststop"' not in data:
        return
    import asyncio

    from copepod import errors, spec
    from copepod.container import hooks

    try:
        failures = asyncio.run(hooks.poststop(spec.parse(data), container_id, bundle))
    except errors.Error as error:
        failures = [str(error)]
    for failure in failures:
        os.write(2, f"copepod shim: {failure}\n".encode())


def _kill_and_wait(pid: int, seconds: float) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        select.select([fd], [], [], seconds)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)
