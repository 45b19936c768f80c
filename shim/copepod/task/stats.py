"""A container's numbers as the message that containerd passes on to kubelet.

It reads no file and keeps nothing. containerd fails the statistics of the whole node on any other
type than these two, so there is no third kind: NotFound is the answer when there are no numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from copepod.container.cgroup_stats import V1Stats, V2Stats

if TYPE_CHECKING:
    from collections.abc import Iterable

    from copepod.container.cgroup_stats import Rdma

V1_TYPE = "io.containerd.cgroups.v1.Metrics"
V2_TYPE = "io.containerd.cgroups.v2.Metrics"


def metrics(stats: V1Stats | V2Stats) -> tuple[str, bytes]:
    """(type URL, serialized message) for an Any; the type URL is the bare name."""
    if isinstance(stats, V1Stats):
        return V1_TYPE, _v1(stats)
    return V2_TYPE, _v2(stats)


def _v1(stats: V1Stats) -> bytes:
    from copepod_api import cgroup_v1_pb2 as pb

    message = pb.Metrics()
    if stats.pids:
        message.pids.current, message.pids.limit = stats.pids.current, stats.pids.limit
    if stats.cpu_total is not None:
        usage = message.cpu.usage
        usage.total, usage.user, usage.kernel = stats.cpu_total, stats.cpu_user, stats.cpu_kernel
        usage.per_cpu.extend(stats.per_cpu)
    throttling = message.cpu.throttling
    throttling.periods = stats.periods
    throttling.throttled_periods = stats.throttled_periods
    throttling.throttled_time = stats.throttled_time
    if stats.memory is not None:
        _copy(message.memory, stats.memory)
        for name, entry in stats.memory_entries.items():
            target = getattr(message.memory, name)
            target.limit, target.usage = entry.limit, entry.usage
            target.max, target.failcnt = entry.max, entry.failcnt
        message.memory_oom_control.oom_kill_disable = stats.oom.get("oom_kill_disable", 0)
        message.memory_oom_control.under_oom = stats.oom.get("under_oom", 0)
        message.memory_oom_control.oom_kill = stats.oom.get("oom_kill", 0)
    for name, entries in stats.blkio.items():
        getattr(message.blkio, name).extend(
            pb.BlkIOEntry(op=e.op, device=e.device, major=e.major, minor=e.minor, value=e.value)
            for e in entries
        )
    message.hugetlb.extend(
        pb.HugetlbStat(usage=h.current, max=h.max, failcnt=h.failcnt, pagesize=h.pagesize)
        for h in stats.hugetlb
    )
    _rdma(message, pb.RdmaEntry, stats.rdma_current, stats.rdma_limit)
    return message.SerializeToString()


def _v2(stats: V2Stats) -> bytes:
    from copepod_api import cgroup_v2_pb2 as pb

    message = pb.Metrics()
    if stats.pids:
        message.pids.current, message.pids.limit = stats.pids.current, stats.pids.limit
    _copy(message.cpu, stats.cpu)
    if stats.memory:
        _copy(message.memory, stats.memory)
        _copy(message.memory_events, stats.memory_events)
    message.io.usage.extend(
        pb.IOEntry(
            major=e.major, minor=e.minor, rbytes=e.rbytes, wbytes=e.wbytes, rios=e.rios, wios=e.wios
        )
        for e in stats.io
    )
    for kind, pressure in stats.pressure.items():
        target = getattr(message, kind).psi
        for share, line in pressure.items():
            if share in ("some", "full"):
                getattr(target, share).CopyFrom(
                    pb.PSIData(
                        avg10=line.avg10, avg60=line.avg60, avg300=line.avg300, total=line.total
                    )
                )
    message.hugetlb.extend(
        pb.HugeTlbStat(current=h.current, max=h.max, failcnt=h.failcnt, pagesize=h.pagesize)
        for h in stats.hugetlb
    )
    _rdma(message, pb.RdmaEntry, stats.rdma_current, stats.rdma_limit)
    return message.SerializeToString()


def _copy(message: Any, numbers: dict[str, int]) -> None:
    for name, value in numbers.items():
        setattr(message, name, value)


def _rdma(message: Any, entry: Any, current: Iterable[Rdma], limit: Iterable[Rdma]) -> None:
    for target, rows in ((message.rdma.current, current), (message.rdma.limit, limit)):
        target.extend(
            entry(device=r.device, hca_handles=r.hca_handles, hca_objects=r.hca_objects)
            for r in rows
        )
