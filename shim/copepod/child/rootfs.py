"""The mounts of the root file system, as containerd's snapshotters ask for them.

They are on directories of the node, in the container's own mount namespace; nothing here resolves
a path inside the container.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from copepod.child import idmap
from copepod.child.mounts import Attributes, clone, make
from copepod.linux import mount as m
from copepod.linux.path import O_PATH
from copepod.values import dataclass

if TYPE_CHECKING:
    from copepod.child.job import Context


@dataclass(frozen=True, slots=True)
class RootfsMount:
    """One mount of the root file system, on a directory of the bundle: the node's own paths."""

    type: str
    source: str
    target: str
    bind: bool
    recursive: bool
    attributes: Attributes
    flags: int = 0
    data: tuple[str, ...] = ()
    maps: idmap.Maps | None = None

    def describe(self) -> str:
        return f"mount the root file system {self.type} {self.source} on {self.target}"

    def run(self, context: Context) -> None:
        if not self.bind:
            data = self.data if self.maps is None else self._id_mapped(self.maps)
            mount_words(self.type, self.source, self.target, self.flags, data)
            return
        tree = clone(self.source, self.recursive)
        if self.maps is not None:
            idmap.apply(tree, self.maps, self.source)
        wanted = self.attributes
        if wanted.set or wanted.clear:
            m.mount_setattr(tree, attr_set=wanted.set, attr_clr=wanted.clear, path=self.source)
        # Later changes of the source on the node are none of the container's business.
        m.mount_setattr(tree, propagation=m.MS_PRIVATE, recursive=True, path=self.source)
        target = os.open(self.target, O_PATH)
        m.move_mount(tree, target, self.target)
        os.close(tree)
        os.close(target)

    def _id_mapped(self, maps: idmap.Maps) -> tuple[str, ...]:
        """Gives the data with each layer replaced by an id-mapped mount of it. Those hang in a
        tmpfs below the overlay, out of sight; the overlay keeps them (mount_setattr(2))."""
        words = {word.partition("=")[0]: word.partition("=")[2] for word in self.data}
        layers = words.get("lowerdir", "").split(":")
        if self.type != "overlay" or not layers[0]:
            raise OSError(errno.EINVAL, f"a {self.type} can't be id-mapped", self.target)
        m.mount("tmpfs", self.target, "tmpfs", 0, "mode=0755")
        for number, layer in enumerate(layers):
            tree = clone(layer, False)
            idmap.apply(tree, maps, layer)
            place = f"{self.target}/{number}"
            os.mkdir(place)
            target = os.open(place, O_PATH)
            m.move_mount(tree, target, place)
            os.close(target)
            os.close(tree)
        lower = ":".join(f"{self.target}/{number}" for number in range(len(layers)))
        kept = (word for word in self.data if not word.startswith("lowerdir="))
        return (*kept, f"lowerdir={lower}")


def mount_words(fstype: str, source: str, target: str, flags: int, data: tuple[str, ...]) -> None:
    """mount(2) with containerd's option words. More than a page of them (many layers) is made
    shorter by paths relative to the layers' common directory, or given one by one."""
    text = ",".join(data)
    if len(os.fsencode(text)) < os.sysconf("SC_PAGESIZE"):
        m.mount(source, target, fstype, flags, text)
        return
    lower = next((word[9:].split(":") for word in data if word.startswith("lowerdir=")), [])
    common = os.path.commonpath(lower) if lower else "/"
    rest = [word for word in data if not word.startswith("lowerdir=")]
    short = ":".join(os.path.relpath(path, common) for path in lower)
    text = ",".join([*rest, f"lowerdir={short}"])
    back = os.open(".", O_PATH | os.O_DIRECTORY)
    try:
        os.chdir(common)
        if len(os.fsencode(text)) < os.sysconf("SC_PAGESIZE"):
            m.mount(source, target, fstype, flags, text)
            return
        # Linux 6.5 and newer take the layers one by one, and then there is no limit.
        layers = tuple(f"lowerdir+={path}" for path in lower)
        tree = make(fstype, source, (), (*layers, *rest), 0)
        place = os.open(target, O_PATH)
        m.move_mount(tree, place, target)
        os.close(tree)
        os.close(place)
    finally:
        os.fchdir(back)
        os.close(back)
