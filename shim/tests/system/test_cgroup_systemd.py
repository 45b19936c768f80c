"""Scopes of a real systemd: started with a place-holder, entered, changed, stopped, and gone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from copepod.container import cgroup_mounts
from fakes.systemd_machine import BINARY, Machine

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.skipif(not os.path.exists(BINARY), reason="systemd is not installed"),
    pytest.mark.skipif(cgroup_mounts.host().unified is None, reason="no version 2 hierarchy"),
]

HEAD = """
import asyncio, os, signal, subprocess
from copepod import errors
from copepod.container import cgroup
from copepod.container.cgroup_dbus import Manager
from copepod.container.cgroup_units import resource_properties
from copepod.spec import Linux, Spec
from copepod.spec_resources import *
from fakes.cgroup_guest import Guest

def make(path="copepod-test.slice:cri:one", resources=None):
    return cgroup.make(Spec(linux=Linux(cgroups_path=path, resources=resources)), "one")

def show(unit, *names):
    done = subprocess.run(["systemctl", "show", unit, *(f"-p{n}" for n in names)],
                          capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())

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


@pytest.fixture(scope="module", params=["private socket", "message bus"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    bus = request.param == "message bus"
    if bus and not shutil.which("dbus-daemon"):
        pytest.skip("dbus-daemon is not installed")
    with Machine(bus=bus) as machine:
        yield machine


def scenario(machine: Machine, code: str) -> None:
    assert machine.run(HEAD + code + TAIL) == "good\n"


def test_a_scope_from_start_to_end(machine: Machine) -> None:
    scenario(
        machine,
        """
async def main():
    rules = (DeviceRule(False, access="rwm"),)
    group = make(resources=Resources(devices=rules, unified={"cgroup.max.depth": "5"}))
    assert group.paths == ("/sys/fs/cgroup/copepod.slice/copepod-test.slice/cri-one.scope",)
    await group.create()
    assert show("cri-one.scope", "ActiveState", "Delegate", "Slice") == {
        "ActiveState": "active", "Delegate": "yes", "Slice": "copepod-test.slice"}
    assert open(group.paths[0] + "/cgroup.max.depth").read() == "5\\n"
    assert group.pids() == [], "the place-holder is nobody's business"
    with Guest(group) as guest:
        for _ in range(1000):
            if open(group.paths[0] + "/cgroup.procs").read().split() == [str(guest.pid)]:
                break
            await asyncio.sleep(0.005)
        assert group.pids() == [guest.pid]
        await group.seal()
        await group.update(Resources(unified={"cgroup.max.depth": "6"}))
        assert open(group.paths[0] + "/cgroup.max.depth").read() == "6\\n"
        assert show("cri-one.scope", "ActiveState")["ActiveState"] == "active"
        await group.freeze()
        await group.thaw()
        assert group.stats().cpu["usage_usec"] > 0
        fds = group.procs_fds(guest.pid)
        assert len(fds) == 1
        os.close(fds[0])
        group.kill()
        assert guest.wait() == -signal.SIGKILL
        await group.remove()
    assert not os.path.exists(group.paths[0])
    for _ in range(1000):
        if show("cri-one.scope", "LoadState")["LoadState"] == "not-found":
            break
        await asyncio.sleep(0.005)
    assert show("cri-one.scope", "LoadState")["LoadState"] == "not-found"
asyncio.run(main())
""",
    )


def test_a_scope_that_nobody_entered(machine: Machine) -> None:
    scenario(
        machine,
        """
async def main():
    group = make()
    await group.create()
    for fd in group.procs_fds():
        os.close(fd)
    await group.remove()
    assert not os.path.exists(group.paths[0])
    await group.remove()
    await asyncio.sleep(0.1)
asyncio.run(main())
""",
    )


def test_a_failed_create_leaves_no_unit(machine: Machine) -> None:
    scenario(
        machine,
        """
async def main():
    group = make(resources=Resources(unified={"misc.max": "1"}))
    try:
        await group.create()
        raise AssertionError
    except errors.InvalidArgument as error:
        assert "the misc cgroup controller is not enabled" in str(error), error
    assert not os.path.exists(group.paths[0])
    assert show("cri-one.scope", "LoadState")["LoadState"] == "not-found"
    await asyncio.sleep(0.1)
asyncio.run(main())
""",
    )


def test_the_same_name_twice(machine: Machine) -> None:
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


def test_systemd_takes_every_property(machine: Machine) -> None:
    scenario(
        machine,
        """
FULL = Resources(
    memory=Memory(limit=1 << 26, swap=1 << 27, reservation=1 << 20),
    cpu=CPU(shares=512, quota=50500, period=100000, cpus="0-1", mems="0"),
    pids=Pids(100),
    unified={"memory.high": "max", "memory.oom.group": "1", "cpu.weight": "77"},
)
async def main():
    group = make()
    await group.create()
    with Guest(group) as guest:
        async with await Manager.connect(10) as manager:
            version = await manager.version()
            assert version > 200, version
            new = dict(resource_properties(FULL, 2, version, new=True))
            assert version < 253 or new.pop("OOMPolicy")
            await manager.call("SetUnitProperties", "sba(sv)",
                               ("cri-one.scope", True, list(new.items())))
        got = show("cri-one.scope", "MemoryMax", "MemorySwapMax", "MemoryLow", "CPUWeight",
                   "CPUQuotaPerSecUSec", "TasksMax", "AllowedCPUs", "CPUQuotaPeriodUSec")
        assert got == {"MemoryMax": str(1 << 26), "MemorySwapMax": str(1 << 26),
                       "MemoryLow": str(1 << 20), "CPUWeight": "77", "TasksMax": "100",
                       "CPUQuotaPerSecUSec": "510ms", "AllowedCPUs": "0-1",
                       "CPUQuotaPeriodUSec": "100ms"}, got
        group.kill()
        guest.wait()
    await group.remove()
    await asyncio.sleep(0.1)
asyncio.run(main())
""",
    )
