"""What spawn is asked for and what it asks back: plain data between the rooms.

It does nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from copepod.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from copepod.container.spawn import Process
    from copepod.engine.limits import Knobs
    from copepod.spec import Process as ProcessSpec
    from copepod.spec import RootfsMount, Spec


@dataclass(frozen=True, slots=True)
class Order:
    """What a container is made of. `stdio`: fds that become 0, 1, 2 (-1: /dev/null), they stay
    the caller's; with `terminal` they are not looked at and `Process.console` is the master.

    `sandbox`: be the pod's waiting process; `limits`: what a wasm guest may use, the engine's
    defaults if None. The last three are called once the child is forked: `network` makes a network
    namespace for it and hands its descriptor to whom it is given, `forked` is given the child's
    pid, and `built` comes after its last mount of anything new.
    """

    id: str
    namespace: str
    bundle: str
    spec: Spec
    rootfs: tuple[RootfsMount, ...]
    stdio: tuple[int, int, int]
    terminal: bool
    cgroup_fds: list[int]
    sandbox: bool = False
    native_allowed: bool = True
    limits: Knobs | None = None
    network: Callable[[Callable[[int], None]], None] | None = None
    forked: Callable[[int], None] | None = None
    built: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class ExecOrder:
    """A process that joins the container whose first process is `init`; `spec` is the
    container's (for its namespaces and seccomp profile), `toolbox` what stands in the place of
    `limits` for the node's own tools, the rest as in Order."""

    id: str
    spec: Spec
    bundle: str
    process: ProcessSpec
    init: Process
    stdio: tuple[int, int, int]
    terminal: bool
    cgroup_fds: list[int]
    native_allowed: bool = True
    limits: Knobs | None = None
    toolbox: Knobs | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What args[0] names. kind "wasm": a file, open at `fd`, which the receiver closes, and its
    sha256 if known; "missing": no such file, so a layer of the image may be meant; `searched` says
    where.

    `stale`: the engine refused the file that it was given before; it has to be compiled anew.
    """

    kind: str
    name: str
    digest: str
    fd: int
    searched: str
    rootfs_layers: bool
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Module:
    """Compiled code: `kind` is "core" or "component"; spawn closes `fd`. `toolbox`: it is the
    node's own, which the image may have a copy of."""

    fd: int
    kind: str
    entry: str | None = None
    toolbox: bool = False
