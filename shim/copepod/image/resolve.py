"""From what was found in the root file system, or not found there, to compiled code.

Code that is in the cache is answered here, without a fork; everything else is compiled in a child
(`builder`). It never guesses: what can't be found is an error that says where was looked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from copepod import errors
from copepod.image import builder, layers, worker
from copepod.image.cache import Cache

if TYPE_CHECKING:
    from copepod.config import Config
    from copepod.engine.profile import Profile
    from copepod.image.content import Containerd


class Found(Protocol):
    """What the container's own process saw of args[0], `name`, in its root file system.

    `kind` is "wasm", with the file's descriptor and the hex SHA-256 of its bytes, or "missing",
    with the places in which it was `searched`.
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


@dataclass(frozen=True, slots=True)
class Module:
    """Compiled code: an open descriptor, "core" or "component", and the export to call if not
    the usual one."""

    fd: int
    kind: str
    entry: str | None


async def module(
    found: Found,
    *,
    container_id: str,
    namespace: str,
    grpc_address: str,
    containerd_root: str,
    config: Config,
    cgroup_fds: Sequence[int],
) -> Module:
    """Gives the code to run for `found`, whose descriptor is closed here.

    `containerd_root` is containerd's data directory ("" if unknown), `cgroup_fds` are the
    container's cgroup.procs files, open for writing; they stay the caller's. Raises an
    errors.Error with one sentence for `kubectl describe pod`.
    """
    from copepod.engine.profile import Profile

    resolver = Resolver(config, Profile(), cgroup_fds)
    name, entry = split(found.name)
    try:
        if found.kind == "wasm":
            fd, kind = await resolver.code(found.fd, found.digest, f"the file {name!r}")
        else:
            from copepod.image.content import Containerd

            async with Containerd(grpc_address, namespace, containerd_root) as containerd:
                fd, kind = await resolver.from_image(containerd, container_id, name, found.searched)
    finally:
        if found.fd >= 0:
            os.close(found.fd)
    return Module(fd=fd, kind=kind, entry=entry)


def split(name: str) -> tuple[str, str | None]:
    """Gives (path, export): "app.wasm#run" names the function to call in place of _start."""
    path, mark, export = name.rpartition("#")
    return (path, export) if mark and export else (name, None)


class Resolver:
    """Turns digests into compiled code by one node's config, for one container."""

    def __init__(self, config: Config, profile: Profile, cgroup_fds: Sequence[int]) -> None:
        self._config = config
        self._profile = profile
        self._cgroup_fds = cgroup_fds
        self._cache = Cache(config.cache_dir, config.cache_max_bytes)

    async def code(self, source: int, digest: str, what: str) -> tuple[int, str]:
        """Gives (descriptor, kind) of the code for `source`, whose SHA-256 is `digest` (hex)."""
        job = self._job(source, digest, what)
        hit = self._cached(digest)
        if hit is None:
            return await builder.build(job)
        fd, kind, tier = hit
        if tier == worker.QUICK:
            builder.improve(job)
        return fd, kind

    async def from_image(
        self, containerd: Containerd, container_id: str, name: str, searched: str
    ) -> tuple[int, str]:
        """Gives (descriptor, kind) of the code for the layer that args[0], `name`, means."""
        image = await containerd.image_name(container_id)
        layer = await choose(containerd, image, name, searched)
        title = f"layer {layer.title!r}" if layer.title else f"layer {layer.digest}"
        what = f"{title} of image {image}"
        hit = self._cached(layer.hex)
        if hit is not None and hit[2] == worker.GOOD:
            return hit[0], hit[1]
        if hit is not None:
            os.close(hit[0])
        source = await containerd.open(layer, self._config.module_max_bytes, what)
        try:
            return await self.code(source, layer.hex, what)
        finally:
            os.close(source)

    def _cached(self, digest: str) -> tuple[int, str, str] | None:
        from copepod.engine import artifact

        hit = builder.cached(self._cache, self._profile, digest)
        if hit is None:
            return None
        trailer = artifact.read(hit[0])
        if trailer is None:
            os.close(hit[0])
            return None
        return hit[0], trailer.kind, hit[1]

    def _job(self, source: int, digest: str, what: str) -> worker.Job:
        return worker.Job(
            source=source,
            digest=digest,
            what=what,
            limit=self._config.module_max_bytes,
            seconds=self._config.compile_timeout_seconds,
            cache=self._cache,
            profile=self._profile,
            cgroup_fds=self._cgroup_fds,
        )


async def choose(containerd: Containerd, image: str, name: str, searched: str) -> layers.Blob:
    """Gives the wasm layer of `image` that `name` means, by its manifest or the index's one."""
    what = f"the manifest of image {image}"
    found = layers.parse(await containerd.document(await containerd.target(image), what), what)
    if isinstance(found, layers.Index):
        chosen = layers.choose_manifest(found, os.uname().machine, image)
        found = layers.parse(await containerd.document(chosen, what), what)
        if isinstance(found, layers.Index):
            raise errors.InvalidArgument(f"image {image} is an index in an index")
    return layers.choose_layer(found, name, image, searched)
