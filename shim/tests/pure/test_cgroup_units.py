"""systemd's names and properties, and the scope's life against a manager that only pretends."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copepod import errors
from copepod.container import cgroup, cgroup_systemd, cgroup_units, devices
from copepod.container.cgroup_dbus import Manager, UnitExists, parse_version
from copepod.container.cgroup_mounts import Mount, Mounts
from copepod.container.cgroup_systemd import Systemd
from copepod.container.cgroup_units import INFINITY, resource_properties
from copepod.spec import IDMapping, Linux, Namespace, Process, Spec, User, parse
from copepod.spec import Mount as Mounted
from copepod.spec_resources import CPU, BlockIO, DeviceRule, Memory, Pids, Resources
from fakes.cgroupfs import V1_FILES, V2_FILES, FakeFiles

pytestmark = pytest.mark.pure

V1_MOUNTS = Mounts({name: Mount(f"/cg/{name.removeprefix('name=')}") for name in V1_FILES})
V2_MOUNTS = Mounts({}, Mount("/cg"))
PATH = "kubepods-pod1.slice:cri:abc"


class FakeManager:
    """systemd as far as the scope's code can see; `log` is what it was asked."""

    def __init__(self, files: FakeFiles, mounts: Mounts) -> None:
        self.files, self.mounts = files, mounts
        self.log: list[tuple[str, Any]] = []
        self.result = "done"
        self.exists: list[str] = []

    async def connect(self, _timeout: float) -> FakeManager:
        return self

    async def __aenter__(self) -> FakeManager:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def version(self) -> int:
        return 255

    async def call(self, method: str, _signature: str = "", body: tuple[Any, ...] = ()) -> None:
        self.log.append((method, body))
        if method == "ResetFailedUnit" and body[0] in self.exists:
            self.exists.remove(body[0])

    async def job(self, method: str, _signature: str, body: tuple[Any, ...]) -> str:
        self.log.append((method, body))
        if method == "StartTransientUnit":
            if body[0] in self.exists:
                raise UnitExists(f"{body[0]} exists")
            managed = [m for n, m in self.mounts.v1.items() if n in ("cpu", "memory")]
            for mount in [self.mounts.unified] if self.mounts.unified else managed:
                assert mount
                path = mount.point
                for part in ("kubepods.slice", "kubepods-pod1.slice", body[0]):
                    path += f"/{part}"
                    if path not in self.files.files:
                        self.files.mkdir(path)
        return self.result

    def asked(self, method: str) -> list[Any]:
        return [body for name, body in self.log if name == method]


def machine(version: int) -> tuple[FakeFiles, FakeManager, Mounts]:
    files = FakeFiles()
    mounts = V1_MOUNTS if version == 1 else V2_MOUNTS
    for name, mount in mounts.v1.items():
        files.mount(mount.point, name)
    if mounts.unified:
        files.mount("/cg")
        files.files["/cg"]["cgroup.controllers"] = " ".join(V2_FILES)
    return files, FakeManager(files, mounts), mounts


def scope(
    files: FakeFiles, manager: FakeManager, mounts: Mounts, resources: Resources | None = None
) -> Systemd:
    connect: Any = manager.connect
    return cgroup_systemd.make(PATH, resources, mounts, files, connect)


@pytest.mark.parametrize("version", [1, 2])
def test_a_scope_is_started_with_a_holder_and_all_limits_reach_the_files(version: int) -> None:
    files, manager, mounts = machine(version)
    resources = Resources(memory=Memory(limit=1 << 20), pids=Pids(5))

    async def life() -> None:
        group = scope(files, manager, mounts, resources)
        await group.create()
        (unit, mode, properties, _) = manager.asked("StartTransientUnit")[0]
        assert (unit, mode) == ("cri-abc.scope", "replace")
        told = dict(properties)
        holder = told["PIDs"][1][0]
        os.kill(holder, 0)
        assert told["Slice"] == ("s", "kubepods-pod1.slice")
        assert told["Delegate"] == ("b", True)
        assert told["TasksMax"] == ("t", 5)
        assert told["MemoryLimit" if version == 1 else "MemoryMax"] == ("t", 1 << 20)
        assert any(path.endswith("pids.max") and value == "5" for path, value in files.log)
        assert all("/kubepods.slice/kubepods-pod1.slice/cri-abc.scope" in p for p in group.paths)
        fd = os.pidfd_open(holder)
        if version == 1:  # version 2 takes a program, and only a real kernel does
            await group.seal()
        await group.remove()
        assert select.select([fd], [], [], 10)[0], "the holder is still there"
        os.close(fd)
        await asyncio.sleep(0.05)  # the loop hears of its end, too
        assert not [path for path in files.files if path.endswith("cri-abc.scope")]

    asyncio.run(life())
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def run_create(group: Systemd) -> None:
    async def life() -> None:
        try:
            await group.create()
        finally:
            group.close()
            await asyncio.sleep(0.05)  # until the holder's end has been heard

    asyncio.run(life())


def test_a_writable_tree_of_its_own_belongs_to_the_containers_user() -> None:
    files, manager, mounts = machine(2)
    connect: Any = manager.connect
    group = cgroup_systemd.make(PATH, None, mounts, files, connect, owner=100_000)
    run_create(group)
    (path,) = group.paths
    assert files.owners[path] == files.owners[f"{path}/cgroup.procs"] == 100_000
    assert f"{path}/memory.max" not in files.owners


@pytest.mark.parametrize(
    ("options", "mapped", "want"),
    [(("rw",), True, 100_007), (("ro",), True, 0), (("rw",), False, 7)],
)
def test_who_owns_a_container_tree(options: tuple[str, ...], mapped: bool, want: int) -> None:
    mapping = (IDMapping(container_id=0, host_id=100_000, size=65536),) if mapped else ()
    linux = Linux(namespaces=(Namespace(type="cgroup"),), uid_mappings=mapping)
    mounts = (Mounted(destination="/sys/fs/cgroup", type="cgroup", options=options),)
    process = Process(user=User(uid=7))
    assert cgroup._owner(Spec(linux=linux, mounts=mounts, process=process)) == want
    assert cgroup._owner(Spec(mounts=mounts, process=process)) == 0


def test_a_failed_leftover_is_reset_and_the_name_used() -> None:
    files, manager, mounts = machine(2)
    manager.exists = ["cri-abc.scope"]
    run_create(scope(files, manager, mounts))
    assert len(manager.asked("StartTransientUnit")) == 2


def test_a_living_unit_is_not_touched() -> None:
    files, manager, mounts = machine(2)
    manager.exists = ["cri-abc.scope"] * 2
    with pytest.raises(UnitExists):
        run_create(scope(files, manager, mounts))
    assert manager.asked("StopUnit") == []


def test_a_job_that_fails() -> None:
    files, manager, mounts = machine(2)
    manager.result = "failed"
    with pytest.raises(errors.Unavailable, match=r"cri-abc.scope: the job ended as 'failed'"):
        run_create(scope(files, manager, mounts))


def test_a_limit_that_fails_stops_the_unit() -> None:
    files, manager, mounts = machine(2)
    with pytest.raises(errors.InvalidArgument, match=r"misc\.max"):
        run_create(scope(files, manager, mounts, Resources(unified={"misc.max": "1"})))
    assert manager.asked("StopUnit") == [("cri-abc.scope", "replace")]


def test_v1_update_freezes_while_systemd_rewrites_devices() -> None:
    files, manager, mounts = machine(1)
    fuse = DeviceRule(True, "c", 10, 229, "rw")

    async def life() -> None:
        group = scope(files, manager, mounts, Resources(devices=(fuse,)))
        await group.create()
        await group.seal()
        told = dict(manager.asked("SetUnitProperties")[0][2])
        assert told["DevicePolicy"] == ("s", "strict")
        files.log.clear()
        await group.update(Resources(pids=Pids(7)))
        names = [(path.rpartition("/")[2], value) for path, value in files.log]
        assert names[0] == ("freezer.state", "FROZEN")
        assert names[-1] == ("freezer.state", "THAWED")
        assert ("devices.allow", "c 10:229 rw") in names
        assert ("pids.max", "7") in names
        # A paused container stays so.
        await group.freeze()
        files.log.clear()
        await group.update(Resources(pids=Pids(8)))
        names = [(path.rpartition("/")[2], value) for path, value in files.log]
        assert ("pids.max", "8") in names
        assert "freezer.state" not in dict(names)
        group.close()
        await asyncio.sleep(0.05)

    asyncio.run(life())


def test_without_systemd_a_scope_is_a_directory_of_that_name() -> None:
    files, _, mounts = machine(2)
    spec = parse(b'{"linux":{"cgroupsPath":"test.slice:cri-containerd:x"}}')
    assert (
        cgroup.make(spec, "x", mounts=mounts, own={}, files=files).__class__.__name__ == "Systemd"
    )
    files.others.clear()
    group = cgroup.make(spec, "x", mounts=mounts, own={"": "/"}, files=files)
    assert [path.rpartition("/")[2] for path in group.paths] == ["test.slice:cri-containerd:x"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("system.slice", "/system.slice"),
        ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
        ("-.slice", "/"),
    ],
)
def test_slices(name: str, path: str) -> None:
    assert cgroup_units.expand_slice(name) == path


@pytest.mark.parametrize("name", ["a", ".slice", "a--b.slice", "-a.slice", "a/b.slice", "a-.slice"])
def test_names_that_are_no_slices(name: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="is not the name of a systemd slice"):
        cgroup_units.expand_slice(name)


@given(st.text())
def test_a_slice_never_leads_upwards(name: str) -> None:
    try:
        path = cgroup_units.expand_slice(name)
    except errors.InvalidArgument:
        return
    assert ".." not in path.split("/")


def test_units() -> None:
    assert cgroup_units.unit_name("cri-containerd", "abc") == "cri-containerd-abc.scope"
    assert cgroup_units.unit_name("", "abc") == "abc.scope"
    assert cgroup_units.unit_name("x", "abc.slice") == "abc.slice"


@pytest.mark.parametrize("text", ["252.39-1~deb12u1", "v252", '"252-1.fc32"', "252"])
def test_versions(text: str) -> None:
    assert parse_version(text) == 252
    assert parse_version("devel") == 0


def told(resources: Resources, cgroup_version: int = 2, systemd: int = 255) -> dict[str, Any]:
    return dict(resource_properties(resources, cgroup_version, systemd, new=True))


@pytest.mark.parametrize(
    ("quota", "period", "want"),
    [(50_000, 100_000, 500_000), (50_500, 100_000, 510_000), (1, 0, 10_000), (-1, 5000, INFINITY)],
)
def test_quota_in_whole_percents(quota: int, period: int, want: int) -> None:
    got = told(Resources(cpu=CPU(quota=quota, period=period)))
    assert got["CPUQuotaPerSecUSec"] == ("t", want)
    assert ("CPUQuotaPeriodUSec" in got) is (period > 0)


@given(st.integers(1000, 10**9), st.integers(1000, 10**6))
def test_the_file_says_what_systemd_would_write(quota: int, period: int) -> None:
    resources = Resources(cpu=CPU(quota=quota, period=period))
    (_, value) = told(resources)["CPUQuotaPerSecUSec"]
    written = cgroup_units.as_systemd_writes(resources)
    assert written.cpu
    assert value % 10_000 == 0
    assert value >= quota * 1_000_000 // period
    assert written.cpu.quota == value * period // 1_000_000
    assert told(written) == told(resources), "rounding twice is rounding once"


def test_nothing_to_round() -> None:
    for resources in (Resources(), Resources(cpu=CPU(quota=-1)), Resources(cpu=CPU(shares=2))):
        assert cgroup_units.as_systemd_writes(resources) is resources


def test_v1_properties() -> None:
    got = told(
        Resources(
            memory=Memory(limit=-1, swap=-1), cpu=CPU(shares=512), block_io=BlockIO(weight=100)
        ),
        1,
    )
    assert got["MemoryLimit"] == ("t", INFINITY)
    assert got["CPUShares"] == ("t", 512)
    assert got["BlockIOWeight"] == ("t", 100)


def test_old_systemd_is_not_told_what_it_does_not_know() -> None:
    cpu = CPU(cpus="0", period=1000, quota=1000, idle=1)
    got = told(Resources(cpu=cpu, unified={"memory.oom.group": "1"}), systemd=239)
    assert set(got) == {"CPUQuotaPerSecUSec"}


def test_unified_wins_over_the_translated_and_unknown_keys_are_left_to_the_file() -> None:
    got = told(
        Resources(
            memory=Memory(limit=4096),
            unified={
                "memory.max": "8192",
                "cpu.max": "max",
                "pids.max": "max",
                "cpuset.cpus": "0,2",
                "memory.oom.group": "1",
                "hugetlb.2MB.max": "1",
            },
        )
    )
    assert got["MemoryMax"] == ("t", 8192)
    assert got["CPUQuotaPerSecUSec"] == ("t", INFINITY)
    assert got["TasksMax"] == ("t", INFINITY)
    assert got["AllowedCPUs"] == ("ay", b"\x05")
    assert got["OOMPolicy"] == ("s", "kill")
    assert len(got) == 6
    with pytest.raises(errors.InvalidArgument, match=r"unified\['pids.max'\] is 'many'"):
        told(Resources(unified={"pids.max": "many"}))


@given(st.sets(st.integers(0, 300)))
def test_masks(numbers: set[int]) -> None:
    mask = cgroup_units.set_bits(",".join(map(str, sorted(numbers))))
    assert {n for n in range(len(mask) * 8) if mask[n // 8] >> n % 8 & 1} == numbers


def test_mask_of_a_range_and_of_nonsense() -> None:
    assert cgroup_units.set_bits("0-3,9\n") == b"\x0f\x02"
    for text in ("3-1", "a", "1-", "-1", "99999999"):
        with pytest.raises(errors.InvalidArgument, match="is not a list of numbers"):
            cgroup_units.set_bits(text)


def test_device_properties() -> None:
    rules = devices.rules(
        [DeviceRule(True, "c", 10, 229, "rw"), DeviceRule(True, "b", 8, None, "r")]
    )
    policy, cleared, (name, (_, allowed)) = cgroup_units.device_properties(rules)
    assert policy == ("DevicePolicy", ("s", "strict"))
    assert cleared == (name, ("a(ss)", []))
    assert ("/dev/char/10:229", "rw") in allowed
    assert ("block-8", "r") in allowed
    assert ("char-*", "m") in allowed
    privileged = devices.rules([DeviceRule(True, access="rwm")])
    assert cgroup_units.device_properties(privileged)[0] == ("DevicePolicy", ("s", "auto"))


def test_nobody_listens(tmp_path: Any) -> None:
    async def connect() -> None:
        await Manager.connect(1, ((f"{tmp_path}/private", False), (f"{tmp_path}/bus", True)))

    with pytest.raises(errors.Unavailable, match=r"can't be reached.*private.*bus"):
        asyncio.run(connect())


def test_a_silent_manager_is_left_in_time(tmp_path: Any) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{tmp_path}/bus")
        silent.listen()

        async def connect() -> None:
            await Manager.connect(0.05, ((f"{tmp_path}/bus", True),))

        with pytest.raises(errors.Unavailable, match="no answer"):
            asyncio.run(connect())
