"""Control groups version 1: a directory in each mounted hierarchy, and the version 2 one if there.

It makes one group per hierarchy and no other, and takes over none that has processes in it.
"""

from __future__ import annotations

import errno
import os

from copepod.container import cgroup_mounts, cgroup_stats, cgroup_tree
from copepod.container.cgroup import Cgroup
from copepod.container.cgroup_mounts import Mount, Mounts
from copepod.container.cgroup_oom import V1OomWatch
from copepod.container.cgroup_stats import BlkIO, Hugetlb, MemoryEntry, Pids, Reader, V1Stats
from copepod.container.cgroup_tree import Files, put
from copepod.container.cgroup_v1_limits import Limits
from copepod.errors import FailedPrecondition, InvalidArgument, StepFailed
from copepod.linux.cgroup import open_group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from copepod.container.devices import Rules
    from copepod.spec_resources import Resources

UNIFIED = ""  # the name of the version 2 hierarchy in proc_pid_cgroup(5)
_FREEZE_TIMEOUT = 10.0  # seconds

# Where I/O is counted, best first: BFQ's and throttling's own files, then those without children.
_BLKIO_FILES = (
    "blkio.bfq.{}_recursive",
    "blkio.{}_recursive",
    "blkio.throttle.{}_recursive",
    "blkio.throttle.{}",
)
_BLKIO_EXTRA = ("io_queued", "io_service_time", "io_wait_time", "io_merged", "time", "sectors")
_MEMORY_ENTRIES = {
    "usage": "memory",
    "swap": "memory.memsw",
    "kernel": "memory.kmem",
    "kernel_tcp": "memory.kmem.tcp",
}


class V1(Cgroup):
    """A container's groups by controller; co-mounted controllers share a directory."""

    version = 1

    def __init__(
        self,
        dirs: dict[str, str],
        mounts: dict[str, Mount],
        resources: Resources | None,
        files: Files,
    ) -> None:
        super().__init__(resources, files)
        self.dirs = dirs
        self._tops = {dirs[name]: mounts[name].point for name in dirs}
        self.paths = tuple(self._tops)
        self._readers: dict[str, Reader] = {}
        self._devices: dict[tuple[int, int], str] = {}
        self._huge: list[str] | None = None
        self._blkio: str | None = None

    @classmethod
    def at(
        cls,
        inner: str,
        own: dict[str, str],
        resources: Resources | None,
        mounts: Mounts,
        files: Files,
    ) -> V1:
        """The groups at a cleaned path; `own` are the shim's, where a relative path starts."""
        order = [name for name in cgroup_mounts.CONTROLLERS if name in mounts.v1]
        found = {name: mounts.v1[name] for name in order}
        if mounts.unified:
            # Hybrid machines: the version 2 hierarchy has no controllers worth the name, but it
            # kills a group in one write, and systemd looks for the container there.
            found[UNIFIED] = mounts.unified
        dirs = {
            name: cgroup_mounts.directory(mount, inner, own.get(name, "/"))
            for name, mount in found.items()
        }
        return cls(dirs, found, resources, files)

    async def create(self) -> None:
        if "devices" not in self.dirs:
            # Without it a container could open every disk of the machine.
            raise InvalidArgument(
                "the devices cgroup controller is not mounted on this machine: "
                "mount it at /sys/fs/cgroup/devices"
            )
        made: list[str] = []
        try:
            for path, top in self._tops.items():
                made += cgroup_tree.make_dir(self.files, path, top)
            self._refuse_shared(made)
            if "cpuset" in self.dirs:
                self._fill_cpuset(self.dirs["cpuset"], self._tops[self.dirs["cpuset"]])
            if self.resources:
                Limits(self.dirs, self.files, live=False).apply(self.resources)
        except BaseException:
            cgroup_tree.undo(self.files, made)
            raise

    def _fill_cpuset(self, path: str, top: str) -> dict[str, str]:
        """Gives an empty cpuset its parent's cpus and mems: it takes no process before that.

        Children start empty unless cgroup.clone_children is on (cgroup-v1/cpusets.rst).
        """
        values = {}
        above: dict[str, str] | None = None
        for name in ("cpuset.cpus", "cpuset.mems"):
            value = self._read(f"{path}/{name}").strip()
            if not value and path != top:
                above = above or self._fill_cpuset(os.path.dirname(path), top)
                value = above[name]
                put(self.files, f"{path}/{name}", value)
            values[name] = value
        return values

    def _read(self, path: str) -> str:
        try:
            return self.files.read(path)
        except OSError as error:
            raise StepFailed("read", error.errno or 0, path) from None

    def put_limits(self, resources: Resources) -> None:
        self._alive()
        Limits(self.dirs, self.files, live=True).apply(resources)

    def _put_rules(self, new: Rules) -> None:
        from copepod.container.devices import v1_writes

        for name, line in v1_writes(self.rules, new):
            put(self.files, f"{self.dirs['devices']}/{name}", line)

    def pids(self) -> list[int]:
        path = self.dirs.get(UNIFIED) or self.dirs["devices"]
        return sorted(cgroup_tree.pids_below(self.files, path))

    def procs_fds(self, init_pid: int = 0) -> list[int]:
        fds: list[int] = []
        unified = self.dirs.get(UNIFIED, "")
        try:
            for path in sorted(self.paths, key=lambda path: path != unified):
                if path == unified:
                    fds.append(open_group(path))
                else:
                    path = f"{path}/tasks"
                    fds.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            for fd in fds:
                os.close(fd)
            raise StepFailed("open", error.errno or 0, path) from None
        return fds

    async def freeze(self) -> None:
        path = self._freezer()
        try:
            if not await self._frozen(path):
                text = f"some process in {path} can't be stopped now: try again"
                raise FailedPrecondition(text)
        except BaseException:
            put(self.files, path, "THAWED")
            raise

    async def _frozen(self, path: str) -> bool:
        """Asks for FROZEN until it is so: the kernel works at it only while it is asked.

        A process that forks at the wrong moment escapes a round (freezer-subsystem.rst); letting
        all run now and then helps where new ones keep coming. There is nothing to wait on.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        end, tries = loop.time() + _FREEZE_TIMEOUT, 0
        while loop.time() < end:
            put(self.files, path, "FROZEN")
            if self._read(path).strip() == "FROZEN":
                return True
            tries += 1
            if tries % 50 == 0:
                put(self.files, path, "THAWED")
            await asyncio.sleep(0.001 if tries > 3 else 0)
        return False

    def is_frozen(self) -> bool:
        """Whether it has been asked to be frozen, and not to be thawed since."""
        return self._read(self._freezer()).strip() != "THAWED"

    async def thaw(self) -> None:
        put(self.files, self._freezer(), "THAWED")

    def _freezer(self) -> str:
        if "freezer" not in self.dirs:
            raise FailedPrecondition(
                "pausing needs the freezer cgroup controller: it isn't mounted"
            )
        return f"{self.dirs['freezer']}/freezer.state"

    def oom_watch(self) -> V1OomWatch | None:
        if "memory" not in self.dirs:
            return None
        try:
            return V1OomWatch(self.dirs["memory"])
        except OSError as error:
            # CONFIG_MEMCG_V1 kernels may leave event_control out (PREEMPT_RT does).
            if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
                return None
            raise StepFailed("oom watch", error.errno or 0, self.dirs["memory"]) from None

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _reader(self, controller: str) -> Reader | None:
        reader = self._readers.get(controller)
        if reader is None and controller in self.dirs:
            reader = self._readers[controller] = Reader(self.dirs[controller])
        return reader

    def stats(self) -> V1Stats:
        stats = V1Stats()
        if pids := self._reader("pids"):
            limit = pids.number("pids.max")
            current = pids.number("pids.current")
            stats.pids = Pids(current, 0 if limit == cgroup_stats.U64_MAX else limit)
        self._cpu_stats(stats)
        if memory := self._reader("memory"):
            _memory_stats(stats, memory)
        if blkio := self._reader("blkio"):
            self._blkio_stats(stats, blkio)
        if hugetlb := self._reader("hugetlb"):
            self._hugetlb_stats(stats, hugetlb)
        if rdma := self._reader("rdma"):
            stats.rdma_current = cgroup_stats.parse_rdma(rdma.text("rdma.current"))
            stats.rdma_limit = cgroup_stats.parse_rdma(rdma.text("rdma.max"))
        return stats

    def _cpu_stats(self, stats: V1Stats) -> None:
        if acct := self._reader("cpuacct"):
            stats.cpu_total = acct.number("cpuacct.usage")
            ticks = cgroup_stats.parse_pairs(acct.text("cpuacct.stat"))
            nanoseconds = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
            stats.cpu_user = ticks.get("user", 0) * nanoseconds
            stats.cpu_kernel = ticks.get("system", 0) * nanoseconds
            stats.per_cpu = [int(word) for word in acct.text("cpuacct.usage_percpu").split()]
        if cpu := self._reader("cpu"):
            pairs = cgroup_stats.parse_pairs(cpu.text("cpu.stat"))
            stats.periods = pairs.get("nr_periods", 0)
            stats.throttled_periods = pairs.get("nr_throttled", 0)
            stats.throttled_time = pairs.get("throttled_time", 0)

    def _blkio_stats(self, stats: V1Stats, reader: Reader) -> None:
        if self._blkio is None:
            # Found once: which of the files exist depends on the kernel, not on the moment.
            found = [p for p in _BLKIO_FILES if reader.text(p.format("io_serviced"))]
            self._blkio = found[0] if found else _BLKIO_FILES[-1]
        names: tuple[str, ...] = ("io_service_bytes", "io_serviced")
        if "throttle" not in self._blkio:
            names += _BLKIO_EXTRA
        for name in names:
            text = reader.text(self._blkio.format(name))
            entries: list[BlkIO] = cgroup_stats.parse_blkio(text, self._devices)
            if entries:
                stats.blkio[f"{name}_recursive"] = entries

    def _hugetlb_stats(self, stats: V1Stats, reader: Reader) -> None:
        if self._huge is None:
            ends = ".limit_in_bytes"
            self._huge = [
                name.removeprefix("hugetlb.").removesuffix(ends)
                for name in sorted(reader.names())
                if name.startswith("hugetlb.") and name.endswith(ends) and ".rsvd." not in name
            ]
        for size in self._huge:
            file = f"hugetlb.{size}."
            stats.hugetlb.append(
                Hugetlb(
                    size,
                    reader.number(file + "usage_in_bytes"),
                    reader.number(file + "max_usage_in_bytes"),
                    reader.number(file + "failcnt"),
                )
            )


def _memory_stats(stats: V1Stats, reader: Reader) -> None:
    names = cgroup_stats.V1_MEMORY
    pairs = cgroup_stats.parse_pairs(reader.text("memory.stat"))
    stats.memory = {names[key]: value for key, value in pairs.items() if key in names}
    for field, file in _MEMORY_ENTRIES.items():
        usage = reader.text(f"{file}.usage_in_bytes")
        if usage:
            stats.memory_entries[field] = MemoryEntry(
                reader.number(f"{file}.limit_in_bytes"),
                cgroup_stats.parse_number(usage),
                reader.number(f"{file}.max_usage_in_bytes"),
                reader.number(f"{file}.failcnt"),
            )
    stats.oom = cgroup_stats.parse_pairs(reader.text("memory.oom_control"))
