"""What a runtime can leave behind on a node: counted before, looked for after."""

from __future__ import annotations

import os
from pathlib import Path

from vm.inside.node import CGROUPS, systemctl, until
from vm.inside.report import Failed

# One entry stands for one container, pod, shim, stream or network namespace.
FOLDERS = (
    "/run/netns",
    "/run/containerd/s",
    "/run/containerd/fifo",
    "/run/containerd/io.containerd.runtime.v2.task/k8s.io",
    "/run/containerd/io.containerd.runtime.v2.task/default",
    "/run/containerd/io.containerd.grpc.v1.cri/sandboxes",
    "/run/containerd/io.containerd.grpc.v1.cri/containers",
    "/var/lib/containerd/io.containerd.runtime.v2.task/k8s.io",
)


def count() -> set[str]:
    """A line for each thing that is there now."""
    found = {f"process {line}" for line in _processes()}
    found |= {f"mount {line}" for line in _mounts()}
    found |= {f"cgroup {path}" for path in _groups()}
    units = systemctl("list-units", "--all", "--plain", "--no-legend", "--type=scope", check=False)
    found |= {f"unit {line.split()[0]}" for line in units.out.splitlines() if line.strip()}
    for folder in FOLDERS:
        if os.path.isdir(folder):
            found |= {f"file {folder}/{name}" for name in os.listdir(folder)}
    return found


def settled(before: set[str]) -> None:
    """Waits until nothing is there that was not before; Failed names what stays."""
    left: set[str] = set()

    def clean() -> bool:
        left.clear()
        left.update(count() - before)
        return not left

    try:
        until("the counts to be as before", clean, 30)
    except Failed:
        raise Failed("left behind: " + "; ".join(sorted(left))) from None


def _processes() -> list[str]:
    """Shims, containers and helpers: ours by name, or in other pid namespaces than the node's."""
    own, found = os.readlink("/proc/self/ns/pid"), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            comm = (entry / "comm").read_text().strip()
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            foreign = os.readlink(entry / "ns/pid") != own
        except OSError:
            continue
        # The fork server is there or not, as systemd likes; its children are what counts.
        if "lib/copepod" in words and "zygote.py" in words and comm.startswith("python"):
            continue
        if foreign or comm.startswith("copepod") or "containerd-shim" in words:
            found.append(f"{entry.name} {comm} {words[:80].strip()}")
    return found


def _mounts() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines]


def _groups() -> list[str]:
    """Containers' groups, and pods' slices; the slices above are the kubelet's for good."""
    groups = [root for root, _, _ in os.walk(CGROUPS)]
    return [path for path in groups if ".scope" in path or "-pod" in os.path.basename(path)]
