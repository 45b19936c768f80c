"""/sys/fs/cgroup as a container sees it: version 1 by hierarchy, version 2 as one tree.

It changes no limit. The groups shown are those that the process itself has been put into.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from copepod.child.mounts import Attributes, Bind, make, target_of
from copepod.linux import mount as m
from copepod.linux.path import make_dir
from copepod.values import dataclass

if TYPE_CHECKING:
    from copepod.child.job import Context

_SAFE = m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV | m.MOUNT_ATTR_NOEXEC


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mounted hierarchy of version 1: where, its root there, and the controllers, in order."""

    point: str
    root: str
    controllers: tuple[str, ...]

    @property
    def name(self) -> str:
        """The directory's name, such as "cpu,cpuacct" or "systemd"."""
        return self.point.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class CgroupV1:
    """A tmpfs with a directory for each hierarchy. Without a cgroup namespace the container's own
    group is bound there, with one the kernel shows it that group as the root."""

    destination: str
    hierarchies: tuple[Hierarchy, ...]
    namespace: bool
    attributes: Attributes

    def describe(self) -> str:
        return f"mount cgroup v1 on {self.destination}"

    def run(self, context: Context) -> None:
        target = target_of(context.root, self.destination, is_dir=True)
        tmpfs = make("tmpfs", "tmpfs", (), ("mode=755",), _SAFE)
        m.move_mount(tmpfs, target, self.destination)
        own = {} if self.namespace else _own_groups()
        readonly = self.attributes.set & m.MOUNT_ATTR_RDONLY
        for hierarchy in self.hierarchies:
            place = f"{self.destination}/{hierarchy.name}"
            if self.namespace:
                self._mount(context, hierarchy, place, readonly)
            else:
                source = _directory(hierarchy, own)
                flags = Attributes(set=_SAFE | readonly)
                if source:
                    Bind(source, place, False, flags).run(context)
        for hierarchy in self.hierarchies:
            for one in hierarchy.name.split(",") if "," in hierarchy.name else ():
                os.symlink(hierarchy.name, one, dir_fd=tmpfs)
        self.attributes.apply(tmpfs, self.destination)
        if readonly:
            m.mount_setattr(tmpfs, attr_set=readonly, path=self.destination)
        os.close(tmpfs)
        os.close(target)

    def _mount(self, context: Context, hierarchy: Hierarchy, place: str, readonly: int) -> None:
        target = make_dir(context.root, place)
        words = hierarchy.controllers
        if any(word.startswith("name=") for word in words):
            tree = make("cgroup", hierarchy.name, (), ("none", *words), _SAFE | readonly)
        else:
            tree = make("cgroup", "cgroup", (), words, _SAFE | readonly)
        m.move_mount(tree, target, place)
        os.close(tree)
        os.close(target)


@dataclass(frozen=True, slots=True)
class CgroupV2:
    """The unified tree; a user namespace without a cgroup namespace may mount none, so the
    node's is bound there."""

    destination: str
    point: str
    namespace: bool
    attributes: Attributes
    data: tuple[str, ...] = ()

    def describe(self) -> str:
        return f"mount cgroup v2 on {self.destination}"

    def run(self, context: Context) -> None:
        try:
            tree = make("cgroup2", "cgroup", (), self.data, self.attributes.set)
        except OSError as error:
            if self.namespace or error.errno not in (errno.EPERM, errno.EBUSY):
                raise
            Bind(self.point, self.destination, True, self.attributes).run(context)
            return
        target = target_of(context.root, self.destination, is_dir=True)
        self.attributes.apply(tree, self.destination)
        m.move_mount(tree, target, self.destination)
        os.close(tree)
        os.close(target)


def _own_groups() -> dict[str, str]:
    """Gives controller -> group of this process (proc_pid_cgroup(5))."""
    own: dict[str, str] = {}
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            parts = line.rstrip("\n").split(":", 2)
            for name in parts[1].split(","):
                own[name] = parts[2]
    return own


def _directory(hierarchy: Hierarchy, own: dict[str, str]) -> str:
    group = next((own[name] for name in hierarchy.controllers if name in own), None)
    if group is None:
        return ""
    if hierarchy.root != "/":
        group = group.removeprefix(hierarchy.root)
    return hierarchy.point.rstrip("/") + group
