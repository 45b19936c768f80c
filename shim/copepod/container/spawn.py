"""Makes a container's first process and the processes that join it, and undoes them on failure.

It forks, answers what the child asks, and gives back a process that waits for `start`. Mounts
live in the child's own namespace only, so that ending the child undoes them all; cgroups and
network namespaces are made and removed by the caller.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from copepod import errors
from copepod.child import cgroupfs, idmap
from copepod.child.toolbox import stays_unseen
from copepod.container import (
    cgroup_mounts,
    covers,
    hooks,
    plan,
    plan_mounts,
    plan_process,
    plan_sysctl,
    seccomp,
)
from copepod.container.fork import Engine, fork
from copepod.container.orders import ExecOrder, Found, Module, Order
from copepod.linux import mount as m
from copepod.linux import ns, pidfd
from copepod.values import replace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from copepod.child.job import Job
    from copepod.container.talk import Talk
    from copepod.spec import Spec

__all__ = ["ExecOrder", "Found", "Module", "Order", "Process", "create", "exec_", "machine"]

# What a child may say before it is ready; child/wire.py has the conversation.
_SAID = ("map", "pid", "hooks", "console", "found", "missing", "unusable", "ready")


class Process:
    """A process of a container that waits for `start`, and then runs.

    kind: "wasm", "native" or "sandbox". `console` is the terminal's master, -1 without; whoever
    takes it closes it. Reaping is the caller's, by the pidfd.
    """

    def __init__(self, talk: Talk, kind: str, console: int) -> None:
        self.pid, self.pidfd, self.kind, self.console = talk.pid, talk.pidfd, kind, console
        self._talk: Talk | None = talk

    async def start(self) -> None:
        """Lets it go. Gives back once a native program has been executed, or raises why not."""
        talk, self._talk = self._talk, None
        if talk is None:
            raise errors.FailedPrecondition("the process has been started before")
        try:
            talk.say("go")
            # The wire is close-on-exec and a guest's process closes it: its end is success.
            words = await talk.hear()
            if words[0]:
                raise errors.Internal(f"copepod: the container said {words[0]!r} after go")
        finally:
            talk.close()

    def kill(self, number: int) -> None:
        """Sends a signal; errors.NotFound when the process has ended."""
        try:
            pidfd.send_signal(self.pidfd, number)
        except ProcessLookupError:
            raise errors.NotFound(f"process {self.pid} has ended") from None

    def close(self) -> None:
        """Gives back the fds. The process itself goes on, unless it was never started: without
        its wire it ends."""
        if self._talk is not None:
            self._talk.close()
            self._talk = None
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


async def create(order: Order, resolve: Callable[[Found], Awaitable[Module]]) -> Process:
    """Makes the container's first process, up to the point where it waits for `start`.

    Raises errors.Error, OSError or TimeoutError, and leaves no process, fd or mount behind then.
    """
    spec = order.spec
    _refuse_our_own(spec)
    job = plan.create(
        spec,
        order.id,
        order.bundle,
        order.rootfs,
        machine(),
        sandbox=order.sandbox,
        terminal=order.terminal,
        own_network=order.network is None,
    )
    filter_, flags = await seccomp.compiled(spec.linux.seccomp)
    job = replace(
        job,
        stdio=(-1, -1, -1) if order.terminal else order.stdio,
        cgroup_fds=tuple(order.cgroup_fds),
        native_allowed=order.native_allowed,
        filter=filter_,
        filter_flags=flags,
        waits=order.network is not None,
        hook_state=hooks.common(order.id, order.bundle, spec) if spec.hooks else b"",
    )
    # A container whose own program is the toolbox has set its limits for that.
    engine = None if order.sandbox else Engine(order.limits, order.limits)
    return await _start(job, engine, order, resolve)


async def exec_(order: ExecOrder, resolve: Callable[[Found], Awaitable[Module]]) -> Process:
    """Makes a process that joins a running container; everything else as `create`."""
    job = _exec_job(order, *await seccomp.compiled(order.spec.linux.seccomp))
    return await _start(job, Engine(order.limits, order.toolbox), order, resolve)


def _refuse_our_own(spec: Spec) -> None:
    """A namespace that a container joins by path may be the node's: its parameters stay as they
    are (runc refuses so, too)."""
    for name, kind, path in plan_sysctl.joined(spec):
        try:
            same = os.path.samestat(os.stat(path), os.stat(f"/proc/self/ns/{ns.KINDS[kind][1]}"))
        except OSError:
            continue  # the child will say what is wrong with the path
        if same:
            raise errors.InvalidArgument(
                f"linux.sysctl {name}: the {kind} namespace {path} is the node's own"
            )


async def _start(
    job: Job,
    engine: Engine | None,
    order: Order | ExecOrder,
    resolve: Callable[[Found], Awaitable[Module]],
) -> Process:
    return await _Conversation(fork(job, engine), job, order, resolve).run()


def _exec_job(order: ExecOrder, filter_: bytes, filter_flags: int) -> Job:
    """Gives the job of a joining process. Pure."""
    from copepod.child.job import Job, Namespaces

    spec = order.spec
    flags = 0
    for one in spec.linux.namespaces:
        flags |= ns.KINDS[one.type][0]
    process = plan_process.joining(order.process, spec)
    return Job(
        kind="exec",
        bundle=order.bundle,
        namespaces=Namespaces(),
        program=plan_process.program(process, order.id, spec.linux, joins=True),
        # What covers /proc for a guest covers the masks and the read-only paths, too.
        last=plan_mounts.masks_of_procfs(spec),
        proc_mounts=tuple(
            replace(one, attributes=one.attributes | m.MOUNT_ATTR_RDONLY)
            for one in plan_mounts.procfs(spec)
        ),
        places=plan_mounts.places(spec),
        terminal=order.terminal,
        native_allowed=order.native_allowed,
        filter=filter_,
        filter_flags=filter_flags,
        init_pid=order.init.pid,
        init_pidfd=order.init.pidfd,
        join_flags=flags,
        stdio=(-1, -1, -1) if order.terminal else order.stdio,
        cgroup_fds=tuple(order.cgroup_fds),
    )


class _Conversation:
    """Answers one child until it is ready. Owns the console and the wasm file meanwhile."""

    def __init__(
        self,
        talk: Talk,
        job: Job,
        order: Order | ExecOrder,
        resolve: Callable[[Found], Awaitable[Module]],
    ) -> None:
        self._talk, self._job, self._order, self._resolve = talk, job, order, resolve
        self._console = self._file = -1
        self._found: Found | None = None
        self._built = order.built if isinstance(order, Order) else None

    async def run(self) -> Process:
        """Gives the process that waits for `start`; ends the child on any failure."""
        try:
            self._meanwhile()
            while (words := await self._talk.expect(*_SAID))[0] != "ready":
                await self._answer(words)
            await self._tell_built()
        except BaseException:
            if self._console >= 0:
                os.close(self._console)
            await self._talk.destroy()
            raise
        finally:
            if self._file >= 0:
                os.close(self._file)
        return Process(self._talk, words[1], self._console)

    def _meanwhile(self) -> None:
        """What can be done while the child begins, which waits for some of it."""
        order = self._order
        if isinstance(order, Order):
            if order.network is not None:
                order.network(lambda fd: self._talk.say("network", fds=(fd,)))
            if order.forked is not None:
                order.forked(self._talk.pid)

    async def _answer(self, words: tuple[str, ...]) -> None:
        talk, order = self._talk, self._order
        match words[0]:
            case "map":
                maps = self._job.namespaces
                idmap.write_maps(talk.pid, maps.uid_map, maps.gid_map)
                talk.say("mapped")
            case "pid":
                await self._adopt(int(words[1]))
            case "hooks":
                await hooks.before_pivot(order.spec, order.id, order.bundle, talk.pid)
                talk.say("hooked")
            case "console":
                self._console = talk.take_fd()
            case "found":
                self._file = talk.take_fd()
                await self._module(Found("wasm", words[1], "", -1, "", self._layers))
            case "missing":
                await self._module(Found("missing", words[1], "", -1, words[3], self._layers))
            case "unusable" if self._found is not None:
                await self._module(replace(self._found, stale=True))

    @property
    def _layers(self) -> bool:
        return not isinstance(self._order, Order) or bool(self._order.rootfs)

    async def _module(self, found: Found) -> None:
        """Has the module compiled, or taken from the cache, and hands it to the child."""
        again, self._found = self._found is not None, found
        fd = os.dup(self._file) if self._file >= 0 else -1
        module = await self._resolve(replace(found, fd=fd))
        try:
            own = ("toolbox",) if module.toolbox else ()
            self._talk.say("module", module.kind, module.entry or "", *own, fds=(module.fd,))
        finally:
            os.close(module.fd)
        if not again:
            self._cover(toolbox=module.toolbox)
            await self._tell_built()

    async def _tell_built(self) -> None:
        """Once: a guest's process has its mounts when it asks for code, others when ready."""
        built, self._built = self._built, None
        if built is not None:
            await built()

    def _cover(self, *, toolbox: bool) -> None:
        """Hands the child what hides the processes in each /proc from a guest; while it loads."""
        job = self._job
        pidfd = job.init_pidfd if toolbox and stays_unseen(job) else -1
        fds = covers.make(job.proc_mounts, pidfd)
        try:
            for fd in fds:
                self._talk.say("proc", fds=(fd,))
        finally:
            for fd in fds:
                os.close(fd)

    async def _adopt(self, pid: int) -> None:
        """Takes the status of the process in between; the one that it has made is our child."""
        status = await self._talk.reap()
        if status != 0:
            raise errors.Internal(f"copepod: the process in between ended with status {status}")
        self._talk.follow(pid)
        self._talk.say("adopted")


@cache
def machine() -> plan.Machine:
    """Gives what the plan has to know of this node."""
    found = cgroup_mounts.host()
    if found.version == 2 and found.unified is not None:
        return plan.Machine(unified=found.unified.point)
    by_point: dict[str, tuple[str, list[str]]] = {}
    for name, mount in found.v1.items():
        by_point.setdefault(mount.point, (mount.root, []))[1].append(name)
    return plan.Machine(
        hierarchies=tuple(
            cgroupfs.Hierarchy(point, root, tuple(names))
            for point, (root, names) in by_point.items()
        )
    )
