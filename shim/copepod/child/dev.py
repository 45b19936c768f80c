"""/dev of a container: device nodes, the usual links, and the terminal of its own devpts.

It makes no mount but the console's and binds of nodes; whether there is a /dev to fill is the
plan's to know.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import termios
from functools import cache
from typing import TYPE_CHECKING

from copepod.child import ops
from copepod.child.mounts import target_of
from copepod.linux import libc
from copepod.linux import mount as m
from copepod.linux.path import make_dir, open_in_root, split
from copepod.values import dataclass

if TYPE_CHECKING:
    from copepod.child.job import Context

TIOCGPTPEER = 0x5441
TIOCSPTLCK = 0x40045431
_PTMX = (5, 2)
KCORE = "/proc/kcore"  # not every kernel has it, and a link to nothing helps nobody


@cache
def null_mount() -> int:
    """Gives the node's null device as a read-only mount that hangs nowhere: a container's root may
    not chmod(2) what the whole node uses. It is kept, since giving one back takes a millisecond."""
    return ops.null(m.detached(libc.AT_FDCWD, "/dev/null", m.MOUNT_ATTR_RDONLY))


def node_null() -> int:
    """Opens the device of `null_mount` for reading and writing."""
    return os.open(f"/proc/self/fd/{null_mount()}", os.O_RDWR | os.O_CLOEXEC)


def own_null(root: int, instead: int) -> int:
    """Opens the container's null device, if what it has there is one; else gives `instead`.

    Whatever an image puts in its place is never used (CVE-2025-31133).
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK
    try:
        probe = open_in_root(root, "/dev/null", os.O_PATH | os.O_NOFOLLOW)
        real = ops.is_null(probe)
        os.close(probe)
        fd = open_in_root(root, "/dev/null", flags) if real else -1
    except OSError:
        return instead
    if fd < 0 or ops.is_null(fd):
        return fd if fd >= 0 else instead
    os.close(fd)
    return instead


@dataclass(frozen=True, slots=True)
class Node:
    """A device node: `mode` with its type bits."""

    path: str
    mode: int
    major: int
    minor: int
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Devices:
    """Makes the nodes; `bind`: a user namespace may make none, so the node's own are bound."""

    nodes: tuple[Node, ...]
    bind: bool

    def describe(self) -> str:
        return "devices " + " ".join(node.path for node in self.nodes)

    def run(self, context: Context) -> None:
        parents: dict[str, int] = {}
        old = os.umask(0)
        for node in self.nodes:
            if self.bind:
                _bind_node(context, node)
                continue
            parent, name = split(node.path)
            if parent not in parents:
                parents[parent] = make_dir(context.root, parent)
            try:
                _make(parents[parent], name, node)
            except OSError as error:
                raise OSError(error.errno, error.strerror, node.path) from None
        os.umask(old)
        for fd in parents.values():
            os.close(fd)


def _make(parent: int, name: str, node: Node) -> None:
    try:
        os.mknod(name, node.mode, os.makedev(node.major, node.minor), dir_fd=parent)
    except FileExistsError:
        # An image may bring its own; another device under that name would be a lie.
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        same = found.st_rdev == os.makedev(node.major, node.minor)
        if stat.S_IFMT(found.st_mode) != stat.S_IFMT(node.mode) or not same:
            raise
        return
    if node.uid or node.gid:
        os.chown(name, node.uid, node.gid, dir_fd=parent, follow_symlinks=False)


def _bind_node(context: Context, node: Node) -> None:
    source = context.sources.get(node.path, -1)
    if source < 0:
        source = m.open_tree(libc.AT_FDCWD, node.path, m.OPEN_TREE_CLONE)
    target = target_of(context.root, node.path, is_dir=False)
    m.move_mount(source, target, node.path)
    os.close(source)
    os.close(target)


@dataclass(frozen=True, slots=True)
class Links:
    """Symbolic links below /dev: (path, target); what is there already stays, but for `force`."""

    links: tuple[tuple[str, str], ...]
    force: tuple[str, ...] = ()

    def describe(self) -> str:
        return "links " + " ".join(f"{path}->{target}" for path, target in self.links)

    def run(self, context: Context) -> None:
        parents: dict[str, int] = {}
        for path, target in self.links:
            parent, name = split(path)
            if target == KCORE and not os.path.exists(target):
                continue
            if parent not in parents:
                parents[parent] = make_dir(context.root, parent)
            if path in self.force:
                _remove(name, parents[parent])
            try:
                os.symlink(target, name, dir_fd=parents[parent])
            except FileExistsError:
                pass
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from None
        for fd in parents.values():
            os.close(fd)


def _remove(name: str, parent: int) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass


@dataclass(frozen=True, slots=True)
class Terminal:
    """A new terminal in the container's devpts; `console`: it is seen as /dev/console, too.

    Its other end comes from the master itself (TIOCGPTPEER), never from a path that the container
    could have replaced (CVE-2025-52565).
    """

    uid: int
    size: tuple[int, int] | None
    console: bool

    def describe(self) -> str:
        return "terminal"

    def run(self, context: Context) -> None:
        flags = os.O_RDWR | os.O_NOCTTY
        master = open_in_root(context.root, "/dev/pts/ptmx", flags)
        found = os.fstat(master)
        if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(*_PTMX):
            raise OSError(errno.ENODEV, "not a terminal multiplexer", "/dev/pts/ptmx")
        fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master, TIOCGPTPEER, flags | os.O_CLOEXEC)
        if self.size is not None:
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", *self.size, 0, 0))
        if self.uid:
            os.fchown(slave, self.uid, -1)
        if self.console:
            target = target_of(context.root, "/dev/console", is_dir=False)
            tree = m.open_tree(slave, "", m.OPEN_TREE_CLONE)
            m.move_mount(tree, target, "/dev/console")
            os.close(tree)
            os.close(target)
        context.master, context.slave = master, slave
