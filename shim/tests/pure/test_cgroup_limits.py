"""Limits as writes: what an OCI resources object puts into which file, in an order that works."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copepod import errors
from copepod.container import cgroup, cgroup_v2_limits
from copepod.container.cgroup_mounts import Mount, Mounts
from copepod.container.cgroup_v1 import V1
from copepod.container.cgroup_v1_limits import Limits, pids_max
from copepod.container.cgroup_v2 import V2
from copepod.spec import Linux, Spec
from copepod.spec_resources import (
    CPU,
    BlockIO,
    DeviceRule,
    HugepageLimit,
    InterfacePriority,
    Memory,
    Network,
    Pids,
    Rdma,
    Resources,
    ThrottleDevice,
    WeightDevice,
)
from fakes.cgroupfs import V1_FILES, V2_FILES, FakeFiles

pytestmark = pytest.mark.pure

V1_MOUNTS = Mounts(
    {name: Mount(f"/cg/{name.removeprefix('name=')}") for name in V1_FILES}, Mount("/cg/unified")
)
V2_MOUNTS = Mounts({}, Mount("/cg"))
PATH = "/pods/one"
MEGABYTE = 1 << 20
FULL = Resources(
    devices=(DeviceRule(False, access="rwm"), DeviceRule(True, "c", 10, 229, "rw")),
    memory=Memory(limit=64 * MEGABYTE, swap=96 * MEGABYTE, reservation=MEGABYTE, swappiness=10),
    cpu=CPU(shares=512, quota=50_000, period=100_000, burst=10_000, cpus="0-1", mems="0"),
    pids=Pids(100),
    block_io=BlockIO(
        weight=500,
        weight_device=(WeightDevice(8, 0, 10),),
        throttle_read_bps_device=(ThrottleDevice(8, 0, 1000),),
        throttle_write_iops_device=(ThrottleDevice(8, 0, 50),),
    ),
    hugepage_limits=(HugepageLimit("2MB", 2 * MEGABYTE),),
    rdma={"mlx5_0": Rdma(3, None)},
)


def v1_files(*leave_out: str) -> tuple[FakeFiles, Mounts]:
    files = FakeFiles()
    mounts = Mounts({k: v for k, v in V1_MOUNTS.v1.items() if k not in leave_out})
    for name, mount in mounts.v1.items():
        files.mount(mount.point, name)
    return files, mounts


def v2_files() -> FakeFiles:
    files = FakeFiles()
    files.mount("/cg")
    files.files["/cg"]["cgroup.controllers"] = " ".join(V2_FILES)
    return files


def make(
    files: FakeFiles, mounts: Mounts, resources: Resources | None, path: str = PATH
) -> cgroup.Cgroup:
    spec = Spec(linux=Linux(cgroups_path=path, resources=resources))
    return cgroup.make(spec, "id", mounts=mounts, own={}, files=files)


def v1(resources: Resources | None, *leave_out: str) -> tuple[V1, FakeFiles]:
    files, mounts = v1_files(*leave_out)
    group = make(files, mounts, resources)
    assert isinstance(group, V1)
    asyncio.run(group.create())
    return group, files


def v2(resources: Resources | None, files: FakeFiles | None = None) -> tuple[V2, FakeFiles]:
    files = files or v2_files()
    group = make(files, V2_MOUNTS, resources)
    assert isinstance(group, V2)
    asyncio.run(group.create())
    return group, files


def written(files: FakeFiles) -> dict[str, str]:
    """The last value of every file of the container's groups, by the file's name."""
    return {
        p.rpartition("/")[2]: value
        for p, value in files.log
        if p.startswith(("/cg/",)) and PATH in p
    }


def test_v1_everything() -> None:
    group, files = v1(FULL)
    got = written(files)
    assert got["memory.limit_in_bytes"] == str(64 * MEGABYTE)
    assert got["memory.memsw.limit_in_bytes"] == str(96 * MEGABYTE)
    assert got["memory.soft_limit_in_bytes"] == str(MEGABYTE)
    assert got["memory.swappiness"] == "10"
    assert (got["cpu.shares"], got["cpu.cfs_quota_us"], got["cpu.cfs_period_us"]) == (
        "512",
        "50000",
        "100000",
    )
    assert got["cpu.cfs_burst_us"] == "10000"
    assert (got["cpuset.cpus"], got["cpuset.mems"]) == ("0-1", "0")
    assert got["pids.max"] == "100"
    assert got["blkio.bfq.weight"] == "500"
    assert got["blkio.bfq.weight_device"] == "8:0 10"
    assert got["blkio.throttle.read_bps_device"] == "8:0 1000"
    assert got["blkio.throttle.write_iops_device"] == "8:0 50"
    assert got["hugetlb.2MB.limit_in_bytes"] == got["hugetlb.2MB.rsvd.limit_in_bytes"]
    assert got["rdma.max"] == "mlx5_0 hca_handle=3"
    assert not any("devices" in name for name in got), "device rules are written by seal()"
    asyncio.run(group.seal())
    lines = [line for path, line in files.log if path.endswith(f"devices{PATH}/devices.allow")]
    assert files.log[-len(lines) - 1] == (f"/cg/devices{PATH}/devices.deny", "a")
    assert "c 10:229 rw" in lines
    assert "c 1:3 rwm" in lines


def test_v1_one_group_in_every_hierarchy_and_no_more() -> None:
    group, files = v1(None)
    assert set(group.paths) == {f"{m.point}{PATH}" for m in V1_MOUNTS.v1.values()}
    assert all(path in files.files for path in group.paths)
    asyncio.run(group.remove())
    assert not [path for path in files.files if path.endswith(PATH)]


def test_v1_controllers_mounted_together_are_made_once() -> None:
    files = FakeFiles()
    both = Mount("/cg/cpu,cpuacct")
    files.mount(both.point, "cpu", "cpuacct")
    files.mount("/cg/devices", "devices")
    mounts = Mounts({"cpu": both, "cpuacct": both, "devices": Mount("/cg/devices")})
    group = make(files, mounts, Resources(cpu=CPU(shares=2)))
    asyncio.run(group.create())
    assert group.paths == ("/cg/devices" + PATH, both.point + PATH)


def test_hybrid_joins_the_unified_hierarchy() -> None:
    files, _ = v1_files()
    files.mount("/cg/unified")
    group = make(files, V1_MOUNTS, None)
    asyncio.run(group.create())
    assert f"/cg/unified{PATH}" in group.paths


def test_v1_network() -> None:
    network = Network(0x100001, (InterfacePriority("eth0", 5), InterfacePriority("lo", 1)))
    _, files = v1(Resources(network=network))
    assert written(files)["net_cls.classid"] == str(0x100001)
    priorities = [value for path, value in files.log if path.endswith("net_prio.ifpriomap")]
    assert priorities == ["eth0 5", "lo 1"]


def test_v1_an_empty_cpuset_gets_what_its_parent_has() -> None:
    _, files = v1(None)
    for path in ("/cg/cpuset/pods", "/cg/cpuset/pods/one"):
        assert files.files[path]["cpuset.cpus"] == "0-1"
        assert files.files[path]["cpuset.mems"] == "0"


@pytest.mark.parametrize(
    ("resources", "controller"),
    [
        (Resources(memory=Memory(limit=MEGABYTE)), "memory"),
        (Resources(cpu=CPU(shares=100)), "cpu"),
        (Resources(cpu=CPU(cpus="0")), "cpuset"),
        (Resources(pids=Pids(5)), "pids"),
        (Resources(hugepage_limits=(HugepageLimit("2MB", 1),)), "hugetlb"),
        (Resources(network=Network(1)), "net_cls"),
        (Resources(rdma={"x": Rdma(1, 1)}), "rdma"),
        (Resources(block_io=BlockIO(weight=10)), "blkio"),
    ],
)
def test_v1_missing_controller(resources: Resources, controller: str) -> None:
    files, mounts = v1_files(controller)
    with pytest.raises(errors.InvalidArgument, match=f"the {controller} cgroup controller is not"):
        asyncio.run(make(files, mounts, resources).create())
    assert not [path for path in files.files if "pods" in path], "nothing is left behind"
    asyncio.run(make(files, mounts, None).create())


def test_v1_without_devices_there_is_no_container() -> None:
    files, mounts = v1_files("devices")
    with pytest.raises(errors.InvalidArgument, match="devices cgroup controller"):
        asyncio.run(make(files, mounts, None).create())


def test_v1_no_unified_map() -> None:
    with pytest.raises(errors.InvalidArgument, match="unified is for cgroup version 2"):
        v1(Resources(unified={"memory.high": "1"}))


def test_a_refused_value_names_file_and_value() -> None:
    for files, mounts in (v1_files(), (v2_files(), V2_MOUNTS)):
        files.refuse["pids.max"] = errno.EINVAL
        with pytest.raises(errors.StepFailed, match=r"refuses '7' in /cg.*/pids.max") as caught:
            asyncio.run(make(files, mounts, Resources(pids=Pids(7))).create())
        assert caught.value.errno == errno.EINVAL
        assert not [path for path in files.files if "pods" in path]


def test_a_group_in_use_is_not_taken_over() -> None:
    for files, mounts in (v1_files(), (v2_files(), V2_MOUNTS)):
        asyncio.run(make(files, mounts, None).create())
        path = next(path for path in files.files if path.endswith(PATH))
        asyncio.run(make(files, mounts, None).create())  # an empty one is, as with runc
        files.files[path]["cgroup.procs"] = "1\n2\n"
        with pytest.raises(errors.FailedPrecondition, match="holds 2 processes"):
            asyncio.run(make(files, mounts, None).create())
        assert path in files.files


LIMIT = st.one_of(st.just(-1), st.integers(1, 1 << 40).map(lambda n: n * 4096))


@given(st.lists(st.tuples(LIMIT, LIMIT), min_size=1, max_size=6))
def test_v1_any_sequence_of_memory_updates_is_written_in_a_good_order(
    steps: list[tuple[int, int]],
) -> None:
    dirs = {"memory": "/cg/memory/one"}
    files = FakeFiles()
    files.mount("/cg/memory", "memory")
    files.mkdir("/cg/memory/one")
    live = False
    for limit, extra in steps:
        swap = -1 if -1 in (limit, extra) else limit + extra
        Limits(dirs, files, live=live).apply(Resources(memory=Memory(limit=limit, swap=swap)))
        assert ("/cg/memory/one/memory.limit_in_bytes", str(limit)) in files.log[-2:]
        assert ("/cg/memory/one/memory.memsw.limit_in_bytes", str(swap)) in files.log[-2:]
        live = True


def test_v1_a_limit_below_the_usage_says_so() -> None:
    group, files = v1(None)
    files.files[f"/cg/memory{PATH}"]["memory.usage_in_bytes"] = "5000000"
    with pytest.raises(errors.StepFailed, match="4096 is below the 5000000 bytes in use"):
        asyncio.run(group.update(Resources(memory=Memory(limit=4096))))


def test_v1_unlimited_memory_lifts_swap() -> None:
    group, files = v1(Resources(memory=Memory(limit=MEGABYTE, swap=MEGABYTE)))
    asyncio.run(group.update(Resources(memory=Memory(limit=-1))))
    assert written(files)["memory.memsw.limit_in_bytes"] == "-1"


def test_v1_swap_without_accounting() -> None:
    files, mounts = v1_files()
    del V1_FILES["memory"]["memory.memsw.limit_in_bytes"]
    try:
        asyncio.run(make(files, mounts, Resources(memory=Memory(limit=4096, swap=4096))).create())
        with pytest.raises(errors.InvalidArgument, match="does not account swap"):
            asyncio.run(
                make(files, mounts, Resources(memory=Memory(limit=4096, swap=8192))).create()
            )
    finally:
        V1_FILES["memory"]["memory.memsw.limit_in_bytes"] = str((1 << 63) - 4096)


@pytest.mark.parametrize("start", [v1, v2])
def test_idle_and_shares_in_both_directions(
    start: Callable[[Resources], tuple[cgroup.Cgroup, FakeFiles]],
) -> None:
    group, files = start(Resources(cpu=CPU(shares=512, idle=1)))
    assert written(files)["cpu.idle"] == "1"
    asyncio.run(group.update(Resources(cpu=CPU(shares=1024, idle=0))))
    assert written(files)["cpu.idle"] == "0"


@pytest.mark.parametrize("start", [v1, v2])
def test_burst_with_a_new_quota(
    start: Callable[[Resources], tuple[cgroup.Cgroup, FakeFiles]],
) -> None:
    group, files = start(Resources(cpu=CPU(quota=10_000, burst=10_000)))
    asyncio.run(group.update(Resources(cpu=CPU(quota=20_000, burst=20_000))))
    assert "20000" in (written(files).get("cpu.cfs_burst_us"), written(files).get("cpu.max.burst"))
    with pytest.raises(errors.StepFailed, match="refuses '90000'"):
        asyncio.run(group.update(Resources(cpu=CPU(burst=90_000))))


@pytest.mark.parametrize("shares", [1, (1 << 18) + 1])
def test_v1_shares_that_the_kernel_would_change(shares: int) -> None:
    with pytest.raises(errors.InvalidArgument, match="2 to 262144"):
        v1(Resources(cpu=CPU(shares=shares)))


@pytest.mark.parametrize(("limit", "word"), [(-1, "max"), (0, "1"), (1, "1"), (500, "500")])
def test_pids(limit: int, word: str) -> None:
    assert pids_max(limit) == word


def test_v1_update_leaves_out_what_is_not_asked() -> None:
    group, files = v1(FULL)
    asyncio.run(group.seal())
    files.log.clear()
    asyncio.run(group.update(Resources(cpu=CPU(shares=100))))
    assert files.log == [(f"/cg/cpu{PATH}/cpu.shares", "100")]


def test_update_of_a_container_that_is_gone() -> None:
    for files, mounts in (v1_files(), (v2_files(), V2_MOUNTS)):
        group = make(files, mounts, None)
        with pytest.raises(errors.NotFound, match="is gone"):
            asyncio.run(group.update(Resources(pids=Pids(1))))


def test_v2_everything() -> None:
    _, files = v2(FULL)
    got = written(files)
    assert got["memory.max"] == str(64 * MEGABYTE)
    assert got["memory.swap.max"] == str(32 * MEGABYTE)
    assert got["memory.low"] == str(MEGABYTE)
    assert got["cpu.weight"] == str(cgroup_v2_limits.cpu_weight(512))
    assert (got["cpu.max"], got["cpu.max.burst"]) == ("50000 100000", "10000")
    assert (got["cpuset.cpus"], got["cpuset.mems"]) == ("0-1", "0")
    assert got["pids.max"] == "100"
    assert [v for p, v in files.log if p.endswith("one/io.weight")] == ["4950", "8:0 1"]
    assert [v for p, v in files.log if p.endswith("one/io.max")] == [
        "8:0 rbps=1000",
        "8:0 wiops=50",
    ]
    assert got["hugetlb.2MB.max"] == got["hugetlb.2MB.rsvd.max"] == str(2 * MEGABYTE)
    assert got["rdma.max"] == "mlx5_0 hca_handle=3"


def test_v2_only_what_is_needed_is_passed_on() -> None:
    _, files = v2(Resources(cpu=CPU(cpus="0")))
    assert set(files.files["/cg/pods"]["cgroup.subtree_control"].split()) == {
        "cpu",
        "cpuset",
        "io",
        "memory",
        "pids",
    }
    files.log.clear()
    group = make(files, V2_MOUNTS, None, "/pods/two")
    asyncio.run(group.create())
    assert files.log == [], "the parent has it all"


def test_v2_a_parent_with_processes() -> None:
    files = v2_files()
    files.mkdir("/cg/pods")
    files.files["/cg/pods"]["cgroup.procs"] = "77\n"
    group = make(files, V2_MOUNTS, None)
    asyncio.run(group.create())
    with pytest.raises(
        errors.InvalidArgument, match=r"memory\.max, but the memory .* hold processes"
    ):
        asyncio.run(
            make(files, V2_MOUNTS, Resources(memory=Memory(limit=4096)), "/pods/b").create()
        )


def test_v2_unified() -> None:
    files = v2_files()
    _, files = v2(
        Resources(unified={"memory.high": "5", "io.max": "8:0 rbps=1\n8:1 rbps=2"}), files
    )
    assert [value for path, value in files.log if path.endswith("one/io.max")] == [
        "8:0 rbps=1",
        "8:1 rbps=2",
    ]
    for key in ("../x.y", "memory", "memory.", ".x"):
        with pytest.raises(errors.InvalidArgument, match="unified has the key"):
            v2(Resources(unified={key: "1"}))
    with pytest.raises(errors.InvalidArgument, match=r"misc\.max, but the misc"):
        v2(Resources(unified={"misc.max": "1"}))


def test_v2_thread_mode() -> None:
    files = v2_files()
    group = make(files, V2_MOUNTS, Resources(memory=Memory(limit=4096)))
    make_dir, kinds = files.mkdir, {"kind": "domain invalid\n"}

    def mkdir(path: str, *, root: bool = False) -> None:
        make_dir(path, root=root)
        files.files[path]["cgroup.type"] = kinds["kind"]

    files.mkdir = mkdir  # type: ignore[method-assign]
    with pytest.raises(errors.InvalidArgument, match="thread mode"):
        asyncio.run(group.create())
    asyncio.run(make(files, V2_MOUNTS, Resources(pids=Pids(3))).create())
    assert files.files[f"/cg{PATH}"]["cgroup.type"] == "threaded"


@pytest.mark.parametrize(
    "resources", [Resources(network=Network(1)), Resources(cpu=CPU(realtime_runtime=5))]
)
def test_v2_what_does_not_exist_there(resources: Resources) -> None:
    with pytest.raises(errors.InvalidArgument, match="version 2"):
        v2(resources)


def test_v2_relative_paths_start_beside_the_shim() -> None:
    files = v2_files()
    spec = Spec(linux=Linux(cgroups_path="pod/one"))
    own = {"": "/system.slice/containerd.service"}
    group = cgroup.make(spec, "id", mounts=V2_MOUNTS, own=own, files=files)
    assert group.paths == ("/cg/system.slice/pod/one",)
    spec = Spec(linux=Linux())
    group = cgroup.make(spec, "id", mounts=V2_MOUNTS, own=own, files=files)
    assert group.paths == ("/cg/system.slice/id",)


def test_v2_check_before_update() -> None:
    group, files = v2(None)
    files.files[f"/cg{PATH}"]["memory.current"] = "9000"
    memory = Memory(limit=8192, check_before_update=True)
    with pytest.raises(errors.StepFailed, match="8192 of memory is below the 9000 bytes"):
        asyncio.run(group.update(Resources(memory=memory)))


def test_v2_weights_keep_the_default_and_the_ends() -> None:
    weight = cgroup_v2_limits.cpu_weight
    assert (weight(2), weight(1024), weight(1 << 18)) == (1, 100, 10_000)
    assert (cgroup_v2_limits.io_weight(10), cgroup_v2_limits.io_weight(1000)) == (1, 10_000)
    with pytest.raises(errors.InvalidArgument, match="10 to 1000"):
        cgroup_v2_limits.io_weight(5)


@given(st.integers(2, 1 << 18), st.integers(2, 1 << 18))
def test_v2_more_shares_are_no_less_weight(one: int, two: int) -> None:
    low, high = sorted((one, two))
    assert 1 <= cgroup_v2_limits.cpu_weight(low) <= cgroup_v2_limits.cpu_weight(high) <= 10_000


@pytest.mark.parametrize(
    ("limit", "swap", "want"),
    [
        (0, 0, None),
        (100, 0, None),
        (-1, 0, "max"),
        (100, -1, "max"),
        (-1, -1, "max"),
        (-1, 50, "50"),
        (100, 100, "0"),
        (100, 150, "50"),
    ],
)
def test_v2_swap(limit: int, swap: int, want: str | None) -> None:
    assert cgroup_v2_limits.swap_max(limit, swap) == want


@pytest.mark.parametrize(("limit", "swap"), [(0, 50), (100, 50), (-2, 50)])
def test_v2_swap_that_makes_no_sense(limit: int, swap: int) -> None:
    with pytest.raises(errors.InvalidArgument, match=r"memory\.swap"):
        cgroup_v2_limits.swap_max(limit, swap)


def test_remove_waits_for_a_busy_group() -> None:
    group, files = v2(None)
    files.mkdir(f"/cg{PATH}/made-by-the-guest")
    files.busy[f"/cg{PATH}"] = 3
    asyncio.run(group.remove())
    assert not [path for path in files.files if path.startswith(f"/cg{PATH}")]


def test_remove_says_what_is_in_the_way() -> None:
    group, files = v2(None)
    files.busy[f"/cg{PATH}"] = 1_000_000
    with pytest.raises(errors.StepFailed, match=f"the cgroup /cg{PATH} is still in use"):
        asyncio.run(group.remove(timeout=0.02))
    assert cgroup.remove_paths(group.paths, 0.02, files) == [f"/cg{PATH}"]


def test_remove_twice() -> None:
    group, files = v1(None)
    asyncio.run(group.remove())
    asyncio.run(group.remove())
    assert cgroup.remove_paths(group.paths, 0.02, files) == []
