"""The network namespace that a container of `ctr run` gets from us; CNI makes those of pods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from copepod.digest import sha256

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack

    from copepod.spec import Spec


def wanted(spec: Spec) -> bool:
    """Whether it is to have a new one and gives no path."""
    return any(n.type == "network" and not n.path for n in spec.linux.namespaces)


def name(bundle: str) -> str:
    """Gives the name under /run/netns of the bundle's own network namespace."""
    return f"copepod-{sha256(bundle.encode()).hexdigest()[:16]}"


def make(name: str, made: Callable[[int], None], undo: AsyncExitStack) -> None:
    """Makes it, with that name; see `net.netns.create`."""
    from copepod.net import netns

    netns.create(name, made)
    undo.callback(netns.remove, name)


def pin(name: str, pid: int, undo: AsyncExitStack) -> None:
    """Names the one that the process has made itself."""
    from copepod.net import netns

    netns.pin(name, pid)
    undo.callback(netns.remove, name)
