"""Which control files of version 1 an OCI resources object writes, with what, in which order.

It makes no group and knows no process: `dirs` says where each controller's group is.
"""

from __future__ import annotations

import errno
import os

from copepod.container.cgroup_tree import Files, put, refused
from copepod.errors import InvalidArgument, StepFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from copepod.spec_resources import CPU, BlockIO, Memory, Resources

UNLIMITED = -1
SHARES_MIN, SHARES_MAX = 2, 1 << 18


class Limits:
    """Writes limits into the groups of one container.

    `live` says that processes run in them: values are then changed in the order in which the
    kernel takes them, and a memory limit below what is in use is refused with the numbers.
    """

    def __init__(self, dirs: dict[str, str], files: Files, *, live: bool) -> None:
        self.dirs, self.files, self.live = dirs, files, live

    def apply(self, resources: Resources) -> None:
        """All limits but the device rules; raises StepFailed or InvalidArgument at the first."""
        if resources.unified:
            raise InvalidArgument(
                "linux.resources.unified is for cgroup version 2, and this machine runs version 1"
            )
        if resources.cpu:
            self._cpuset(resources.cpu)
            self._realtime(resources.cpu)
            self._cpu(resources.cpu)
        if resources.memory:
            self._memory(resources.memory)
        if resources.pids and resources.pids.limit is not None:
            self._put("pids", "pids.max", pids_max(resources.pids.limit))
        if resources.block_io:
            self._blkio(resources.block_io)
        self._rest(resources)

    def _dir(self, controller: str, what: str) -> str:
        path = self.dirs.get(controller)
        if path is None:
            raise InvalidArgument(
                f"linux.resources asks for {what}, but the {controller} cgroup controller is not "
                "mounted on this machine: mount it or drop the limit"
            )
        return path

    def _put(self, controller: str, name: str, value: object) -> None:
        put(self.files, f"{self._dir(controller, name)}/{name}", str(value))

    def _cpuset(self, cpu: CPU) -> None:
        if cpu.cpus:
            self._put("cpuset", "cpuset.cpus", cpu.cpus)
        if cpu.mems:
            self._put("cpuset", "cpuset.mems", cpu.mems)

    def _realtime(self, cpu: CPU) -> None:
        # Runtime must fit the period at every moment, so a period that the kernel refuses now may
        # be right once the runtime is written (sched-rt-group.rst).
        later = False
        if cpu.realtime_period:
            later = not self._if_valid(
                "cpu.rt_period_us", cpu.realtime_period, cpu.realtime_runtime
            )
        if cpu.realtime_runtime:
            self._put("cpu", "cpu.rt_runtime_us", cpu.realtime_runtime)
        if later:
            self._put("cpu", "cpu.rt_period_us", cpu.realtime_period)

    def _cpu(self, cpu: CPU) -> None:
        # The kernel refuses shares for an idle group, so leaving idleness comes before them.
        if cpu.idle == 0:
            self._put("cpu", "cpu.idle", 0)
        if cpu.shares:
            self._put("cpu", "cpu.shares", checked_shares(cpu.shares))
        # The kernel checks quota / period and burst against the old values of the others
        # (sched-bwc.rst): what is refused now is written again after the quota.
        again: list[tuple[str, int]] = []
        for name, value in (("cpu.cfs_period_us", cpu.period), ("cpu.cfs_burst_us", cpu.burst)):
            # 0 is "unset" for the period and a value for the burst.
            if value is None or (value == 0 and name == "cpu.cfs_period_us"):
                continue
            if not self._if_valid(name, value, cpu.quota):
                again.append((name, value))
        if cpu.quota:
            self._put("cpu", "cpu.cfs_quota_us", cpu.quota)
        for name, value in again:
            self._put("cpu", name, value)
        if cpu.idle:
            self._put("cpu", "cpu.idle", cpu.idle)

    def _if_valid(self, name: str, value: int, rescue: int | None) -> bool:
        """Writes; False when the kernel calls it invalid and writing `rescue` may mend that."""
        try:
            self._put("cpu", name, value)
        except StepFailed as error:
            if error.errno == errno.EINVAL and rescue:
                return False
            # Kernels before 5.14 have no burst: it only smooths, so doing without is right.
            if error.errno == errno.ENOENT and name == "cpu.cfs_burst_us":
                return True
            raise
        return True

    def _memory(self, memory: Memory) -> None:
        limit, swap = memory.limit or 0, memory.swap or 0
        if limit or swap:
            self._memory_and_swap(self._dir("memory", "a memory limit"), limit, swap)
        if memory.reservation:
            self._put("memory", "memory.soft_limit_in_bytes", memory.reservation)
        # memory.kernel and kernelTCP: the kernel has deprecated both (5.4, 5.16); runc ignores
        # them as well.
        if memory.disable_oom_killer:
            self._put("memory", "memory.oom_control", 1)
        if memory.swappiness is not None and memory.swappiness != UNLIMITED:
            if not 0 <= memory.swappiness <= 100:
                raise InvalidArgument(
                    f"linux.resources.memory.swappiness is {memory.swappiness}: 0 to 100 is allowed"
                )
            self._put("memory", "memory.swappiness", memory.swappiness)

    def _memory_and_swap(self, path: str, limit: int, swap: int) -> None:
        has_swap = self.files.exists(f"{path}/memory.memsw.limit_in_bytes")
        if not has_swap:
            if swap > 0 and swap != limit:
                raise InvalidArgument(
                    f"linux.resources.memory.swap is {swap}, but this kernel does not account swap:"
                    " boot it with swapaccount=1 or drop the limit"
                )
            swap = 0
        elif limit == UNLIMITED and swap == 0:
            swap = UNLIMITED
        writes = [("memory.limit_in_bytes", limit), ("memory.memsw.limit_in_bytes", swap)]
        # The kernel keeps limit <= limit with swap at every moment: the upper one goes first when
        # it is raised above the current limit, last when both sink. A new group has no limits.
        if self.live and limit and swap:
            current = int(self.files.read(f"{path}/memory.limit_in_bytes"))
            if swap == UNLIMITED or current < swap:
                writes.reverse()
        for name, value in writes:
            if value:
                self._memory_limit(path, name, value)

    def _memory_limit(self, path: str, name: str, value: int) -> None:
        try:
            self.files.write(f"{path}/{name}", str(value))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise refused(error, f"{path}/{name}", str(value)) from None
            used = self.files.read(f"{path}/memory.usage_in_bytes").strip()
            text = f"the memory limit {value} is below the {used} bytes in use in {path}"
            raise StepFailed("cgroup", errno.EBUSY, f"{path}/{name}", text) from None

    def _blkio(self, block: BlockIO) -> None:
        # The weight files belong to an I/O scheduler: CFQ (gone in 5.0) had them under this name.
        cfq = self.files.exists(f"{self.dirs.get('blkio', '')}/blkio.weight")
        weight = "blkio.weight" if cfq else "blkio.bfq.weight"
        if block.weight:
            self._put("blkio", weight, block.weight)
        if block.leaf_weight:
            self._put("blkio", "blkio.leaf_weight", block.leaf_weight)
        for entry in block.weight_device or ():
            device = f"{entry.major}:{entry.minor}"
            if entry.weight:
                self._put("blkio", f"{weight}_device", f"{device} {entry.weight}")
            if entry.leaf_weight:
                self._put("blkio", "blkio.leaf_weight_device", f"{device} {entry.leaf_weight}")
        for kind in ("read_bps", "write_bps", "read_iops", "write_iops"):
            for limit in getattr(block, f"throttle_{kind}_device") or ():
                value = f"{limit.major}:{limit.minor} {limit.rate}"
                self._put("blkio", f"blkio.throttle.{kind}_device", value)

    def _rest(self, resources: Resources) -> None:
        for page in resources.hugepage_limits or ():
            self._put("hugetlb", f"hugetlb.{page.page_size}.limit_in_bytes", page.limit)
            # Reservations (5.7) are limited as well: a page reserved is a page that others miss.
            reserved = f"hugetlb.{page.page_size}.rsvd.limit_in_bytes"
            if self.files.exists(os.path.join(self._dir("hugetlb", reserved), reserved)):
                self._put("hugetlb", reserved, page.limit)
        network = resources.network
        if network and network.class_id:
            self._put("net_cls", "net_cls.classid", network.class_id)
        for entry in (network.priorities if network else None) or ():
            self._put("net_prio", "net_prio.ifpriomap", f"{entry.name} {entry.priority}")
        for name, rdma in (resources.rdma or {}).items():
            self._put("rdma", "rdma.max", rdma_line(name, rdma.hca_handles, rdma.hca_objects))


def checked_shares(shares: int) -> int:
    """CPU shares that the kernel would not silently change (sched/core.c: 2 to 2^18)."""
    if not SHARES_MIN <= shares <= SHARES_MAX:
        raise InvalidArgument(
            f"linux.resources.cpu.shares is {shares}: {SHARES_MIN} to {SHARES_MAX} is allowed"
        )
    return shares


def pids_max(limit: int) -> str:
    """What pids.max takes for an OCI limit.

    systemd can't say 0 there, and 1 forbids just as much, since the container's first process
    enters before the limit counts.
    """
    return "max" if limit < 0 else str(max(limit, 1))


def rdma_line(device: str, handles: int | None, objects: int | None) -> str:
    """One line of rdma.max, the same in both versions (cgroup-v2.rst, RDMA)."""
    parts = [device]
    if handles is not None:
        parts.append(f"hca_handle={handles}")
    if objects is not None:
        parts.append(f"hca_object={objects}")
    return " ".join(parts)
