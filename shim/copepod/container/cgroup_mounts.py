"""Where control groups are mounted, and which directory a container's cgroupsPath means.

It touches nothing but /proc/self/mountinfo and /proc/self/cgroup, and it creates no group.
"""

from __future__ import annotations

import os
from functools import cache

from copepod.errors import FailedPrecondition, InvalidArgument
from copepod.values import dataclass, field

ROOT = "/sys/fs/cgroup"
SYSTEMD = "name=systemd"  # the hierarchy in which systemd keeps its units on version 1

# Controllers of version 1 (cgroups(7)); a mount's super options hold other words, too.
# cpuset and devices come first: a process can't enter a cpuset that has no cpus.
CONTROLLERS = (
    "cpuset",
    "devices",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "freezer",
    "rdma",
    "misc",
    SYSTEMD,
)


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted hierarchy: where it is seen, and which of its groups is at that place."""

    point: str
    root: str = "/"


@dataclass(frozen=True, slots=True)
class Mounts:
    """The machine's hierarchies: version 1 by controller, and the version 2 one."""

    v1: dict[str, Mount] = field(default_factory=dict)
    unified: Mount | None = None

    @property
    def version(self) -> int:
        """2 when the machine is run with version 2 alone, 1 for version 1 and for both.

        A single controller of version 1 mounted inside a version 2 tree (VPN clients do that with
        net_cls) changes nothing: what counts is what /sys/fs/cgroup is.
        """
        if self.unified is None:
            return 1
        real = [name for name in self.v1 if name != SYSTEMD]
        return 2 if self.unified.point == ROOT or not real else 1


def parse_mountinfo(text: str) -> Mounts:
    """Reads proc_pid_mountinfo(5): the first mount of a hierarchy counts, later ones are binds."""
    v1: dict[str, Mount] = {}
    unified: Mount | None = None
    for line in text.splitlines():
        before, found, after = line.partition(" - ")
        if not found or not after.startswith("cgroup"):
            continue
        fields, options = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(options) < 3:
            continue
        mount = Mount(_unescape(fields[4]), _unescape(fields[3]))
        if options[0] == "cgroup2":
            if unified is None or mount.point == ROOT:
                unified = mount
        elif options[0] == "cgroup":
            for name in options[2].split(","):
                if name in CONTROLLERS:
                    v1.setdefault(name, mount)
    return Mounts(v1, unified)


def _unescape(word: str) -> str:
    """Space, tab, newline and backslash stand as octal in mountinfo."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(code, char)
    return word


def parse_own(text: str) -> dict[str, str]:
    """Reads proc_pid_cgroup(5): controller to group; the version 2 one has the name ""."""
    own: dict[str, str] = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            for name in parts[1].split(","):
                own[name] = parts[2]
    return own


@cache
def host() -> Mounts:
    """The mounts of this machine, read once: they don't change while a node runs."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts = parse_mountinfo(file.read())
    if not mounts.v1 and mounts.unified is None:
        raise FailedPrecondition(
            "no cgroup file system is mounted: mount one at /sys/fs/cgroup, as systemd does"
        )
    return mounts


def own() -> dict[str, str]:
    """The groups that this process is in."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        return parse_own(file.read())


BOOTED = "/run/systemd/system"  # sd_booted(3)


def is_scope(cgroups_path: str) -> bool:
    """Whether the path has systemd's shape slice:prefix:name and not that of a directory."""
    return not cgroups_path.startswith("/") and cgroups_path.count(":") == 2


def clean(cgroups_path: str, container_id: str) -> str:
    """The path without `..` that leads out of it; empty means a group with the container's id.

    A relative path stays relative: it starts at the group of the shim.
    """
    path = cgroups_path or container_id
    if "\0" in path or "\n" in path:
        raise InvalidArgument(f"linux.cgroupsPath {path!r} holds a control character")
    inner = os.path.normpath("/" + path).lstrip("/")
    if not inner:
        raise InvalidArgument(
            f"linux.cgroupsPath {path!r} is the root of the hierarchy: name a group below it"
        )
    return f"/{inner}" if path.startswith("/") else inner


def directory(mount: Mount, inner: str, own_group: str) -> str:
    """The directory of a cleaned path in a hierarchy; `own_group` is where a relative one starts.

    An absolute path starts at the mount point: in a container whose mount shows a part of the
    hierarchy only, that part is all there is.
    """
    if inner.startswith("/"):
        return mount.point.rstrip("/") + inner
    start = own_group
    if mount.root != "/":
        start = start[len(mount.root) :] if (start + "/").startswith(mount.root + "/") else ""
    return os.path.normpath(f"{mount.point}/{start}/{inner}")
