"""Control groups version 2 on this kernel.

On a version 2 machine with its controllers; on a hybrid one with the empty version 2 mount, which
still kills, freezes and takes device programs.
"""

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
from copepod.container import cgroup, cgroup_mounts, cgroup_wait
from copepod.container.cgroup_mounts import Mounts
from copepod.container.cgroup_tree import Files
from copepod.container.cgroup_v2 import V2
from copepod.spec_resources import CPU, DeviceRule, HugepageLimit, Memory, Pids, Resources
from copepod.task import stats
from copepod_api import cgroup_v2_pb2
from fakes.cgroup_guest import TIMEOUT, Guest, eat

MOUNTS = cgroup_mounts.host()
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="making control groups needs root"),
    pytest.mark.skipif(MOUNTS.unified is None, reason="no version 2 hierarchy is mounted"),
]
in_full = pytest.mark.skipif(
    MOUNTS.version != 2, reason="this machine keeps its controllers in version 1"
)
POINT = MOUNTS.unified.point if MOUNTS.unified else ""
PARENT = f"/copepod-test-{os.getpid()}"
MEGABYTE = 1 << 20


@pytest.fixture(autouse=True)
def no_leak() -> Iterator[None]:
    gc.collect()  # what earlier tests left to the collector is not ours to count
    fds = sorted(os.listdir("/proc/self/fd"))
    enabled = Path(POINT, "cgroup.subtree_control").read_text()
    yield
    parent = POINT + PARENT
    kept = Files().children(parent) if os.path.isdir(parent) else []
    cgroup.kill_paths([parent])
    assert cgroup.remove_paths([parent]) == []
    assert kept == [], "a container's group was left behind"
    assert sorted(os.listdir("/proc/self/fd")) == fds
    if MOUNTS.version == 1:
        assert Path(POINT, "cgroup.subtree_control").read_text() == enabled


def created(resources: Resources | None = None, name: str = "one") -> V2:
    mounts = Mounts({}, MOUNTS.unified)
    group = V2.at(f"{PARENT}/{name}", {}, resources, mounts, Files())
    asyncio.run(group.create())
    return group


def value(group: V2, file: str) -> str:
    return Path(group.path, file).read_text().strip()


def test_enter_count_and_leave() -> None:
    group = created()
    with Guest(group) as guest:
        own = cgroup_mounts.parse_own(Path(f"/proc/{guest.pid}/cgroup").read_text())
        assert own[""] == f"{PARENT}/one"
        assert group.pids() == [guest.pid]
        for _ in range(2):
            kind, data = stats.metrics(group.stats())
    asyncio.run(group.remove())
    got = cgroup_v2_pb2.Metrics.FromString(data)
    assert kind == "io.containerd.cgroups.v2.Metrics"
    assert got.pids.current == 1
    assert got.cpu.usage_usec > 0
    with pytest.raises(errors.NotFound):
        group.stats()


def test_freeze_thaw_kill() -> None:
    group = created()
    with Guest(group) as guest:
        asyncio.run(group.freeze())
        assert "frozen 1" in value(group, "cgroup.events")
        asyncio.run(group.thaw())
        asyncio.run(group.freeze())
        group.kill()
        assert guest.wait() == -signal.SIGKILL
    asyncio.run(group.remove())


def test_a_freeze_that_is_given_up_thaws(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> bool:
        return bool(await asyncio.get_running_loop().create_future())

    monkeypatch.setattr(cgroup_wait, "event", never)
    group = created()
    with Guest(group):

        async def scenario() -> None:
            task = asyncio.ensure_future(group.freeze())
            await asyncio.sleep(0)
            assert value(group, "cgroup.freeze") == "1"
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(scenario())
        assert value(group, "cgroup.freeze") == "0"
    asyncio.run(group.remove())


def test_kill_and_remove_with_nested_groups() -> None:
    group = created()

    def work() -> None:
        os.makedirs(f"{group.path}/a/b")
        if os.fork() == 0:
            Path(group.path, "a/b/cgroup.procs").write_text("0")
            signal.pause()
        signal.pause()

    with Guest(group, work) as guest:
        while len(group.pids()) < 2:
            select.select([guest.pidfd], [], [], 0.005)
        group.kill()
        assert guest.wait() == -signal.SIGKILL
        asyncio.run(group.remove())
    assert not os.path.exists(group.path)


def can_open(group: V2, *paths: str) -> list[bool]:
    """Which devices a process in the group may open for reading and writing."""
    read, write = os.pipe()

    def work() -> None:
        for path in paths:
            try:
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
                os.write(write, b"1")
            except PermissionError:
                os.write(write, b"0")
            except OSError:
                os.write(write, b"1")  # the rules let it through, the device had something to say

    with Guest(group, work) as guest:
        guest.wait()
    os.close(write)
    answer = os.read(read, 100)
    os.close(read)
    return [byte == ord("1") for byte in answer]


def test_device_rules_hold_and_are_replaced() -> None:
    group = created(Resources(devices=(DeviceRule(False, access="rwm"),)))
    assert can_open(group, "/dev/null", "/dev/kmsg") == [True, True], "before seal() all is open"
    asyncio.run(group.seal())
    assert can_open(group, "/dev/null", "/dev/kmsg") == [True, False]
    kmsg = DeviceRule(True, "c", 1, 11, "rw")
    asyncio.run(group.update(Resources(devices=(DeviceRule(False, access="rwm"), kmsg))))
    assert can_open(group, "/dev/null", "/dev/kmsg") == [True, True]
    asyncio.run(group.update(Resources(devices=(DeviceRule(False, access="rwm"),))))
    assert can_open(group, "/dev/kmsg") == [False]
    asyncio.run(group.remove())


def test_privileged_has_no_program() -> None:
    group = created(Resources(devices=(DeviceRule(True, access="rwm"),)))
    asyncio.run(group.seal())
    assert can_open(group, "/dev/kmsg") == [True]
    asyncio.run(group.remove())


def test_a_missing_controller_is_one_sentence() -> None:
    available = Path(POINT, "cgroup.controllers").read_text().split()
    if "rdma" in available:
        pytest.skip("this machine has every controller that a limit can ask for")
    with pytest.raises(errors.InvalidArgument, match=r"asks for misc\.max, but the misc cgroup"):
        created(Resources(unified={"misc.max": "x 1"}))
    assert not os.path.exists(f"{POINT}{PARENT}/one")


def test_a_group_in_use_is_not_taken_over() -> None:
    group = created()
    with Guest(group), pytest.raises(errors.FailedPrecondition, match="holds 1 processes"):
        created()
    asyncio.run(group.remove())


def test_exec_follows_an_init_that_divided_its_group() -> None:
    group = created()
    os.mkdir(f"{group.path}/init")
    with Guest(group) as guest:
        Path(group.path, "init/cgroup.procs").write_text(str(guest.pid))
        assert group._group_for_exec(guest.pid) == group.path, "nothing is passed on yet"
        (fd,) = group.procs_fds(guest.pid)
        os.close(fd)
        controllers = value(group, "cgroup.controllers").split()
        if controllers:
            Path(group.path, "cgroup.subtree_control").write_text(f"+{controllers[0]}")
            assert group._group_for_exec(guest.pid) == f"{group.path}/init"
    asyncio.run(group.remove())


@in_full
def test_limits_are_in_the_files() -> None:
    group = created(
        Resources(
            memory=Memory(limit=64 * MEGABYTE, swap=64 * MEGABYTE, reservation=MEGABYTE),
            cpu=CPU(shares=1024, quota=50_000, period=100_000),
            pids=Pids(32),
            unified={"memory.high": str(60 * MEGABYTE), "memory.oom.group": "1"},
        )
    )
    assert value(group, "memory.max") == str(64 * MEGABYTE)
    assert value(group, "memory.low") == str(MEGABYTE)
    assert value(group, "memory.high") == str(60 * MEGABYTE)
    assert value(group, "memory.oom.group") == "1"
    assert value(group, "cpu.max") == "50000 100000"
    assert value(group, "cpu.weight") == "100"
    assert value(group, "pids.max") == "32"
    with Guest(group):
        asyncio.run(group.update(Resources(memory=Memory(limit=128 * MEGABYTE), pids=Pids(-1))))
        assert value(group, "memory.max") == str(128 * MEGABYTE)
        assert value(group, "pids.max") == "max"
        got = cgroup_v2_pb2.Metrics.FromString(stats.metrics(group.stats())[1])
        assert got.memory.usage > 0
        assert got.memory.usage_limit == 128 * MEGABYTE
        assert got.pids.current == 1
    asyncio.run(group.remove())


@in_full
def test_refusals_name_the_file_and_the_value_and_leave_nothing() -> None:
    with pytest.raises(errors.StepFailed, match=r"refuses '0-4095' in .*cpuset\.cpus"):
        created(Resources(cpu=CPU(cpus="0-4095")))
    assert not os.path.exists(f"{POINT}{PARENT}/one")
    with pytest.raises((errors.StepFailed, errors.InvalidArgument), match=r"hugetlb\.3MB\.max"):
        created(Resources(hugepage_limits=(HugepageLimit("3MB", 1),)))
    assert not os.path.exists(f"{POINT}{PARENT}/one")


@in_full
def test_an_oom_kill_is_counted() -> None:
    memory = Memory(limit=24 * MEGABYTE, swap=24 * MEGABYTE)
    group = created(Resources(memory=memory))
    watch = group.oom_watch()
    assert watch is not None
    assert watch.read() == 0
    with Guest(group, eat(96 * MEGABYTE)) as guest:
        while watch.read() == 0:
            assert select.select([watch.fd], [], [], TIMEOUT)[0], "no word of the kill"
        assert guest.wait() == -signal.SIGKILL
        assert watch.read() == 1
    asyncio.run(group.remove())
    assert watch.read() == 1
    watch.close()


@in_full
def test_a_met_limit_without_a_kill_is_no_oom() -> None:
    group = created(Resources(unified={"memory.high": str(8 * MEGABYTE)}))
    watch = group.oom_watch()
    assert watch is not None
    read, write = os.pipe()

    def work() -> None:
        Path(f"/var/tmp/copepod-test-{os.getpid()}").write_bytes(bytes(32 * MEGABYTE))
        os.unlink(f"/var/tmp/copepod-test-{os.getpid()}")
        os.write(write, b"1")

    with Guest(group, work) as guest:
        assert select.select([read], [], [], TIMEOUT)[0]
        assert guest.wait() == 0
    assert watch.read() == 0
    watch.close()
    os.close(read)
    os.close(write)
    asyncio.run(group.remove())
