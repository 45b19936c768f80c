"""Which control files of version 2 an OCI resources object writes, with what, in which order.

It makes no group and knows no process. The OCI resources are shaped after version 1: what has no
counterpart here (swappiness, kernel memory, the switched-off OOM killer) is passed over, as runc
does.
"""

from __future__ import annotations

import errno
import math

from copepod.container.cgroup_tree import Files, put
from copepod.container.cgroup_v1_limits import SHARES_MAX, SHARES_MIN, pids_max, rdma_line
from copepod.errors import InvalidArgument, StepFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from copepod.spec_resources import CPU, BlockIO, Memory, Resources

UNLIMITED = -1
_PERIOD = 100_000  # us: cpu.max's own default (cgroup-v2.rst)

# What stats are read from, whether limited or not.
COUNTED = frozenset({"cpu", "memory", "pids", "io"})


def needed(resources: Resources | None) -> set[str]:
    """The controllers that the limits ask for; without one of them the container can't be."""
    if resources is None:
        return set()
    cpu, memory = resources.cpu, resources.memory
    network = resources.network
    wanted = {
        "cpu": cpu and (cpu.shares or cpu.quota or cpu.period or cpu.burst or cpu.idle),
        "cpuset": cpu and (cpu.cpus or cpu.mems),
        "memory": memory and (memory.limit or memory.reservation or memory.swap),
        "pids": resources.pids and resources.pids.limit is not None,
        "io": resources.block_io and any(_fields(resources.block_io)),
        "hugetlb": resources.hugepage_limits,
        "rdma": resources.rdma,
    }
    names = {name for name, asked in wanted.items() if asked}
    names.update(key.partition(".")[0] for key in resources.unified)
    names.discard("cgroup")  # cgroup.* files are there without any controller
    if network and (network.class_id or network.priorities):
        raise InvalidArgument(
            "linux.resources.network is for cgroup version 1, and this machine runs version 2"
        )
    if cpu and (cpu.realtime_runtime or cpu.realtime_period):
        raise InvalidArgument(
            "linux.resources.cpu asks for real-time limits, which cgroup version 2 does not have"
        )
    return names


def _fields(block: BlockIO) -> list[object]:
    throttles = [
        getattr(block, f"throttle_{kind}_device")
        for kind in ("read_bps", "write_bps", "read_iops", "write_iops")
    ]
    return [block.weight, block.weight_device, *throttles]


class Limits:
    """Writes limits into one group."""

    def __init__(self, path: str, files: Files) -> None:
        self.path, self.files = path, files

    def apply(self, resources: Resources) -> None:
        """All limits but the device rules; raises StepFailed or InvalidArgument at the first."""
        if resources.pids and resources.pids.limit is not None:
            self._put("pids.max", pids_max(resources.pids.limit))
        if resources.memory:
            self._memory(resources.memory)
        if resources.block_io:
            self._io(resources.block_io)
        if resources.cpu:
            self._cpu(resources.cpu)
        for page in resources.hugepage_limits:
            self._put(f"hugetlb.{page.page_size}.max", page.limit)
            # Reservations (5.7): a page reserved is a page that others miss.
            if self.files.exists(f"{self.path}/hugetlb.{page.page_size}.rsvd.max"):
                self._put(f"hugetlb.{page.page_size}.rsvd.max", page.limit)
        for name, rdma in resources.rdma.items():
            self._put("rdma.max", rdma_line(name, rdma.hca_handles, rdma.hca_objects))
        for key, text in resources.unified.items():
            self._unified(key, text)

    def _put(self, name: str, value: object) -> None:
        try:
            put(self.files, f"{self.path}/{name}", str(value))
        except StepFailed as error:
            # A file is missing when its controller is not enabled for this group.
            if error.errno == errno.ENOENT:
                raise self._missing(name, error) from None
            raise

    def _missing(self, name: str, error: StepFailed) -> Exception:
        controller = name.partition(".")[0]
        if controller in self.files.read(f"{self.path}/cgroup.controllers").split():
            return error
        return InvalidArgument(
            f"linux.resources asks for {name}, but the {controller} cgroup controller is not "
            f"enabled for {self.path}: enable it in the cgroup.subtree_control of every group "
            "above, none of which may hold processes itself"
        )

    def _unified(self, key: str, text: str) -> None:
        controller, dot, rest = key.partition(".")
        if "/" in key or not (controller and dot and rest):
            raise InvalidArgument(
                f"linux.resources.unified has the key {key!r}: a file name such as memory.high "
                "is wanted"
            )
        for line in text.splitlines():
            self._put(key, line)

    def _memory(self, memory: Memory) -> None:
        limit, swap = memory.limit or 0, memory.swap or 0
        if memory.check_before_update:
            self._refuse_if_used(limit, swap)
        words = swap_max(limit, swap)
        if words is not None:
            try:
                self._put("memory.swap.max", words)
            except (StepFailed, InvalidArgument):
                # A kernel without swap accounting keeps to these two without being told.
                if self.files.exists(f"{self.path}/memory.swap.max") or words not in ("max", "0"):
                    raise
        if limit:
            self._put("memory.max", _or_max(limit))
        if memory.reservation:
            self._put("memory.low", _or_max(memory.reservation))

    def _refuse_if_used(self, limit: int, swap: int) -> None:
        # Lowering memory.max below what is in use lets the kernel kill; checkBeforeUpdate asks to
        # be refused instead.
        try:
            used = int(self.files.read(f"{self.path}/memory.current"))
        except OSError:
            return
        for what, value in (("memory", limit), ("memory and swap", swap)):
            if 0 < value <= used:
                raise StepFailed(
                    "cgroup",
                    errno.EBUSY,
                    self.path,
                    f"the limit {value} of {what} is below the {used} bytes in use in {self.path}",
                )

    def _io(self, block: BlockIO) -> None:
        bfq = self.files.exists(f"{self.path}/io.bfq.weight")
        if block.weight:
            if bfq:
                self._put("io.bfq.weight", block.weight)
            else:
                self._put("io.weight", io_weight(block.weight))
        for device in block.weight_device:
            if device.weight:
                number = f"{device.major}:{device.minor}"
                if bfq:
                    self._put("io.bfq.weight", f"{number} {device.weight}")
                else:
                    self._put("io.weight", f"{number} {io_weight(device.weight)}")
        for kind, key in (
            ("read_bps", "rbps"),
            ("write_bps", "wbps"),
            ("read_iops", "riops"),
            ("write_iops", "wiops"),
        ):
            for limit in getattr(block, f"throttle_{kind}_device"):
                rate = limit.rate or "max"  # 0 lifts the limit, as it does in version 1
                self._put("io.max", f"{limit.major}:{limit.minor} {key}={rate}")

    def _cpu(self, cpu: CPU) -> None:
        # The kernel refuses a weight for an idle group: leaving idleness comes before, entering
        # it after.
        if cpu.idle == 0:
            self._put("cpu.idle", 0)
        if cpu.shares:
            self._put("cpu.weight", cpu_weight(cpu.shares))
        if cpu.idle:
            self._put("cpu.idle", cpu.idle)
        again = cpu.burst is not None and not self._burst(cpu.burst, retry=bool(cpu.quota))
        if cpu.quota or cpu.period:
            quota = str(cpu.quota) if cpu.quota and cpu.quota > 0 else "max"
            self._put("cpu.max", f"{quota} {cpu.period or _PERIOD}")
        if again:
            self._put("cpu.max.burst", cpu.burst)
        if cpu.cpus:
            self._put("cpuset.cpus", cpu.cpus)
        if cpu.mems:
            self._put("cpuset.mems", cpu.mems)

    def _burst(self, burst: int, *, retry: bool) -> bool:
        """False when the kernel finds it too large for the quota that is about to change."""
        if burst == 0 and not self.files.exists(f"{self.path}/cpu.max.burst"):
            return True
        try:
            self._put("cpu.max.burst", burst)
        except StepFailed as error:
            if error.errno == errno.EINVAL and retry:
                return False
            raise
        return True


def _or_max(value: int) -> str:
    return "max" if value == UNLIMITED else str(value)


def cpu_weight(shares: int) -> int:
    """Version 1 shares as a version 2 weight, both for the same part of a busy CPU.

    The curve through (2, 1), (1024, 100) and (2^18, 10000) that runc and kubelet use: the default
    must stay the default, which a straight line does not give.
    """
    if shares <= SHARES_MIN:
        return 1
    if shares >= SHARES_MAX:
        return 10_000
    power = math.log2(shares)
    return math.ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34))


def io_weight(weight: int) -> int:
    """blkio weight (10 to 1000) as io.weight (1 to 10000)."""
    if not 10 <= weight <= 1000:
        raise InvalidArgument(
            f"linux.resources.blockIO has the weight {weight}: 10 to 1000 is allowed"
        )
    return 1 + (weight - 10) * 9999 // 990


def swap_max(limit: int, swap: int) -> str | None:
    """What memory.swap.max takes for OCI's limit of memory and swap together; None: leave it.

    0 is "not asked for" in both; -1 is "no limit", and for memory it takes swap along.
    """
    if limit == UNLIMITED and swap == 0:
        return "max"
    if swap == 0:
        return None
    if swap == UNLIMITED:
        return "max"
    if limit == UNLIMITED:
        return str(swap)
    if limit <= 0:
        raise InvalidArgument(
            "linux.resources.memory.swap is memory and swap together: it needs memory.limit, too"
        )
    if swap < limit:
        raise InvalidArgument(
            f"linux.resources.memory.swap ({swap}) is memory and swap together: "
            f"it can't be less than memory.limit ({limit})"
        )
    return str(swap - limit)
