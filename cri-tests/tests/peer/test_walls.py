"""A native container of ours against runc's: rights, mounts, devices, limits and cgroups, as the
kernel shows them. What differs is listed here with its reason, and nothing else may."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from rig import images, walls
from rig.containerd import Containerd
from rig.cri import Pods
from rig.runs import Runner

pytestmark = pytest.mark.peer

EXPECTED = (
    # Ours gives the program the FIFO itself: no copy on the way. runc's shim copies from a pipe.
    r"descriptors: [-+].* [012] -> (pipe|/.*fifo.*|/.*/io/.*|/dev/null)",
    # The spec says nothing: runc's container has what its shim set for itself.
    r"scores: [-+][01]",
    # cgroup v1: the spec says ro, and ours takes it at its word; runc leaves the tmpfs above the
    # hierarchies writable.
    r"mounts: [-+]/ on /sys/fs/cgroup r[wo],nosuid,nodev,noexec,relatime \[\] tmpfs .*",
    # A mask must not be a device that the container's own /dev could have replaced. With a user
    # namespace runc's is the node's too, and hears of what the node mounts over it.
    r"mounts: [-+]/null on /(proc|sys)/\S+ \S+ \[\] (tmpfs|devtmpfs) .*",
    r"mounts: -/null on /(proc|sys)/\S+ \S+ \[master\] devtmpfs .*",
    r"mounts: [-+]/ on /(proc|sys)/\S+ ro,relatime \[\] tmpfs \S+ ro(,nr_inodes=1)?(,mode=755)?"
    r"(,uid=\d+,gid=\d+)?",
    # With a user namespace runc's belongs to a group of the node, whom nobody inside knows.
    r"devices: -drwxrwxrwt 0 65534  mqueue",
    r"devices: \+drwxrwxrwt 0 0  mqueue",
)
MAPPED = ("--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536")
RUNS = [
    pytest.param((), id="plain"),
    pytest.param(("--privileged",), id="privileged"),
    pytest.param(("--read-only",), id="read-only"),
    pytest.param(("--seccomp",), id="seccomp"),
    pytest.param(("--allow-new-privs",), id="new-privs"),
    pytest.param(("--net-host",), id="host-network"),
    pytest.param(("--cwd", "/tmp", "--env", "A=b"), id="cwd"),
    pytest.param(("--cap-add", "CAP_NET_ADMIN", "--cap-drop", "CAP_CHOWN"), id="capabilities"),
    pytest.param(("--memory-limit", "50000000", "--cpus", "0.5"), id="limits"),
    pytest.param(("--cpu-shares", "2048", "--device", "/dev/loop-control"), id="device"),
    pytest.param(
        ("--mount", "type=bind,src=/usr,dst=/mnt/a,options=rbind:ro:nosuid:rslave"), id="bind"
    ),
    pytest.param(
        ("--mount", "type=tmpfs,src=tmpfs,dst=/mnt/b,options=size=64k:noexec:mode=1777"), id="tmpfs"
    ),
    pytest.param(("--rootfs-propagation", "slave"), id="propagation"),
    pytest.param(MAPPED, id="user-namespace"),
]
USER: dict[str, Any] = {
    "run_as_user": {"value": 1000},
    "run_as_group": {"value": 1001},
    "supplemental_groups": [2000, 2001],
}
PODS = [
    pytest.param({}, {}, id="plain"),
    pytest.param({}, {"linux": {"security_context": USER}}, id="user"),
    pytest.param(
        {},
        {"linux": {"security_context": {"seccomp": {"profile_type": 0}, "no_new_privs": True}}},
        id="runtime-default",
    ),
    pytest.param(
        {"linux": {"security_context": {"privileged": True}}},
        {"linux": {"security_context": {"privileged": True}}},
        id="privileged",
    ),
    pytest.param(
        {"linux": {"sysctls": {"kernel.msgmax": "65536", "net.ipv4.ping_group_range": "0 7"}}},
        {},
        id="sysctls",
    ),
    pytest.param(
        {},
        {
            "linux": {
                "resources": {
                    "memory_limit_in_bytes": 100 << 20,
                    "cpu_period": 100000,
                    "cpu_quota": 50000,
                    "cpu_shares": 512,
                    "cpuset_cpus": "0",
                    "oom_score_adj": 500,
                }
            }
        },
        id="limits",
    ),
    pytest.param(
        {"linux": {"security_context": {"namespace_options": {"network": 2}}}},
        {"linux": {"security_context": {"namespace_options": {"network": 2}}}},
        id="host-network",
    ),
    pytest.param(
        {},
        {
            "linux": {
                "security_context": {
                    "readonly_rootfs": True,
                    "capabilities": {"drop_capabilities": ["ALL"]},
                }
            }
        },
        id="restricted",
    ),
]


def _process(document: Any) -> None:
    sets = ["CAP_NET_RAW", "CAP_KILL", "CAP_CHOWN"]
    names = ("bounding", "effective", "permitted", "inheritable")
    document["process"] |= {
        "user": {"uid": 1000, "gid": 1001, "umask": 0o027, "additionalGids": [7, 9]},
        "capabilities": {**dict.fromkeys(names, sets), "ambient": ["CAP_KILL"]},
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 2**64 - 1},
            {"type": "RLIMIT_NPROC", "soft": 500, "hard": 600},
        ],
        "oomScoreAdj": 600,
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 7},
        "scheduler": {"policy": "SCHED_BATCH", "nice": 5},
        "env": ["PATH=/bin", "A=1", "A=2", "HOME="],
        "cwd": "/new/folder",
    }
    document |= {"hostname": "box", "domainname": "example"}


def _no_capabilities(document: Any) -> None:
    document["process"]["capabilities"] = {}
    del document["process"]["rlimits"]
    document["process"]["noNewPrivileges"] = False


def _mounts(document: Any) -> None:
    for number, options in enumerate(
        (
            ["rbind", "rro", "rnosuid", "rprivate"],
            ["bind", "nosymfollow", "noatime", "nodiratime", "slave"],
            ["rbind", "ro", "rnoexec", "rshared"],
            ["bind", "rw", "suid", "exec", "dev"],
            ["rbind", "strictatime", "unbindable"],
            ["rbind"],
        )
    ):
        place = f"/mnt/{number}"
        one = {"destination": place, "type": "bind", "source": "/dev", "options": options}
        document["mounts"].append(one)
    for place, options in (
        ("/bin/../bin/tmp", ["size=64k", "mode=1700", "uid=5", "nr_inodes=9"]),
        ("/etc", ["tmpcopyup", "ro", "noexec"]),
    ):
        one = {"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options}
        document["mounts"].append(one)
    document["root"]["readonly"] = True


def _paths(document: Any) -> None:
    document["linux"] |= {
        "maskedPaths": ["/proc/sys/net", "/nowhere", "/proc/version", "/proc/fs"],
        "readonlyPaths": ["/proc/sys", "/bin", "/nowhere", "/dev/null"],
        "devices": [
            {"path": "/dev/fifo", "type": "p", "fileMode": 0o640, "uid": 5, "gid": 6},
            {"path": "/dev/a/b", "type": "c", "major": 1, "minor": 3, "fileMode": 0o444},
        ],
    }


def _seccomp(document: Any) -> None:
    document["process"]["noNewPrivileges"] = False
    rules = [
        {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5},
        {"names": ["chroot"], "action": "SCMP_ACT_LOG"},
    ]
    document["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": rules,
    }


def _time(document: Any) -> None:
    document["linux"]["namespaces"].append({"type": "time"})
    document["linux"]["timeOffsets"] = {"monotonic": {"secs": 100, "nanosecs": 1}}


SPECS = [
    pytest.param(change, id=change.__name__.strip("_"))
    for change in (_process, _no_capabilities, _mounts, _paths, _seccomp, _time)
]


# Numbers of processes, where they are not those of a container's first one.
NUMBERS = re.compile(r"status: [-+](NSpid|NStgid): \d+( 1)?|stat: [-+]pgrp (\d+) session \3 .*")


def unexplained(ours: walls.Walls, theirs: walls.Walls) -> list[str]:
    """The differences that EXPECTED does not name; - is runc's, + ours."""
    lines = theirs.differences(ours)
    known = (*EXPECTED, NUMBERS)
    return [line for line in lines if not any(re.fullmatch(one, line) for one in known)]


@pytest.mark.parametrize("flags", RUNS)
def test_ctr_run_makes_the_walls_that_runc_makes(node: Containerd, flags: tuple[str, ...]) -> None:
    ours = walls.of_run(Runner(node, "copepod"), *flags)
    found = unexplained(ours, walls.of_run(Runner(node, "runc"), *flags))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("runtime", ["copepod", "runc"])
def test_root_of_a_user_namespace_has_its_network(node: Containerd, runtime: str) -> None:
    """Who owns a network namespace is settled when it is made (network_namespaces(7))."""
    script = "ip addr add 192.0.2.1/24 dev lo && ip addr show lo"
    flags = (*MAPPED, "--cap-add", "CAP_NET_ADMIN")
    done = Runner(node, runtime).run(images.BUSYBOX, "sh", "-c", script, flags=flags)
    assert "192.0.2.1/24" in done.out, done.text


@pytest.mark.parametrize("kind", ["rprivate", "rslave", "rshared"])
@pytest.mark.parametrize("own", ["rbind", "rbind:rshared", "rbind:rslave", "rbind:rprivate"])
def test_what_is_bound_propagates_as_with_runc(node: Containerd, kind: str, own: str) -> None:
    mount = f"type=bind,src=/dev,dst=/mnt/a,options={own}"
    ours, theirs = (
        propagation(
            walls.of_run(Runner(node, runtime), "--rootfs-propagation", kind, "--mount", mount)
        )
        for runtime in ("copepod", "runc")
    )
    assert ours == theirs
    assert "/mnt/a" in ours


@pytest.mark.parametrize("kind", ["private", "slave", "rslave", "shared", "rshared", "unbindable"])
def test_mounts_propagate_as_those_that_runc_makes(node: Containerd, kind: str) -> None:
    ours, theirs = (
        propagation(walls.of_run(Runner(node, runtime), "--rootfs-propagation", kind))
        for runtime in ("copepod", "runc")
    )
    assert ours == theirs
    assert "/proc" in ours


def propagation(found: walls.Walls) -> dict[str, str]:
    """Whom each mount tells of what is mounted below it, and who tells it."""
    words = (re.fullmatch(r"\S+ on (\S+) \S+ \[(.*)\] .*", line) for line in found.facts["mounts"])
    return {match[1]: match[2] for match in words if match}


@pytest.mark.parametrize(("sandbox", "container"), PODS)
def test_cri_makes_the_walls_that_runc_makes(
    node: Containerd, sandbox: dict[str, Any], container: dict[str, Any]
) -> None:
    ours = walls.of_pod(Pods(node, "copepod"), dict(sandbox), **container)
    found = unexplained(ours, walls.of_pod(Pods(node, "runc"), dict(sandbox), **container))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("change", SPECS)
def test_a_spec_makes_the_walls_that_runc_makes(
    node: Containerd, change: Callable[[Any], None]
) -> None:
    ours = walls.of_spec(Runner(node, "copepod"), change)
    found = unexplained(ours, walls.of_spec(Runner(node, "runc"), change))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("flags", [(), ("--seccomp",), ("--privileged",), MAPPED])
def test_exec_gets_the_walls_that_runc_gives(node: Containerd, flags: tuple[str, ...]) -> None:
    ours = walls.of_exec(Runner(node, "copepod"), *flags)
    found = unexplained(ours, walls.of_exec(Runner(node, "runc"), *flags))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("privileged", [False, True])
def test_a_pods_waiting_process_has_the_walls_that_runc_makes(
    node: Containerd, privileged: bool
) -> None:
    profile = {"linux": {"security_context": {"seccomp": {"profile_type": 0}}}}
    sandbox = {"linux": {"security_context": {"privileged": True}}} if privileged else profile
    ours = walls.of_sandbox(Pods(node, "copepod"), **sandbox)
    found = unexplained(ours, walls.of_sandbox(Pods(node, "runc"), **sandbox))
    assert not found, "\n".join(found)
