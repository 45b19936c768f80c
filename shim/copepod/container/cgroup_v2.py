"""Control groups version 2: one directory, with the controllers that are needed enabled above it.

It enables nothing that neither a limit nor the statistics want, and disables nothing of others.
"""

from __future__ import annotations

import errno
import os

from copepod.container import cgroup_mounts, cgroup_stats, cgroup_tree, cgroup_v2_limits, devices
from copepod.container.cgroup import Cgroup
from copepod.container.cgroup_mounts import Mounts
from copepod.container.cgroup_oom import V2OomWatch
from copepod.container.cgroup_stats import Hugetlb, Pids, Reader, V2Stats
from copepod.container.cgroup_tree import Files, put
from copepod.container.cgroup_v2_limits import COUNTED, Limits
from copepod.errors import FailedPrecondition, InvalidArgument, StepFailed
from copepod.linux.cgroup import open_group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from copepod.container.devices import Rules
    from copepod.spec_resources import Resources

_FREEZE_TIMEOUT = 10.0  # seconds
# cgroups(7), "Thread mode": these may be used in a threaded group.
_THREADED = frozenset({"cpu", "cpuset", "perf_event", "pids"})


class V2(Cgroup):
    """A container's group in the unified hierarchy."""

    version = 2

    def __init__(self, path: str, top: str, resources: Resources | None, files: Files) -> None:
        super().__init__(resources, files)
        self.path, self.top = path, top
        self.paths = (path,)
        self._reader = Reader(path)
        self._program = devices.Program()
        self._huge: list[str] | None = None

    @classmethod
    def at(
        cls,
        inner: str,
        own: dict[str, str],
        resources: Resources | None,
        mounts: Mounts,
        files: Files,
    ) -> V2:
        """The group at a cleaned path; a relative one starts beside the shim's own group.

        Beside and not below: a group that holds processes can't pass controllers on (cgroups(7),
        "no internal processes"); runc does the same.
        """
        if mounts.unified is None:
            raise FailedPrecondition("cgroup version 2 is not mounted")
        start = os.path.dirname(own.get("", "/"))
        path = cgroup_mounts.directory(mounts.unified, inner, start)
        return cls(path, mounts.unified.point, resources, files)

    async def create(self) -> None:
        asked = cgroup_v2_limits.needed(self.resources)
        made = cgroup_tree.make_dir(self.files, self.path, self.top)
        try:
            self._refuse_shared(made)
            self._enable(asked)
            self._settle_type(asked)
            if self.resources:
                Limits(self.path, self.files).apply(self.resources)
        except BaseException:
            cgroup_tree.undo(self.files, made)
            raise

    def _enable(self, asked: set[str]) -> None:
        """Sees to it that the group has its controllers, starting at the top when it has not.

        One read in the usual case: whoever made the parent has enabled all. A refusal is no
        error yet: the limit that can't be written says so, and statistics do without.
        """
        wanted = asked | COUNTED
        if wanted <= self._controllers(self.path):
            return
        groups = [self.top]
        for part in os.path.relpath(os.path.dirname(self.path), self.top).split("/"):
            if part != ".":
                groups.append(f"{groups[-1]}/{part}")
        available = self._controllers(self.top)
        for group in groups:
            try:
                enabled = set(self.files.read(f"{group}/cgroup.subtree_control").split())
            except OSError:
                enabled = set()
            if more := sorted((wanted & available) - enabled):
                self._pass_on(group, more)

    def _pass_on(self, group: str, controllers: list[str]) -> None:
        path = f"{group}/cgroup.subtree_control"
        try:
            self.files.write(path, " ".join(f"+{name}" for name in controllers))
            return
        except OSError:
            pass
        for name in controllers:
            try:
                self.files.write(path, f"+{name}")
            except OSError:
                continue

    def _controllers(self, group: str) -> set[str]:
        try:
            return set(self.files.read(f"{group}/cgroup.controllers").split())
        except OSError:
            return set()

    def _settle_type(self, asked: set[str]) -> None:
        """Below a group in thread mode no process can enter before its type is made to fit."""
        try:
            kind = self.files.read(f"{self.path}/cgroup.type").strip()
        except OSError:
            return
        if kind == "domain":
            return
        if domain := sorted(asked - _THREADED):
            raise InvalidArgument(
                f"linux.resources asks for {', '.join(domain)}, which {self.path} can't have: "
                "a group above it is in thread mode"
            )
        if kind == "domain invalid":
            put(self.files, f"{self.path}/cgroup.type", "threaded")

    def delegate(self, uid: int) -> None:
        """Gives the group to a user (cgroup-v2.rst, "Model of Delegation"): itself and its files.

        The kernel says which files those are; limits are not among them.
        """
        try:
            names = self.files.read("/sys/kernel/cgroup/delegate").split()
        except OSError:  # before 4.15
            names = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"]
        self.files.chown(self.path, uid)
        for name in names:
            try:
                self.files.chown(f"{self.path}/{name}", uid)
            except FileNotFoundError:  # its controller is not enabled here
                continue

    def put_limits(self, resources: Resources) -> None:
        self._alive()
        self._enable(cgroup_v2_limits.needed(resources))
        Limits(self.path, self.files).apply(resources)

    def _put_rules(self, new: Rules) -> None:
        # All allowed is what a group without a program has; a parent's program still counts.
        if new.allow and not new.exceptions and self._program.fd < 0:
            return
        self._program.put(self.path, new)

    def procs_fds(self, init_pid: int = 0) -> list[int]:
        path = self._group_for_exec(init_pid) if init_pid else self.path
        try:
            return [open_group(path)]
        except OSError as error:
            raise StepFailed("open", error.errno or 0, path) from None

    def _group_for_exec(self, init_pid: int) -> str:
        """The container's group, or init's where the container has divided its own (systemd does).

        A group that passes controllers on takes no process: "no internal processes".
        """
        if not self.files.read(f"{self.path}/cgroup.subtree_control").strip():
            return self.path
        with open(f"/proc/{init_pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            group = cgroup_mounts.parse_own(file.read()).get("", "/")
        # init's path in our namespace ends with the part below the container's group.
        _, found, below = group.partition(self.path[len(self.top) :] + "/")
        return f"{self.path}/{below}" if found and ".." not in below.split("/") else self.path

    async def freeze(self) -> None:
        from copepod.container import cgroup_wait

        put(self.files, f"{self.path}/cgroup.freeze", "1")
        try:
            path = f"{self.path}/cgroup.events"
            if not await cgroup_wait.event(path, "frozen", 1, _FREEZE_TIMEOUT):
                text = f"some process in {self.path} can't be stopped now: try again"
                raise FailedPrecondition(text)
        except BaseException:
            put(self.files, f"{self.path}/cgroup.freeze", "0")
            raise

    async def thaw(self) -> None:
        put(self.files, f"{self.path}/cgroup.freeze", "0")

    def oom_watch(self) -> V2OomWatch | None:
        try:
            return V2OomWatch(self.path)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise StepFailed("oom watch", error.errno or 0, self.path) from None

    def close(self) -> None:
        self._reader.close()
        self._program.close()

    def stats(self) -> V2Stats:
        read, stats = self._reader, V2Stats()
        pairs, known = cgroup_stats.parse_pairs, cgroup_stats
        # cpu.stat is there without the controller, too, but for throttling.
        stats.cpu = _only(pairs(read.text("cpu.stat")), known.V2_CPU)
        current = read.text("pids.current")
        if current:
            limit = read.number("pids.max")
            stats.pids = Pids(int(current), 0 if limit == known.U64_MAX else limit)
        else:
            stats.pids = Pids(len(cgroup_tree.pids_below(self.files, self.path)), 0)
        self._memory_stats(stats)
        stats.io = cgroup_stats.parse_io(read.text("io.stat"))
        for kind in ("cpu", "memory", "io"):
            if pressure := cgroup_stats.parse_pressure(read.text(f"{kind}.pressure")):
                stats.pressure[kind] = pressure
        self._hugetlb_stats(stats)
        stats.rdma_current = cgroup_stats.parse_rdma(read.text("rdma.current"))
        stats.rdma_limit = cgroup_stats.parse_rdma(read.text("rdma.max"))
        return stats

    def _memory_stats(self, stats: V2Stats) -> None:
        read = self._reader
        if not (usage := read.text("memory.current")):
            return
        pairs = cgroup_stats.parse_pairs
        stats.memory = _only(pairs(read.text("memory.stat")), cgroup_stats.V2_MEMORY)
        stats.memory |= {
            "usage": int(usage),
            "usage_limit": read.number("memory.max"),
            "max_usage": read.number("memory.peak"),
            "swap_usage": read.number("memory.swap.current"),
            "swap_limit": read.number("memory.swap.max"),
            "swap_max_usage": read.number("memory.swap.peak"),
        }
        stats.memory_events = _only(pairs(read.text("memory.events")), cgroup_stats.V2_EVENTS)

    def _hugetlb_stats(self, stats: V2Stats) -> None:
        if self._huge is None:
            self._huge = [
                name.removeprefix("hugetlb.").removesuffix(".max")
                for name in sorted(self._reader.names())
                if name.startswith("hugetlb.") and name.endswith(".max") and ".rsvd." not in name
            ]
        for size in self._huge:
            events = cgroup_stats.parse_pairs(self._reader.text(f"hugetlb.{size}.events"))
            stats.hugetlb.append(
                Hugetlb(
                    size,
                    self._reader.number(f"hugetlb.{size}.current"),
                    self._reader.number(f"hugetlb.{size}.max"),
                    events.get("max", 0),
                )
            )


def _only(pairs: dict[str, int], known: frozenset[str]) -> dict[str, int]:
    return {name: value for name, value in pairs.items() if name in known}
