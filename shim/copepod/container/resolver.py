"""Which code runs for what was found in a container's root: the image's, or the node's toolbox.

It joins what the image room and the spawn room may not know of each other, and decides nothing
else.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from copepod.container import spawn
from copepod.image import resolve as image
from copepod.image import toolbox

if TYPE_CHECKING:
    from typing import Protocol

    from copepod.config import Config
    from copepod.engine.limits import Knobs
    from copepod.image import builder

    class Wanted(Protocol):
        """Which container it is."""

        @property
        def id(self) -> str: ...
        @property
        def namespace(self) -> str: ...
        @property
        def bundle(self) -> str: ...


class Resolver:
    """Turns what was found in the rootfs into compiled code, for one container. `tools`: what the
    toolbox may use, which has what is missing there; None: it is not wanted. `joins`: the process
    joins a container that runs, and that may have mounted file systems of its own making."""

    def __init__(
        self,
        config: Config,
        grpc_address: str,
        wanted: Wanted,
        knobs: Knobs,
        cgroup_fds: list[int],
        tools: Knobs | None = None,
        *,
        joins: bool = False,
    ) -> None:
        self._owner = f"{wanted.namespace}/{wanted.id}" if joins else ""
        self._tools = tools if config.toolbox_enabled else None
        self._knobs = knobs
        self._container: image.ForContainer = {
            "container_id": wanted.id,
            "namespace": wanted.namespace,
            "grpc_address": grpc_address,
            "containerd_root": containerd_root(wanted.bundle),
            "config": config,
            "cgroup_fds": cgroup_fds,
            "knobs": knobs,
        }
        self._started: builder.Child | None = None

    def start(self) -> None:
        """Begins to look the image up, before it is known that this will be needed."""
        self._started = image.start(**self._container)

    async def __call__(self, found: spawn.Found) -> spawn.Module:
        """Gives the code for `found`; see `image.resolve.module`."""
        if self._is_tool(found):
            await self.drop()
            if found.fd >= 0:
                os.close(found.fd)
            config, knobs = self._container["config"], self._tools or self._knobs
            module = await image.tool(found, config=config, knobs=knobs)
            return spawn.Module(module.fd, module.kind, toolbox=True)
        started, self._started = self._started, None
        module = await image.module(found, **self._container, started=started, owner=self._owner)
        return spawn.Module(module.fd, module.kind, module.entry)

    def _is_tool(self, found: spawn.Found) -> bool:
        if found.kind == "missing":
            return self._tools is not None and toolbox.has(found.name)
        config = self._container["config"]
        return config.toolbox_enabled and toolbox.same(config, found.fd)

    async def drop(self) -> None:
        """Ends the look-up that `start` began if nobody needed it."""
        started, self._started = self._started, None
        if started is not None:
            await started.drop()


def containerd_root(bundle: str) -> str:
    """Gives containerd's root directory, which only the bundle's `work` link tells a shim.

    The link is <root>/io.containerd.runtime.v2.task/<namespace>/<id>.
    """
    try:
        work = os.readlink(f"{bundle}/work")
    except OSError:
        return "/var/lib/containerd"
    return os.path.dirname(os.path.dirname(os.path.dirname(work.rstrip("/"))))
