"""Cached code as a container gets it: open through a read-only mount that hangs in no namespace.

The container's process keeps the file open, and who may trace that process, in a pod that shares
its process namespace for instance, can open its files again: for writing, if the mount allows it.
It would be native code for every other pod of that image (the way of CVE-2019-5736). It protects
nothing from the node's own root.
"""

from __future__ import annotations

import os

from copepod.linux import libc
from copepod.linux import mount as m

_ATTRS = m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV
_READ = os.O_RDONLY | os.O_CLOEXEC

# By the cache's folder: one mount for all its files, since giving one back takes a millisecond.
_trees: dict[str, int] = {}


def seal(root: str, fd: int) -> int:
    """Gives another descriptor of the file, for which `fd` is closed; `root` is the cache's folder.

    A file in memory stays as it is: it is one container's alone. So does every file where the
    kernel has no such mounts (before Linux 5.12) or we are not root.
    """
    name = os.readlink(f"/proc/self/fd/{fd}")
    if name.startswith("/memfd:"):
        return fd
    for way in (_through, _alone):
        try:
            again = way(root, "/".join(name.split("/")[-2:]), fd)
        except OSError:
            continue
        if again >= 0:
            os.close(fd)
            return again
    return fd


def prepare(root: str) -> None:
    """Makes the mount for the cache at `root` ahead of the first file, if that can be done."""
    try:
        _tree(root)
    except OSError:
        pass  # there is no cache yet, or none for us


def forget() -> None:
    """Gives all mounts back."""
    while _trees:
        os.close(_trees.popitem()[1])


def _through(root: str, name: str, fd: int) -> int:
    """Opens the file by its name below the cache; -1 where that is another one or none any more."""
    for _ in range(2):
        tree = _tree(root)
        try:
            again = os.open(name, _READ | os.O_NOFOLLOW, dir_fd=tree)
        except OSError:
            again = -1
        if again >= 0:
            if os.path.sameopenfile(again, fd):
                return again
            os.close(again)
        if os.path.samestat(os.stat(root), os.stat(tree)):
            return -1
        os.close(_trees.pop(root))  # the folder was removed and made again
    return -1


def _alone(_root: str, _name: str, fd: int) -> int:
    """Opens a file that has no name any more, through a mount of its own."""
    tree = m.detached(fd, "", _ATTRS)
    try:
        return os.open(f"/proc/self/fd/{tree}", _READ)
    finally:
        os.close(tree)


def _tree(root: str) -> int:
    if root not in _trees:
        _trees[root] = m.detached(libc.AT_FDCWD, root, _ATTRS)
    return _trees[root]
