"""Id-mapped mounts: a user namespace made for its maps alone, and mount_setattr(2) with it.

It maps mounts that are still detached; the kernel refuses any other.
"""

from __future__ import annotations

import errno
import os
import signal

from copepod.linux import mount as m
from copepod.linux import ns
from copepod.values import dataclass


@dataclass(frozen=True, slots=True)
class Maps:
    """The lines of uid_map and gid_map (user_namespaces(7)): inside, outside, count."""

    uid: str
    gid: str
    recursive: bool = False


def apply(tree: int, maps: Maps, path: str) -> None:
    """Id-maps the detached mount `tree`; raises OSError with `path`."""
    userns = user_namespace(maps)
    try:
        m.mount_setattr(
            tree,
            attr_set=m.MOUNT_ATTR_IDMAP,
            userns_fd=userns,
            recursive=maps.recursive,
            path=path,
        )
    finally:
        os.close(userns)


def user_namespace(maps: Maps) -> int:
    """Gives the fd of a new user namespace with those maps; no process stays in it.

    A map is written from outside, so a child enters the namespace and waits to be looked at. It
    tells its pid as the node's /proc has it: we may be in a pid namespace that counts otherwise.
    """
    ours, theirs = os.pipe()
    waiting, alive = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours)
            os.close(alive)
            ns.unshare(ns.CLONE_NEWUSER)
            os.write(theirs, os.readlink("/proc/self").encode())
            os.read(waiting, 1)  # the end of its parent is its own
        finally:
            os._exit(1)
    try:
        os.close(theirs)
        number = os.read(ours, 32)
        if not number:
            raise OSError(errno.EPERM, "no user namespace can be made for an id-mapped mount")
        write_maps(int(number), maps.uid, maps.gid)
        return os.open(f"/proc/{int(number)}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in (ours, waiting, alive):
            os.close(fd)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def write_maps(pid: int, uid: str, gid: str) -> None:
    """Writes a process's id maps, once, with the node's privileges (user_namespaces(7))."""
    for name, text in (("uid_map", uid), ("gid_map", gid)):
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
