"""A container's control groups, whichever way the machine runs them; `make` picks the way.

It decides nothing about tasks, and it imports no more than files need: the launcher's `delete`
calls `kill_paths` and `remove_paths` in a fresh interpreter.
"""

from __future__ import annotations

from copepod.container.cgroup_tree import Files, kill_paths, pids_below, remove_once, remove_paths
from copepod.errors import FailedPrecondition, NotFound, StepFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from copepod.container.cgroup_mounts import Mounts
    from copepod.container.cgroup_oom import OomWatch
    from copepod.container.cgroup_stats import V1Stats, V2Stats
    from copepod.container.devices import Rules
    from copepod.spec import Spec
    from copepod.spec_resources import Resources

    Stats = V1Stats | V2Stats

__all__ = ["Cgroup", "kill_paths", "make", "remove_paths"]

_PAUSE_MIN, _PAUSE_MAX = 0.001, 0.05  # seconds


class Cgroup:
    """The groups of one container, made by `create`, removed by `remove`.

    `paths` are the directories, one per hierarchy: a stranger can remove them by these alone.
    """

    version = 0
    paths: tuple[str, ...] = ()

    def __init__(self, resources: Resources | None, files: Files) -> None:
        self.resources = resources
        self.files = files
        self.rules: Rules | None = None  # device rules in force
        self.expected: set[int] = set()  # processes that may be in the groups before ours

    async def create(self) -> None:
        """Makes the groups and writes every limit but the device rules; all or nothing.

        InvalidArgument for a limit that this machine can't give, FailedPrecondition when the group
        is in use, StepFailed (errno, file, value) when the kernel refuses.
        """
        raise NotImplementedError

    async def seal(self) -> None:
        """Puts the device rules in force: after the child's mounts, before the guest's code.

        mount(2) of a block device asks the devices controller, so the rules come last. In version
        1 no device can be opened while they are written: all are denied before some are allowed.
        """
        from copepod.container import devices

        new = devices.rules(self.resources.devices if self.resources else None)
        self.reapply(new)

    def reapply(self, new: Rules) -> None:
        """Puts these rules in the place of those in force."""
        self._put_rules(new)
        self.rules = new

    def _put_rules(self, new: Rules) -> None:
        raise NotImplementedError

    async def update(self, resources: Resources) -> None:
        """Changes limits of a running container; what `resources` leaves out stays as it is."""
        self.put_limits(resources)
        if resources.devices:
            from copepod.container import devices

            self.reapply(devices.rules(resources.devices))

    def put_limits(self, resources: Resources) -> None:
        """`update` without the device rules."""
        raise NotImplementedError

    def procs_fds(self, init_pid: int = 0) -> list[int]:
        """Descriptors for `linux.cgroup.enter`, each in turn; the caller closes them. A version 2
        group is the first and a directory, for `linux.cgroup.fork_into`.

        `init_pid` is the container's first process when the one to enter is an exec.
        """
        raise NotImplementedError

    def pids(self) -> list[int]:
        """Every process of the container, those in groups that it made itself included."""
        return sorted(pids_below(self.files, self.paths[0]))

    def kill(self) -> None:
        """SIGKILL to all of them, frozen ones too; does not wait for the ends."""
        kill_paths(self.paths, self.files)

    async def freeze(self) -> None:
        """Stops every process where it stands; FailedPrecondition when some can't be stopped."""
        raise NotImplementedError

    async def thaw(self) -> None:
        """Lets them run again."""
        raise NotImplementedError

    def stats(self) -> Stats:
        """What is used now, from files that stay open; NotFound when the groups are gone."""
        raise NotImplementedError

    def oom_watch(self) -> OomWatch | None:
        """A descriptor that tells of out-of-memory kills; None without a memory controller."""
        raise NotImplementedError

    async def remove(self, timeout: float = 2.0) -> None:
        """Removes the groups and what the container made below them; gone already is fine.

        Waits at most `timeout` seconds for processes to end, and kills none. StepFailed with what
        is in the way.
        """
        self.close()
        left = [path for path in self.paths if not remove_once(self.files, path)]
        if left:
            left = await self._remove_when_empty(left, timeout)
        if left:
            pids = sorted(pids_below(self.files, left[0]))
            held = f" by processes {pids}" if pids else ""
            raise StepFailed("rmdir", 16, left[0], f"the cgroup {left[0]} is still in use{held}")

    async def _remove_when_empty(self, left: list[str], timeout: float) -> list[str]:
        import asyncio

        from copepod.container import cgroup_wait

        loop = asyncio.get_running_loop()
        end, pause = loop.time() + timeout, _PAUSE_MIN
        while left and (rest := end - loop.time()) > 0:
            pids: set[int] = set().union(*(pids_below(self.files, path) for path in left))
            if pids:
                await cgroup_wait.one_ends(pids, rest)
            else:
                # The kernel empties a group a moment after its last process can be waited for.
                await asyncio.sleep(min(rest, pause))
                pause = min(pause * 2, _PAUSE_MAX)
            left = [path for path in left if not remove_once(self.files, path)]
        return left

    def close(self) -> None:
        """Gives up cached descriptors; idempotent."""

    def _refuse_shared(self, made: list[str]) -> None:
        """A group that was there before is taken over only if nobody is in it (as runc does)."""
        for path in self.paths:
            if path in made:
                continue
            if pids := pids_below(self.files, path) - self.expected:
                raise FailedPrecondition(
                    f"the cgroup {path} exists and holds {len(pids)} processes: a container needs "
                    "one of its own, so give linux.cgroupsPath another name or end them"
                )

    def _alive(self) -> None:
        if not self.files.exists(self.paths[0]):
            raise NotFound(f"the container's cgroup {self.paths[0]} is gone")


def _owner(spec: Spec) -> int:
    """The host's uid of the process that is given its version 2 group to divide; 0: nobody.

    As with runc: the container has a cgroup namespace and its own tree mounted writable.
    """
    if not any(one.type == "cgroup" and not one.path for one in spec.linux.namespaces):
        return 0
    if not any(one.type == "cgroup" and "ro" not in one.options for one in spec.mounts):
        return 0
    uid = spec.process.user.uid if spec.process else 0
    for mapping in spec.linux.uid_mappings:
        if mapping.container_id <= uid < mapping.container_id + mapping.size:
            return mapping.host_id + uid - mapping.container_id
    return uid


def make(
    spec: Spec,
    container_id: str,
    *,
    mounts: Mounts | None = None,
    own: dict[str, str] | None = None,
    files: Files | None = None,
) -> Cgroup:
    """The control groups for a spec; creates nothing yet.

    `mounts`, `own` (the shim's own groups) and `files` are the machine's unless a test says
    otherwise. InvalidArgument for a path that makes no sense.
    """
    from copepod.container import cgroup_mounts

    mounts = mounts or cgroup_mounts.host()
    files = files or Files()
    path, resources = spec.linux.cgroups_path, spec.linux.resources
    # Without systemd the name of a scope is that of a directory, as runc takes it: CRI writes one
    # wherever the pod's parent ends in .slice.
    if cgroup_mounts.is_scope(path) and files.exists(cgroup_mounts.BOOTED):
        from copepod.container import cgroup_systemd

        return cgroup_systemd.make(path, resources, mounts, files, owner=_owner(spec))
    inner = cgroup_mounts.clean(path, container_id)
    own = own if own is not None else ({} if inner.startswith("/") else cgroup_mounts.own())
    if mounts.version == 2:
        from copepod.container.cgroup_v2 import V2

        return V2.at(inner, own, resources, mounts, files)
    from copepod.container.cgroup_v1 import V1

    return V1.at(inner, own, resources, mounts, files)
