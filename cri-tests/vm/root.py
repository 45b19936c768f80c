"""The node's disk: Debian 13 by mmdebstrap, made once and kept in the cache.

It holds nothing of ours: what is tested travels on a second disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rig import config, debian
from rig.paths import cache_dir
from rig.shell import RigError, run

SUITE = "trixie"
PACKAGES = (
    "apparmor",
    "busybox-static",
    "containerd",
    "containernetworking-plugins",
    "dbus",
    "iproute2",
    "iptables",
    "kmod",
    "libseccomp2",
    "linux-image-cloud-amd64",
    "procps",
    "python3",
    "runc",
    "systemd",
    "systemd-sysv",
)
LEFT_OUT = ("/usr/share/man/*", "/usr/share/locale/*")
SIZE = "4G"
BUILD_TIMEOUT = 1800.0
LABEL = "copepod-payload"

_UNIT = """[Unit]
Description=Tests of Copepod on this node
After=multi-user.target containerd.service
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=exec
WorkingDirectory=/payload/code
Environment=PYTHONDONTWRITEBYTECODE=1
ExecStart=/usr/bin/python3 -m vm.inside /dev/ttyS1

[Install]
WantedBy=graphical.target
"""
_CRICTL = """runtime-endpoint: unix:///run/containerd/containerd.sock
image-endpoint: unix:///run/containerd/containerd.sock
timeout: 240
"""
FILES = {
    "etc/hostname": "copepod-vm\n",
    "etc/fstab": f"LABEL={LABEL} /payload ext4 ro 0 2\n",
    "etc/crictl.yaml": _CRICTL,
    "etc/cni/net.d/10-copepod.conflist": config.conflist("pods0", "10.99.0.0/24"),
    "etc/systemd/system/copepod-vm.service": _UNIT,
}
# containerd's own limits are for real processors.
CONTAINERD = """
# An administrator's part: an emulated processor is slow.
[timeouts]
  "io.containerd.timeout.shim.cleanup" = "60s"
  "io.containerd.timeout.shim.load" = "60s"
  "io.containerd.timeout.shim.shutdown" = "60s"
  "io.containerd.timeout.task.state" = "30s"
"""
# Whatever talks to the first serial line, waits for a network, or wakes up in between.
MASKED = (
    "serial-getty@ttyS0.service",
    "getty@tty1.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "systemd-tmpfiles-clean.timer",
)


@dataclass(frozen=True, slots=True)
class Disk:
    """A directory of the cache: the disk, and the kernel that boots it; and the tree it is of."""

    home: Path
    tree: Path

    @property
    def image(self) -> Path:
        return self.home / "root.ext4"

    @property
    def kernel(self) -> Path:
        return self.home / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.home / "initrd.img"


def ensure() -> Disk:
    """The disk, after making what of it the recipe has changed."""
    packages = (SUITE, PACKAGES, LEFT_OUT)
    folder = cache_dir() / "vm"
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tree = _cached(folder / f"tree-{_key(packages)}", _debian)
        recipe = (packages, SIZE, FILES, CONTAINERD, MASKED)
        home = _cached(folder / f"disk-{_key(recipe)}", lambda stage: _disk(tree, stage))
    return Disk(home, tree)


def _key(recipe: object) -> str:
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]


def _cached(home: Path, make: Callable[[Path], None]) -> Path:
    """A directory of the cache; those of older recipes are removed when a new one is made."""
    if home.is_dir():
        return home
    stage = home.with_name(f".{home.name}.{os.getpid()}")
    try:
        make(stage)
        for stale in home.parent.glob(f"{home.name.split('-')[0]}-*"):
            shutil.rmtree(stale)
        stage.rename(home)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return home


def _debian(stage: Path) -> None:
    debian.need("mmdebstrap", "e2fsprogs", "debian-archive-keyring")
    excludes = [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    include = f"--include={','.join(PACKAGES)}"
    argv = ["nice", "mmdebstrap", "--quiet", "--variant=minbase", include, *excludes]
    run([*argv, SUITE, stage, mirror()], timeout=BUILD_TIMEOUT)


def _disk(tree: Path, stage: Path) -> None:
    stage.mkdir()
    for name in ("vmlinuz", "initrd.img"):
        (found,) = (tree / "boot").glob(f"{name}-*")
        shutil.copyfile(found, stage / name)
    furnish(tree)
    disk(tree, stage / "root.ext4", SIZE, "copepod-root")


def furnish(tree: Path) -> None:
    """Writes our own files into a root and settles what starts there; may be done again."""
    for name, text in FILES.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tree / "payload").mkdir(exist_ok=True)
    path = tree / "etc/containerd/config.toml"
    text = path.read_text() if path.exists() else "version = 2\n"
    path.write_text(text.partition(CONTAINERD)[0] + CONTAINERD)
    units = tree / "etc/systemd/system"
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    wants = units / "graphical.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "copepod-vm.service").unlink(missing_ok=True)
    (wants / "copepod-vm.service").symlink_to("/etc/systemd/system/copepod-vm.service")


def disk(tree: Path, image: Path, size: str, label: str) -> None:
    """An ext4 image of a directory (mke2fs -d: owners, modes and links as they are)."""
    run(["truncate", "-s", size, image])
    argv = ["nice", "mkfs.ext4", "-q", "-F", "-L", label, "-m", "0", "-d", str(tree), str(image)]
    run(argv, timeout=BUILD_TIMEOUT)


def mirror(apt: Path = Path("/etc/apt")) -> str:
    """The mirror that this machine's own apt takes Debian from."""
    sources = [*(apt / "sources.list.d").glob("*"), *apt.glob("*.list"), *apt.glob("*.sources")]
    for path in sorted(path for path in sources if path.is_file()):
        for line in path.read_text(errors="replace").splitlines():
            found = re.match(
                r"(?:URIs:|deb(?: \[[^]]*\])?)\s+(https?://\S+/debian)/?(?:\s|$)", line
            )
            if found:
                return found[1]
    raise RigError("apt's sources name no mirror of Debian: on another system there is no make vm")
