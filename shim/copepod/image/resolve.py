"""From what was found in the root file system, or not found there, to compiled code.

A file whose code is in the cache is answered here, without a fork; everything else is work for a
child. It never guesses: what can't be found is an error that says where was looked.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypedDict

from copepod import errors
from copepod.image import builder, digests, lookup, sealed, toolbox, worker
from copepod.values import dataclass, replace

if TYPE_CHECKING:
    from copepod.config import Config
    from copepod.engine.limits import Knobs


_STARTED = 1.0  # seconds after which a start is over


class Found(Protocol):
    """What the container's own process saw of args[0], `name`, in its root file system.

    `kind` is "wasm", with the file's descriptor and, if known, the hex SHA-256 of its bytes, or
    "missing", and then `searched` says what there is not ("the file /app.wasm"). `stale`: the code
    that was given before is of no use, so that it has to be compiled again.
    """

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def fd(self) -> int: ...
    @property
    def searched(self) -> str: ...
    @property
    def stale(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Module:
    """Compiled code: an open descriptor, "core" or "component", and the export to call if not
    the usual one."""

    fd: int
    kind: str
    entry: str | None


@dataclass(frozen=True, slots=True)
class Stored:
    """A module of the node's own, as `Found` has it."""

    kind: str
    name: str
    digest: str
    fd: int
    searched: str
    stale: bool


class ForContainer(TypedDict):
    """What `module` and `start` want to know of a container, by name."""

    container_id: str
    namespace: str
    grpc_address: str
    containerd_root: str
    config: Config
    cgroup_fds: Sequence[int]
    knobs: Knobs | None


async def module(
    found: Found,
    *,
    container_id: str,
    namespace: str,
    grpc_address: str,
    containerd_root: str,
    config: Config,
    cgroup_fds: Sequence[int],
    knobs: Knobs | None = None,
    started: builder.Child | None = None,
    owner: str = "",
) -> Module:
    """Gives the code to run for `found`, whose descriptor is closed here.

    `containerd_root` is containerd's data directory ("" if unknown), `cgroup_fds` are the
    container's cgroup.procs files, open for writing; they stay the caller's. `knobs` are what
    was set for the guest; `started` is what `start` gave for this container and with these knobs.
    `owner` is the container that may have made the file system that the file is on, or "".
    Raises an errors.Error with one sentence for `kubectl describe pod`.
    """
    name, entry = split(found.name)
    try:
        if found.kind == "wasm":
            if started is not None:
                await started.drop()
            fd, kind = await _file(found, name, settings(config, cgroup_fds, knobs, owner))
        else:
            heard = lookup.Heard(name, found.searched, found.stale).pack()
            child = started or start(
                container_id=container_id,
                namespace=namespace,
                grpc_address=grpc_address,
                containerd_root=containerd_root,
                config=config,
                cgroup_fds=cgroup_fds,
                knobs=knobs,
            )
            what = f"the image of container {container_id}"
            fd, kind = await child.code(what, heard)
    finally:
        if found.fd >= 0:
            os.close(found.fd)
    return Module(sealed.seal(config.cache_dir, fd), kind, entry)


async def tool(found: Found, *, config: Config, knobs: Knobs) -> Module:
    """Gives the toolbox's code for a missing command that `toolbox.has`, or for a file that is the
    `toolbox.same`: what runs is the node's, whatever becomes of the file.

    It is the node's and not the container's, so it is compiled outside of the container's cgroup,
    whose limit could be too small for it. Raises errors.NotFound where there is no toolbox.
    """
    try:
        module = toolbox.open_(config)
    except errors.NotFound as error:
        raise errors.NotFound(f"{found.searched} does not exist, and {error}") from None
    here = Stored("tool", found.name, module.digest, module.fd, "", found.stale)
    try:
        fd, kind = await _file(here, "toolbox", settings(config, (), knobs))
    finally:
        os.close(module.fd)
    return Module(sealed.seal(config.cache_dir, fd), kind, None)


def start(
    *,
    container_id: str,
    namespace: str,
    grpc_address: str,
    containerd_root: str,
    config: Config,
    cgroup_fds: Sequence[int],
    knobs: Knobs | None = None,
) -> builder.Child:
    """Starts to look the container's image up before it is known that it will be needed.

    Worth it where the root file system is empty: the questions to containerd then run next to
    the container's mounts. Give the result to `module`, or end it with `await child.drop()`.
    """
    question = lookup.Question(container_id, namespace, grpc_address, containerd_root)
    bench = settings(config, cgroup_fds, knobs)
    return builder.Child.fork(
        lambda wire: lookup.look_up(question, bench, wire), bench, inside=False
    )


def split(name: str) -> tuple[str, str | None]:
    """Gives (path, export): "app.wasm#run" names the function to call in place of _start."""
    path, mark, export = name.rpartition("#")
    return (path, export) if mark and export else (name, None)


def settings(
    config: Config, cgroup_fds: Sequence[int], knobs: Knobs | None = None, owner: str = ""
) -> worker.Settings:
    """Gives what children need to know of the node's config and the guest's knobs."""
    from copepod.engine.limits import Knobs
    from copepod.image.cache import Cache

    knobs = knobs or Knobs()
    return worker.Settings(
        cache=Cache(config.cache_dir, config.cache_max_bytes),
        profile=knobs.profile(),
        tiers=knobs.tiers(),
        limit=config.module_max_bytes,
        seconds=config.compile_timeout_seconds,
        cgroup_fds=cgroup_fds,
        node_memory=config.compile_node_memory_bytes,
        owner=owner,
    )


async def _file(found: Found, name: str, bench: worker.Settings) -> tuple[int, str]:
    """Gives (descriptor, kind) of the code for a file, out of the cache or of a child."""
    digest = found.digest or digests.recall(bench.cache.root, found.fd, bench.owner)
    source = worker.Source(found.fd, digest, f"the file {name!r}")
    code = worker.cached(bench, digest, stale=found.stale) if digest else None
    if code is None:
        # What was remembered is not relied on where the file is read in any case.
        unknown = replace(source, digest=found.digest)
        if not worker.fits(bench, os.fstat(found.fd).st_size):
            bench = worker.outside(bench)
        child = builder.Child.fork(
            lambda wire: worker.build(bench, unknown, wire, stale=found.stale),
            bench,
            [found.fd],
            inside=bench.inside,
        )
        return await child.code(source.what)
    if not code.best:
        _improve_later(source, bench)
    return code.fd, code.kind


def _improve_later(source: worker.Source, bench: worker.Settings) -> None:
    """Has better code made for the next start, once this one is over: a container that ends in a
    moment would only be slowed down, and take the compiler with it."""
    source = replace(source, fd=os.dup(source.fd))
    bench = replace(bench, cgroup_fds=tuple(map(os.dup, bench.cgroup_fds)))

    async def improve() -> None:
        await asyncio.sleep(_STARTED)
        if worker.has_room(bench, os.fstat(source.fd).st_size):
            builder.Child.fork(
                lambda wire: worker.improve(bench, source, worker.read(bench, source)),
                bench,
                [source.fd],
            ).leave()

    def close(_: asyncio.Task[None]) -> None:
        for fd in (source.fd, *bench.cgroup_fds):
            os.close(fd)

    asyncio.create_task(improve(), name="resolver").add_done_callback(close)
