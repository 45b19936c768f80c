"""The last steps of a process: limits, scheduling, and giving up privileges in the right order.

It asks no question: numbers come from the plan. Sources: capabilities(7), credentials(7).
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import stat
from typing import TYPE_CHECKING

from copepod.linux import caps, libc, prctl
from copepod.values import replace

if TYPE_CHECKING:
    from copepod.child.job import Context, Identity, Limit, Program, Scheduling

IOPRIO_WHO_PROCESS = 1
_CPUS_BYTES = 1024  # of a CPU mask; no kernel has more than 8192 CPUs
_NO_LIMIT = -1  # RLIM_INFINITY as the interpreter has it


class Step(Exception):
    """A step that has no operation of its own failed: (what, the OSError)."""

    def __init__(self, what: str, error: OSError, text: str = "") -> None:
        super().__init__(what, error, text)
        self.what, self.error, self.text = what, error, text


def outside(program: Program) -> None:
    """What needs the node's privileges: higher limits and the OOM score, before any user
    namespace."""
    for limit in program.limits:
        soft, hard = resource.getrlimit(limit.resource)
        if hard != _NO_LIMIT and (limit.hard == _NO_LIMIT or limit.hard > hard):
            _limit(limit, soft, limit.hard)
    if program.oom_score_adj is not None:
        _oom_score_adj(program.oom_score_adj)


def limits(program: Program) -> None:
    """The limits themselves; what had to be raised for them has been."""
    for limit in program.limits:
        _limit(limit, limit.soft, limit.hard)


def _limit(limit: Limit, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(limit.resource, (soft, hard))
    except (OSError, ValueError) as error:
        # Python says ValueError where the kernel said EPERM or EINVAL.
        low = error.errno if isinstance(error, OSError) else errno.EPERM
        reason = (
            "raising a hard limit needs CAP_SYS_RESOURCE, and no soft limit exceeds its hard one"
        )
        raise Step(
            f"set {limit.name} to {limit.soft}:{limit.hard}", OSError(low, str(error)), reason
        ) from None


def _oom_score_adj(value: int) -> None:
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d" % value)
        finally:
            os.close(fd)
    except OSError as error:
        reason = ""
        if error.errno == errno.EACCES:
            reason = (
                "lowering it needs CAP_SYS_RESOURCE, which this node's containerd does not have: "
                "set restrict_oom_score_adj = true in containerd's CRI settings"
            )
        raise Step(f"set oom_score_adj to {value}", error, reason) from None


def affinity(cpus: frozenset[int]) -> None:
    """sched_setaffinity(2) for this process."""
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        raise Step(f"set the CPU affinity to {sorted(cpus)}", error) from None


def any_cpu() -> None:
    """Asks for every CPU that the cgroup allows, as runc does: on which ones containerd runs must
    not count for containers (sched_setaffinity(2)). It is no wall, so a refusal is none of ours."""
    mask = b"\xff" * _CPUS_BYTES
    libc.named("sched_setaffinity")(0, len(mask), mask)


def scheduling(program: Program) -> None:
    """Scheduler, io priority, CPUs, memory policy, execution domain."""
    what = "set the scheduler"
    try:
        _scheduler(program.scheduling)
        what = "set the io priority"
        if program.io_priority is not None:
            number = libc.number_of("ioprio_set")
            libc.syscall(number, IOPRIO_WHO_PROCESS, 0, program.io_priority)
        if program.cpus is not None:
            affinity(program.cpus)
        what = "set the memory policy"
        _memory_policy(program.memory_policy)
        what = "set the personality"
        if program.personality is not None:
            prctl.personality(program.personality)
    except OSError as error:
        raise Step(what, error) from None


def _scheduler(wanted: Scheduling | None) -> None:
    if wanted is None:
        return
    # struct sched_attr of sched_setattr(2)
    attr = (ctypes.c_uint8 * 48)()
    fields = (
        (ctypes.c_uint32, 48),
        (ctypes.c_uint32, wanted.policy),
        (ctypes.c_uint64, wanted.flags),
        (ctypes.c_int32, wanted.nice),
        (ctypes.c_uint32, wanted.priority),
        (ctypes.c_uint64, wanted.runtime),
        (ctypes.c_uint64, wanted.deadline),
        (ctypes.c_uint64, wanted.period),
    )
    packed = b"".join(bytes(kind(value)) for kind, value in fields)
    ctypes.memmove(attr, packed, len(packed))
    libc.syscall(libc.number_of("sched_setattr"), 0, ctypes.addressof(attr), 0)


def _memory_policy(wanted: tuple[int, bytes] | None) -> None:
    if wanted is not None:
        mode, nodes = wanted
        bits = len(nodes) * 8 + 1 if nodes else 0
        libc.syscall(libc.number_of("set_mempolicy"), mode, nodes or None, bits)


def own_stdio(identity: Identity) -> None:
    """Pipes, FIFOs and sockets on 0 to 2 become the user's, so that /dev/stdout can be reopened
    by a user who is not root; a file system may refuse."""
    for fd in range(3):
        found = os.fstat(fd)
        if found.st_uid == identity.uid or stat.S_ISCHR(found.st_mode):
            continue
        try:
            os.fchown(fd, identity.uid, -1)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.EROFS):
                raise Step("give the stdio to the user", error) from None


def become(context: Context) -> None:
    """Drops to the user and capabilities of the spec. After it nothing privileged works.

    Bounding set first (needs CAP_SETPCAP), then the ids while the permitted set is kept, then the
    sets; what this process itself does not have can't be given and is left out.
    """
    identity = context.job.program.identity
    try:
        _become(executed(identity) if context.guest else identity, context.cwd)
    except OSError as error:
        raise Step(f"become user {identity.uid}:{identity.gid}", error) from None
    os.umask(identity.umask)


def executed(identity: Identity) -> Identity:
    """Gives the sets that an execve(2) would leave, for a guest, whose process executes nothing.

    capabilities(7), "Transformation of capabilities during execve()", for a program without file
    capabilities: a user that is not root keeps the ambient ones and no others.
    """
    if identity.uid:
        left = identity.ambient & identity.permitted & identity.inheritable
    else:
        left = identity.inheritable | identity.bounding
        if identity.no_new_privs:
            left &= identity.permitted
    return replace(identity, permitted=left, effective=left)


def _become(identity: Identity, cwd: int) -> None:
    _, permitted, _ = caps.get()
    caps.limit_bounding(identity.bounding)
    entered = _enter(cwd, final=False)
    prctl.prctl(prctl.PR_SET_KEEPCAPS, 1)
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    prctl.prctl(prctl.PR_SET_KEEPCAPS, 0)
    if not entered:
        _enter(cwd, final=True)
    allowed = identity.permitted & permitted
    inheritable = identity.inheritable & permitted
    caps.set(identity.effective & allowed, allowed, inheritable)
    caps.raise_ambient(identity.ambient & allowed & inheritable)
    if identity.no_new_privs:
        prctl.prctl(prctl.PR_SET_NO_NEW_PRIVS, 1)


def _enter(cwd: int, *, final: bool) -> bool:
    """chdir as root; a file system that does not know our root (NFS) may know the user."""
    if cwd < 0:
        return True
    try:
        os.fchdir(cwd)
    except PermissionError as error:
        if not final:
            return False
        raise Step("enter the working directory", error) from None
    os.close(cwd)
    return True
