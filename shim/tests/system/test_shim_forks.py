"""What the shim forks lets go of what the shim has: its socket, its connections, others' FIFOs.

A child that kept them would hide the shim's end from containerd, and that of a container's output.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable

import pytest

from copepod.container import seccomp
from copepod.linux import fds
from copepod.spec import Seccomp

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are made as root"),
]
TIMEOUT = 30.0


def held_by_children(work: Callable[[], object]) -> list[list[str]]:
    """Does `work` in a process of its own, which has a listening socket and a pipe; gives what
    each child of that process had open when it was last seen."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(int(TIMEOUT))
            listener = socket.socket(socket.AF_UNIX)
            listener.bind("")
            listener.listen()
            keep = os.pipe()
            work()
            assert keep
        finally:
            os._exit(0)
    pidfd = os.pidfd_open(pid)
    seen: dict[str, list[str]] = {}
    while not select.select([pidfd], [], [], 0)[0]:
        for child in children(pid):
            if found := opened(child):
                seen[child] = found
    os.waitpid(pid, 0)
    os.close(pidfd)
    return list(seen.values())


def children(pid: int) -> list[str]:
    """The pids below `pid` (proc_pid_task(5))."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return file.read().split()
    except OSError:
        return []


def opened(pid: str) -> list[str]:
    """What a process has open above stderr, by kind: "socket"."""
    folder = f"/proc/{pid}/fd"
    try:
        names = {int(fd): os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)}
    except OSError:
        return []
    return [name.partition(":")[0] for fd, name in names.items() if fd > 2]


def test_the_compiler_of_seccomp_profiles_holds_nothing() -> None:
    profile = Seccomp(default_action="SCMP_ACT_ALLOW")
    (held,) = held_by_children(lambda: seccomp._in_child(profile))
    assert held == ["pipe"]


def test_a_received_descriptor_is_not_inherited() -> None:
    """A terminal's master, say, by the log programs and hooks that are executed later."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, open("/dev/ptmx", "rb") as master:
        socket.send_fds(theirs, [b"console"], [master.fileno()])
        data, (received,) = fds.receive(ours, 64, 4)
        assert data == b"console"
        assert not os.get_inheritable(received)
        os.close(received)
