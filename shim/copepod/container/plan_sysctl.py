"""Kernel parameters of a spec as a step of the plan: pure.

Only those of a namespace of the container are taken: the rest is the whole node's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from copepod import errors

if TYPE_CHECKING:
    from copepod.spec import Spec

# kernel.* parameters that belong to the ipc namespace (ipc_namespaces(7))
_IPC_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in (
        "msgmax",
        "msgmnb",
        "msgmni",
        "sem",
        "shmall",
        "shmmax",
        "shmmni",
        "shm_rmid_forced",
    )
)


def sysctls(spec: Spec) -> tuple[tuple[str, str], ...]:
    """Gives (path below /proc/sys, value) of each; InvalidArgument for one of the node's."""
    kinds = {one.type for one in spec.linux.namespaces}
    wanted = []
    for name, value in spec.linux.sysctl.items():
        path = _dotted(name).translate(str.maketrans("./", "/."))
        kind = _kind(name)
        if kind not in kinds:
            raise errors.InvalidArgument(
                f"linux.sysctl {name} needs a {kind} namespace, and the container has the node's"
            )
        if ".." in path.split("/") or "" in path.split("/"):
            raise errors.InvalidArgument(f"linux.sysctl {name}: there is no such name")
        wanted.append((path, value))
    return tuple(wanted)


def joined(spec: Spec) -> tuple[tuple[str, str, str], ...]:
    """Gives (parameter, type, path) of each whose namespace is joined by a path: whose that is
    only the kernel knows."""
    paths = {one.type: one.path for one in spec.linux.namespaces}
    names = ((name, _kind(name)) for name in spec.linux.sysctl)
    return tuple((name, kind, paths[kind]) for name, kind in names if paths.get(kind))


def _kind(name: str) -> str:
    """Which type of namespace the parameter belongs to."""
    dotted = _dotted(name)
    if dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
        return "ipc"
    if dotted.startswith("net."):
        return "network"
    if dotted == "kernel.domainname":
        return "uts"
    if dotted == "kernel.hostname":
        raise errors.InvalidArgument("linux.sysctl kernel.hostname: set hostname instead")
    if dotted.startswith("user."):
        return "user"
    raise errors.InvalidArgument(
        f"linux.sysctl {name}: it belongs to the whole node, not to a namespace"
    )


def _dotted(name: str) -> str:
    """sysctl(8) takes both separators; the one that comes first is the separator."""
    first = next((char for char in name if char in "./"), ".")
    return name if first == "." else name.translate(str.maketrans("./", "/."))
