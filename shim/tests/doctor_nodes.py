"""A node on which `copepod doctor` finds nothing wrong, for tests to break."""

from __future__ import annotations

from pathlib import Path

import cli_fakes as fakes
from copepod import __version__, config
from copepod.cli import command as cli
from copepod.cli.doctor.context import Context
from copepod.cli.image.describe import Description
from copepod.cli.node import check, detect, runtime
from copepod.cli.system import Process, Result

ETC = "/etc/containerd/config.toml"
PROCESS = Process(9, ("/usr/bin/containerd",), "/usr/bin/containerd", "/usr/bin", 1e10)
GOOD = Description("core", "preview 1", (), ())


def healthy(root: Path, version: str = "1.7.34", etc: bytes = fakes.KUBEADM_DEBIAN_12) -> Context:
    """A node on which nothing is wrong."""
    made = fakes.Node(root, version, PROCESS)
    made.put("/usr/bin/containerd", b"")
    made.put(ETC, etc)
    assert cli.run(["node", "install", "--no-restart"], made) == 0
    for name in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts"):
        made.put(f"/proc/self/ns/{name}", b"")
    made.put("/proc/sys/kernel/seccomp/actions_avail", b"kill errno allow")
    made.put("/proc/sys/user/max_user_namespaces", b"15000\n")
    made.put("/proc/self/mounts", b"cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n")
    made.put("/sys/fs/cgroup/cgroup.controllers", b"cpuset cpu io memory pids\n")
    made.put("/run/systemd/system/x", b"")
    made.put("/var/lib/kubelet/config.yaml", b"cgroupDriver: systemd\n")
    made.put("/etc/cni/net.d/10-pods.conflist", b"{}")
    made.put("/usr/lib/cni/bridge", b"")
    made.answers[(f"/usr/bin/{runtime.SHIM}", "-v")] = Result(0, f"copepod {__version__}\n")
    made.path(config.Config().cache_dir).mkdir(0o700, parents=True)
    found = detect.find(made)
    return Context(
        made, config.Config(), found, dump=check.dump(made, found, ETC), kernel="6.1.0",
        has_syscall=lambda _: True, has_library=lambda _: True, answers=lambda *_, **__: True,
        describe=lambda _: GOOD,
    )  # fmt: skip


def system(context: Context) -> fakes.Node:
    assert isinstance(context.system, fakes.Node)
    return context.system
