"""tmpcopyup: a new tmpfs starts with what its directory held.

It copies directories, files, links and their owners, modes, times and extended attributes by fd,
following nothing; device nodes, sockets and FIFOs are left out.
"""

from __future__ import annotations

import errno
import os
import stat

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def copy(source: int, target: int) -> None:
    """Copies what is in the directory `source` (an O_PATH fd) into the directory `target`."""
    opened = os.open(".", _DIR, dir_fd=source)
    into = os.open(".", _DIR, dir_fd=target)
    try:
        _directory(opened, into)
        _attributes(opened, into)
    finally:
        os.close(opened)
        os.close(into)


def _directory(source: int, target: int) -> None:
    for name in os.listdir(source):
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
        elif kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
            _both(name, source, target, _DIR, _DIR, _directory)
        elif kind == stat.S_IFREG:
            read = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            write = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            _both(name, source, target, read, write, _bytes)


def _both(name, source, target, read, write, fill) -> None:  # type: ignore[no-untyped-def]
    one = os.open(name, read, dir_fd=source)
    two = os.open(name, write, 0o600, dir_fd=target)
    try:
        fill(one, two)
        _attributes(one, two)
    finally:
        os.close(one)
        os.close(two)


def _bytes(source: int, target: int) -> None:
    while os.sendfile(target, source, None, 1 << 20):
        pass


def _attributes(source: int, target: int) -> None:
    found = os.fstat(source)
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    for name in os.listxattr(source):
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            # A tmpfs takes only some namespaces of attributes (xattr(7)).
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                raise
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
