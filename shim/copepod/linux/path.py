"""Paths inside a root that belongs to someone else: openat2(2) with RESOLVE_IN_ROOT, nothing else.

It follows no link out of the root and no magic link (/proc/*/fd/*), whoever changes the tree
meanwhile; a path is never taken apart and put together again to be resolved by another call.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from copepod.linux import libc

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10
O_PATH = os.O_PATH | os.O_CLOEXEC
MAX_LINKS = 40  # as the kernel's MAXSYMLINKS (path_resolution(7))


class open_how(ctypes.Structure):  # the kernel's name
    """struct open_how of openat2(2)."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_in_root(root: int, path: str, flags: int, mode: int = 0) -> int:
    """Opens `path` as if `root` were `/`; gives a close-on-exec fd.

    Raises OSError with the path. EAGAIN is the kernel's word for "something moved meanwhile", so
    it is tried again, a bounded number of times.
    """
    how = open_how(flags | os.O_CLOEXEC, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    name = os.fsencode(path) or b"/"
    for left in range(64, -1, -1):
        try:
            return libc.syscall(
                libc.SYS_openat2,
                root,
                name,
                ctypes.addressof(how),
                ctypes.sizeof(how),
                path=path,
            )
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR) or not left:
                raise
    raise AssertionError  # the last round raises


def make_dir(root: int, path: str, mode: int = 0o755) -> int:
    """Opens a directory (O_PATH), making what is missing of its path, symbolic links included:
    the target of a dangling one is made inside the root."""
    try:
        return open_in_root(root, path, O_PATH | os.O_DIRECTORY)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    return _walk(root, path, mode)


def make_file(root: int, path: str, mode: int = 0o644) -> int:
    """Opens a file (O_PATH), making an empty one, and its directories, if there is none."""
    try:
        return open_in_root(root, path, O_PATH)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    for _ in range(MAX_LINKS):
        parent, name = split(path)
        directory = make_dir(root, parent)
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDONLY
            os.close(os.open(name, flags | os.O_CLOEXEC, mode, dir_fd=directory))
            return os.open(name, O_PATH | os.O_NOFOLLOW, dir_fd=directory)
        except FileExistsError:
            # A dangling link, or someone was faster: follow it and look again.
            path = _join(parent, _readlink(name, directory, path))
        finally:
            os.close(directory)
        try:
            return open_in_root(root, path, O_PATH)
        except FileNotFoundError:
            continue
    raise libc.fail(path, errno.ELOOP)


def split(path: str) -> tuple[str, str]:
    """Gives (directory, last name) of a path without looking at any file."""
    parent, _, name = path.rstrip("/").rpartition("/")
    return parent or "/", name


def _join(parent: str, target: str) -> str:
    return target if target.startswith("/") else f"{parent.rstrip('/')}/{target}"


def _readlink(name: str, directory: int, path: str) -> str:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), path) from None


def _walk(root: int, path: str, mode: int) -> int:
    """Goes down name by name. `done` holds no links, so `..` is its parent; should someone put a
    link into it meanwhile, openat2 still keeps every step inside the root."""
    left = [name for name in reversed(path.split("/")) if name not in ("", ".")]
    done: list[str] = []
    links = 0
    current = os.open(".", O_PATH | os.O_DIRECTORY, dir_fd=root)
    while left:
        name = left.pop()
        if name == "..":
            del done[-1:]
            os.close(current)
            current = open_in_root(root, "/".join(done), O_PATH | os.O_DIRECTORY)
            continue
        try:
            following = _enter(current, name, mode, path)
        finally:
            os.close(current)
        if stat.S_ISLNK(os.fstat(following).st_mode):
            links += 1
            target = os.readlink("", dir_fd=following)
            os.close(following)
            if links > MAX_LINKS:
                raise libc.fail(path, errno.ELOOP)
            if target.startswith("/"):
                done.clear()
            left += [name for name in reversed(target.split("/")) if name not in ("", ".")]
            current = open_in_root(root, "/".join(done), O_PATH | os.O_DIRECTORY)
            continue
        done.append(name)
        current = following
    if not stat.S_ISDIR(os.fstat(current).st_mode):
        os.close(current)
        raise libc.fail(path, errno.ENOTDIR)
    return current


def _enter(directory: int, name: str, mode: int, path: str) -> int:
    try:
        try:
            return os.open(name, O_PATH | os.O_NOFOLLOW, dir_fd=directory)
        except FileNotFoundError:
            pass
        try:
            os.mkdir(name, mode, dir_fd=directory)
        except FileExistsError:
            pass
        return os.open(name, O_PATH | os.O_NOFOLLOW, dir_fd=directory)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), path) from None
