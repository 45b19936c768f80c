"""The `linux.resources` part of the OCI runtime spec (config-linux.md, control groups), typed.

It holds limits and does not write them: None is "not asked for", which differs from 0.
"""

from __future__ import annotations

from copepod.values import dataclass, field


@dataclass(frozen=True, slots=True)
class DeviceRule:
    """Allows or denies `access` (any of r, w, m) to devices; None is "all of them"."""

    allow: bool = False
    type: str = ""
    major: int | None = None
    minor: int | None = None
    access: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory limits in bytes; -1 is "no limit"."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = None
    swappiness: int | None = None
    disable_oom_killer: bool | None = None
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


@dataclass(frozen=True, slots=True)
class CPU:
    """CPU limits, times in microseconds; `cpus` and `mems` are lists such as "0-2,7"."""

    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


@dataclass(frozen=True, slots=True)
class Pids:
    """How many tasks there may be; 0 and below is "no limit"."""

    limit: int | None = None


@dataclass(frozen=True, slots=True)
class WeightDevice:
    """A block device's share."""

    major: int = 0
    minor: int = 0
    weight: int | None = None
    leaf_weight: int | None = None


@dataclass(frozen=True, slots=True)
class ThrottleDevice:
    """A block device's ceiling, in bytes or operations per second."""

    major: int = 0
    minor: int = 0
    rate: int = 0


@dataclass(frozen=True, slots=True)
class BlockIO:
    """Block IO limits."""

    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = ()


@dataclass(frozen=True, slots=True)
class HugepageLimit:
    """Bytes of huge pages of one size, which is written as the kernel does ("2MB")."""

    page_size: str = ""
    limit: int = 0


@dataclass(frozen=True, slots=True)
class InterfacePriority:
    """The priority of traffic that leaves through an interface."""

    name: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Network:
    """The net_cls and net_prio controllers of cgroup v1."""

    class_id: int | None = None
    priorities: tuple[InterfacePriority, ...] = ()


@dataclass(frozen=True, slots=True)
class Rdma:
    """Limits of one RDMA device."""

    hca_handles: int | None = None
    hca_objects: int | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """All limits; `unified` is written to cgroup v2 files as it is."""

    devices: tuple[DeviceRule, ...] = ()
    memory: Memory | None = None
    cpu: CPU | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = None
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    network: Network | None = None
    rdma: dict[str, Rdma] = field(default_factory=dict)
    unified: dict[str, str] = field(default_factory=dict)
