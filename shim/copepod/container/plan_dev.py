"""What /dev of a container holds, as steps of the plan: pure.

It refuses device types that mknod(2) does not know.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from copepod import errors
from copepod.child import mounts
from copepod.child.dev import Devices, Links, Node, Terminal

if TYPE_CHECKING:
    from copepod.child import job as j
    from copepod.spec import Device, Spec

__all__ = ["Terminal", "clones", "nodes"]

# What every container has (config-linux.md, "Default Devices").
_DEFAULTS = (
    Node("/dev/null", stat.S_IFCHR | 0o666, 1, 3),
    Node("/dev/random", stat.S_IFCHR | 0o666, 1, 8),
    Node("/dev/full", stat.S_IFCHR | 0o666, 1, 7),
    Node("/dev/tty", stat.S_IFCHR | 0o666, 5, 0),
    Node("/dev/zero", stat.S_IFCHR | 0o666, 1, 5),
    Node("/dev/urandom", stat.S_IFCHR | 0o666, 1, 9),
)
_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
_LINKS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
    ("/dev/ptmx", "pts/ptmx"),
)


def _all(spec: Spec) -> tuple[Node, ...]:
    # As in runc: a device without a path is there for nothing but its rule.
    wanted = (one for one in spec.linux.devices if one.path not in ("", "/dev/ptmx"))
    own = {one.path: _node(one) for one in wanted}
    defaults = (node for node in _DEFAULTS if node.path not in own)
    return (*defaults, *own.values())


def _node(one: Device) -> Node:
    if one.type not in _TYPES:
        raise errors.InvalidArgument(f"linux.devices {one.path}: there is no type {one.type!r}")
    mode = 0o666 if one.file_mode is None else one.file_mode
    return Node(
        one.path, _TYPES[one.type] | stat.S_IMODE(mode), one.major, one.minor, one.uid, one.gid
    )


def nodes(spec: Spec, in_userns: bool) -> tuple[j.Op, ...]:
    """Gives the devices, and the links; /dev/ptmx is always the container's own."""
    return Devices(_all(spec), in_userns), Links(_LINKS, ("/dev/ptmx",))


def clones(spec: Spec) -> tuple[mounts.Clone, ...]:
    """Gives the node's devices to take hold of for a user namespace, where mknod(2) fails."""
    return tuple(mounts.Clone(node.path, node.path, False) for node in _all(spec))
