"""Namespaces: unshare(2), setns(2) and the names that /proc and the OCI spec give them.

It does not know which namespaces a container wants.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from copepod.linux import libc

if TYPE_CHECKING:
    from collections.abc import Iterator

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# OCI namespace type -> (flag, name below /proc/<pid>/ns)
KINDS = {
    "user": (CLONE_NEWUSER, "user"),
    "mount": (CLONE_NEWNS, "mnt"),
    "pid": (CLONE_NEWPID, "pid"),
    "network": (CLONE_NEWNET, "net"),
    "ipc": (CLONE_NEWIPC, "ipc"),
    "uts": (CLONE_NEWUTS, "uts"),
    "cgroup": (CLONE_NEWCGROUP, "cgroup"),
    "time": (CLONE_NEWTIME, "time"),
}


def unshare(flags: int) -> None:
    """unshare(2); the path in the error is the namespaces' names."""
    if libc.named("unshare")(flags) < 0:
        names = [kind for kind, (flag, _) in KINDS.items() if flags & flag]
        raise libc.fail(" ".join(names))


def setns(fd: int, flags: int, path: str = "") -> None:
    """setns(2) with a namespace's fd, or with a pidfd and the flags of all to join."""
    if libc.named("setns")(fd, flags) < 0:
        raise libc.fail(path)


def own(name: str) -> int:
    """Opens this process's own namespace by its /proc name."""
    return os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def pid_kept() -> Iterator[None]:
    """Whatever is done inside to where our children are born, they are born into our own pid
    namespace again behind it (pid_namespaces(7))."""
    before = own("pid")
    try:
        yield
    finally:
        try:
            setns(before, CLONE_NEWPID)
        finally:
            os.close(before)


def set_hostname(name: str) -> None:
    """sethostname(2)."""
    data = os.fsencode(name)
    if libc.named("sethostname")(data, len(data)) < 0:
        raise libc.fail(name)


def set_domainname(name: str) -> None:
    """setdomainname(2)."""
    data = os.fsencode(name)
    if libc.named("setdomainname")(data, len(data)) < 0:
        raise libc.fail(name)
