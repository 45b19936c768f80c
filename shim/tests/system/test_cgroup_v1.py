"""Control groups version 1 on this kernel: limits that hold, kills that reach, nothing left."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from copepod import errors
from copepod.container import cgroup, cgroup_mounts
from copepod.container.cgroup_mounts import Mounts
from copepod.container.cgroup_stats import V1Stats
from copepod.container.cgroup_tree import Files
from copepod.container.cgroup_v1 import V1
from copepod.spec import Linux, Spec
from copepod.spec_resources import CPU, DeviceRule, HugepageLimit, Memory, Pids, Resources
from copepod.task import stats
from copepod_api import cgroup_v1_pb2
from fakes.cgroup_guest import TIMEOUT, Guest, eat

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="making control groups needs root"),
    pytest.mark.skipif(
        cgroup_mounts.host().version != 1, reason="this machine runs cgroup version 2"
    ),
]
PARENT = f"/copepod-test-{os.getpid()}"
MEGABYTE = 1 << 20
TYPICAL = Resources(
    devices=(DeviceRule(False, access="rwm"), DeviceRule(True, "c", 10, 229, "rwm")),
    memory=Memory(limit=64 * MEGABYTE, swap=64 * MEGABYTE),
    cpu=CPU(shares=512, quota=50_000, period=100_000, cpus="0"),
    pids=Pids(32),
)


def ours() -> list[str]:
    points = {mount.point for mount in cgroup_mounts.host().v1.values()}
    if cgroup_mounts.host().unified:
        points.add(cgroup_mounts.host().unified.point)  # type: ignore[union-attr]
    return sorted(f"{p}{PARENT}" for p in points if os.path.isdir(f"{p}{PARENT}"))


@pytest.fixture(autouse=True)
def no_leak() -> Iterator[None]:
    gc.collect()  # what earlier tests left to the collector is not ours to count
    fds = sorted(os.listdir("/proc/self/fd"))
    yield
    left = ours()
    kept = [path for path in left if Files().children(path)]
    cgroup.kill_paths(left)
    assert cgroup.remove_paths(left) == []
    assert kept == [], "a container's group was left behind"
    assert sorted(os.listdir("/proc/self/fd")) == fds


def make(resources: Resources | None = None, name: str = "one") -> V1:
    spec = Spec(linux=Linux(cgroups_path=f"{PARENT}/{name}", resources=resources))
    group = cgroup.make(spec, name)
    assert isinstance(group, V1)
    return group


def created(resources: Resources | None = None, name: str = "one") -> V1:
    group = make(resources, name)
    asyncio.run(group.create())
    return group


def value(group: V1, controller: str, file: str) -> str:
    return Path(group.dirs[controller], file).read_text().strip()


def test_limits_are_in_the_files_and_the_process_in_the_groups() -> None:
    group = created(TYPICAL)
    asyncio.run(group.seal())
    assert value(group, "memory", "memory.limit_in_bytes") == str(64 * MEGABYTE)
    assert value(group, "memory", "memory.memsw.limit_in_bytes") == str(64 * MEGABYTE)
    assert value(group, "cpu", "cpu.shares") == "512"
    assert value(group, "cpu", "cpu.cfs_quota_us") == "50000"
    assert value(group, "cpuset", "cpuset.cpus") == "0"
    assert value(group, "pids", "pids.max") == "32"
    assert "c 10:229 rwm" in value(group, "devices", "devices.list").splitlines()
    with Guest(group) as guest:
        lines = Path(f"/proc/{guest.pid}/cgroup").read_text().splitlines()
        assert {line.split(":", 2)[2] for line in lines} == {f"{PARENT}/one"}
        assert group.pids() == [guest.pid]
        numbers = group.stats()
    asyncio.run(group.remove())
    got = cgroup_v1_pb2.Metrics.FromString(stats.metrics(numbers)[1])
    assert (got.pids.current, got.pids.limit) == (1, 32)
    assert got.memory.usage.limit == 64 * MEGABYTE
    assert got.memory.usage.usage > 0
    assert got.cpu.usage.total > 0
    assert not [path for path in group.paths if os.path.exists(path)]


def test_without_resources_and_gone_afterwards() -> None:
    group = created()
    asyncio.run(group.seal())
    with Guest(group):
        assert group.stats().pids is not None
    asyncio.run(group.remove())
    with pytest.raises(errors.NotFound):
        group.stats()
    assert group.pids() == []
    group.kill()
    asyncio.run(group.remove())


def test_device_rules_hold() -> None:
    group = created(Resources(devices=(DeviceRule(False, access="rwm"),)))
    asyncio.run(group.seal())
    read, write = os.pipe()

    def work() -> None:
        def can(path: str) -> bool:
            try:
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
            except PermissionError:
                return False
            except OSError:
                return True  # the rules let it through, the device had something to say
            return True

        os.write(write, repr([can("/dev/null"), can("/dev/kmsg"), can("/dev/urandom")]).encode())

    with Guest(group, work) as guest:
        guest.wait()
    os.close(write)
    assert os.read(read, 100) == b"[True, False, True]"
    os.close(read)
    asyncio.run(group.update(Resources(devices=(DeviceRule(True, "c", 1, 11, "rw"),))))
    assert "c 1:11 rw" in value(group, "devices", "devices.list").splitlines()
    asyncio.run(group.remove())


def test_a_failed_create_leaves_nothing() -> None:
    pages = Resources(hugepage_limits=(HugepageLimit("3MB", 1),))
    bad = [
        Resources(cpu=CPU(cpus="0-4095")),
        Resources(cpu=CPU(quota=5)),
        Resources(memory=Memory(limit=MEGABYTE, swap=1)),
        pages,
    ]
    before = ours()
    for resources in bad:
        with pytest.raises((errors.StepFailed, errors.InvalidArgument)):
            created(resources)
        assert ours() == before


def test_a_refusal_names_the_file_and_the_value() -> None:
    with pytest.raises(
        errors.StepFailed, match=r"refuses '0-4095' in /sys/fs/cgroup.*cpuset\.cpus"
    ):
        created(Resources(cpu=CPU(cpus="0-4095")))


def test_a_group_with_processes_is_not_ours() -> None:
    group = created()
    with Guest(group):
        with pytest.raises(errors.FailedPrecondition, match="exists and holds 1 processes"):
            created()
        assert all(map(os.path.exists, group.paths))
    asyncio.run(group.remove())


def test_update_of_a_running_container() -> None:
    group = created(TYPICAL)
    with Guest(group, eat(8 * MEGABYTE)) as guest:
        while int(value(group, "memory", "memory.usage_in_bytes")) < 8 * MEGABYTE:
            assert not select.select([guest.pidfd], [], [], 0.005)[0]
        for limit in (32, 128, 16, -1, 64):
            bytes_ = limit * MEGABYTE if limit > 0 else -1
            memory = Memory(limit=bytes_, swap=bytes_)
            asyncio.run(group.update(Resources(memory=memory, cpu=CPU(shares=limit + 100))))
            if limit > 0:
                assert value(group, "memory", "memory.memsw.limit_in_bytes") == str(bytes_)
        with pytest.raises(errors.StepFailed, match="is below the"):
            asyncio.run(group.update(Resources(memory=Memory(limit=4096))))
    asyncio.run(group.remove())


def test_kill_reaches_nested_groups_and_forks() -> None:
    group = created()

    def work() -> None:
        for path in group.paths:
            os.mkdir(f"{path}/nested")
        if "cpuset" in group.dirs:
            for file in ("cpuset.cpus", "cpuset.mems"):
                Path(group.dirs["cpuset"], "nested", file).write_text(value(group, "cpuset", file))
        for _ in range(5):
            if os.fork() == 0:
                for path in group.paths:
                    Path(path, "nested", "cgroup.procs").write_text("0")
                signal.pause()
        signal.pause()

    with Guest(group, work) as guest:
        for _ in range(2000):
            nested = Path(group.dirs["name=systemd"], "nested", "cgroup.procs")
            if nested.exists() and len(nested.read_text().split()) == 5:
                break
            assert not select.select([guest.pidfd], [], [], 0.005)[0]
        assert len(group.pids()) == 6
        group.kill()
        assert guest.wait() == -signal.SIGKILL
        asyncio.run(group.remove())
    assert not [path for path in group.paths if os.path.exists(path)]


@pytest.mark.parametrize("unified", [True, False], ids=["as mounted", "version 1 alone"])
def test_kill_outruns_a_fork_bomb(unified: bool) -> None:
    resources, machine = Resources(pids=Pids(60)), cgroup_mounts.host()
    if not unified:
        machine = Mounts(machine.v1, None)
    spec = Spec(linux=Linux(cgroups_path=f"{PARENT}/one", resources=resources))
    group = cgroup.make(spec, "one", mounts=machine)
    asyncio.run(group.create())

    def work() -> None:
        while True:
            try:
                if os.fork() == 0:
                    continue
            except OSError:
                pass
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                os._exit(0)  # makes room for another one

    with Guest(group, work) as guest:
        for _ in range(2000):
            if len(group.pids()) > 30:
                break
            select.select([], [], [], 0.005)
        group.kill()
        assert guest.wait() in (-signal.SIGKILL, 0)
        asyncio.run(group.remove(TIMEOUT))
    assert not [path for path in group.paths if os.path.exists(path)]


def test_freeze_thaw_and_kill_of_a_frozen_container() -> None:
    group = created()
    with Guest(group) as guest:
        asyncio.run(group.freeze())
        assert value(group, "freezer", "freezer.state") == "FROZEN"
        asyncio.run(group.thaw())
        assert value(group, "freezer", "freezer.state") == "THAWED"
        asyncio.run(group.freeze())
        group.kill()
        assert guest.wait() == -signal.SIGKILL
    asyncio.run(group.remove())


def test_an_oom_kill_is_counted_and_a_met_limit_is_not() -> None:
    memory = Memory(limit=24 * MEGABYTE, swap=24 * MEGABYTE)
    group = created(Resources(memory=memory))
    watch = group.oom_watch()
    assert watch is not None
    assert watch.read() == 0
    with Guest(group, eat(96 * MEGABYTE)) as guest:
        assert select.select([watch.fd], [], [], TIMEOUT)[0], "no word of the kill"
        assert guest.wait() == -signal.SIGKILL
        assert watch.read() == 1
        assert not select.select([watch.fd], [], [], 0)[0], "read() takes the news"
    numbers = group.stats()
    assert isinstance(numbers, V1Stats)
    assert numbers.oom["oom_kill"] == 1
    asyncio.run(group.remove())
    assert watch.read() == 1, "the last count is kept when the group is gone"
    watch.close()
    watch.close()


def test_remove_waits_for_the_last_process() -> None:
    group = created()
    with Guest(group) as guest:

        async def scenario() -> None:
            loop = asyncio.get_running_loop()
            loop.call_later(0.05, signal.pidfd_send_signal, guest.pidfd, signal.SIGKILL)
            await group.remove()

        asyncio.run(scenario())
    assert not [path for path in group.paths if os.path.exists(path)]


def test_remove_of_a_busy_group_names_the_process() -> None:
    group = created()
    with Guest(group) as guest:
        with pytest.raises(errors.StepFailed, match=rf"still in use by processes \[{guest.pid}\]"):
            asyncio.run(group.remove(timeout=0.05))
        assert guest.alive()
    asyncio.run(group.remove())


def test_a_stranger_clears_up_by_the_paths_alone() -> None:
    group = created(TYPICAL)
    with Guest(group) as guest:
        asyncio.run(group.freeze())
        cgroup.kill_paths(group.paths)
        assert cgroup.remove_paths(group.paths) == []
        assert guest.wait() == -signal.SIGKILL
    assert cgroup.remove_paths(group.paths) == []


def test_a_relative_path_starts_at_our_own_group() -> None:
    spec = Spec(linux=Linux(cgroups_path=f"copepod-test-{os.getpid()}-relative"))
    group = cgroup.make(spec, "x")
    own = cgroup_mounts.own()
    assert group.paths
    assert isinstance(group, V1)
    for name, path in group.dirs.items():
        point = cgroup_mounts.host().v1[name].point if name else "/sys/fs/cgroup/unified"
        assert os.path.dirname(path) == os.path.normpath(point + own[name])
    asyncio.run(group.create())
    asyncio.run(group.remove())
