"""The node itself, before anything of ours is there."""

from __future__ import annotations

from pathlib import Path

from vm.inside.node import BUSYBOX, CGROUPS, PAYLOAD, WORK, ctr, run, show, systemctl, until
from vm.inside.report import check


@check("the node: systemd, control groups version 2, containerd", vital=True)
def node() -> str:
    until("the end of the boot", lambda: _booted() or None, 300)
    controllers = (CGROUPS / "cgroup.controllers").read_text().split()
    assert {"cpu", "memory", "pids", "io"} <= set(controllers), controllers
    systemctl("start", "containerd")
    WORK.mkdir(parents=True, exist_ok=True)
    version = run("containerd", "--version").out.split()[2]
    systemd = run("systemctl", "--version").out.split()[1]
    kernel = Path("/proc/sys/kernel/osrelease").read_text().strip()
    return f"Linux {kernel}, systemd {systemd}, containerd {version}"


def _booted() -> bool:
    return show("multi-user.target", "ActiveState")["ActiveState"] == "active"


@check("images are imported", vital=True)
def import_images() -> None:
    ctr("images", "import", str(PAYLOAD / "images.tar"))
    names = ctr("images", "ls", "-q").out.split()
    assert BUSYBOX in names, names
    pause = next(name for name in names if "/pause:" in name)
    for line in run("containerd", "config", "dump").out.splitlines():
        key, _, value = line.partition("=")
        wanted = value.strip().strip("\"'")
        if key.strip() == "sandbox_image" and wanted not in names:
            ctr("images", "tag", pause, wanted)
