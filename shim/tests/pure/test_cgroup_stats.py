"""Numbers from the kernel's files to containerd's message: parsers that survive any kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copepod import errors
from copepod.container import cgroup_stats
from copepod.container.cgroup_mounts import Mount, Mounts
from copepod.container.cgroup_stats import IO, BlkIO, Hugetlb, MemoryEntry, Pids, Rdma, V1Stats
from copepod.container.cgroup_tree import Files
from copepod.container.cgroup_v1 import V1
from copepod.container.cgroup_v2 import V2
from copepod.task import stats
from copepod_api import cgroup_v1_pb2, cgroup_v2_pb2

pytestmark = pytest.mark.pure

V2_TREE = {
    "cpu.stat": "usage_usec 10\nuser_usec 6\nsystem_usec 4\nnr_periods 3\nnr_throttled 2\n"
    "throttled_usec 1\nnr_bursts 0\nburst_usec 0\ncore_sched.force_idle_usec 0\n",
    "cpu.pressure": "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "pids.current": "4\n",
    "pids.max": "max\n",
    "memory.current": "4096\n",
    "memory.max": "max\n",
    "memory.swap.current": "1\n",
    "memory.swap.max": "100\n",
    "memory.peak": "8192\n",
    "memory.stat": "anon 1\nfile 2\nnew_in_7_0 9\ninactive_file 3\npgmajfault 8\n",
    "memory.events": "low 0\nhigh 0\nmax 5\noom 2\noom_kill 1\noom_group_kill 0\n",
    "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 \n",
    "hugetlb.2MB.max": "max\n",
    "hugetlb.2MB.rsvd.max": "max\n",
    "hugetlb.2MB.current": "2097152\n",
    "hugetlb.2MB.events": "max 6\n",
    "rdma.current": "mlx4_0 hca_handle=2 hca_object=2000\n",
    "rdma.max": "mlx4_0 hca_handle=max hca_object=max\n",
}


def tree(path: Path, files: dict[str, str]) -> Path:
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def v2_at(tmp_path: Path, files: dict[str, str]) -> V2:
    tree(tmp_path / "one", files)
    return V2.at("/one", {}, None, Mounts({}, Mount(str(tmp_path))), Files())


def test_v2_in_full(tmp_path: Path) -> None:
    group = v2_at(tmp_path, V2_TREE)
    kind, data = stats.metrics(group.stats())
    group.close()
    assert kind == "io.containerd.cgroups.v2.Metrics"
    got = cgroup_v2_pb2.Metrics.FromString(data)
    assert (got.pids.current, got.pids.limit) == (4, 0)
    assert (got.cpu.usage_usec, got.cpu.nr_throttled, got.cpu.throttled_usec) == (10, 2, 1)
    assert (got.cpu.psi.some.avg10, got.cpu.psi.some.total) == (1.5, 77)
    assert got.memory.usage == 4096
    assert got.memory.usage_limit == (1 << 64) - 1
    assert (got.memory.swap_usage, got.memory.swap_limit, got.memory.max_usage) == (1, 100, 8192)
    assert (got.memory.anon, got.memory.inactive_file, got.memory.pgmajfault) == (1, 3, 8)
    assert (got.memory_events.oom_kill, got.memory_events.max) == (1, 5)
    assert [(e.major, e.minor, e.rbytes, e.wios) for e in got.io.usage] == [(8, 0, 1, 4)]
    assert [(h.pagesize, h.current, h.failcnt) for h in got.hugetlb] == [("2MB", 2097152, 6)]
    assert got.rdma.current[0].hca_objects == 2000
    assert got.rdma.limit[0].hca_handles == (1 << 32) - 1


def test_v2_without_controllers(tmp_path: Path) -> None:
    group = v2_at(tmp_path, {"cpu.stat": "usage_usec 5\n", "cgroup.procs": "12\n0\n"})
    got = cgroup_v2_pb2.Metrics.FromString(stats.metrics(group.stats())[1])
    assert got.pids.current == 1
    assert got.cpu.usage_usec == 5
    assert not got.HasField("memory")


def test_a_group_that_is_gone(tmp_path: Path) -> None:
    mounts = Mounts({"pids": Mount(str(tmp_path))}, Mount(str(tmp_path)))
    for group in (V1.at("/x", {}, None, mounts, Files()), V2.at("/x", {}, None, mounts, Files())):
        with pytest.raises(errors.NotFound, match="is gone"):
            group.stats()


def test_v1_in_full(tmp_path: Path) -> None:
    names = ("pids", "cpu", "cpuacct", "memory", "blkio", "hugetlb", "rdma")
    mounts = Mounts({name: Mount(str(tmp_path / name)) for name in names})
    memory = {
        "memory.stat": "cache 1\nrss 2\npgpgin 3\ntotal_pgfault 4\nhierarchical_memsw_limit 5\n"
        "shmem 9\ntotal_inactive_file 6\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    }
    for prefix in ("memory", "memory.memsw", "memory.kmem"):
        memory |= {
            f"{prefix}.{name}": f"{number}\n"
            for number, name in enumerate(
                ("usage_in_bytes", "max_usage_in_bytes", "limit_in_bytes", "failcnt")
            )
        }
    files = {
        "pids": {"pids.current": "2\n", "pids.max": "64\n"},
        "cpu": {"cpu.stat": "nr_periods 1\nnr_throttled 2\nthrottled_time 3\n"},
        "cpuacct": {
            "cpuacct.usage": "1234567\n",
            "cpuacct.stat": "user 2\nsystem 3\n",
            "cpuacct.usage_percpu": "1000000 234567 \n",
        },
        "memory": memory,
        "blkio": {
            "blkio.throttle.io_serviced": "254:0 Read 7\n254:0 Total 7\nTotal 7\n",
            "blkio.throttle.io_service_bytes": "254:0 Read 70\nTotal 70\n",
        },
        "hugetlb": {
            "hugetlb.1GB.limit_in_bytes": "1\n",
            "hugetlb.1GB.usage_in_bytes": "2\n",
            "hugetlb.1GB.max_usage_in_bytes": "3\n",
            "hugetlb.1GB.failcnt": "4\n",
        },
        "rdma": {"rdma.current": "", "rdma.max": ""},
    }
    for name, texts in files.items():
        tree(tmp_path / name / "one", texts)
    group = V1.at("/one", {}, None, mounts, Files())
    for _ in range(2):  # the second reading goes through the descriptors kept by the first
        kind, data = stats.metrics(group.stats())
    group.close()
    assert kind == "io.containerd.cgroups.v1.Metrics"
    got = cgroup_v1_pb2.Metrics.FromString(data)
    assert (got.pids.current, got.pids.limit) == (2, 64)
    assert (got.cpu.usage.total, list(got.cpu.usage.per_cpu)) == (1234567, [1000000, 234567])
    assert (got.cpu.usage.user, got.cpu.usage.kernel) == (20_000_000, 30_000_000)
    assert got.cpu.throttling.throttled_time == 3
    assert (got.memory.cache, got.memory.rss, got.memory.pg_pg_in) == (1, 2, 3)
    assert (got.memory.total_pg_fault, got.memory.hierarchical_swap_limit) == (4, 5)
    for entry in (got.memory.usage, got.memory.swap, got.memory.kernel):
        assert (entry.usage, entry.max, entry.limit, entry.failcnt) == (0, 1, 2, 3)
    assert not got.memory.HasField("kernel_tcp")
    assert got.memory_oom_control.oom_kill == 3
    assert [(e.op, e.value) for e in got.blkio.io_serviced_recursive] == [("Read", 7), ("Total", 7)]
    assert got.hugetlb[0].max == 3


def test_empty_numbers_make_a_message() -> None:
    assert cgroup_v1_pb2.Metrics.FromString(stats.metrics(V1Stats())[1]).pids.current == 0


@given(st.text())
def test_any_text_is_parsed(text: str) -> None:
    cgroup_stats.parse_pairs(text)
    cgroup_stats.parse_pressure(text)
    cgroup_stats.parse_io(text)
    cgroup_stats.parse_blkio(text, {})
    cgroup_stats.parse_rdma(text)
    cgroup_stats.parse_number(text)


U64 = st.integers(0, (1 << 64) - 1)


@given(
    st.builds(
        V1Stats,
        pids=st.builds(Pids, U64, U64),
        cpu_total=U64,
        per_cpu=st.lists(U64, max_size=4),
        memory=st.dictionaries(st.sampled_from(sorted(cgroup_stats.V1_MEMORY.values())), U64),
        memory_entries=st.dictionaries(
            st.sampled_from(["usage", "swap", "kernel", "kernel_tcp"]),
            st.builds(MemoryEntry, U64, U64, U64, U64),
        ),
        blkio=st.dictionaries(
            st.sampled_from(["io_serviced_recursive", "sectors_recursive"]),
            st.lists(st.builds(BlkIO, st.text(), st.text(), U64, U64, U64), max_size=2),
        ),
        hugetlb=st.lists(st.builds(Hugetlb, st.text(), U64, U64, U64), max_size=2),
        rdma_limit=st.lists(
            st.builds(Rdma, st.text(), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
            max_size=2,
        ),
    )
)
def test_every_number_fits_its_field(numbers: V1Stats) -> None:
    got = cgroup_v1_pb2.Metrics.FromString(stats.metrics(numbers)[1])
    assert numbers.pids
    assert got.pids.current == numbers.pids.current
    assert numbers.memory is not None
    for name, value in numbers.memory.items():
        assert getattr(got.memory, name) == value


def test_the_known_lines_are_fields_of_the_messages() -> None:
    v1 = set(cgroup_v1_pb2.MemoryStat.DESCRIPTOR.fields_by_name)
    assert set(cgroup_stats.V1_MEMORY.values()) <= v1
    v2 = cgroup_v2_pb2
    assert set(v2.MemoryStat.DESCRIPTOR.fields_by_name) >= cgroup_stats.V2_MEMORY
    assert set(v2.CPUStat.DESCRIPTOR.fields_by_name) >= cgroup_stats.V2_CPU
    assert set(v2.MemoryEvents.DESCRIPTOR.fields_by_name) >= cgroup_stats.V2_EVENTS


def test_io_lines() -> None:
    assert cgroup_stats.parse_io("253:1 rbytes=5 cost.usage=3\nx\n") == [IO(253, 1, rbytes=5)]
