"""Names and properties of systemd units: pure translation of paths and OCI resources.

It asks systemd nothing; what a version of systemd does not know is left out, and the cgroup files
still get it.
"""

from __future__ import annotations

from typing import Any

from copepod.container.cgroup_v1_limits import checked_shares
from copepod.container.cgroup_v2_limits import cpu_weight, swap_max
from copepod.errors import InvalidArgument
from copepod.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from copepod.container.devices import Rules
    from copepod.spec_resources import CPU, Memory, Resources

Property = tuple[str, tuple[str, Any]]  # name, (D-Bus signature, value)

INFINITY = (1 << 64) - 1
_PERIOD = 100_000  # us, the kernel's default (cgroup-v2.rst, cpu.max)

# The first systemd that knows a property (its NEWS file).
_QUOTA_PERIOD, _CPUSET, _IDLE, _OOM_POLICY = 242, 244, 252, 253


def expand_slice(name: str) -> str:
    """The path of a slice: a-b.slice is /a.slice/a-b.slice (systemd.slice(5))."""
    stem = name.removesuffix(".slice")
    if stem == name or not stem or "/" in name:
        raise InvalidArgument(f"{name!r} is not the name of a systemd slice (such as a-b.slice)")
    if stem == "-":
        return "/"
    path, prefix = "", ""
    for part in stem.split("-"):
        if not part:
            raise InvalidArgument(f"{name!r} is not the name of a systemd slice: a dash is bare")
        path += f"/{prefix}{part}.slice"
        prefix += f"{part}-"
    return path


def unit_name(prefix: str, name: str) -> str:
    """prefix-name.scope, unless the name asks for a slice by its ending."""
    if name.endswith(".slice"):
        return name
    return f"{prefix}-{name}.scope" if prefix else f"{name}.scope"


def resource_properties(
    resources: Resources, cgroup_version: int, systemd_version: int, *, new: bool
) -> list[Property]:
    """What systemd can be told of the limits; `new` adds what it takes only with a new unit."""
    properties: list[Property] = []
    if resources.memory:
        properties += _memory(resources.memory, cgroup_version)
    if resources.cpu:
        properties += _cpu(resources.cpu, cgroup_version, systemd_version)
    if resources.pids and resources.pids.limit is not None:
        # 0 is refused; 1 forbids as much, see pids_max.
        limit = resources.pids.limit
        properties.append(("TasksMax", ("t", INFINITY if limit < 0 else max(limit, 1))))
    if resources.block_io and resources.block_io.weight and cgroup_version == 1:
        properties.append(("BlockIOWeight", ("t", resources.block_io.weight)))
    if cgroup_version == 2:
        known = dict(properties)
        for key, value in resources.unified.items():
            known |= _unified(key, value.strip(), systemd_version, new)
        properties = list(known.items())
    return properties


def _bytes(value: int) -> int:
    return INFINITY if value < 0 else value


def _memory(memory: Memory, cgroup_version: int) -> list[Property]:
    properties: list[Property] = []
    if memory.limit:
        name = "MemoryMax" if cgroup_version == 2 else "MemoryLimit"
        properties.append((name, ("t", _bytes(memory.limit))))
    if cgroup_version == 2:
        if memory.reservation:
            properties.append(("MemoryLow", ("t", _bytes(memory.reservation))))
        swap = swap_max(memory.limit or 0, memory.swap or 0)
        if swap is not None:
            properties.append(("MemorySwapMax", ("t", INFINITY if swap == "max" else int(swap))))
    return properties


def _cpu(cpu: CPU, cgroup_version: int, systemd_version: int) -> list[Property]:
    properties: list[Property] = []
    if cgroup_version == 1:
        if cpu.shares:
            properties.append(("CPUShares", ("t", checked_shares(cpu.shares))))
    elif cpu.idle and systemd_version >= _IDLE:
        properties.append(("CPUWeight", ("t", 0)))  # systemd's word for cpu.idle
    elif cpu.shares:
        properties.append(("CPUWeight", ("t", cpu_weight(cpu.shares))))
    properties += _quota(cpu.quota or 0, cpu.period or 0, systemd_version)
    if systemd_version >= _CPUSET:
        if cpu.cpus:
            properties.append(("AllowedCPUs", ("ay", set_bits(cpu.cpus))))
        if cpu.mems:
            properties.append(("AllowedMemoryNodes", ("ay", set_bits(cpu.mems))))
    return properties


def _quota(quota: int, period: int, systemd_version: int) -> list[Property]:
    properties: list[Property] = []
    if period and systemd_version >= _QUOTA_PERIOD:
        properties.append(("CPUQuotaPeriodUSec", ("t", period)))
    if quota or period:
        per_second = _per_second(quota, period) if quota > 0 else INFINITY
        properties.append(("CPUQuotaPerSecUSec", ("t", per_second)))
    return properties


def _per_second(quota: int, period: int) -> int:
    """Microseconds of CPU per second, in systemd's whole percents, rounded up as runc does."""
    return -(-(quota * 1_000_000 // (period or _PERIOD)) // 10_000) * 10_000


def as_systemd_writes(resources: Resources) -> Resources:
    """The same limits with the CPU quota that systemd makes of them.

    systemd writes its own idea of the quota to the file whenever it writes anything of the unit's:
    the file had better hold that from the start than change some day.
    """
    cpu = resources.cpu
    if cpu is None or not cpu.quota or cpu.quota < 0:
        return resources
    period = cpu.period or _PERIOD
    quota = _per_second(cpu.quota, period) * period // 1_000_000
    return replace(resources, cpu=replace(cpu, quota=quota))


_UNIFIED_BYTES = {
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.max": "MemoryMax",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
    "cpu.weight": "CPUWeight",
}
_UNIFIED_SETS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}


def _unified(key: str, value: str, systemd_version: int, new: bool) -> dict[str, tuple[str, Any]]:
    """A cgroup file as properties; {} for those that only the file can take."""
    try:
        if key in _UNIFIED_BYTES:
            number = INFINITY if value == "max" else int(value)
            if key == "pids.max":
                number = max(number, 1)
            return {_UNIFIED_BYTES[key]: ("t", number)}
        if key in _UNIFIED_SETS and systemd_version >= _CPUSET:
            return {_UNIFIED_SETS[key]: ("ay", set_bits(value))}
        if key == "cpu.max":
            quota, _, period = value.partition(" ")
            return dict(
                _quota(
                    -1 if quota == "max" else int(quota), int(period or _PERIOD), systemd_version
                )
            )
        if key == "cpu.idle" and value == "1" and systemd_version >= _IDLE:
            return {"CPUWeight": ("t", 0)}
        if key == "memory.oom.group" and new and systemd_version >= _OOM_POLICY:
            # Otherwise systemd writes its own default over the file.
            return {"OOMPolicy": ("s", "kill" if int(value) else "continue")}
    except ValueError:
        raise InvalidArgument(
            f"linux.resources.unified[{key!r}] is {value!r}, which is no value for that file"
        ) from None
    return {}


def set_bits(text: str) -> bytes:
    """A list such as "0-2,7" as systemd's bit mask, lowest byte first."""
    mask = 0
    try:
        for part in text.split(","):
            if not part.strip():
                continue
            low, dash, high = part.strip().partition("-")
            first, last = int(low), int(high) if dash else int(low)
            if not 0 <= first <= last < 1 << 16:
                raise ValueError
            mask |= ((1 << (last - first + 1)) - 1) << first
    except ValueError:
        raise InvalidArgument(f"{text!r} is not a list of numbers such as 0-2,7") from None
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def device_properties(rules: Rules) -> list[Property]:
    """The device rules as far as systemd.resource-control(5) can say them.

    systemd knows paths and the groups of /proc/devices. Numbers that it can't take are left to
    the file, which is written afterwards.
    """
    if rules.allow:
        return [("DevicePolicy", ("s", "auto")), ("DeviceAllow", ("a(ss)", []))]
    allowed = []
    for (kind, major, minor), access in rules.exceptions.items():
        word = "".join(letter for letter in "rwm" if letter in access)
        folder = "char" if kind == "c" else "block"
        if major < 0 and minor < 0:
            allowed.append((f"{folder}-*", word))
        elif minor < 0:
            # A number is what systemd takes for a group since 240; older ones skip the entry.
            allowed.append((f"{folder}-{major}", word))
        elif major >= 0:
            allowed.append((f"/dev/{folder}/{major}:{minor}", word))
    # An empty list first: assignments add up otherwise.
    return [
        ("DevicePolicy", ("s", "strict")),
        ("DeviceAllow", ("a(ss)", [])),
        ("DeviceAllow", ("a(ss)", allowed)),
    ]
