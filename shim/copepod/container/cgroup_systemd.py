"""Control groups that systemd owns: the container is a scope unit, `slice:prefix:name`.

It goes around systemd for nothing that systemd keeps: limits are told to it and then written to
the files as well, since properties express less than OCI does (as runc does).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from copepod.container.cgroup import Cgroup
from copepod.container.cgroup_dbus import Manager, Property, UnitExists
from copepod.container.cgroup_mounts import Mounts
from copepod.container.cgroup_oom import OomWatch
from copepod.container.cgroup_stats import V1Stats, V2Stats
from copepod.container.cgroup_tree import Files
from copepod.container.cgroup_units import (
    as_systemd_writes,
    device_properties,
    expand_slice,
    resource_properties,
    unit_name,
)
from copepod.container.cgroup_v1 import V1
from copepod.container.cgroup_v2 import V2
from copepod.errors import Error, InvalidArgument, NotFound, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from copepod.container.devices import Rules
    from copepod.spec_resources import Resources

Connect = Callable[[float], Awaitable[Manager]]

DEFAULT_SLICE = "system.slice"
_TIMEOUT = 30.0  # seconds, for one call or job: what runc gives systemd


def make(
    path: str,
    resources: Resources | None,
    mounts: Mounts,
    files: Files,
    connect: Connect = Manager.connect,
    *,
    owner: int = 0,
) -> Systemd:
    """The scope for a cgroupsPath of systemd's shape; asks nothing of systemd yet.

    A version 2 group is given to the uid `owner`, if there is one.
    """
    slice_, prefix, name = path.split(":")
    slice_ = slice_ or DEFAULT_SLICE
    if not name or "/" in prefix + name:
        raise InvalidArgument(
            f"linux.cgroupsPath {path!r} is not slice:prefix:name with a name that has no slash"
        )
    unit = unit_name(prefix, name)
    inner = f"{expand_slice(slice_).rstrip('/')}/{unit}"
    resources = as_systemd_writes(resources) if resources else None
    group: V1 | V2
    if mounts.version == 2:
        group = V2.at(inner, {}, resources, mounts, files)
    else:
        group = V1.at(inner, {}, resources, mounts, files)
    return Systemd(unit, slice_, group, connect, owner)


class Systemd(Cgroup):
    """A scope (or, where the name says so, a slice) and the groups that it stands for."""

    def __init__(
        self, unit: str, slice_: str, group: V1 | V2, connect: Connect, owner: int
    ) -> None:
        super().__init__(group.resources, group.files)
        self._owner = owner
        self.unit, self.slice, self.group = unit, slice_, group
        self.version, self.paths = group.version, group.paths
        self._connect = connect
        self._holder: Holder | None = None

    async def create(self) -> None:
        started = False  # a unit that is somebody else's must not be stopped
        self._holder = None if self.unit.endswith(".slice") else Holder()
        try:
            async with await self._connect(_TIMEOUT) as manager:
                properties = self._properties(await manager.version())
                started = await self._start(manager, properties)
            if self._holder:
                self.group.expected = {self._holder.pid}
            await self.group.create()
            if self._owner and isinstance(self.group, V2):
                self.group.delegate(self._owner)
        except BaseException:
            self._let_go()
            try:
                if started:
                    await self._stop()
            except Error:  # what failed first is what the user must hear
                pass
            raise

    def _properties(self, version: int) -> list[Property]:
        properties: list[Property] = [
            ("Description", ("s", f"copepod container {self.unit}")),
            ("DefaultDependencies", ("b", False)),
            ("MemoryAccounting", ("b", True)),
            ("CPUAccounting", ("b", True)),
            ("IOAccounting" if self.version == 2 else "BlockIOAccounting", ("b", True)),
            ("TasksAccounting", ("b", True)),
        ]
        if self._holder is None:
            properties.append(("Wants", ("as", [self.slice])))
        else:
            properties += [
                ("Slice", ("s", self.slice)),
                ("Delegate", ("b", True)),
                ("PIDs", ("au", [self._holder.pid])),
            ]
        if self.resources:
            properties += resource_properties(self.resources, self.version, version, new=True)
        return properties

    async def _start(self, manager: Manager, properties: list[Property]) -> bool:
        """True when the unit is ours; a slice may be there already. UnitExists for a scope."""
        body: tuple[object, ...] = (self.unit, "replace", properties, [])
        try:
            result = await manager.job("StartTransientUnit", "ssa(sv)a(sa(sv))", body)
        except UnitExists:
            if self._holder is None:
                return False
            # One that failed earlier stays loaded until it is reset; a living one stays anyway.
            await _reset(manager, self.unit)
            result = await manager.job("StartTransientUnit", "ssa(sv)a(sa(sv))", body)
        if result != "done":
            await _reset(manager, self.unit)
            raise Unavailable(f"systemd could not start {self.unit}: the job ended as {result!r}")
        return True

    async def seal(self) -> None:
        from copepod.container import devices

        # Version 1: with no rules of its own systemd would one day write "all allowed" over ours.
        # Version 2: our program is another one beside systemd's, and all must allow.
        if self.version == 1:
            new = devices.rules(self.resources.devices if self.resources else None)
            await self._set(device_properties(new))
        await self.group.seal()

    async def update(self, resources: Resources) -> None:
        resources = as_systemd_writes(resources)
        async with await self._connect(_TIMEOUT) as manager:
            version = await manager.version()
            properties = resource_properties(resources, self.version, version, new=False)
            if self.version == 2:
                await _set(manager, self.unit, properties)
                await self.group.update(resources)
                return
            # Version 1: whatever is set, systemd writes "deny all" and its list once more. Nobody
            # must run into that moment, nor into the rules that systemd can't express.
            paused = isinstance(self.group, V1) and self.group.is_frozen()
            if not paused:
                await self.group.freeze()
            try:
                await _set(manager, self.unit, properties)
                rules, self.group.rules = self.group.rules, None
                if rules and not resources.devices:
                    self.group.reapply(rules)
                await self.group.update(resources)
            finally:
                if not paused:
                    await self.group.thaw()

    async def _set(self, properties: list[Property]) -> None:
        async with await self._connect(_TIMEOUT) as manager:
            await _set(manager, self.unit, properties)

    def _put_rules(self, new: Rules) -> None:
        self.group.reapply(new)

    def put_limits(self, resources: Resources) -> None:
        self.group.put_limits(resources)

    def procs_fds(self, init_pid: int = 0) -> list[int]:
        fds = self.group.procs_fds(init_pid)
        if self._holder and not init_pid:
            fds.append(self._holder.release_fd())
        return fds

    def pids(self) -> list[int]:
        held = self._holder.pid if self._holder else 0
        return [pid for pid in self.group.pids() if pid != held]

    async def freeze(self) -> None:
        await self.group.freeze()

    async def thaw(self) -> None:
        await self.group.thaw()

    def stats(self) -> V1Stats | V2Stats:
        return self.group.stats()

    def oom_watch(self) -> OomWatch | None:
        return self.group.oom_watch()

    async def remove(self, timeout: float = 2.0) -> None:
        self._let_go()
        # An empty scope ends by itself, and systemd removes its groups; ask only if they are there.
        if any(self.files.exists(path) for path in self.paths):
            await self._stop()
        await self.group.remove(timeout)

    async def _stop(self) -> None:
        async with await self._connect(_TIMEOUT) as manager:
            try:
                await manager.job("StopUnit", "ss", (self.unit, "replace"))
            except NotFound:
                return
            await _reset(manager, self.unit)

    def _let_go(self) -> None:
        if self._holder:
            self._holder.close()
        self._holder = None

    def close(self) -> None:
        self._let_go()
        self.group.close()


async def _set(manager: Manager, unit: str, properties: list[Property]) -> None:
    if properties:
        await manager.call("SetUnitProperties", "sba(sv)", (unit, True, properties))


async def _reset(manager: Manager, unit: str) -> None:
    """A unit that failed stays loaded until it is reset; one that did not is no unit any more."""
    try:
        await manager.call("ResetFailedUnit", "s", (unit,))
    except Error:
        pass


class Holder:
    """The process that a new scope must have, until the container's own has entered.

    systemd starts no scope without a process, and ends one that is empty. This one waits for a
    byte or for the end of everyone who could write it, and exits; it runs no Python code of the
    shim's and keeps none of its descriptors.
    """

    def __init__(self) -> None:
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            self.pid = os.fork()
        except OSError:
            os.close(read)
            os.close(write)
            raise
        if self.pid == 0:
            _hold(read)
        # Opened for both ways, so that a second byte (the resolver's) meets no broken pipe.
        self._fd = os.open(f"/proc/self/fd/{read}", os.O_RDWR | os.O_CLOEXEC)
        os.close(read)
        os.close(write)
        self._pidfd = os.pidfd_open(self.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    def release_fd(self) -> int:
        """A descriptor on which any byte sends the holder away; the caller closes it."""
        return os.dup(self._fd)

    def _reap(self) -> None:
        if self._pidfd < 0:
            return
        asyncio.get_running_loop().remove_reader(self._pidfd)
        try:
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:  # somebody waits for all children
            pass
        os.close(self._pidfd)
        self._pidfd = -1

    def close(self) -> None:
        """Sends it away if nobody has; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _hold(read: int) -> None:
    """The holder's whole life; never returns."""
    try:
        os.dup2(read, 0)
        os.closerange(1, os.sysconf("SC_OPEN_MAX"))
        os.read(0, 1)
    finally:
        os._exit(0)
