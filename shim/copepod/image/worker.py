"""What runs in the resolver child: one module, compiled inside the container's own cgroup.

It takes a descriptor and a digest, asks nobody for anything, and never returns into the shim's
code: every branch ends in os._exit.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn

from copepod import errors
from copepod.linux import cgroup, fds, prctl, sigmask
from copepod.values import dataclass, replace

if TYPE_CHECKING:
    from copepod.engine.profile import Profile
    from copepod.image.cache import Cache

MESSAGE_MAX = 8192
_NICE = 5  # the pod's other processes go first, but its start waits for this one
_OOM_FIRST = b"1000"  # proc(5): where memory ends, the child is what ends
# The memory that compiling takes: 24 to 30 bytes for each byte of wasm, on top of the process.
_ROOM_BASE, _ROOM_FACTOR = 32 << 20, 32
_FITS_BASE = 16 << 20
_TURN, _TURN_LATER = ".compile.lock", ".improve.lock"
_PATIENCE = 0.25  # of the time for one module: for the one that another start compiles
_UNLIMITED = 1 << 62
# The signals for which the shim may have a handler; SIGPIPE stays ignored, as Python has it.
_HANDLED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
)
_IMPROVE_MAX = 8 << 30


@dataclass(frozen=True, slots=True)
class Settings:
    """How a node compiles, and for whom: `tiers` are the compilers whose code may run, the best
    first, and the last one compiles what isn't there; `limit` is the largest module in bytes,
    `seconds` what one may take; `cgroup_fds` are those of the container, and the child joins each.

    Where the container has not the memory, it is not `inside` but on the node's account, in at
    most `node_memory` bytes and one at a time on the whole node, for a start and for later each.
    Digests of files are remembered for `owner`, see `digests`."""

    cache: Cache
    profile: Profile
    tiers: tuple[str, ...]
    limit: int
    seconds: float
    cgroup_fds: Sequence[int]
    node_memory: int = 512 << 20
    inside: bool = True
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A module to compile: a descriptor of its bytes, their SHA-256 in hex, a name for errors."""

    fd: int
    digest: str
    what: str


@dataclass(frozen=True, slots=True)
class Code:
    """Compiled code: an open descriptor, "core" or "component", and whether there is no better."""

    fd: int
    kind: str
    best: bool


def cached(settings: Settings, digest: str, *, stale: bool = False) -> Code | None:
    """Gives the best code that the cache has for `digest`; drops it, if it is `stale`."""
    from copepod.engine import artifact

    for tier in settings.tiers:
        key = settings.profile.at(tier).key()
        if stale:
            settings.cache.discard(key, digest)
            continue
        fd = settings.cache.open(key, digest)
        if fd is None:
            continue
        trailer = artifact.read(fd)
        if trailer is not None:
            return Code(fd, trailer.kind, tier == settings.tiers[0])
        os.close(fd)
    return None


def run(
    work: Callable[[socket.socket], None],
    settings: Settings,
    wire: socket.socket,
    parent: int,
    keep: Iterable[int],
    groups: Sequence[int],
) -> NoReturn:
    """Does `work` as a process of its own and ends; an exception goes out as code and sentence.

    `groups` are the cgroups that it is not in yet. Of the shim's descriptors `keep` stay open,
    next to those in `settings` and 0, 1 and 2.
    """
    try:
        _leave_shim(parent)
        fds.close_all_but({0, 1, 2, wire.fileno(), *keep, *settings.cgroup_fds})
        _join(groups)
        work(wire)
    except BaseException as error:
        code, text = errors.to_status(error)
        wire.send(f"{code}\n{text}".encode()[:MESSAGE_MAX])
    finally:
        os._exit(0)


def build(settings: Settings, source: Source, wire: socket.socket, *, stale: bool = False) -> None:
    """Compiles for this start, answers, and goes on to better code for the next one.

    A source whose digest is unknown is read for it first, and its code may be in the cache then.
    """
    os.nice(_NICE)
    code, turn = None, -1
    if not source.digest:
        source = _identified(settings, source)
        code = cached(settings, source.digest, stale=stale)
    data = b""
    if code is None:
        if not settings.inside:
            turn = _take_turn(settings)
        try:
            data = read(settings, source)
            code = _compile(settings, source, data)
        except MemoryError:
            raise too_little(source.what, settings.node_memory) from None
    answer(wire, code)
    if turn >= 0:
        os.close(turn)  # what comes now is nothing that a start should wait for
    size = os.fstat(source.fd).st_size
    if not code.best and has_room(settings, size):
        data = data or read(settings, source)
        improve(settings, source, data)


def _identified(settings: Settings, source: Source) -> Source:
    """Gives the source with its digest, which the cache remembers."""
    from copepod.image import digests

    _check_size(settings, source)
    return replace(source, digest=digests.identify(settings.cache.root, source.fd, settings.owner))


def answer(wire: socket.socket, code: Code) -> None:
    """Hands the code to the shim, which then no longer waits."""
    socket.send_fds(wire, [f"0\n{code.kind}".encode()], [code.fd])
    wire.close()
    os.close(code.fd)


def improve(settings: Settings, source: Source, data: bytes) -> None:
    """Makes the better code, at the lowest priority and in half of the memory that is left."""
    from copepod.engine import compile as compiler
    from copepod.image import locks

    if not settings.inside and _turn(settings, _TURN_LATER, wait=False) == locks.BUSY:
        return
    compiler.step_back()
    compiler.bound(min(_room(settings), _IMPROVE_MAX), int(settings.seconds))
    alone = replace(settings, profile=replace(settings.profile, parallel=False))
    settings.cache.compile_later(*_work(alone, source, data, settings.tiers[0]))


def has_room(settings: Settings, size: int) -> bool:
    """Whether there is the memory to make better code for `size` bytes of wasm."""
    return _room(settings) >= _ROOM_BASE + _ROOM_FACTOR * size


def _room(settings: Settings) -> int:
    return _spare_memory(settings.cgroup_fds) // 2 if settings.inside else settings.node_memory


def fits(settings: Settings, size: int) -> bool:
    """Whether the container has the memory to compile `size` bytes of wasm at all."""
    return _spare_memory(settings.cgroup_fds) >= _FITS_BASE + _ROOM_FACTOR * size


def outside(settings: Settings) -> Settings:
    """The same on the node's account."""
    profile = replace(settings.profile, parallel=False)
    return replace(settings, cgroup_fds=(), profile=profile, inside=False)


def placed(settings: Settings, size: int) -> Settings:
    """Has this process, which may have threads, enter the container's cgroups if they have the
    memory; gives the settings that hold from here on."""
    if not fits(settings, size):
        return outside(settings)
    for fd in settings.cgroup_fds:
        cgroup.enter_whole(fd)
    return settings


def too_little(what: str, node_memory: int) -> errors.Error:
    """What to say when the node's account was overdrawn, which ends the engine by SIGABRT."""
    return errors.ResourceExhausted(
        f"the compiler gave up while compiling {what}: most likely that takes more than the"
        f" {node_memory >> 20} MiB that this node gives to containers with little memory"
        " (compile.node_memory_bytes in Copepod's config.toml); raise the container's limit"
    )


def _take_turn(settings: Settings) -> int:
    """Waits until no other start compiles on the node's account, and bounds this process; gives a
    descriptor to close after it, or a negative number."""
    from copepod.engine import compile as compiler

    turn = _turn(settings, _TURN, wait=True)
    compiler.bound(settings.node_memory, int(settings.seconds))
    return turn


def _turn(settings: Settings, name: str, *, wait: bool) -> int:
    from copepod.image import locks

    try:  # the first ones on a node are many at once, too
        os.makedirs(settings.cache.root, mode=0o700, exist_ok=True)
    except OSError:
        pass  # a cache that can't be written to: the bound is what counts
    return locks.turn(f"{settings.cache.root}/{name}", wait=wait)


def read(settings: Settings, source: Source) -> bytes:
    """Gives the module's bytes, after making sure that they are what the digest stands for."""
    from hashlib import sha256

    _check_size(settings, source)
    parts, at = [], 0
    while part := os.pread(source.fd, 16 << 20, at):
        parts.append(part)
        at += len(part)
        if at > settings.limit:
            raise errors.ResourceExhausted(f"{source.what} grew while it was read")
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    if sha256(data).hexdigest() != source.digest:
        raise errors.DataLoss(
            f"{source.what} is not what its digest sha256:{source.digest} stands for: it was"
            " damaged on disk or has changed meanwhile"
        )
    return data


def _check_size(settings: Settings, source: Source) -> None:
    size = os.fstat(source.fd).st_size
    if size > settings.limit:
        raise errors.ResourceExhausted(
            f"{source.what} has {size} bytes, more than the {settings.limit} that this node"
            " compiles"
        )


def _leave_shim(parent: int) -> None:
    """Lets go of the shim's signal handlers, its priorities, and of life after its death."""
    gc.disable()
    signal.set_wakeup_fd(-1)
    for number in _HANDLED:
        signal.signal(number, signal.SIG_DFL)
    sigmask.set_(sigmask.NONE)
    prctl.prctl(prctl.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    prctl.set_name("copepod-compile")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
        file.write(_OOM_FIRST)


def _join(cgroup_fds: Sequence[int]) -> None:
    for fd in cgroup_fds:
        try:
            cgroup.enter(fd)
        except OSError as error:
            raise errors.Internal(
                f"the compiler can't join the container's cgroup: {error.strerror}"
            ) from None


def _compile(settings: Settings, source: Source, data: bytes) -> Code:
    """Gives quick code, or the best for what the quick compiler can't do."""
    from copepod.engine import compile as compiler

    try:
        kind = compiler.kind(data)
        best, quick = settings.tiers[0], settings.tiers[-1]
        try:
            return Code(_once(settings, source, data, quick), kind, quick == best)
        except errors.InvalidArgument:
            if quick == best:
                raise
            return Code(_once(settings, source, data, best), kind, True)
    except errors.InvalidArgument as error:
        raise errors.InvalidArgument(f"{source.what}: {error}") from None


def _once(settings: Settings, source: Source, data: bytes, tier: str) -> int:
    patience = _PATIENCE * settings.seconds
    return settings.cache.compile_once(*_work(settings, source, data, tier), patience)


def _work(
    settings: Settings, source: Source, data: bytes, tier: str
) -> tuple[str, str, Callable[[int], None]]:
    """Gives the entry's engine key and digest, and what makes it."""
    from copepod.engine import compile as compiler

    profile, digest = settings.profile.at(tier), bytes.fromhex(source.digest)
    return (
        profile.key(),
        source.digest,
        lambda fd: compiler.compile_to(data, fd, profile, digest),
    )


def _spare_memory(cgroup_fds: Sequence[int]) -> int:
    """Gives the bytes that these cgroups have left; _UNLIMITED where nothing limits them."""
    spare = _UNLIMITED
    for fd in cgroup_fds:
        folder = os.readlink(f"/proc/self/fd/{fd}").removesuffix("/tasks")
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
