"""The mounts of a container: each made detached, given its flags, then put onto its target's fd.

A target is looked up (and made, if missing) by openat2 inside the root and used by fd, so that
nobody can put a link in its place meanwhile. It mounts nothing over /proc but what lxcfs-like
tools may replace there.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from copepod.child import copyup, idmap
from copepod.linux import libc
from copepod.linux import mount as m
from copepod.linux.path import O_PATH, make_dir, make_file, open_in_root
from copepod.values import dataclass

if TYPE_CHECKING:
    from copepod.child.job import Context

# Files of /proc that may be covered by something that counts for the container (lxcfs);
# anything else there would be a lie to programs that trust /proc (CVE-2019-16884).
_COVERABLE = frozenset(
    "/proc/" + name
    for name in (
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
        "net/dev",
    )
)
_STRING_MAX = 255  # fsconfig(2) takes no longer one
_FLAGS = m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV | m.MOUNT_ATTR_NOEXEC


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a mount gets before it is put in its place, in mount_setattr(2)'s terms."""

    set: int = 0
    clear: int = 0
    rec_set: int = 0
    rec_clear: int = 0
    propagation: tuple[int, ...] = ()

    def apply(self, fd: int, path: str) -> None:
        """The recursive attributes and the propagation; `set` and `clear` are the mounts' own."""
        if self.rec_set or self.rec_clear:
            m.mount_setattr(
                fd, attr_set=self.rec_set, attr_clr=self.rec_clear, recursive=True, path=path
            )
        for kind in self.propagation:
            recursive = bool(kind & m.MS_REC)
            m.mount_setattr(fd, propagation=kind & ~m.MS_REC, recursive=recursive, path=path)


@dataclass(frozen=True, slots=True)
class Clone:
    """Takes hold of a bind mount's source ahead of its time: with the node's privileges, for a
    user namespace, or while it still shares its mounts with the node, for `shared` propagation."""

    key: str
    source: str
    recursive: bool
    maps: idmap.Maps | None = None

    def describe(self) -> str:
        return f"take the mount source {self.source}"

    def run(self, context: Context) -> None:
        tree = clone(self.source, self.recursive)
        if self.maps is not None:
            idmap.apply(tree, self.maps, self.source)
        context.sources[self.key] = tree


def clone(source: str, recursive: bool) -> int:
    """Gives a detached mount of what is at `source`, a path of the node."""
    flags = m.OPEN_TREE_CLONE | (libc.AT_RECURSIVE if recursive else 0)
    return m.open_tree(libc.AT_FDCWD, source, flags)


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of the node, at `destination`; `key` names a clone taken before."""

    source: str
    destination: str
    recursive: bool
    attributes: Attributes
    exact: bool = False
    key: str = ""

    def describe(self) -> str:
        return f"bind {self.source} on {self.destination}"

    def run(self, context: Context) -> None:
        tree = context.sources.pop(self.key, -1) if self.key else -1
        if tree < 0:
            tree = clone(self.source, self.recursive)
        is_dir = stat.S_ISDIR(os.fstat(tree).st_mode)
        target = target_of(
            context.root, self.destination, is_dir=is_dir, procfs=self._is_proc(tree)
        )
        self._set(tree)
        self.attributes.apply(tree, self.destination)
        m.move_mount(tree, target, self.destination)
        os.close(tree)
        os.close(target)

    def _set(self, tree: int) -> None:
        """As mount(8) and runc do, a bind with options has those and not its source's; flags that
        a user namespace locked can't be cleared and stay (mount_namespaces(7))."""
        wanted = self.attributes
        if not (wanted.set or wanted.clear):
            return
        clear = wanted.clear | (_FLAGS & ~wanted.set if self.exact else 0)
        try:
            m.mount_setattr(tree, attr_set=wanted.set, attr_clr=clear, path=self.destination)
        except OSError as error:
            if error.errno != errno.EPERM or clear == wanted.clear:
                raise
            m.mount_setattr(tree, attr_set=wanted.set, attr_clr=wanted.clear, path=self.destination)

    def _is_proc(self, tree: int) -> bool:
        if not self.destination.startswith("/proc"):
            return False
        return os.fstat(tree).st_dev == os.stat("/proc").st_dev


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A new file system at `destination`; `flags` are MS_ flags for one that only mount(2) can
    make, `late`: what the container's /dev needs first, so read-only comes at the end."""

    type: str
    source: str
    destination: str
    attributes: Attributes
    supers: tuple[str, ...] = ()
    flags: int = 0
    data: tuple[str, ...] = ()
    copyup: bool = False

    def describe(self) -> str:
        options = f" ({','.join(self.data)})" if self.data else ""
        return f"mount {self.type} on {self.destination}{options}"

    def run(self, context: Context) -> None:
        real = self.type in ("proc", "sysfs")
        data = self.data
        if self.type == "tmpfs":
            data = self._mode(context.root) + data
        target = target_of(
            context.root, self.destination, is_dir=True, procfs=self.type == "proc", real=real
        )
        if any(len(word) > _STRING_MAX for word in data):
            place = f"/proc/self/fd/{target}"
            # A value with a comma (a label with categories) is quoted there.
            words = (word.replace("=", '="', 1) + '"' if "," in word else word for word in data)
            m.mount(self.source, place, self.type, self.flags, ",".join(words))
            tree = open_in_root(context.root, self.destination, O_PATH)
            self.attributes.apply(tree, self.destination)
            os.close(tree)
        else:
            tree = make(self.type, self.source, self.supers, data, self.attributes.set)
            if self.copyup:
                copyup.copy(target, tree)
            self.attributes.apply(tree, self.destination)
            m.move_mount(tree, target, self.destination)
            os.close(tree)
        os.close(target)

    def _mode(self, root: int) -> tuple[str, ...]:
        """A tmpfs keeps the permissions of the directory that it covers, as in runc."""
        try:
            fd = open_in_root(root, self.destination, O_PATH)
        except OSError:
            return ()
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        os.close(fd)
        return (f"mode={mode:04o}",)


def make(
    fstype: str, source: str, supers: tuple[str, ...], data: tuple[str, ...], attrs: int
) -> int:
    """Makes a file system and gives its detached mount; what the file system itself says of a
    failure is in the OSError's text."""
    return configured(m.fsopen(fstype), source, supers, data, attrs)


def configured(
    context: int, source: str, supers: tuple[str, ...], data: tuple[str, ...], attrs: int
) -> int:
    """The same for what fsopen(2) has given, which is closed."""
    try:
        if source:
            m.fsconfig(context, "source", source)
        for flag in supers:
            m.fsconfig(context, flag)
        for word in data:
            key, found, value = word.partition("=")
            m.fsconfig(context, key, value if found else None)
        return m.fsmount(context, attrs)
    except OSError as error:
        said = m.fslog(context)
        if said:
            raise OSError(error.errno, f"{error.strerror} ({said})", error.filename) from None
        raise
    finally:
        os.close(context)


def target_of(
    root: int, path: str, *, is_dir: bool, procfs: bool = False, real: bool = False
) -> int:
    """Opens (O_PATH) the place for a mount, made if missing. `procfs`: what comes there is a
    procfs itself; `real`: the place must be no symbolic link, however harmless."""
    plain = os.path.normpath("/" + path)
    if plain in ("/", "//"):
        raise OSError(errno.EBUSY, "a mount can't replace the root itself", path)
    if real:
        _refuse_link(root, plain)
    target = make_dir(root, path) if is_dir else make_file(root, path)
    # Where it really is: the container's image may have led us elsewhere by links.
    place = os.readlink(f"/proc/self/fd/{target}")
    base = os.readlink(f"/proc/self/fd/{root}")
    inside = place[len(base) :] if base != "/" else place
    if inside.startswith("/proc/") and inside not in _COVERABLE:
        os.close(target)
        raise OSError(errno.EACCES, "nothing may be mounted inside /proc", path)
    if inside == "/proc" and not procfs:
        os.close(target)
        raise OSError(errno.EACCES, "only a proc file system may be mounted on /proc", path)
    return target


def _refuse_link(root: int, plain: str) -> None:
    try:
        fd = open_in_root(root, plain, O_PATH | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    mode = os.fstat(fd).st_mode
    os.close(fd)
    if not stat.S_ISDIR(mode):
        raise OSError(errno.ENOTDIR, "it must be mounted on an ordinary directory", plain)
