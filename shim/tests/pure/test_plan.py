"""The plan: what a spec becomes, step by step, and what it refuses. Nothing is touched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from copepod import errors, spec
from copepod.child.cgroupfs import Hierarchy
from copepod.child.mounts import Bind, FileSystem
from copepod.child.rootfs import RootfsMount
from copepod.container import plan, plan_process
from copepod.linux import mount as m
from copepod.linux import ns

pytestmark = pytest.mark.pure

V1 = plan.Machine(hierarchies=(Hierarchy("/sys/fs/cgroup/cpu,cpuacct", "/", ("cpu", "cpuacct")),))
V2 = plan.Machine(unified="/sys/fs/cgroup")
ROOTFS = (spec.RootfsMount("overlay", "overlay", "", ("lowerdir=/a:/b", "ro")),)


def document(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "process": {"args": ["/app.wasm"], "cwd": "/", "env": ["A=b"]},
        "root": {"path": "rootfs"},
        "mounts": [],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
    }
    for path, value in changes.items():
        place = made
        *parents, last = path.split("__")
        for name in parents:
            place = place.setdefault(name, {})
        place[last] = value
    return made


def planned(machine: plan.Machine = V2, **changes: Any) -> Any:
    names = ("sandbox", "terminal", "own_network")
    options = {key: changes.pop(key) for key in names if key in changes}
    parsed = spec.parse(json.dumps(document(**changes)).encode())
    return plan.create(parsed, "id", "/bundle", ROOTFS, machine, **options)


def steps(job: Any) -> list[str]:
    return [op.describe() for op in (*job.outside, *job.inside, *job.last)]


def test_an_ordinary_container() -> None:
    job = planned(
        mounts=[
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]},
            {"destination": "/etc/hosts", "type": "bind", "source": "hosts", "options": ["ro"]},
            {"destination": "tmp", "type": "tmpfs", "options": ["ro"]},
        ],
        root={"path": "rootfs", "readonly": True},
        hostname="box",
        linux={
            "namespaces": [{"type": kind} for kind in ("mount", "uts", "network", "ipc")],
            "sysctl": {"net.core.somaxconn": "9", "net/ipv4/conf/eth0.1/forwarding": "1"},
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
        },
        terminal=True,
    )
    assert steps(job) == [
        "cut the mount namespace off from the node's",
        "mount the root file system overlay overlay on /bundle/rootfs",
        "open the root /bundle/rootfs",
        "mount proc on /proc",
        "mount tmpfs on /dev (mode=755)",
        "mount cgroup v2 on /sys/fs/cgroup",
        "bind /bundle/hosts on /etc/hosts",
        "mount tmpfs on /tmp",
        "devices /dev/null /dev/random /dev/full /dev/tty /dev/zero /dev/urandom",
        "links /dev/fd->/proc/self/fd /dev/stdin->/proc/self/fd/0 /dev/stdout->/proc/self/fd/1 "
        "/dev/stderr->/proc/self/fd/2 /dev/core->/proc/kcore /dev/ptmx->pts/ptmx",
        "hostname box",
        "sysctl net.core.somaxconn=9 net.ipv4.conf.eth0.1.forwarding=1",
        "terminal",
        "working directory /",
        "read-only paths /proc/sys",
        "masked paths /proc/kcore",
        "read-only from here: tmp /",
        "pivot into the root",
    ]
    assert job.kind == "create"
    assert job.program.args == ("/app.wasm",)
    (sysctls,) = (op for op in job.inside if hasattr(op, "values"))
    assert sysctls.values[1] == ("net/ipv4/conf/eth0.1/forwarding", "1")


def test_namespaces_made_and_joined() -> None:
    kinds = ["mount", "pid", "ipc", "uts", "cgroup", "network"]
    job = planned(linux__namespaces=[{"type": kind} for kind in kinds])
    names = job.namespaces
    assert names.unshare == (
        ns.CLONE_NEWIPC | ns.CLONE_NEWUTS | ns.CLONE_NEWCGROUP | ns.CLONE_NEWNET
    )
    assert (names.new_pid, names.middle, names.joins) == (True, False, ())
    joined = planned(
        linux__namespaces=[
            {"type": "mount"},
            {"type": "user", "path": "/u"},
            {"type": "pid", "path": "/p"},
            {"type": "ipc", "path": "/i"},
            {"type": "network"},
        ],
        own_network=False,
    ).namespaces
    assert [(one.kind, one.path) for one in joined.joins] == [
        ("ipc", "/i"),
        ("user", "/u"),  # last: it takes the right to join the others away
    ]
    assert (joined.new_pid, joined.pid_path, joined.middle) == (False, "/p", False)
    assert joined.unshare == ns.CLONE_NEWNS


def test_a_user_namespace_takes_hold_of_what_it_may_not_reach() -> None:
    job = planned(
        mounts=[{"destination": "/v", "type": "bind", "source": "/v", "options": ["rbind"]}],
        linux={
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "user"}],
            "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
            "gidMappings": [{"containerID": 0, "hostID": 200000, "size": 65536}],
        },
    )
    described = steps(job)
    assert described.index("take the mount source /v") < described.index(
        "put the root in its place"
    )
    assert "take the mount source /dev/null" in described
    assert job.namespaces.middle
    assert job.namespaces.uid_map == "0 100000 65536\n"
    assert job.namespaces.gid_map == "0 200000 65536\n"


def test_shared_sources_are_taken_before_the_namespace_is_cut_off() -> None:
    mounts = [
        {"destination": "/s", "type": "bind", "source": "/s", "options": ["rbind", "rshared"]},
        {"destination": "/p", "type": "bind", "source": "/p", "options": ["rbind", "rslave"]},
    ]
    described = steps(planned(mounts=mounts, linux__rootfsPropagation="rshared"))
    assert described[:2] == [
        "take the mount source /s",
        "cut the mount namespace off from the node's",
    ]
    assert "take the mount source /p" not in described


def test_a_bound_dev_is_left_alone() -> None:
    mounts = [{"destination": "/dev/", "type": "none", "source": "/dev", "options": ["rbind"]}]
    assert not [step for step in steps(planned(mounts=mounts)) if step.startswith("devices")]


def test_attributes_of_mounts() -> None:
    job = planned(
        mounts=[
            {"destination": "/b", "type": "bind", "source": "/b", "options": ["rro", "ro", "exec"]},
            {"destination": "/t", "type": "tmpfs", "options": ["ro", "noexec", "size=1m"]},
            {"destination": "/s", "type": "sysfs", "options": ["ro", "nosuid"]},
        ]
    )
    (bind,) = (op for op in job.inside if isinstance(op, Bind))
    tmpfs, sysfs = (op for op in job.inside if isinstance(op, FileSystem))
    assert bind.attributes.set == m.MOUNT_ATTR_RDONLY
    assert bind.attributes.clear == m.MOUNT_ATTR_NOEXEC
    assert bind.attributes.rec_set == m.MOUNT_ATTR_RDONLY
    # Read-only at the end only: the container's directories have to be made in it first.
    assert (tmpfs.attributes.set, tmpfs.supers) == (m.MOUNT_ATTR_NOEXEC, ())
    assert sysfs.attributes.set == m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOSUID
    assert sysfs.supers == ("ro",)


def test_ids_and_limits_in_the_kernels_numbers() -> None:
    program = planned(
        process={
            "args": ["x"],
            "cwd": "/",
            "user": {"uid": 5, "gid": 6, "additionalGids": [7], "umask": 0o7027},
            "capabilities": {"bounding": ["CAP_CHOWN", "cap_kill", "CAP_OF_TOMORROW"]},
            "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": (1 << 64) - 1}],
            "ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 3},
            "scheduler": {"policy": "SCHED_RR", "priority": 2, "flags": ["SCHED_FLAG_RECLAIM"]},
        },
        linux__memoryPolicy={
            "mode": "MPOL_BIND",
            "nodes": "0,65",
            "flags": ["MPOL_F_STATIC_NODES"],
        },
    ).program
    identity = program.identity
    assert (identity.uid, identity.gid, identity.groups, identity.umask) == (5, 6, (7,), 0o027)
    assert (identity.bounding, identity.effective) == (1 << 0 | 1 << 5, 0)
    (limit,) = program.limits
    assert (limit.resource, limit.soft, limit.hard) == (4, 0, -1)
    assert program.io_priority == 1 << 13 | 3
    assert (program.scheduling.policy, program.scheduling.flags) == (2, 2)
    assert program.memory_policy == (2 | 1 << 15, b"\1" + bytes(7) + b"\2" + bytes(7))
    assert plan_process.cpu_list("0-2, 7") == {0, 1, 2, 7}


def test_what_an_exec_leaves_open_is_as_for_the_container() -> None:
    own = {"apparmorProfile": "a", "selinuxLabel": "s", "rlimits": [{"type": "RLIMIT_CORE"}]}
    container = spec.parse(json.dumps({"process": own}).encode())
    bare = plan_process.joining(spec.parse_process(b'{"args": ["x"]}'), container)
    assert (bare.args, bare.apparmor_profile, bare.selinux_label) == (("x",), "a", "s")
    assert [one.type for one in bare.rlimits] == ["RLIMIT_CORE"]
    other = spec.parse_process(b'{"apparmorProfile": "b", "selinuxLabel": "t"}')
    assert plan_process.joining(other, container).apparmor_profile == "b"
    assert plan_process.joining(other, container).selinux_label == "t"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"process": None}, "config.json has no process"),
        ({"linux__namespaces": [{"type": "pid"}]}, "mount namespace of its own"),
        ({"linux__namespaces": [{"type": "mount", "path": "/x"}]}, "mount namespace of its own"),
        ({"linux__namespaces": [{"type": "moon"}]}, "no namespace type 'moon'"),
        ({"linux__namespaces": [{"type": "pid"}] * 2}, "more than once"),
        ({"linux__uidMappings": [{"size": 1}]}, "need a user namespace"),
        ({"hostname": "h"}, "need a uts namespace"),
        ({"linux__sysctl": {"net.x": "1"}}, "needs a network namespace"),
        ({"linux__sysctl": {"kernel.sem": "1"}}, "needs a ipc namespace"),
        ({"linux__sysctl": {"vm.swappiness": "1"}}, "whole node"),
        ({"linux__sysctl": {"net.../etc/passwd": "1"}}, "network namespace"),
        ({"linux__timeOffsets": {"boottime": {"secs": 1}}}, "need a time namespace"),
        (
            {
                "linux__timeOffsets": {"boottime": {"secs": 1}},
                "linux__namespaces": [{"type": "mount"}, {"type": "time", "path": "/x"}],
            },
            "a new one",
        ),
        (
            {
                "mounts": [
                    {
                        "destination": "/x",
                        "type": "bind",
                        "source": "/y",
                        "options": ["rbind", "rnorelatime", "readonly"],
                    }
                ]
            },
            "has no options readonly",
        ),
        ({"linux__netDevices": {"eth1": {}}}, "moves no network devices"),
        ({"linux__intelRdt": {"closID": "x"}}, "resctrl"),
        ({"linux__rootfsPropagation": "rloud"}, "there is no 'rloud'"),
        ({"linux__devices": [{"path": "/dev/x", "type": "z"}]}, "no type 'z'"),
        ({"linux__personality": {"domain": "BSD"}}, "no domain 'BSD'"),
        ({"linux__memoryPolicy": {"mode": "MPOL_X"}}, "no mode 'MPOL_X'"),
        ({"mounts": [{"type": "tmpfs"}]}, "mounts[0] has no destination"),
        ({"mounts": [{"destination": "/x"}]}, "neither type nor bind"),
        ({"mounts": [{"destination": "/x", "type": "bind"}]}, "needs a source"),
        ({"mounts": [{"destination": "/x", "type": "tmpfs", "options": ["idmap"]}]}, "id-mapped"),
        ({"process__cwd": "x"}, "not an absolute path"),
        ({"process__env": ["=x"]}, "is not NAME=value"),
        ({"process__rlimits": [{"type": "RLIMIT_X"}]}, "no limit 'RLIMIT_X'"),
        ({"process__ioPriority": {"class": "X"}}, "process.ioPriority"),
        ({"process__scheduler": {"policy": "X"}}, "no policy 'X'"),
        ({"hooks": {"createContainer": [{"path": "x"}]}}, "not an absolute path"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.Error) as caught:
        planned(**changes)
    assert words in str(caught.value)


def test_cgroup_version_1_is_shown_by_hierarchy() -> None:
    mounts = [{"destination": "/sys/fs/cgroup", "type": "cgroup"}]
    assert "mount cgroup v1 on /sys/fs/cgroup" in steps(planned(V1, mounts=mounts))
    assert V1.hierarchies[0].name == "cpu,cpuacct"


def test_containerds_maps_of_a_root_file_system() -> None:
    mapped = spec.RootfsMount(
        "overlay", "overlay", "", ("lowerdir=/a", "uidmap=0:7:2,2:90:1", "gidmap=0:8:3")
    )
    parsed = spec.parse(json.dumps(document()).encode())
    job = plan.create(parsed, "id", "/b", (mapped,), V2)
    (root,) = (op for op in job.outside if isinstance(op, RootfsMount))
    assert root.maps is not None
    assert root.data == ("lowerdir=/a",)
    assert (root.maps.uid, root.maps.gid) == ("0 7 2\n2 90 1\n", "0 8 3\n")
