"""The process of a spec in the kernel's numbers, as part of the plan: pure.

It refuses names that the kernel does not know; capabilities it does not know are left out, as runc
does, since a newer spec may name newer ones.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from copepod import errors
from copepod.child import job as j
from copepod.linux import caps
from copepod.values import replace

if TYPE_CHECKING:
    from copepod.spec import Hook, Linux, MemoryPolicy, Personality, Process, Scheduler, Spec

# asm-generic/resource.h
_RLIMITS = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}
_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
# <linux/personality.h>, <linux/mempolicy.h>
_DOMAINS = {"LINUX": 0, "LINUX32": 8}
_POLICIES_OF_MEMORY = (
    "MPOL_DEFAULT",
    "MPOL_PREFERRED",
    "MPOL_BIND",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
)
_MEMORY_FLAGS = {
    "MPOL_F_NUMA_BALANCING": 1 << 13,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_STATIC_NODES": 1 << 15,
}
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}


def program(process: Process, container_id: str, linux: Linux, *, joins: bool) -> j.Program:
    """Gives what runs, in numbers; `joins`: it is no container's first process, so that the CPU
    affinity counts (config.md, execCPUAffinity). Raises InvalidArgument naming the field."""
    if not process.cwd.startswith("/"):
        raise errors.InvalidArgument(f"process.cwd {process.cwd!r} is not an absolute path")
    for number, word in enumerate(process.env):
        if word.find("=") < 1:
            raise errors.InvalidArgument(f"process.env[{number}] {word!r} is not NAME=value")
    affinity = process.exec_cpu_affinity if joins else None
    return j.Program(
        args=process.args,
        env=process.env,
        cwd=process.cwd,
        identity=identity(process),
        limits=_limits(process),
        oom_score_adj=process.oom_score_adj,
        scheduling=_scheduling(process.scheduler),
        io_priority=_io_priority(process),
        cpus_at_first=cpu_list(affinity.initial) if affinity and affinity.initial else None,
        cpus=cpu_list(affinity.final) if affinity and affinity.final else None,
        personality=_personality(linux.personality),
        memory_policy=_memory_policy(linux.memory_policy),
        apparmor=process.apparmor_profile,
        selinux=process.selinux_label,
        keyring=f"_ses.{container_id}",
        console_size=console_size(process),
    )


def joining(process: Process, spec: Spec) -> Process:
    """Gives the process of an exec; what it leaves open is as for the container's own, as in runc:
    it must not get out of a profile or a limit by not naming it."""
    own = spec.process
    if own is None:
        return process
    return replace(
        process,
        apparmor_profile=process.apparmor_profile or own.apparmor_profile,
        selinux_label=process.selinux_label or own.selinux_label,
        capabilities=process.capabilities or own.capabilities,
        rlimits=process.rlimits or own.rlimits,
        scheduler=process.scheduler or own.scheduler,
        io_priority=process.io_priority or own.io_priority,
        exec_cpu_affinity=process.exec_cpu_affinity or own.exec_cpu_affinity,
    )


def identity(process: Process) -> j.Identity:
    """Gives ids and capability masks; no `capabilities` at all means none (runc leaves all)."""
    user, sets = process.user, process.capabilities
    mask = caps.mask
    return j.Identity(
        uid=user.uid,
        gid=user.gid,
        groups=user.additional_gids,
        umask=0o022 if user.umask is None else user.umask & 0o777,
        bounding=mask(sets.bounding) if sets else 0,
        effective=mask(sets.effective) if sets else 0,
        permitted=mask(sets.permitted) if sets else 0,
        inheritable=mask(sets.inheritable) if sets else 0,
        ambient=mask(sets.ambient) if sets else 0,
        no_new_privs=process.no_new_privileges,
    )


def _limits(process: Process) -> tuple[j.Limit, ...]:
    limits = []
    for one in process.rlimits:
        if one.type not in _RLIMITS:
            raise errors.InvalidArgument(f"process.rlimits: there is no limit {one.type!r}")
        limits.append(j.Limit(one.type, _RLIMITS[one.type], _signed(one.soft), _signed(one.hard)))
    return tuple(limits)


def _signed(value: int) -> int:
    """setrlimit(2)'s unsigned numbers as the interpreter takes them: all ones is -1."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _scheduling(wanted: Scheduler | None) -> j.Scheduling | None:
    if wanted is None:
        return None
    if wanted.policy not in _POLICIES:
        raise errors.InvalidArgument(f"process.scheduler: there is no policy {wanted.policy!r}")
    flags = 0
    for name in wanted.flags:
        if name not in _SCHED_FLAGS:
            raise errors.InvalidArgument(f"process.scheduler: there is no flag {name!r}")
        flags |= _SCHED_FLAGS[name]
    return j.Scheduling(
        _POLICIES[wanted.policy],
        flags,
        wanted.nice,
        wanted.priority,
        wanted.runtime,
        wanted.deadline,
        wanted.period,
    )


def _io_priority(process: Process) -> int | None:
    wanted = process.io_priority
    if wanted is None:
        return None
    if wanted.class_ not in _IO_CLASSES or not 0 <= wanted.priority <= 7:
        raise errors.InvalidArgument(
            f"process.ioPriority: {wanted.class_!r} {wanted.priority} is no class and level 0 to 7"
        )
    return _IO_CLASSES[wanted.class_] << 13 | wanted.priority


def _personality(wanted: Personality | None) -> int | None:
    if wanted is None:
        return None
    if wanted.domain not in _DOMAINS:
        raise errors.InvalidArgument(f"linux.personality: there is no domain {wanted.domain!r}")
    if wanted.flags:
        raise errors.InvalidArgument("linux.personality: flags are not defined for any domain")
    return _DOMAINS[wanted.domain]


def _memory_policy(wanted: MemoryPolicy | None) -> tuple[int, bytes] | None:
    """Gives the mode with its flags, and the nodes as a bit mask of whole longs."""
    if wanted is None:
        return None
    if wanted.mode not in _POLICIES_OF_MEMORY:
        raise errors.InvalidArgument(f"linux.memoryPolicy: there is no mode {wanted.mode!r}")
    mode = _POLICIES_OF_MEMORY.index(wanted.mode)
    for name in wanted.flags:
        if name not in _MEMORY_FLAGS:
            raise errors.InvalidArgument(f"linux.memoryPolicy: there is no flag {name!r}")
        mode |= _MEMORY_FLAGS[name]
    if not wanted.nodes:
        return mode, b""
    bits = sum(1 << node for node in cpu_list(wanted.nodes, "linux.memoryPolicy.nodes"))
    return mode, bits.to_bytes((bits.bit_length() + 63) // 64 * 8, sys.byteorder)


def cpu_list(text: str, where: str = "process.execCPUAffinity") -> frozenset[int]:
    """Reads "0-3,7" (cpuset(7), list format)."""
    cpus: set[int] = set()
    for part in text.replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise errors.InvalidArgument(f"{where}: {text!r} is no list such as 0-3,7")
        cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def console_size(process: Process) -> tuple[int, int] | None:
    """Gives (height, width), None if the spec names none."""
    size = process.console_size
    return (size.height, size.width) if size and size.height and size.width else None


def hooks(wanted: tuple[Hook, ...]) -> tuple[j.Hook, ...]:
    """Gives hooks as the child runs them; a path has to be absolute (config.md, "Hooks")."""
    for one in wanted:
        if not one.path.startswith("/"):
            raise errors.InvalidArgument(f"hooks: {one.path!r} is not an absolute path")
    return tuple(j.Hook(one.path, one.args, one.env, one.timeout) for one in wanted)
