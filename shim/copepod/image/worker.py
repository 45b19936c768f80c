"""What runs in the resolver child: one module, compiled inside the container's own cgroup.

It takes a descriptor and a digest, asks nobody for anything, and never returns into the shim's
code: every branch ends in os._exit.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

from copepod import errors
from copepod.linux import fds, prctl

if TYPE_CHECKING:
    from copepod.engine.profile import Profile
    from copepod.image.cache import Cache

MESSAGE_MAX = 8192
QUICK, GOOD = "winch", "cranelift"
_NICE = 5  # the pod's other processes go first, but its start waits for this one
_OOM_FIRST = b"1000"  # proc(5): where memory ends, the child is what ends
# The memory that compiling takes: 24 to 30 bytes for each byte of wasm, on top of the process.
_ROOM_BASE, _ROOM_FACTOR = 32 << 20, 32
_UNLIMITED = 1 << 62
_IMPROVE_MAX = 8 << 30


@dataclass(frozen=True, slots=True)
class Job:
    """A module to compile: `source` is a descriptor of its bytes, `digest` their SHA-256 in hex.

    `what` names it in errors, `limit` is its largest size in bytes, `seconds` what compiling may
    take; `cgroup_fds` are open for writing, and the child joins each.
    """

    source: int
    digest: str
    what: str
    limit: int
    seconds: float
    cache: Cache
    profile: Profile
    cgroup_fds: Sequence[int]


def run(
    work: Callable[[socket.socket], None], job: Job, wire: socket.socket, parent: int
) -> NoReturn:
    """Does `work` as a process of its own and ends; an exception goes out as code and sentence."""
    try:
        _leave_shim(job, wire, parent)
        work(wire)
    except BaseException as error:
        code, text = errors.to_status(error)
        wire.send(f"{code}\n{text}".encode()[:MESSAGE_MAX])
    finally:
        os._exit(0)


def build(job: Job, wire: socket.socket) -> None:
    """Compiles for this start, answers, and goes on to better code for the next one."""
    os.nice(_NICE)
    data = read(job)
    fd, kind, tier = _compile(job, data)
    socket.send_fds(wire, [f"0\n{kind}".encode()], [fd])
    wire.close()
    os.close(fd)
    if tier == QUICK and has_room(job, len(data)):
        improve(job, data)


def improve(job: Job, data: bytes) -> None:
    """Makes the better code, at the lowest priority and in half of the memory that is left."""
    from copepod.engine import compile as compiler

    compiler.step_back()
    compiler.bound(min(_spare_memory(job.cgroup_fds) // 2, _IMPROVE_MAX), int(job.seconds))
    _once(replace(job, profile=replace(job.profile, parallel=False)), data, GOOD)


def has_room(job: Job, size: int) -> bool:
    """Whether the cgroup has the memory to make better code for `size` bytes of wasm."""
    return _spare_memory(job.cgroup_fds) // 2 >= _ROOM_BASE + _ROOM_FACTOR * size


def read(job: Job) -> bytes:
    """Gives the module's bytes, after making sure that they are what the digest stands for."""
    from hashlib import sha256

    size = os.fstat(job.source).st_size
    if size > job.limit:
        raise errors.ResourceExhausted(
            f"{job.what} has {size} bytes, more than the {job.limit} that this node compiles"
        )
    parts, at = [], 0
    while part := os.pread(job.source, 16 << 20, at):
        parts.append(part)
        at += len(part)
        if at > job.limit:
            raise errors.ResourceExhausted(f"{job.what} grew while it was read")
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    if sha256(data).hexdigest() != job.digest:
        raise errors.DataLoss(
            f"{job.what} is not what its digest sha256:{job.digest} stands for: it was damaged on"
            " disk or has changed meanwhile"
        )
    return data


def _leave_shim(job: Job, wire: socket.socket, parent: int) -> None:
    """Keeps of the shim its memory only: no signal handler, no descriptor, not its cgroup."""
    import resource

    gc.disable()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    prctl.prctl(prctl.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    prctl.set_name("copepod-compile")
    fds.close_all_but({0, 1, 2, wire.fileno(), job.source, *job.cgroup_fds})
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
        file.write(_OOM_FIRST)
    for fd in job.cgroup_fds:
        try:
            os.write(fd, b"0")
        except OSError as error:
            raise errors.Internal(
                f"the compiler can't join the container's cgroup: {error.strerror}"
            ) from None


def _compile(job: Job, data: bytes) -> tuple[int, str, str]:
    """Gives (descriptor, kind, compiler): quick code, or good code for what the quick can't."""
    from copepod.engine import compile as compiler

    try:
        kind = compiler.kind(data)
        try:
            return _once(job, data, QUICK), kind, QUICK
        except errors.InvalidArgument:
            return _once(job, data, GOOD), kind, GOOD
    except errors.InvalidArgument as error:
        raise errors.InvalidArgument(f"{job.what}: {error}") from None


def _once(job: Job, data: bytes, tier: str) -> int:
    from copepod.engine import compile as compiler

    profile = job.profile.at(tier)
    source = bytes.fromhex(job.digest)
    return job.cache.compile_once(
        profile.key(), job.digest, lambda fd: compiler.compile_to(data, fd, profile, source)
    )


def _spare_memory(cgroup_fds: Sequence[int]) -> int:
    """Gives the bytes that these cgroups have left; _UNLIMITED where nothing limits them."""
    spare = _UNLIMITED
    for fd in cgroup_fds:
        folder = os.path.dirname(os.readlink(f"/proc/self/fd/{fd}"))
        for limit, usage in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            try:
                with open(f"{folder}/{limit}") as has, open(f"{folder}/{usage}") as uses:
                    spare = min(spare, int(has.read()) - int(uses.read()))
            except (OSError, ValueError):  # the other version's file, or "max"
                continue
    return spare
