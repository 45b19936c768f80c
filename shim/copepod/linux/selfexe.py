"""This program's own file, out of reach of the containers that are forked from it.

A container can make a process of ours execute /proc/self/exe, or look at one that it may trace,
and so get hold of the file that the node's shims are run from, to write into it once nobody runs
it (CVE-2019-5736). Run from a read-only mount that hangs in no namespace, the file can't be
opened for writing by that way, and nobody inside can make the mount writable again. It protects
no file from the node's own root.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from copepod.linux import libc
from copepod.linux import mount as m

if TYPE_CHECKING:
    from collections.abc import Mapping

_ATTRS = m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV


def is_protected() -> bool:
    """Whether this process runs from a read-only mount already."""
    return bool(os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY)


def execute_protected(argv: list[str], env: Mapping[Any, Any]) -> None:
    """Runs this process's program again, from such a mount; returns only by an OSError.

    `argv[0]` should be the interpreter's path: that is what it finds its library by. Costs one
    start of the interpreter, so it is for a process that many others are forked from.
    """
    tree = m.detached(libc.AT_FDCWD, os.readlink("/proc/self/exe"), _ATTRS)
    try:
        os.execve(tree, argv, env)
    finally:
        os.close(tree)
