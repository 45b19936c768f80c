"""Takes the wait out of entering a control group, by having somebody else wait before.

Every write to a cgroup.procs takes cgroup_threadgroup_rwsem for writing. When nobody has for some
10 ms, the kernel first waits for an RCU grace period (kernel/rcu/sync.c): 4 to 20 ms, more than all
else that making a container costs. Whoever comes soon after pays 50 us. So a process of its own,
started when it is known that a container is coming, enters the group that it is in already, which
changes nothing, until the container must have entered its own. It refuses to last.
"""

from __future__ import annotations

import posix  # and not `os`, whose import the launcher would pay for
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

LIFE = 0.08  # seconds; from a shim's `start` to its container's first step are 10 to 60 ms
_PAUSE = 0.004  # seconds: the kernel falls asleep again after a grace period of quiet


def start() -> None:
    """Forks the process that keeps the way short; it ends by itself, and nobody waits for it.

    Where it can't help (no cgroups, no fork) nothing happens: it only ever saves time. Call it
    from a process that ends soon or reaps whatever child it has.
    """
    try:
        pid = posix.fork()
    except OSError:
        return
    if pid == 0:
        _run()


def _run() -> NoReturn:
    try:
        # Whoever started us is waited for by the ends of its descriptors and by its directory.
        posix.closerange(0, posix.sysconf("SC_OPEN_MAX"))
        posix.chdir("/")
        end = time.monotonic() + LIFE
        fd = _own_group()
        while time.monotonic() < end:
            posix.write(fd, b"0")
            time.sleep(_PAUSE)
    finally:
        posix._exit(0)


def _own_group() -> int:
    """The cgroup.procs of a group that we are in; the semaphore is one for all hierarchies."""
    lines = posix.open("/proc/self/cgroup", posix.O_RDONLY | posix.O_CLOEXEC)
    for line in reversed(posix.read(lines, 65536).splitlines()):
        _, names, group = line.split(b":", 2)
        name = names.removeprefix(b"name=")
        # Version 2 has no name; it is the tree itself or, on a hybrid machine, in it.
        for mount in (name,) if name else (b".", b"unified"):
            try:
                path = b"/sys/fs/cgroup/%b%b/cgroup.procs" % (mount, group)
                return posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
            except OSError:
                continue
    raise FileNotFoundError("cgroup.procs")
