"""The OCI runtime spec as frozen dataclasses: what containerd wrote into config.json, typed.

It judges shapes only (a string where a string belongs) and refuses nothing that has the right
shape: whether a wish can be fulfilled is known by the room that fulfils it. Field names are
those of the runtime spec (github.com/opencontainers/runtime-spec, config.md and config-linux.md,
version 1.3) in snake_case; unknown fields are ignored, as the spec's "extensibility" demands.
"""

from __future__ import annotations

from copepod.spec_resources import Resources
from copepod.values import dataclass, field


@dataclass(frozen=True, slots=True)
class IDMapping:
    """`size` ids from `container_id` on, inside, are those from `host_id` on, outside."""

    container_id: int = 0
    host_id: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Mount:
    """One entry of `mounts`; `uid_mappings` and `gid_mappings` ask for an id-mapped mount."""

    destination: str = ""
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class RootfsMount:
    """One mount of CreateTaskRequest.rootfs (containerd.types.Mount); `target` is below rootfs."""

    type: str = ""
    source: str = ""
    target: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Root:
    """The root file system: a path (relative to the bundle) and whether it is read-only."""

    path: str = "rootfs"
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class User:
    """Whom the process runs as; `umask` None means 0022, `username` is not looked at on Linux."""

    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()
    username: str = ""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The five sets of capabilities(7), as names such as CAP_CHOWN."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rlimit:
    """One getrlimit(2) limit; the values are unsigned 64 bit, all ones meaning none."""

    type: str = ""
    hard: int = 0
    soft: int = 0


@dataclass(frozen=True, slots=True)
class Box:
    """The size of the terminal in characters."""

    height: int = 0
    width: int = 0


@dataclass(frozen=True, slots=True)
class Scheduler:
    """sched_setattr(2): policy and flags by name, times in nanoseconds."""

    policy: str = ""
    nice: int = 0
    priority: int = 0
    flags: tuple[str, ...] = ()
    runtime: int = 0
    deadline: int = 0
    period: int = 0


@dataclass(frozen=True, slots=True)
class IOPriority:
    """ioprio_set(2): IOPRIO_CLASS_RT, _BE or _IDLE, and 0 (first) to 7."""

    class_: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class CPUAffinity:
    """CPU lists ("0-3,7"): while a process is put into the container's cgroup, and after."""

    initial: str = ""
    final: str = ""


@dataclass(frozen=True, slots=True)
class Process:
    """What runs, as whom, with which limits."""

    terminal: bool = False
    console_size: Box | None = None
    user: User = User()
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = "/"
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    oom_score_adj: int | None = None
    scheduler: Scheduler | None = None
    selinux_label: str = ""
    io_priority: IOPriority | None = None
    exec_cpu_affinity: CPUAffinity | None = None


@dataclass(frozen=True, slots=True)
class Hook:
    """A program of the node to run at a point of the container's life; `timeout` in seconds."""

    path: str = ""
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


@dataclass(frozen=True, slots=True)
class Hooks:
    """All six kinds of hook; the runtime spec's lifecycle says when each runs."""

    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace to make (`path` empty) or to join."""

    type: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """A node to make in the container: `type` c, u, b or p."""

    path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class SeccompArg:
    """A comparison of one argument of a system call; `op` is a SCMP_CMP_ name."""

    index: int = 0
    value: int = 0
    value_two: int = 0
    op: str = ""


@dataclass(frozen=True, slots=True)
class SeccompRule:
    """What happens when one of `names` is called with arguments that match all of `args`."""

    names: tuple[str, ...] = ()
    action: str = ""
    errno_ret: int | None = None
    args: tuple[SeccompArg, ...] = ()


@dataclass(frozen=True, slots=True)
class Seccomp:
    """The seccomp profile, resolved by containerd; `flags` None: nothing is said of them."""

    default_action: str = ""
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] | None = None
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[SeccompRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Personality:
    """The execution domain of personality(2): LINUX or LINUX32."""

    domain: str = "LINUX"
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TimeOffset:
    """What is added to a clock in the container's time namespace."""

    secs: int = 0
    nanosecs: int = 0


@dataclass(frozen=True, slots=True)
class MemoryPolicy:
    """set_mempolicy(2): an MPOL_ mode, MPOL_F_ flags, and a list of nodes."""

    mode: str = ""
    nodes: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NetDevice:
    """The name that a network device of the host gets in the container, "" to keep it."""

    name: str = ""


@dataclass(frozen=True, slots=True)
class IntelRdt:
    """The resctrl group to join and its schemata."""

    clos_id: str = ""
    schemata: tuple[str, ...] = ()
    l3_cache_schema: str = ""
    mem_bw_schema: str = ""


@dataclass(frozen=True, slots=True)
class Linux:
    """The platform part of the spec."""

    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()
    sysctl: dict[str, str] = field(default_factory=dict)
    resources: Resources | None = None
    cgroups_path: str = ""
    namespaces: tuple[Namespace, ...] = ()
    devices: tuple[Device, ...] = ()
    net_devices: dict[str, NetDevice] = field(default_factory=dict)
    seccomp: Seccomp | None = None
    rootfs_propagation: str = ""
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str = ""
    intel_rdt: IntelRdt | None = None
    memory_policy: MemoryPolicy | None = None
    personality: Personality | None = None
    time_offsets: dict[str, TimeOffset] = field(default_factory=dict)

    def namespace(self, kind: str) -> Namespace | None:
        """Gives the namespace of that type ("pid", "network", ...), None if it is the host's."""
        return next((ns for ns in self.namespaces if ns.type == kind), None)


@dataclass(frozen=True, slots=True)
class Spec:
    """A whole config.json."""

    oci_version: str = ""
    process: Process | None = None
    root: Root = Root()
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    linux: Linux = field(default_factory=Linux)


def load(path: str) -> Spec:
    """Reads a config.json; raises OSError, or InvalidArgument naming the field that is wrong."""
    with open(path, "rb") as file:
        return parse(file.read())


def parse(data: bytes) -> Spec:
    """Takes the bytes of a config.json; raises InvalidArgument naming the field that is wrong."""
    from copepod import spec_parse

    return spec_parse.spec(data)


def parse_process(data: bytes) -> Process:
    """Takes the JSON of one process, as Exec brings it; errors as `parse`."""
    from copepod import spec_parse

    return spec_parse.process(data)


def parse_resources(data: bytes) -> Resources:
    """Takes the JSON of linux.resources, as Update brings it; errors as `parse`."""
    from copepod import spec_parse

    return spec_parse.resources(data)
