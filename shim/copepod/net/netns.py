"""Network namespaces with a name: made, with `lo` up, pinned under /run/netns, removed by name.

A namespace that CNI has made is not its business.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from copepod.errors import AlreadyExists, InvalidArgument, StepFailed
from copepod.linux import mount, ns
from copepod.net import links

if TYPE_CHECKING:
    from collections.abc import Callable

RUN = "/run/netns"  # where ip-netns(8) looks for names
_UMOUNT_NOFOLLOW = 8  # umount2(2)


def create(name: str, made: Callable[[int], None] | None = None) -> str:
    """Makes the namespace and gives its path; it lives until `remove`, with or without processes.

    This process, which has one thread, is in it meanwhile: a child that was so would cost ten
    times as much. `made` is given a descriptor of it, for the call, before it has a name and its
    loopback is up. AlreadyExists when the name is taken, StepFailed when the kernel refuses;
    nothing is left then.
    """
    path = _path(name)
    step = "unshare"
    own = ns.own("net")
    try:
        try:
            ns.unshare(ns.CLONE_NEWNET)
            if made is not None:
                step = "hand out"
                _hand_out(made)
            step = "lo-up"
            links.set_up(links.LOOPBACK)
            step = "mount"
            _mount("/proc/self/ns/net", name)
        finally:
            _return_to(own)
    except OSError as error:
        raise StepFailed(step, error.errno or errno.EIO, path) from None
    finally:
        os.close(own)
    return path


def _hand_out(made: Callable[[int], None]) -> None:
    fd = ns.own("net")
    try:
        made(fd)
    finally:
        os.close(fd)


def _return_to(own: int) -> None:
    """Back into the namespace of before. A process that could not do that would give its next
    containers the wrong network: it ends, and containerd cleans up."""
    try:
        ns.setns(own, ns.CLONE_NEWNET)
    except BaseException as error:
        os.write(2, f"copepod: can't return to the node's network namespace: {error}\n".encode())
        os._exit(1)


def pin(name: str, pid: int) -> str:
    """Gives the network namespace that process `pid` is in a name; the rest is as with `create`.

    For a container whose first process has made its own namespace, which costs no fork here and
    lets the container's user namespace own it.
    """
    source = f"/proc/{pid}/ns/net"
    try:
        return _mount(source, name)
    except OSError as error:
        raise StepFailed("network namespace", error.errno or 0, source) from None


def remove(name: str) -> None:
    """Unpins the namespace; the kernel frees it with its last process. Gone already is fine.

    For anyone, at any time: it needs no loop and no state. StepFailed when it can't be unmounted.
    """
    path = _path(name)
    if not os.path.lexists(path):
        return
    try:
        while True:  # once for each time that it was mounted
            mount.umount2(path, mount.MNT_DETACH | _UMOUNT_NOFOLLOW)
    except OSError as error:
        # EINVAL says that it is a plain file by now.
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise StepFailed("umount", error.errno or 0, path) from None
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StepFailed("unlink", error.errno or 0, path) from None


def _mount(source: str, name: str) -> str:
    """Gives the namespace at `source` its name; OSError where it can't be mounted."""
    path = _claim(name)
    try:
        mount.mount(source, path, "", mount.MS_BIND)
    except BaseException:
        remove(name)
        raise
    return path


def _claim(name: str) -> str:
    """Makes the empty file that a namespace is going to be mounted on."""
    path = _path(name)
    try:
        _make_directory()
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    except FileExistsError:
        text = f"the network namespace {path} exists: `ip netns delete {name}`"
        raise AlreadyExists(text) from None
    except OSError as error:
        raise StepFailed("network namespace", error.errno or 0, error.filename or RUN) from None
    return path


def _path(name: str) -> str:
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise InvalidArgument(f"{name!r} can't be the name of a network namespace")
    return f"{RUN}/{name}"


def _make_directory() -> None:
    """Makes /run/netns a shared mount of its own, as `ip netns add` does.

    A mount in it is then seen, and gone when unmounted, in every mount namespace that has a copy:
    otherwise a copy would keep a dead container's namespace alive.
    """
    os.makedirs(RUN, 0o755, exist_ok=True)
    import fcntl

    lock = os.open(RUN, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # `ip netns add` takes the same one
        if _is_shared():
            return
        try:
            mount.mount("", RUN, "", mount.MS_SHARED | mount.MS_REC)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # It is no mount point yet.
            mount.mount(RUN, RUN, "", mount.MS_BIND | mount.MS_REC)
            mount.mount("", RUN, "", mount.MS_SHARED | mount.MS_REC)
    finally:
        os.close(lock)


def _is_shared() -> bool:
    """Whether it is done already: proc_pid_mountinfo(5), the optional field shared:N."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            if fields[4] == RUN and any(f.startswith("shared:") for f in fields[6:9]):
                return True
    return False
