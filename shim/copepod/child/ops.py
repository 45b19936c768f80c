"""The steps that are not mounts of their own: propagation, root, masks, sysctls, the pivot.

Each is data with `describe` and `run`; none decides whether it should run. Everything happens
before pivot_root, where the node's /proc is still there: nothing here trusts the container's.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from copepod.linux import libc, ns
from copepod.linux import mount as m
from copepod.linux.path import O_PATH, make_dir, open_in_root
from copepod.values import dataclass

if TYPE_CHECKING:
    from copepod.child.job import Context

_NULL = (1, 3)  # the device number of /dev/null
NULL = "null"  # its key among the sources
_COVER = m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NOEXEC


@dataclass(frozen=True, slots=True)
class Detach:
    """What is mounted from here on is not seen outside; what the node mounts still comes in."""

    def describe(self) -> str:
        return "cut the mount namespace off from the node's"

    def run(self, context: Context) -> None:
        m.mount("", "/", "", m.MS_SLAVE | m.MS_REC)


@dataclass(frozen=True, slots=True)
class OpenRoot:
    """From here on `context.root` is the root-to-be.

    `clone`: as a mount tree of its own, not yet put anywhere. A root that is no mount point needs
    that to become one, and a user namespace, whose root may be unable to go down the path to the
    bundle, and may not move what it inherited (mount_namespaces(7)).
    """

    path: str
    clone: bool

    def describe(self) -> str:
        return f"open the root {self.path}"

    def run(self, context: Context) -> None:
        if self.clone:
            flags = m.OPEN_TREE_CLONE | libc.AT_RECURSIVE
            context.root = m.open_tree(libc.AT_FDCWD, self.path, flags)
            # What the node mounts in a folder of its own is not mounted in the container.
            m.mount_setattr(context.root, propagation=m.MS_PRIVATE, path=self.path)
        else:
            context.root = os.open(self.path, O_PATH | os.O_DIRECTORY)


@dataclass(frozen=True, slots=True)
class PutRoot:
    """Puts a root that was cloned into this mount namespace: onto "/", where every process may
    go. Our own "/" stays the node's until the pivot."""

    def describe(self) -> str:
        return "put the root in its place"

    def run(self, context: Context) -> None:
        top = os.open("/", O_PATH | os.O_DIRECTORY)
        m.move_mount(context.root, top, "/")
        os.close(top)


@dataclass(frozen=True, slots=True)
class Sysctls:
    """Kernel parameters of the container's namespaces: (path below /proc/sys, value)."""

    values: tuple[tuple[str, str], ...]

    def describe(self) -> str:
        return "sysctl " + " ".join(
            f"{path.replace('/', '.')}={text}" for path, text in self.values
        )

    def run(self, context: Context) -> None:
        for path, text in self.values:
            fd = os.open(f"/proc/sys/{path}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            except OSError as error:
                raise OSError(error.errno, f"{error.strerror} ({text!r})", path) from None
            finally:
                os.close(fd)


@dataclass(frozen=True, slots=True)
class Hostname:
    """The names that uname(2) gives; "" leaves one as it is."""

    hostname: str
    domainname: str

    def describe(self) -> str:
        return f"hostname {self.hostname} {self.domainname}".rstrip()

    def run(self, context: Context) -> None:
        if self.hostname:
            ns.set_hostname(self.hostname)
        if self.domainname:
            ns.set_domainname(self.domainname)


@dataclass(frozen=True, slots=True)
class ReadonlyPaths:
    """Each path is bound onto itself, read-only; what does not exist is skipped."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        return "read-only paths " + " ".join(self.paths)

    def run(self, context: Context) -> None:
        for path in self.paths:
            target = _existing(context.root, path)
            if target < 0:
                continue
            tree = m.open_tree(target, "", m.OPEN_TREE_CLONE | libc.AT_RECURSIVE)
            m.mount_setattr(tree, attr_set=m.MOUNT_ATTR_RDONLY, path=path)
            m.mount_setattr(tree, propagation=m.MS_PRIVATE, recursive=True, path=path)
            m.move_mount(tree, target, path)
            os.close(tree)
            os.close(target)


@dataclass(frozen=True, slots=True)
class MaskedPaths:
    """A file is covered by /dev/null, a directory by an empty read-only tmpfs.

    The null device is the node's own, checked; mounts are cloned from fds, so no path of the
    container is a source. Who is behind a container's mounts already has taken hold of the device
    before, as `context.sources[NULL]`.
    """

    paths: tuple[str, ...]
    label: str

    def describe(self) -> str:
        return "masked paths " + " ".join(self.paths)

    def run(self, context: Context) -> None:
        # Before Linux 6.15 only a mount that is attached can be cloned: the first of each kind is.
        first: dict[bool, int] = {}
        for path in self.paths:
            target = _existing(context.root, path)
            if target < 0:
                continue
            is_dir = stat.S_ISDIR(os.fstat(target).st_mode)
            if is_dir in first:
                cover = m.open_tree(first[is_dir], "", m.OPEN_TREE_CLONE)
            else:
                cover = self._empty() if is_dir else null(context.sources.pop(NULL, -1))
            if not is_dir:
                # It is the node's own inode: read-only, so that nobody can chmod(2) it.
                m.mount_setattr(cover, attr_set=_COVER, propagation=m.MS_PRIVATE, path=path)
            m.move_mount(cover, target, path)
            os.close(target)
            if first.setdefault(is_dir, cover) != cover:
                os.close(cover)
        for fd in first.values():
            os.close(fd)

    def _empty(self) -> int:
        context = m.fsopen("tmpfs")
        m.fsconfig(context, "source", "tmpfs")
        m.fsconfig(context, "mode", "0755")
        m.fsconfig(context, "nr_inodes", "1")
        if self.label:
            m.fsconfig(context, "context", self.label)
        m.fsconfig(context, "ro")
        made = m.fsmount(context, m.MOUNT_ATTR_RDONLY)
        os.close(context)
        return made


def null(taken: int = -1) -> int:
    """Gives a detached mount of the node's null device: a new one, or `taken` if it is one."""
    tree = taken
    if tree < 0:
        tree = m.open_tree(libc.AT_FDCWD, "/dev/null", m.OPEN_TREE_CLONE)
    if not is_null(tree):
        os.close(tree)
        raise OSError(errno.ENODEV, "the node's /dev/null is not the null device", "/dev/null")
    return tree


def is_null(fd: int) -> bool:
    """Whether it is the null device, or a mount of it."""
    found = os.fstat(fd)
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(*_NULL)


def _existing(root: int, path: str) -> int:
    try:
        return open_in_root(root, path, O_PATH)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            return -1
        raise


@dataclass(frozen=True, slots=True)
class Freeze:
    """Mounts that are read-only once everything in them has been made; "/" is the root."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        return "read-only from here: " + " ".join(self.paths)

    def run(self, context: Context) -> None:
        for path in self.paths:
            if path == "/":
                m.mount_setattr(context.root, attr_set=m.MOUNT_ATTR_RDONLY, path=path)
                continue
            fd = open_in_root(context.root, path, O_PATH)
            m.mount_setattr(fd, attr_set=m.MOUNT_ATTR_RDONLY, path=path)
            os.close(fd)


@dataclass(frozen=True, slots=True)
class WorkingDirectory:
    """Opens the process's cwd inside the root, making it as runc does.

    Magic links are refused, so `/proc/self/fd/N` leads nowhere (CVE-2024-21626).
    """

    path: str

    def describe(self) -> str:
        return f"working directory {self.path}"

    def run(self, context: Context) -> None:
        context.cwd = make_dir(context.root, self.path)


@dataclass(frozen=True, slots=True)
class Pivot:
    """The root-to-be becomes the root and the node's mounts go; `propagation`: MS_ flags or 0.

    With both arguments "." no directory for the old root is needed (pivot_root(2), NOTES).
    """

    propagation: int = 0

    def describe(self) -> str:
        return "pivot into the root"

    def run(self, context: Context) -> None:
        os.fchdir(context.root)
        m.pivot_root(".", ".")
        m.umount2(".", m.MNT_DETACH)
        os.chdir("/")
        if self.propagation:
            m.mount("", "/", "", self.propagation)
