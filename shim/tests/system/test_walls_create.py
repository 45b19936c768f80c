"""A container's first process on a real kernel: what it sees, who it is, and how it fails."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from copepod import errors
from copepod import spec as s
from copepod.container import spawn
from copepod.linux import caps
from fakes import walls
from fakes.walls import bind, cri, nothing_is_left, run  # noqa: F401

pytestmark = walls.needs


def script(text: str, **changes: Any) -> walls.Result:
    return run(cri("sh", "-c", text, **changes))


def status(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+):\s*(.*?)\s*$", text, re.MULTILINE))


def test_exit_code_and_pid_1() -> None:
    assert script("echo pid $$; exit 7") == walls.Result("pid 1\n", 7)


def test_identity_is_the_specs() -> None:
    found = status(script("cat /proc/self/status").out)
    wanted = f"{caps.mask(walls.CAPS):016x}"
    assert (found["CapPrm"], found["CapEff"], found["CapBnd"]) == (wanted,) * 3
    assert (found["CapInh"], found["CapAmb"]) == ("0" * 16, "0" * 16)
    assert found["NoNewPrivs"] == "1"
    assert found["Groups"] == "0 10"
    assert found["SigBlk"] == "0" * 16
    # The shell ignores SIGQUIT; 32 and 33 are glibc's, which lets nobody reset them (nptl(7)).
    others = ~sum(1 << number - 1 for number in (signal.SIGQUIT, 32, 33))
    assert int(found["SigIgn"], 16) & others == 0


def test_user_groups_umask_and_ambient_capabilities() -> None:
    names = ["CAP_NET_BIND_SERVICE", "CAP_KILL"]
    found = script(
        "umask; id -u; id -g; cat /proc/self/status; echo $HOME > /dev/stdout",
        process__user={"uid": 1000, "gid": 100, "additionalGids": [5, 7], "umask": 0o27},
        process__capabilities=dict.fromkeys(
            ("bounding", "effective", "permitted", "inheritable", "ambient"), names
        ),
    )
    assert found.out.startswith("0027\n1000\n100\n")
    assert found.out.endswith("/home/app\n")  # and /dev/stdout can be reopened by that user
    sets = status(found.out)
    wanted = f"{caps.mask(names):016x}"
    assert [sets[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [wanted] * 5
    assert sets["Groups"] == "5 7"


def test_no_capabilities_in_the_spec_means_none() -> None:
    found = status(script("cat /proc/self/status", process__capabilities=None).out)
    assert {found[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}


def test_only_stdio_is_open() -> None:
    assert script("ls /proc/self/fd; ls /proc/1/fd; true").out.split() == [*"0123", *"012"]


def test_mounts_are_the_specs_with_their_flags(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the node\n")
    extra = [
        bind(tmp_path / "file", "/etc/hosts", "rbind", "rprivate", "ro"),
        bind(tmp_path, "/made/for/it", "bind", "nosuid", "noexec", "noatime"),
        {"destination": "/scratch", "type": "tmpfs", "options": ["size=1m", "ro", "mode=700"]},
    ]
    spec = cri("sh", "-c", "cat /etc/hosts /proc/self/mountinfo; touch /etc/hosts /scratch/x")
    spec["mounts"] += extra
    out = run(spec).out
    assert out.startswith("from the node\n")
    found = {line.split()[4]: line.split()[5] for line in out.splitlines() if " - " in line}
    assert found["/etc/hosts"].startswith("ro,")
    assert {"nosuid", "noexec", "noatime"} <= set(found["/made/for/it"].split(","))
    assert found["/scratch"].startswith("ro")
    assert found["/proc"] == "rw,nosuid,nodev,noexec,relatime"
    assert found["/sys"] == "ro,nosuid,nodev,noexec,relatime"
    assert "/etc/hosts: Read-only file system" in out
    assert "/scratch/x: Read-only file system" in out


def test_nothing_of_the_node_is_mounted() -> None:
    out = script("cat /proc/self/mountinfo").out
    points = {line.split()[4] for line in out.splitlines()}
    assert "/" in points
    assert all(point == "/" or point.startswith(("/proc", "/sys", "/dev")) for point in points)


def test_masked_read_only_and_device_paths() -> None:
    out = script(
        "wc -c < /proc/keys; ls /sys/firmware /proc/acpi | wc -l; echo 1 > /proc/sys/kernel/panic;"
        "chmod 0 /proc/keys; stat -c %a:%t:%T /dev/null;"
        "for i in ptmx fd stdout; do readlink /dev/$i; done;"
        "echo x > /dev/null && dd if=/dev/zero bs=3 count=1 2>/dev/null | wc -c"
    ).out
    assert out.splitlines()[0] == "0"
    assert "/proc/sys/kernel/panic: Read-only file system" in out
    assert "/proc/keys: Read-only file system" in out
    assert out.split("\n", 1)[1].endswith("666:1:3\npts/ptmx\n/proc/self/fd\n/proc/self/fd/1\n3\n")
    assert os.stat("/dev/null").st_mode & 0o777 == 0o666


def test_devices_of_the_spec() -> None:
    devices = [
        {"path": "/dev/deep/one", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640},
        {"path": "/dev/two", "type": "b", "major": 7, "minor": 3, "uid": 3, "gid": 4},
        {"path": "/dev/three", "type": "p", "fileMode": 0o600},
        {"path": "", "type": "c", "major": 10, "minor": 229},  # for the sake of its rule
    ]
    out = script(
        "stat -c '%A %t:%T %u:%g' /dev/deep/one /dev/two /dev/three", linux__devices=devices
    ).out
    assert out.splitlines() == ["crw-r----- a:e5 0:0", "brw-rw-rw- 7:3 3:4", "prw------- 0:0 0:0"]


def test_read_only_root_and_cwd_made_before() -> None:
    found = script("pwd; touch /x", root__readonly=True, process__cwd="/new/place")
    assert found == walls.Result("/new/place\ntouch: /x: Read-only file system\n", 1)


def test_limits_hostname_sysctls() -> None:
    out = script(
        "ulimit -n; ulimit -H -n; hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
        process__rlimits=[{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}],
        linux__sysctl={"net.ipv4.ip_unprivileged_port_start": "81"},
        domainname="dom",
    ).out
    assert out == "77\n99\nbox\n81\n"


@pytest.mark.parametrize(
    ("kind", "name"),
    [("network", "net.ipv4.ip_unprivileged_port_start"), ("ipc", "kernel.msgmax")],
)
def test_parameters_of_the_node_are_not_set_through_a_path(kind: str, name: str) -> None:
    spec = cri("true", linux__sysctl={name: "1"})
    (one,) = (one for one in spec["linux"]["namespaces"] if one["type"] == kind)
    one["path"] = f"/proc/self/ns/{kind[:3]}"
    file = f"/proc/sys/{name.replace('.', '/')}"
    before = walls.read(file)
    with pytest.raises(errors.InvalidArgument, match="is the node's own"):
        run(spec)
    assert walls.read(file) == before


@pytest.mark.parametrize("given", [[], ["HOME="], ["HOME=/a", "HOME="]])
def test_home_is_the_users_if_it_is_not_given(given: list[str]) -> None:
    spec = cri("sh", "-c", "echo $HOME")
    spec["process"]["user"]["uid"] = 1000
    spec["process"]["env"] += given
    assert run(spec).out == "/home/app\n"


def test_cpus_that_containerd_keeps_to_are_not_the_containers() -> None:
    all_of_them = os.sched_getaffinity(0)
    if len(all_of_them) < 2:
        pytest.skip("one CPU: there is nothing to keep to")
    os.sched_setaffinity(0, {min(all_of_them)})
    try:
        out = run(cri("grep", "Cpus_allowed:", "/proc/self/status")).out
    finally:
        os.sched_setaffinity(0, all_of_them)
    assert int(out.split()[1].replace(",", ""), 16) == sum(1 << cpu for cpu in all_of_them)


@pytest.mark.parametrize(
    ("name", "value"), [("NOFILE", 3), ("DATA", 1 << 20), ("FSIZE", 0), ("AS", 32 << 20)]
)
def test_limits_too_low_to_build_walls_with(name: str, value: int) -> None:
    """They are the program's: what we open and map for its walls does not count."""
    limit = {"type": f"RLIMIT_{name}", "soft": value, "hard": value}
    assert run(cri("true", process__rlimits=[limit])).code == 0


def test_a_link_on_the_way_to_a_target_stays_inside(tmp_path: Path) -> None:
    """/var/run is a link to /run, which the image lacks: the target is made, inside."""
    (tmp_path / "token").write_text("secret\n")
    spec = cri("cat", "/run/secrets/token")
    spec["mounts"].append(bind(tmp_path, "/var/run/secrets"))
    assert run(spec).out == "secret\n"
    assert not os.path.exists("/run/secrets/token")


def test_more_overlay_layers_than_fit_into_a_page(tmp_path: Path) -> None:
    layers = []
    for number in range(120):
        layer = tmp_path / "snapshots-with-a-long-name" / str(number) / "fs"
        layer.mkdir(parents=True)
        (layer / f"file{number}").touch()
        layers.append(str(layer))
    bundle = walls.Bundle(cri("sh", "-c", "ls /file* | wc -l"))
    data = (
        f"lowerdir={walls.rootfs()}:{':'.join(layers)}",
        f"upperdir={bundle.path}/upper",
        f"workdir={bundle.path}/work",
    )
    assert len(",".join(data)) > 4096
    mounts = (s.RootfsMount("overlay", "overlay", "", data),)
    assert run(bundle.spec, rootfs=mounts).out == "120\n"
    bundle.close()


def test_a_root_that_is_bound() -> None:
    mounts = (s.RootfsMount("bind", walls.rootfs(), "", ("rbind", "ro")),)
    spec = cri("sh", "-c", "touch /x; echo $?", process__cwd="/tmp")
    assert run(spec, rootfs=mounts).out == "touch: /x: Read-only file system\n1\n"


def test_a_root_that_is_there_already(tmp_path: Path) -> None:
    spec = cri("sh", "-c", "readlink /proc/self/root; ls -d /bin", root__path=walls.rootfs())
    assert run(spec, rootfs=()).out == "/\n/bin\n"


def test_tmpcopyup() -> None:
    spec = cri("sh", "-c", "cat /etc/passwd | wc -l; stat -f -c %T /etc; stat -c %a /etc")
    spec["mounts"].append(
        {"destination": "/etc", "type": "tmpfs", "options": ["tmpcopyup", "size=1m"]}
    )
    assert run(spec).out == "2\ntmpfs\n755\n"


REFUSED = [
    (["nowhere"], {}, errors.NotFound, "nowhere in $PATH (/usr/local/bin:/usr/bin:/bin)"),
    (["/bin/nowhere"], {}, errors.NotFound, "the file /bin/nowhere"),
    (["not-executable"], {}, errors.PermissionDenied, "neither wasm nor executable"),
    (["text"], {}, errors.InvalidArgument, "exec format error"),
    (["empty"], {}, errors.InvalidArgument, "the file is empty"),
    (["/bin"], {}, errors.PermissionDenied, "it is a directory"),
    (["/proc/self/exe"], {}, errors.InvalidArgument, "through /proc, can't be run"),
    ([], {}, errors.InvalidArgument, "process.args is empty"),
    (["true"], {"process__cwd": "/etc/passwd"}, errors.StepFailed, "Not a directory"),
    (["true"], {"process__cwd": "/proc/self/fd/7"}, errors.StepFailed, "/proc/self/fd/7"),
    (["true"], {"process__cwd": "relative"}, errors.InvalidArgument, "not an absolute path"),
    (["true"], {"process__env": ["A"]}, errors.InvalidArgument, "is not NAME=value"),
    (["true"], {"linux__sysctl": {"kernel.panic": "1"}}, errors.InvalidArgument, "whole node"),
    (["true"], {"linux__sysctl": {"net.no.such": "1"}}, errors.StepFailed, "net.no.such"),
    (["true"], {"linux__namespaces": []}, errors.InvalidArgument, "mount namespace"),
    (["true"], {"root__path": "nowhere"}, errors.StepFailed, "nowhere"),
]


@pytest.mark.parametrize(("args", "changes", "kind", "words"), REFUSED)
def test_a_wish_that_cannot_be_fulfilled_is_one_sentence(
    args: list[str], changes: dict[str, Any], kind: type[errors.Error], words: str
) -> None:
    with pytest.raises(kind) as caught:
        run(cri(*args, **changes))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_mount_source_is_named() -> None:
    spec = cri("true")
    spec["mounts"].append(bind("/no/such/source", "/data"))
    with pytest.raises(errors.StepFailed) as caught:
        run(spec)
    assert str(caught.value) == "bind /no/such/source on /data: No such file or directory"
    assert caught.value.errno == errno.ENOENT


def test_what_the_file_system_says_of_a_bad_option() -> None:
    spec = cri("true")
    spec["mounts"].append({"destination": "/x", "type": "tmpfs", "options": ["size=banana"]})
    with pytest.raises(errors.StepFailed, match=r"mount tmpfs on /x \(size=banana\)"):
        run(spec)


def test_an_interpreter_that_is_missing_is_named() -> None:
    with pytest.raises(errors.NotFound, match="not /nowhere/sh, the interpreter"):
        run(cri("no-loader"))


def test_a_program_that_its_user_may_not_run() -> None:
    user = {"uid": 1000, "gid": 1000}
    bundle = walls.Bundle(cri("/private/sh", process__user=user, process__capabilities=None))
    folder = Path(bundle.path, "upper/private")
    folder.mkdir(mode=0o700)
    shutil.copy(walls.BUSYBOX, folder / "sh")

    async def scenario() -> None:
        with pytest.raises(errors.PermissionDenied, match="denied for user 1000:1000"):
            await spawn.create(bundle.order(), walls.no_module)

    asyncio.run(scenario())
    bundle.close()


def test_native_programs_can_be_forbidden() -> None:
    with pytest.raises(errors.PermissionDenied, match="runs wasm only"):
        run(cri("true"), native_allowed=False)


def test_lowering_the_oom_score_without_the_right_to() -> None:
    if caps.get()[0] >> caps.numbers()["CAP_SYS_RESOURCE"] & 1:
        pytest.skip("this machine has CAP_SYS_RESOURCE, so lowering works")
    with pytest.raises(errors.StepFailed, match="restrict_oom_score_adj") as caught:
        run(cri("true", process__oomScoreAdj=-998))
    assert caught.value.errno == errno.EACCES


@pytest.mark.parametrize(
    ("field", "there"),
    [
        ("process__apparmorProfile", "/sys/module/apparmor/parameters/enabled"),
        ("process__selinuxLabel", "/sys/fs/selinux/enforce"),
    ],
)
def test_a_label_that_the_kernel_cannot_give(field: str, there: str) -> None:
    if os.path.exists(there):
        pytest.skip(f"this kernel has {there}")
    with pytest.raises(errors.FailedPrecondition, match="this kernel runs without"):
        run(cri("true", **{field: "cri-containerd.apparmor.d"}))


def test_scheduling_personality_and_io_priority() -> None:
    found = script(
        "cat /proc/self/stat /proc/self/personality",
        process__scheduler={"policy": "SCHED_BATCH", "nice": 7},
        process__ioPriority={"class": "IOPRIO_CLASS_IDLE", "priority": 0},
        linux__personality={"domain": "LINUX32"},
    ).out.splitlines()
    fields = found[0].rpartition(")")[2].split()
    assert fields[16] == "7"  # nice (proc_pid_stat(5))
    assert fields[38] == "3"  # SCHED_BATCH
    assert found[1] == "00000008"


def test_a_container_that_is_never_started_ends_with_its_wire() -> None:
    async def scenario() -> int:
        bundle = walls.Bundle(cri("sleep", "1000"))
        process = await spawn.create(bundle.order(), walls.no_module)
        pidfd, process.pidfd = process.pidfd, -1
        process.close()
        process.pidfd = pidfd
        bundle.close()
        return walls.ended(process)

    assert asyncio.run(scenario()) != 0


def test_killed_before_it_was_started() -> None:
    async def scenario() -> int:
        bundle = walls.Bundle(cri("sleep", "1000"))
        process = await spawn.create(bundle.order(), walls.no_module)
        process.kill(signal.SIGKILL)
        bundle.close()
        return walls.ended(process)

    assert asyncio.run(scenario()) == 137


@pytest.mark.parametrize("root", ["rshared", "rslave", ""])
def test_propagation_into_and_out_of_the_container(tmp_path: Path, root: str) -> None:
    """`rshared` lets a mount out if the root does, `rslave` lets one in, `rprivate` neither."""
    from copepod.linux import mount as m

    for name in ("shared", "slave", "private"):
        (tmp_path / name / "inner").mkdir(parents=True)
    m.mount("tmpfs", str(tmp_path), "tmpfs", 0)
    try:
        m.mount("", str(tmp_path), "", m.MS_SHARED)
        spec = cri(
            "sh",
            "-c",
            "for i in shared slave private; do mount -t tmpfs $i /$i/inner; done; echo; "
            "read x; cat /proc/self/mountinfo",
        )
        for sets in spec["process"]["capabilities"].values():
            sets.append("CAP_SYS_ADMIN")
        for name in ("shared", "slave", "private"):
            (tmp_path / name / "inner").mkdir(parents=True)
            (tmp_path / name / "later").mkdir()
            spec["mounts"].append(bind(tmp_path / name, f"/{name}", "rbind", f"r{name}"))
        spec["linux"]["rootfsPropagation"] = root
        out = asyncio.run(_with_later_mounts(spec, tmp_path))
        points = {line.split()[4] for line in out.splitlines() if " - " in line}
        assert {"/shared/later", "/slave/later"} <= points
        assert "/private/later" not in points
        node = Path("/proc/self/mountinfo").read_text()
        assert (f"{tmp_path}/shared/inner " in node) is (root == "rshared")
        assert f"{tmp_path}/slave/inner " not in node
        assert f"{tmp_path}/private/inner " not in node
    finally:
        m.umount2(str(tmp_path), m.MNT_DETACH)


async def _with_later_mounts(spec: dict[str, Any], folder: Path) -> str:
    from copepod.linux import mount as m

    bundle = walls.Bundle(spec)
    reading, writing = os.pipe()
    given, feed = os.pipe()
    try:
        process = await spawn.create(bundle.order((given, writing, writing)), walls.no_module)
        await process.start()
        assert os.read(reading, 100) == b"\n"
        for name in ("shared", "slave", "private"):
            m.mount("tmpfs", str(folder / name / "later"), "tmpfs", 0)
        os.write(feed, b"\n")
        os.close(writing)
        out = walls.read_all(reading)
        assert walls.ended(process) == 0
    finally:
        for fd in (reading, given, feed):
            os.close(fd)
        bundle.close()
    return out
