"""`copepod doctor` on healthy and broken nodes: each failure is told with what to do."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import cli_fakes as fakes
from copepod import config, errors
from copepod.cli import command as cli
from copepod.cli.doctor import kernel, node, ours
from copepod.cli.doctor.context import Context, Finding, answers, has_library, has_syscall, room
from copepod.cli.image.describe import Description
from copepod.cli.node import check, detect, runtime
from copepod.cli.system import Process, Result
from doctor_nodes import ETC, PROCESS, healthy, system

CHECKS = [kernel.python, kernel.features, kernel.cgroups, node.containerd, node.configuration,
          node.shim, node.cni, ours.zygote, ours.cache, ours.engine]  # fmt: skip


def look(context: Context) -> list[Finding]:
    return [finding for one in CHECKS for finding in one(context)]


def test_a_healthy_node(tmp_path: Path) -> None:
    found = look(healthy(tmp_path))
    assert {one.kind for one in found} == {"ok"}
    assert len({one.check for one in found}) >= 13


def unmake(name: str) -> Callable[[Context], None]:
    return lambda context: system(context).remove(name)


def put(name: str, data: bytes) -> Callable[[Context], None]:
    return lambda context: system(context).put(name, data)


def without_node(context: Context) -> None:
    context.node, context.missing = None, "no containerd on this node"


def stopped(context: Context) -> None:
    system(context).process = None


def restarted_long_ago(context: Context) -> None:
    system(context).process = Process(9, PROCESS.argv, PROCESS.exe, "/usr/bin", 1.0)


def uninstalled(context: Context) -> None:
    assert cli.run(["node", "uninstall", "--no-restart"], context.system) == 0
    assert context.node is not None
    context.dump = check.dump(context.system, context.node, ETC)


def no_shim(context: Context) -> None:
    del system(context).programs[runtime.SHIM]


def shim_fails(context: Context) -> None:
    sentence = "containerd-shim-copepod-v1: no Python 3.11 or newer on this node"
    system(context).answers[(f"/usr/bin/{runtime.SHIM}", "-v")] = Result(1, "", sentence)


def engine_dies(context: Context) -> None:
    def died(_: bytes) -> Description:
        raise errors.Internal("the wasm engine gave up on this file: Illegal instruction")

    context.describe = died


def open_cache(context: Context) -> None:
    os.chmod(context.system.path(context.settings.cache_dir), 0o755)


def too_old(context: Context) -> None:
    system(context).version = "1.5.18"


def other_version(context: Context) -> None:
    system(context).answers[(f"/usr/bin/{runtime.SHIM}", "-v")] = Result(0, "copepod 9.9.9\n")


def no_cni_settings(context: Context) -> None:
    """containerd's own defaults: Debian's folder for the plugins is not among them."""
    context.dump = {}


def half_a_block(context: Context) -> None:
    text = context.system.read(ETC) or b""
    system(context).put(ETC, text.replace(b"# END copepod", b""))


def no_systemd(context: Context) -> None:
    context.system.remove("/run/systemd/system/x")
    context.system.path("/run/systemd/system").rmdir()


def deaf(context: Context) -> None:
    context.answers = lambda *_, **__: False


def setter(name: str, value: object) -> Callable[[Context], None]:
    return lambda context: setattr(context, name, value)


BROKEN: list[tuple[Callable[[Context], None], str, str, str, str]] = [
    (setter("has_syscall", lambda number: number not in (434, 437)), "fail", "kernel",
     "lacks openat2 .5.6., pidfd_open .5.3.", "5.10 or newer"),
    (setter("has_syscall", lambda number: number != 442), "warn", "kernel", "mount_setattr",
     "5.12"),
    (unmake("/proc/self/ns/user"), "fail", "namespaces", "no user namespaces", "CONFIG_NAMESPACES"),
    (unmake("/proc/sys/kernel/seccomp/actions_avail"), "fail", "seccomp", "can't filter", "CONFIG"),
    (setter("has_library", lambda _: False), "fail", "seccomp", "libseccomp.so.2 is not",
     "install"),
    (put("/proc/sys/user/max_user_namespaces", b"0\n"), "warn", "user namespaces", "off", "sysctl"),
    (put("/proc/self/mounts", b"tmpfs /sys/fs/cgroup tmpfs rw 0 0\n"), "fail", "cgroups",
     "no control groups", "mount cgroup2"),
    (put("/sys/fs/cgroup/cgroup.controllers", b"cpu io\n"), "fail", "cgroups",
     "v2 without memory, pids", "kernel command line"),
    (put("/var/lib/kubelet/config.yaml", b"cgroupDriver: cgroupfs\n"), "warn", "cgroup driver",
     "the kubelet uses cgroupfs, containerd's runc systemd", "both the same"),
    (no_systemd, "warn", "cgroup driver", "systemd is asked for but is not running", "cgroupfs"),
    (no_systemd, "ok", "zygote", "answers", ""),
    (without_node, "fail", "containerd", "no containerd on this node", "install containerd"),
    (stopped, "fail", "containerd", "1.7.34 is not running", "start it"),
    (deaf, "fail", "containerd", "does not answer on", "journal"),
    (deaf, "warn", "zygote", "not running", "copepod-zygote.socket"),
    (uninstalled, "fail", "configuration", "does not know the runtime", "copepod node install"),
    (restarted_long_ago, "warn", "configuration", "not restarted since", "restart containerd"),
    (put(ETC, fakes.BROKEN), "fail", "configuration", "refuses .*failed to load TOML", "repair"),
    (setter("dump_error", "containerd refuses it"), "fail", "configuration", "refuses", "repair"),
    (no_shim, "fail", "shim", "finds no containerd-shim-copepod-v1", "--shim"),
    (shim_fails, "fail", "shim", "does not run: .*no Python 3.11", "Python of 3.11"),
    (unmake("/etc/cni/net.d/10-pods.conflist"), "warn", "pod network", "no CNI configuration in "
     "/etc/cni/net.d", "network add-on"),
    (unmake("/usr/lib/cni/bridge"), "fail", "pod network", "no CNI plugin in /usr/lib/cni",
     "bin_dir"),
    (open_cache, "fail", "cache", "not root's alone", "chmod 0700"),
    (engine_dies, "fail", "engine", "Illegal instruction", "glibc"),
    (setter("describe", lambda _: Description("core", "", (), (), "lacks it")), "fail", "engine",
     "lacks it", "package again"),
    (setter("room", lambda _: 1 << 20), "warn", "cache", "the disk is almost full", "make room"),
    (too_old, "fail", "containerd", "containerd 1.5.18 is too old", "1.6 or newer"),
    (put("/kind/version", b"v0.24.0"), "warn", "containerd", "kind node", ""),
    (other_version, "warn", "shim", "says 'copepod 9.9.9', this tool is", "two installations"),
    (no_cni_settings, "fail", "pod network", "no CNI plugin in /opt/cni/bin", "bin_dir"),
    (half_a_block, "fail", "configuration", "lost its '# END copepod'", "repair"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "kind", "name", "text", "advice"), BROKEN)
def test_a_broken_node(
    tmp_path: Path, spoil: Callable[[Context], None], kind: str, name: str, text: str, advice: str
) -> None:
    context = healthy(tmp_path)
    spoil(context)
    if context.node:
        context.node = detect.find(context.system)
    found = [one for one in look(context) if one.kind == kind and one.check == name]
    assert [one for one in found if re.search(text, one.text) and advice in one.advice], found


def test_dockers_default_and_old_versions(tmp_path: Path) -> None:
    context = healthy(tmp_path)
    system(context).put(ETC, fakes.DOCKER)
    found = list(node.configuration(context))
    assert 'disabled_plugins = ["cri"]' in found[0].text
    context.node = detect.find(fakes.Node(tmp_path, "1.6.20", PROCESS))
    (images,) = [one for one in node.containerd(context) if one.check == "images"]
    assert images.kind == "warn"
    assert "not wasm layers" in images.text


def test_cgroup_v1(tmp_path: Path) -> None:
    context = healthy(tmp_path)
    system(context).put("/proc/self/mounts", b"cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n")
    system(context).put("/proc/cgroups", b"#name h n e\ncpu 1 1 1\nmemory 2 1 1\npids 3 1 1\n")
    assert next(kernel.cgroups(context)).text == "v1 with cpu, memory and pids"
    system(context).put("/proc/cgroups", b"#name h n e\ncpu 1 1 1\nmemory 2 1 0\npids 3 1 1\n")
    assert next(kernel.cgroups(context)).text == "v1 without memory"


def test_nothing_stays_of_the_namespace(tmp_path: Path) -> None:
    """Of the doctor's own; and another doctor's container keeps its folder."""
    context = healthy(tmp_path)
    context.dump = {"root": "/var/lib/containerd", "state": "/run/containerd"}
    for folder in ("/var/lib/containerd/v2.task", "/run/containerd/v2.task"):
        for name in ("copepod-doctor", "k8s.io"):
            system(context).path(f"{folder}/{name}").mkdir(parents=True)
    ours.tidy(context)
    left = {one.name for one in system(context).path("/run/containerd/v2.task").iterdir()}
    assert left == {"k8s.io"}
    busy = "/run/containerd/v2.task/copepod-doctor/another"
    system(context).path(busy).mkdir(parents=True)
    ours.tidy(context)
    assert system(context).exists(busy)
    context.dump = {}
    ours.tidy(context)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines for people, JSON for programs, and 1 when something failed."""
    made = fakes.Node(tmp_path, "1.7.34")
    made.programs.clear()
    assert cli.run(["doctor", "--no-container"], made) == 1
    shown = capsys.readouterr().out
    assert "fail containerd: no containerd on this node" in shown
    assert "→ install containerd" in shown
    assert cli.run(["doctor", "--json"], made) == 1
    found = json.loads(capsys.readouterr().out)
    assert {"kind", "check", "text", "advice"} == set(found[0])
    assert [one["kind"] for one in found if one["check"] == "container"] == ["skip"]


def test_what_can_not_be_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken file of ours, a configuration that containerd refuses, a check that may not look:
    each is a line, and the others are there."""
    made = system(healthy(tmp_path))
    made.put(config.PATH, b"native = 'maybe'\n")
    made.put(ETC, fakes.BROKEN)
    forbidden = made.path("/var/lib/kubelet/config.yaml")
    forbidden.unlink()
    forbidden.mkdir()
    capsys.readouterr()
    assert cli.run(["doctor", "--json", "--no-container"], made) == 1
    found = {one["check"]: one for one in json.loads(capsys.readouterr().out)}
    assert "native must be" in found["settings"]["text"]
    assert found["settings"]["advice"] == "repair it: no shim starts"
    assert f"refuses {ETC}" in found["configuration"]["text"]
    assert "could not be looked at: " in found["cgroups"]["text"]
    assert {"python", "kernel", "containerd", "shim", "zygote", "engine"} <= found.keys()


def test_the_seams_are_real() -> None:
    assert has_syscall(434)
    assert not has_syscall(5000)
    assert has_library("libc.so.6")
    assert not has_library("libnothing.so.9")
    assert not answers("/nonexistent/socket")
    assert room(Path("/")) >= 0
