"""What a forked child is told: plain data that the plan made from the spec, inherited by fork.

It holds no behaviour but each operation's own; the order of things is child/main.py's.
"""

from __future__ import annotations

from typing import Protocol

from copepod.values import dataclass, field


class Context:
    """What operations of one child hand to each other: fds and findings. All fds die with it.

    root: O_PATH fd of the root-to-be; sources: fds of mounts cloned ahead, by key; master: the
    terminal's master, slave: its other end; cwd: the working directory, as an O_PATH fd; stdio:
    what becomes 0, 1 and 2, all above 2 or -1; held: fds that the engine keeps;
    null: what stands for a stdio of -1;
    hidden: procfs mounts without processes; arguments: where the kernel has this process's;
    labels: fds of security attributes and what is to be written to them;
    guest: wasm will run in this very process; toolbox: the node's own module; unseen: out of the
    container's pid namespace; id_maps: how its user namespace maps users and groups; network: fd
    of its /proc/<pid>/net, or -1.
    """

    __slots__ = (
        "arguments",
        "cwd",
        "guest",
        "held",
        "hidden",
        "id_maps",
        "job",
        "labels",
        "master",
        "network",
        "null",
        "root",
        "slave",
        "sources",
        "stdio",
        "toolbox",
        "unseen",
    )

    def __init__(self, job: Job) -> None:
        self.job = job
        self.root = self.cwd = self.master = self.slave = self.null = self.network = -1
        self.sources: dict[str, int] = {}
        self.stdio = job.stdio
        self.hidden: list[int] = []
        self.arguments = (0, 0)
        self.labels: list[tuple[int, str]] = []
        self.held: frozenset[int] = frozenset()
        self.guest = self.toolbox = self.unseen = False
        self.id_maps = ("", "")


class Op(Protocol):
    """One step of building the walls."""

    def describe(self) -> str:
        """The step in a few words, for error messages and the debug trace."""

    def run(self, context: Context) -> None:
        """Does it; raises OSError."""


@dataclass(frozen=True, slots=True)
class Join:
    """A namespace to enter by path."""

    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Which namespaces are made (`unshare`: CLONE_ flags without user and pid) and joined.

    `middle`: a process in between makes the pid or time namespace that its child is born in.
    `maps`: the shim writes the maps of the new user namespace. `new_pid`: one is made.
    """

    unshare: int = 0
    joins: tuple[Join, ...] = ()
    new_user: bool = False
    new_pid: bool = False
    new_time: bool = False
    pid_path: str = ""
    middle: bool = False
    uid_map: str = ""
    gid_map: str = ""
    time_offsets: str = ""


@dataclass(frozen=True, slots=True)
class ProcMount:
    """A procfs of the container: where, with which mount attributes and options."""

    destination: str
    attributes: int
    data: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limit:
    """setrlimit(2), by number."""

    name: str
    resource: int
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Scheduling:
    """sched_setattr(2), in the kernel's numbers."""

    policy: int
    flags: int
    nice: int
    priority: int
    runtime: int
    deadline: int
    period: int


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the process is at the end. Capability sets are bit masks; umask None: leave it."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    umask: int = 0o022
    bounding: int = 0
    effective: int = 0
    permitted: int = 0
    inheritable: int = 0
    ambient: int = 0
    no_new_privs: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """What runs and what it is given."""

    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = "/"
    identity: Identity = Identity()
    limits: tuple[Limit, ...] = ()
    oom_score_adj: int | None = None
    scheduling: Scheduling | None = None
    io_priority: int | None = None
    cpus_at_first: frozenset[int] | None = None
    cpus: frozenset[int] | None = None
    personality: int | None = None
    memory_policy: tuple[int, bytes] | None = None
    apparmor: str = ""
    selinux: str = ""
    keyring: str = ""
    console_size: tuple[int, int] | None = None  # height, width


@dataclass(frozen=True, slots=True)
class Job:
    """Everything. `outside` runs with the node's privileges, `inside` in the namespaces, `last`
    after the payload has been found, up to pivot_root.

    kind: "create", "sandbox" or "exec". `init_pidfd` and `join_flags` are exec's. `filter` is a
    compiled seccomp program, `filter_flags` its flags of seccomp(2). `hook_state`: the state's JSON
    without what changes (child/hooks.py). `places` is where the spec has mounts or read-only paths.
    """

    kind: str
    bundle: str
    namespaces: Namespaces
    program: Program
    outside: tuple[Op, ...] = ()
    inside: tuple[Op, ...] = ()
    last: tuple[Op, ...] = ()
    proc_mounts: tuple[ProcMount, ...] = ()
    places: tuple[str, ...] = ()
    terminal: bool = False
    native_allowed: bool = True
    hooks_outside: bool = False
    waits: bool = False
    container_hooks: tuple[Hook, ...] = ()
    start_hooks: tuple[Hook, ...] = ()
    hook_state: bytes = b""
    filter: bytes = b""
    filter_flags: int = 0
    profile: object = None
    init_pidfd: int = -1
    init_pid: int = 0
    join_flags: int = 0
    stdio: tuple[int, int, int] = (-1, -1, -1)
    cgroup_fds: tuple[int, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Hook:
    """A program of the node that runs at a point of the container's life."""

    path: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    timeout: int | None
