"""Counts what a runtime can leave behind: processes, mounts, cgroups, network namespaces, sockets,
files and descriptors of one private containerd.

It sees only what belongs to its cell, so that runs beside it do not disturb the count.
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rig.cell import Cell
from rig.containerd import Containerd
from rig.shell import RigError, until

CGROUPS = Path("/sys/fs/cgroup")
# Directories in which one entry stands for one container, pod or stream.
FILES = (
    "state/io.containerd.runtime.v2.task/*/*",
    "root/io.containerd.runtime.v2.task/*/*",
    "state/io.containerd.grpc.v1.cri/*/*",
    "root/io.containerd.grpc.v1.cri/*/*",
    "run/containerd/fifo/*",
    "run/containerd/runc/*/*",
    "run/runc/*",
    "run/copepod/**/*",
)
# What is kept for the next container on purpose.
CACHES = "run/copepod/seccomp"


@dataclass(frozen=True, slots=True)
class Count:
    """What was there, by kind; each thing under a name that a reader recognises."""

    things: dict[str, Counter[str]]

    def since(self, before: "Count") -> list[str]:
        """What is there now and was not before, a line each."""
        found = []
        for kind, now in self.things.items():
            more = now - before.things.get(kind, Counter())
            found += [f"{kind}: {name} (+{number})" for name, number in sorted(more.items())]
        return found

    def totals(self) -> dict[str, int]:
        """How many things of each kind."""
        return {kind: names.total() for kind, names in self.things.items()}


def take(node: Containerd) -> Count:
    """Counts now. containerd may be down."""
    cell = node.cell
    return Count(
        {
            "processes": _processes(cell, {node.pid} if node.running else set()),
            "mounts": _mounts(cell),
            "cgroups": _cgroups(cell.name),
            "netns": _entries(cell.run_dir / "netns", "*"),
            "sockets": _entries(cell.run_dir / "containerd" / "s", "*"),
            "files": _files(cell.home),
            "descriptors": _descriptors(node.pid) if node.running else Counter(),
        }
    )


def settled(node: Containerd, before: Count, timeout: float = 15.0, *, ignore: str = "") -> None:
    """Waits until nothing is left that was not there before; AssertionError names what stays.

    `ignore` is a kind that does not count.
    """
    left: list[str] = []

    def clean() -> bool:
        left[:] = [line for line in take(node).since(before) if line.split(":")[0] != ignore]
        return not left

    try:
        until("the counts to be as before", clean, timeout, pause=0.1)
    except RigError:
        raise AssertionError("left behind:\n" + "\n".join(left)) from None


def _processes(cell: Cell, known: set[int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for pid in cell.residents():
        if pid in known:
            continue
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        found[f"{pid} {b' '.join(words).decode(errors='replace').strip()[:120]}"] += 1
    return found


def _mounts(cell: Cell) -> Counter[str]:
    """Mount points with their types (proc_pid_mountinfo(5))."""
    found: Counter[str] = Counter()
    for line in Path(f"/proc/{cell.pid}/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        found[f"{left.split()[4]} {right.split()[0]}"] += 1
    return found


def _cgroups(token: str) -> Counter[str]:
    """Groups below a top one that is named after the cell, in every hierarchy."""
    found: Counter[str] = Counter()
    for top in [*CGROUPS.glob(token), *CGROUPS.glob(f"*/{token}")]:
        found.update(root for root, _, _ in os.walk(top) if Path(root) != top)
    return found


def _entries(folder: Path, pattern: str) -> Counter[str]:
    return Counter(str(path.relative_to(folder)) for path in folder.glob(pattern))


def _files(home: Path) -> Counter[str]:
    found = (str(path.relative_to(home)) for pattern in FILES for path in home.glob(pattern))
    return Counter(path for path in found if not path.startswith(CACHES))


def _descriptors(pid: int) -> Counter[str]:
    """containerd's open files; sockets are left out, it keeps idle connections at its leisure."""
    found: Counter[str] = Counter()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if not target.startswith("socket:"):
            found["pipe" if target.startswith("pipe:") else target] += 1
    return found
