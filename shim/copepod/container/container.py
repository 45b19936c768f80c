"""One container on the node: its cgroup, network namespace, module and processes as one thing.

It orders the rooms that do the work and undoes all of it when a step fails; what containerd may
ask when is not its business.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from copepod import errors, spec
from copepod.container import cgroup, hooks, own_network, spawn
from copepod.container.record import Record
from copepod.container.resolver import Resolver
from copepod.engine import limits
from copepod.values import dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from copepod.config import Config
    from copepod.container.cgroup_oom import OomWatch
    from copepod.container.cgroup_stats import V1Stats, V2Stats
    from copepod.log import Log

SIGKILL = 9
SANDBOX = "sandbox"
CONTAINER_TYPE = "io.kubernetes.cri.container-type"
CONTAINER_NAME = "io.kubernetes.cri.container-name"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What Create asks for, without the wire: `rootfs` in mount order."""

    id: str
    namespace: str
    bundle: str
    rootfs: tuple[spec.RootfsMount, ...]
    terminal: bool


@dataclass(frozen=True, slots=True)
class Node:
    """What does not change while the shim lives: settings and containerd's gRPC socket."""

    config: Config
    guest: limits.Node
    grpc_address: str
    log: Log


async def create(
    node: Node, wanted: Wanted, stdio: Sequence[int], almost: Callable[[], None] = lambda: None
) -> Container:
    """Builds the container up to the point where its program waits for the word to go.

    `stdio` are the process's fds 0, 1, 2 (-1: /dev/null); they stay the caller's. `almost` is
    called when only the process itself has work left. Raises an errors.Error or OSError, and
    leaves nothing behind then.
    """
    loaded = spec.load(f"{wanted.bundle}/config.json")
    knobs = _knobs(node, loaded)
    record = Record(wanted.bundle)
    async with AsyncExitStack() as undo:
        undo.callback(record.forget_if_freed)
        undo.push_async_callback(_poststop, node, wanted, loaded)
        own_netns = own_network.wanted(loaded)
        if own_netns:
            record.netns = own_network.name(wanted.bundle)
        group = await _make_cgroup(node, loaded, record, wanted.id, undo)
        # Unless its user namespace is to own it.
        by_us = own_netns and not any(n.type == "user" for n in loaded.linux.namespaces)

        def network(made: Callable[[int], None]) -> None:
            own_network.make(record.netns, made, undo)

        oom: OomWatch | None = None

        def forked(pid: int) -> None:
            nonlocal oom
            record.set_process(pid)
            record.write()
            oom = group.oom_watch()
            if oom is not None:
                undo.callback(oom.close)

        async def built() -> None:
            # The devices that the child had to reach are out of the program's reach from then on.
            await group.seal()
            almost()

        fds = group.procs_fds()
        try:
            order = _order(node, wanted, loaded, knobs, stdio, fds)
            if by_us:
                order = replace(order, network=network)
            process = await _spawn(node, wanted, replace(order, forked=forked, built=built))
        finally:
            for fd in fds:
                os.close(fd)
        undo.push_async_callback(_kill, process)
        if own_netns and not by_us:
            own_network.pin(record.netns, process.pid, undo)
        if record.pid != process.pid:  # a process in between has made it
            record.set_process(process.pid)
            record.write()
        undo.pop_all()
    return Container(node, wanted, loaded, knobs, record, group, process, oom)


def _knobs(node: Node, loaded: spec.Spec) -> limits.Knobs:
    """What the pod's annotations and the node set for its guests, within the cgroup's memory."""
    if loaded.annotations.get(CONTAINER_TYPE) == SANDBOX:
        # It has no guest. What is wrong is said of the container, whose status has a place for it.
        return limits.Knobs()
    memory = loaded.linux.resources.memory if loaded.linux.resources else None
    limit = memory.limit if memory is not None else None
    return limits.parse(
        loaded.annotations,
        node.guest,
        container=loaded.annotations.get(CONTAINER_NAME, ""),
        cgroup_memory=limit if limit and limit > 0 else None,
    )


async def _make_cgroup(
    node: Node, loaded: spec.Spec, record: Record, name: str, undo: AsyncExitStack
) -> cgroup.Cgroup:
    group = cgroup.make(loaded, name)
    record.wanted = group.paths
    record.write()
    await group.create()
    record.wanted, record.cgroups = (), group.paths
    record.write()
    # Not before: a group that is refused because others are in it is not to be killed as ours.
    undo.push_async_callback(_free_cgroup, node, group, record, name)
    return group


async def _free_cgroup(node: Node, group: cgroup.Cgroup, record: Record, name: str) -> None:
    """Ends what is left in it first: a hook's own child, or one that makes better code."""
    try:
        group.kill()
        await group.remove()
        record.cgroups = ()
    except (OSError, errors.Error) as error:
        # What failed before is what the user must hear.
        node.log.warning("not all could be freed", id=name, error=error)


async def _poststop(node: Node, wanted: Wanted, loaded: spec.Spec) -> None:
    """Runs the hooks that clear up, also after one that set up less than it should have
    (runtime.md, "Lifecycle"): nothing is left of the container by then."""
    for failure in await hooks.poststop(loaded, wanted.id, wanted.bundle):
        node.log.warning(failure, id=wanted.id)


async def _kill(process: spawn.Process) -> None:
    from copepod.task.reaper import reap_when_dead

    process.kill(SIGKILL)
    await reap_when_dead(process.pidfd)
    process.close()


def _order(
    node: Node,
    wanted: Wanted,
    loaded: spec.Spec,
    knobs: limits.Knobs,
    stdio: Sequence[int],
    cgroup_fds: list[int],
) -> spawn.Order:
    return spawn.Order(
        id=wanted.id,
        namespace=wanted.namespace,
        bundle=wanted.bundle,
        spec=loaded,
        rootfs=wanted.rootfs,
        stdio=(stdio[0], stdio[1], stdio[2]),
        terminal=wanted.terminal,
        cgroup_fds=cgroup_fds,
        sandbox=loaded.annotations.get(CONTAINER_TYPE) == SANDBOX,
        native_allowed=node.config.native_allowed,
        limits=knobs,
    )


async def _spawn(node: Node, wanted: Wanted, order: spawn.Order) -> spawn.Process:
    knobs = order.limits or limits.Knobs()
    resolver = Resolver(node.config, node.grpc_address, wanted, knobs, order.cgroup_fds)
    # An image without a layer of its own is mounted as a bind of an empty folder: its module can
    # only be a wasm layer, so containerd is asked for it while the child builds its walls.
    if not order.sandbox and [mount.type for mount in wanted.rootfs] == ["bind"]:
        resolver.start()
    try:
        return await spawn.create(order, resolver)
    finally:
        await resolver.drop()


class Container:
    """A container that lives on the node. Fulfils `task.task.Container`."""

    def __init__(
        self,
        node: Node,
        wanted: Wanted,
        loaded: spec.Spec,
        knobs: limits.Knobs,
        record: Record,
        group: cgroup.Cgroup,
        init: spawn.Process,
        oom: OomWatch | None,
    ) -> None:
        self._node, self._wanted, self.spec, self._knobs = node, wanted, loaded, knobs
        self._record, self._cgroup, self.init = record, group, init
        self._oom = oom
        self._oom_seen: Callable[[], None] = lambda: None

    def pids(self) -> list[int]:
        """Every process in the container's cgroup."""
        return self._cgroup.pids()

    def kill_all(self, signum: int) -> None:
        """Sends a signal to each of them; SIGKILL reaches also what is being forked meanwhile."""
        if signum == SIGKILL:
            self._cgroup.kill()
            return
        for pid in self._cgroup.pids():
            try:
                os.kill(pid, signum)
            except ProcessLookupError:
                pass

    def stats(self) -> V1Stats | V2Stats:
        """The cgroup's metrics; errors.NotFound once it is gone."""
        return self._cgroup.stats()

    async def started(self) -> None:
        """Runs the poststart hooks; raises if one fails, and the container should end then."""
        await hooks.poststart(self.spec, self._wanted.id, self._wanted.bundle, self.init.pid)

    async def pause(self) -> None:
        """Freezes every process of the container."""
        await self._cgroup.freeze()

    async def resume(self) -> None:
        """Thaws them."""
        await self._cgroup.thaw()

    async def update(self, resources: bytes) -> None:
        """Applies OCI LinuxResources (JSON)."""
        await self._cgroup.update(spec.parse_resources(resources))

    async def exec(self, process: bytes, stdio: Sequence[int], *, terminal: bool) -> spawn.Process:
        """Makes one more process (OCI Process, JSON) in the container, ready to run."""
        fds = self._cgroup.procs_fds(self.init.pid)
        # The sockets are the first guest's, and so is the export that it was told to call.
        knobs = replace(self._knobs, listen=(), entry=None)
        # The pod's settings are for its own guests; its memory is what the toolbox has, too.
        tools = limits.Knobs(memory=knobs.memory)
        try:
            order = spawn.ExecOrder(
                id=self._wanted.id,
                spec=self.spec,
                bundle=self._wanted.bundle,
                init=self.init,
                process=spec.parse_process(process),
                stdio=(stdio[0], stdio[1], stdio[2]),
                terminal=terminal,
                cgroup_fds=fds,
                native_allowed=self._node.config.native_allowed,
                limits=knobs,
                toolbox=tools,
            )
            node, wanted = self._node, self._wanted
            resolver = Resolver(
                node.config, node.grpc_address, wanted, knobs, fds, tools, joins=True
            )
            return await spawn.exec_(order, resolver)
        finally:
            for fd in fds:
                os.close(fd)

    def watch_oom(self, killed: Callable[[], None]) -> None:
        """Calls `killed` when the kernel kills a process of the container for lack of memory."""
        self._oom_seen = killed
        if self._oom is not None:
            asyncio.get_running_loop().add_reader(self._oom.fd, self._on_oom)

    def _on_oom(self) -> None:
        if self._oom is not None and self._oom.read() > 0:
            self._oom_seen()

    def check_oom(self) -> None:
        """Looks once more for a kill that was not told of yet, then stops watching."""
        if self._oom is None:
            return
        self._on_oom()
        asyncio.get_running_loop().remove_reader(self._oom.fd)
        self._oom.close()
        self._oom = None

    def record_exit(self, status: int, exited_at: int) -> None:
        """Writes the exit down; best effort, `delete` reports 137 without it."""
        self._record.exit_status, self._record.exited_at = status, exited_at
        try:
            if self._record.is_kept():  # else a stranger has freed all of it
                self._record.write()
        except OSError as error:
            self._node.log.warning("exit not recorded", id=self._wanted.id, error=error)

    async def delete(self) -> None:
        """Frees all that the container has; what can't be freed is left to `delete` by name."""
        try:
            if self._record.netns:
                from copepod.net import netns

                netns.remove(self._record.netns)
            # A child that still makes better code for the next start may be in it.
            self._cgroup.kill()
            await self._cgroup.remove()
        except (OSError, errors.Error) as error:
            self._node.log.warning("not all could be freed", id=self._wanted.id, error=error)
            return
        self._record.forget()
        await _poststop(self._node, self._wanted, self.spec)
