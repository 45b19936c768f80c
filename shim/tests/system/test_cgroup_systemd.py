"""Scopes of a real systemd: started with a place-holder, entered, changed, stopped, and gone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from copepod.container import cgroup_mounts
from fakes.systemd_machine import BINARY, Here, Machine

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.skipif(not os.path.exists(BINARY), reason="systemd is not installed"),
]

BOOTED = os.path.isdir("/run/systemd/system")

HEAD = """
import asyncio, os, signal, subprocess
from copepod import errors
from copepod.container import cgroup, cgroup_dbus, cgroup_mounts
from copepod.container.cgroup_dbus import Manager
from copepod.container.cgroup_units import resource_properties
from copepod.spec import Linux, Spec
from copepod.spec_resources import *
from copepod.task import stats
from fakes.cgroup_guest import Guest

V = cgroup_mounts.host().version
# A limit that both a bare version 2 tree and version 1 can have, and the file that shows it.
def limit(n):
    return Resources(unified={"cgroup.max.depth": n}) if V == 2 else Resources(pids=Pids(int(n)))
def limited(group):
    return value(group, "cgroup.max.depth" if V == 2 else "pids.max")
def value(group, name):
    path = group.paths[0] if V == 2 else group.group.dirs[name.split(".")[0]]
    return open(f"{path}/{name}").read().strip()

def make(path="copepod-test.slice:cri:one", resources=None):
    return cgroup.make(Spec(linux=Linux(cgroups_path=path, resources=resources)), "one")

def show(unit, *names):
    done = subprocess.run(["systemctl", "show", unit, *(f"-p{n}" for n in names)],
                          capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())

def unlisted(unit):
    return show(unit, "LoadState")["LoadState"] == "not-found"

async def until(done):
    for _ in range(2000):
        if done():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("waited in vain")

before = sorted(os.listdir("/proc/self/fd"))
"""
TAIL = """
assert sorted(os.listdir("/proc/self/fd")) == before, "descriptors were left open"
try:
    os.waitpid(-1, os.WNOHANG)
    raise AssertionError("a child was left")
except ChildProcessError:
    pass
print("good")
"""


@pytest.fixture(scope="module", params=["private socket", "message bus", "this machine"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine | Here]:
    if request.param == "this machine":
        if not BOOTED:
            pytest.skip("systemd does not run this machine")
        yield Here()
        return
    if cgroup_mounts.host().unified is None or BOOTED:
        pytest.skip("a second systemd needs a version 2 tree that the first one does not use")
    bus = request.param == "message bus"
    if bus and not shutil.which("dbus-daemon"):
        pytest.skip("dbus-daemon is not installed")
    with Machine(bus=bus) as machine:
        yield machine


def scenario(machine: Machine | Here, code: str) -> None:
    bus = "cgroup_dbus.SOCKETS = cgroup_dbus.SOCKETS[1:]\n" if getattr(machine, "bus", 0) else ""
    assert machine.run(HEAD + bus + code + TAIL) == "good\n"


def test_a_scope_from_start_to_end(machine: Machine | Here) -> None:
    scenario(
        machine,
        """
async def main():
    group = make(resources=limit("5"))
    assert all(p.endswith("/copepod.slice/copepod-test.slice/cri-one.scope") for p in group.paths)
    await group.create()
    assert show("cri-one.scope", "ActiveState", "Delegate", "Slice") == {
        "ActiveState": "active", "Delegate": "yes", "Slice": "copepod-test.slice"}
    assert limited(group) == "5"
    assert group.pids() == [], "the place-holder is nobody's business"
    with Guest(group) as guest:
        await until(lambda: group._holder._pidfd < 0)
        assert group.pids() == [guest.pid]
        own = {line.split(":", 2)[2] for line in open(f"/proc/{guest.pid}/cgroup").read().split()}
        assert own <= {"/copepod.slice/copepod-test.slice/cri-one.scope", "/"}, own
        await group.seal()
        await group.update(limit("6"))
        assert limited(group) == "6"
        assert show("cri-one.scope", "ActiveState")["ActiveState"] == "active"
        await group.freeze()
        await group.thaw()
        assert stats.metrics(group.stats())[1]
        fds = group.procs_fds(guest.pid)
        assert len(fds) == len(group.paths)
        for fd in fds:
            os.close(fd)
        group.kill()
        assert guest.wait() == -signal.SIGKILL
        await group.remove()
    assert not [path for path in group.paths if os.path.exists(path)]
    await until(lambda: unlisted("cri-one.scope"))
asyncio.run(main())
""",
    )


@pytest.mark.skipif(not BOOTED, reason="a private tree of groups has no controllers to limit with")
def test_limits_and_device_rules_outlive_what_systemd_does() -> None:
    scenario(
        Here(),
        """
MB = 1 << 20
FULL = Resources(
    devices=(DeviceRule(False, access="rwm"), DeviceRule(True, "c", 10, 229, "rwm")),
    memory=Memory(limit=64 * MB, swap=64 * MB),
    cpu=CPU(shares=512, quota=50500, period=100000),
    pids=Pids(32),
)
def can_open(group, path):
    def work():
        try:
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        except PermissionError:
            os._exit(7)
    with Guest(group, work) as guest:
        return guest.wait() == 0

def check(group):
    if V == 2:
        assert value(group, "memory.max") == str(64 * MB)
        assert value(group, "memory.swap.max") == "0"
        assert value(group, "cpu.max") == "51000 100000", "systemd counts in percents"
    else:
        assert value(group, "memory.limit_in_bytes") == str(64 * MB)
        assert value(group, "memory.memsw.limit_in_bytes") == str(64 * MB)
        assert value(group, "cpu.cfs_quota_us") == "51000"
    assert value(group, "pids.max") == "32"

async def main():
    group = make(resources=FULL)
    await group.create()
    with Guest(group) as guest:
        check(group)
        assert can_open(group, "/dev/kmsg"), "before seal() all is open"
        await group.seal()
        assert can_open(group, "/dev/null") and not can_open(group, "/dev/kmsg")
        check(group)
        await group.update(Resources(cpu=CPU(shares=1000)))
        check(group)
        assert can_open(group, "/dev/null") and not can_open(group, "/dev/kmsg")
        subprocess.run(["systemctl", "daemon-reload"], check=True)
        assert can_open(group, "/dev/null") and not can_open(group, "/dev/kmsg")
        check(group)
        await group.update(Resources(memory=Memory(limit=32 * MB, swap=32 * MB)))
        got = show("cri-one.scope", "MemoryMax", "MemoryLimit", "TasksMax")
        assert str(32 * MB) in got.values() and got["TasksMax"] == "32", got
        group.kill()
        guest.wait()
    await group.remove()
    await until(lambda: unlisted("cri-one.scope"))
    await asyncio.sleep(0.1)
asyncio.run(main())
""",
    )


def test_a_scope_that_nobody_entered(machine: Machine | Here) -> None:
    scenario(
        machine,
        """
async def main():
    group = make()
    await group.create()
    for fd in group.procs_fds():
        os.close(fd)
    await group.remove()
    assert not [path for path in group.paths if os.path.exists(path)]
    await group.remove()
    await asyncio.sleep(0.1)
asyncio.run(main())
""",
    )


def test_a_failed_create_leaves_no_unit(machine: Machine | Here) -> None:
    scenario(
        machine,
        """
async def main():
    group = make(resources=Resources(hugepage_limits=(HugepageLimit("3MB", 1),)))
    try:
        await group.create()
        raise AssertionError
    except errors.Error as error:
        assert "hugetlb.3MB" in str(error), error
    assert not [path for path in group.paths if os.path.exists(path)]
    await until(lambda: unlisted("cri-one.scope"))
    await asyncio.sleep(0.1)
asyncio.run(main())
""",
    )


def test_the_same_name_twice(machine: Machine | Here) -> None:
    scenario(
        machine,
        """
async def main():
    first, second = make(), make()
    await first.create()
    with Guest(first) as guest:
        try:
            await second.create()
            raise AssertionError
        except errors.Error as error:
            assert "cri-one.scope" in str(error), error
        assert guest.alive(), "the first container is not touched"
        assert show("cri-one.scope", "ActiveState")["ActiveState"] == "active"
        first.kill()
        guest.wait()
    await first.remove()
    await asyncio.sleep(0.1)
asyncio.run(main())
""",
    )


def test_systemd_takes_every_property(machine: Machine | Here) -> None:
    scenario(
        machine,
        """
FULL = Resources(
    memory=Memory(limit=1 << 26, swap=1 << 27, reservation=1 << 20),
    cpu=CPU(shares=512, quota=50500, period=100000, cpus="0", mems="0"),
    pids=Pids(100),
    unified={"memory.high": "max", "memory.oom.group": "1", "cpu.weight": "77"} if V == 2 else {},
)
async def main():
    group = make()
    await group.create()
    with Guest(group) as guest:
        async with await Manager.connect(10) as manager:
            version = await manager.version()
            assert version > 200, version
            new = dict(resource_properties(FULL, V, version, new=True))
            assert V == 1 or version < 253 or new.pop("OOMPolicy")
            await manager.call("SetUnitProperties", "sba(sv)",
                               ("cri-one.scope", True, list(new.items())))
        common = {"CPUQuotaPerSecUSec": "510ms", "TasksMax": "100", "AllowedCPUs": "0",
                  "CPUQuotaPeriodUSec": "100ms"}
        wanted = common | ({"MemoryMax": str(1 << 26), "MemorySwapMax": str(1 << 26),
                            "MemoryLow": str(1 << 20), "CPUWeight": "77"} if V == 2 else
                           {"MemoryLimit": str(1 << 26), "CPUShares": "512"})
        got = show("cri-one.scope", *wanted)
        assert got == wanted, got
        group.kill()
        guest.wait()
    await group.remove()
    await asyncio.sleep(0.1)
asyncio.run(main())
""",
    )
