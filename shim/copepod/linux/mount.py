"""The mount system calls, old and new, under their kernel names.

It decides nothing: which mount goes where is the plan's. Sources: mount(2), umount2(2),
pivot_root(2), open_tree(2), move_mount(2), fsopen(2), fsconfig(2), fsmount(2), mount_setattr(2).
"""

from __future__ import annotations

import ctypes
import os
import sys

from copepod.linux import libc

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_MANDLOCK = 0x40
MS_DIRSYNC = 0x80
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SILENT = 0x8000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MS_RELATIME = 0x200000
MS_I_VERSION = 0x800000
MS_STRICTATIME = 0x1000000
MS_LAZYTIME = 0x2000000

MNT_DETACH = 2

_STATFS = 256  # bytes, more than struct statfs has anywhere

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000


class mount_attr(ctypes.Structure):  # the kernel's name
    """struct mount_attr of mount_setattr(2)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount(source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
    """mount(2); `data` is at most one page less a byte."""
    result = libc.named("mount")(
        os.fsencode(source) or None,
        os.fsencode(target),
        os.fsencode(fstype) or None,
        flags,
        os.fsencode(data) or None,
    )
    if result < 0:
        raise libc.fail(target)


def umount2(target: str, flags: int) -> None:
    """umount2(2)."""
    if libc.named("umount2")(os.fsencode(target), flags) < 0:
        raise libc.fail(target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    if libc.named("pivot_root")(os.fsencode(new_root), os.fsencode(put_old)) < 0:
        raise libc.fail(new_root)


def open_tree(dirfd: int, path: str, flags: int) -> int:
    """open_tree(2); an empty path means `dirfd` itself. Gives a close-on-exec fd."""
    flags |= OPEN_TREE_CLOEXEC | (0 if path else libc.AT_EMPTY_PATH)
    return libc.syscall(libc.SYS_open_tree, dirfd, os.fsencode(path), flags, path=path)


def detached(dirfd: int, path: str, attrs: int) -> int:
    """Gives a mount of what is at `path` that hangs in no namespace, with these attributes; what
    is mounted there later is not mounted in it. `path` and errors as with `open_tree`."""
    tree = open_tree(dirfd, path, OPEN_TREE_CLONE)
    try:
        mount_setattr(tree, attr_set=attrs, propagation=MS_PRIVATE, path=path)
    except BaseException:
        os.close(tree)
        raise
    return tree


def move_mount(mount_fd: int, target_fd: int, path: str = "") -> None:
    """move_mount(2): puts the mount behind `mount_fd` onto `target_fd`; `path` is for errors."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    libc.syscall(libc.SYS_move_mount, mount_fd, b"", target_fd, b"", flags, path=path)


def mount_setattr(
    fd: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    recursive: bool = False,
    path: str = "",
) -> None:
    """mount_setattr(2) on the mount behind `fd`; `path` is for errors."""
    attr = mount_attr(attr_set, attr_clr, propagation, userns_fd)
    flags = libc.AT_EMPTY_PATH | (libc.AT_RECURSIVE if recursive else 0)
    size = ctypes.sizeof(attr)
    libc.syscall(libc.SYS_mount_setattr, fd, b"", flags, ctypes.addressof(attr), size, path=path)


def fstype(fd: int) -> int:
    """Gives the magic number of the file system that `fd` is on: f_type of fstatfs(2)."""
    data = ctypes.create_string_buffer(_STATFS)
    if libc.named("fstatfs")(fd, ctypes.addressof(data)) < 0:
        raise libc.fail()
    return int.from_bytes(data.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder)


def fsopen(fstype: str) -> int:
    """fsopen(2): a configuration context for a file system of that type."""
    return libc.syscall(libc.SYS_fsopen, os.fsencode(fstype), FSOPEN_CLOEXEC, path=fstype)


def fsconfig(fd: int, key: str, value: str | None = None) -> None:
    """fsconfig(2): sets a flag, or a string of at most 255 bytes."""
    if value is None:
        libc.syscall(libc.SYS_fsconfig, fd, FSCONFIG_SET_FLAG, os.fsencode(key), 0, 0, path=key)
    else:
        libc.syscall(
            libc.SYS_fsconfig,
            fd,
            FSCONFIG_SET_STRING,
            os.fsencode(key),
            os.fsencode(value),
            0,
            path=f"{key}={value}",
        )


def fsmount(fd: int, attrs: int) -> int:
    """Makes the super block and gives its mount, detached: fsconfig's CREATE, then fsmount(2)."""
    libc.syscall(libc.SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, 0, 0, 0)
    return libc.syscall(libc.SYS_fsmount, fd, FSMOUNT_CLOEXEC, attrs)


def fslog(fd: int) -> str:
    """Gives the last thing that the file system said in its context, "" if nothing (fsopen(2))."""
    said = ""
    for _ in range(8):
        try:
            said = os.read(fd, 1024).decode("utf-8", "replace").strip() or said
        except OSError:
            break
    return said[2:] if said[1:2] == " " else said
