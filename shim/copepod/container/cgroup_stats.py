"""What a container uses, as the kernel's files say it: plain numbers of version 1 or version 2.

It knows no protobuf and no task. Field names are those of io.containerd.cgroups.v1 and v2, so that
task/stats.py can copy them; units are the kernel's: v1 nanoseconds, v2 microseconds, bytes.
"""

from __future__ import annotations

import errno
import os

from copepod.container.cgroup_tree import read_fd
from copepod.errors import NotFound
from copepod.values import dataclass, field

U64_MAX = (1 << 64) - 1  # what containerd reports for "max"

# Lines of version 1's memory.stat whose name differs from the message's; "total_" works alike.
_V1_NAMES = {
    "pgpgin": "pg_pg_in",
    "pgpgout": "pg_pg_out",
    "pgfault": "pg_fault",
    "pgmajfault": "pg_maj_fault",
}
_V1_LINES = """
cache rss rss_huge mapped_file dirty writeback pgpgin pgpgout pgfault pgmajfault inactive_anon
active_anon inactive_file active_file unevictable
"""
V1_MEMORY = {
    prefix + name: prefix + _V1_NAMES.get(name, name)
    for name in _V1_LINES.split()
    for prefix in ("", "total_")
} | {
    "hierarchical_memory_limit": "hierarchical_memory_limit",
    "hierarchical_memsw_limit": "hierarchical_swap_limit",
}
_V2_LINES = """
anon file kernel_stack slab sock shmem file_mapped file_dirty file_writeback anon_thp inactive_anon
active_anon inactive_file active_file unevictable slab_reclaimable slab_unreclaimable pgfault
pgmajfault workingset_refault workingset_activate workingset_nodereclaim pgrefill pgscan pgsteal
pgactivate pgdeactivate pglazyfree pglazyfreed thp_fault_alloc thp_collapse_alloc
workingset_refault_anon workingset_refault_file workingset_activate_anon workingset_activate_file
"""
_V2_CPU = """
usage_usec user_usec system_usec nr_periods nr_throttled throttled_usec nr_bursts burst_usec
"""
_V2_EVENTS = "low high max oom oom_kill oom_group_kill"
V2_MEMORY = frozenset(_V2_LINES.split())
V2_CPU = frozenset(_V2_CPU.split())
V2_EVENTS = frozenset(_V2_EVENTS.split())


@dataclass(slots=True)
class Pids:
    current: int
    limit: int  # 0: none


@dataclass(slots=True)
class Hugetlb:
    """One page size; `current` and `max` are what v2 calls so, v1 calls them usage and max."""

    pagesize: str
    current: int
    max: int
    failcnt: int


@dataclass(slots=True)
class Rdma:
    device: str
    hca_handles: int
    hca_objects: int


@dataclass(slots=True)
class MemoryEntry:
    limit: int
    usage: int
    max: int
    failcnt: int


@dataclass(slots=True)
class BlkIO:
    op: str
    device: str
    major: int
    minor: int
    value: int


@dataclass(slots=True)
class V1Stats:
    """Version 1 and hybrid machines; None or empty where the controller is not mounted."""

    pids: Pids | None = None
    cpu_total: int | None = None
    cpu_user: int = 0
    cpu_kernel: int = 0
    per_cpu: list[int] = field(default_factory=list)
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0
    memory: dict[str, int] | None = None
    memory_entries: dict[str, MemoryEntry] = field(default_factory=dict)
    oom: dict[str, int] = field(default_factory=dict)
    blkio: dict[str, list[BlkIO]] = field(default_factory=dict)
    hugetlb: list[Hugetlb] = field(default_factory=list)
    rdma_current: list[Rdma] = field(default_factory=list)
    rdma_limit: list[Rdma] = field(default_factory=list)


@dataclass(slots=True)
class Pressure:
    """A line of a pressure file (accounting/psi.rst): shares of time in percent, total in us."""

    avg10: float
    avg60: float
    avg300: float
    total: int


@dataclass(slots=True)
class IO:
    major: int
    minor: int
    rbytes: int = 0
    wbytes: int = 0
    rios: int = 0
    wios: int = 0


@dataclass(slots=True)
class V2Stats:
    """Version 2 machines; empty where the controller is not enabled for the group."""

    pids: Pids | None = None
    cpu: dict[str, int] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    memory_events: dict[str, int] = field(default_factory=dict)
    io: list[IO] = field(default_factory=list)
    # By "cpu", "memory", "io", then "some" and "full".
    pressure: dict[str, dict[str, Pressure]] = field(default_factory=dict)
    hugetlb: list[Hugetlb] = field(default_factory=list)
    rdma_current: list[Rdma] = field(default_factory=list)
    rdma_limit: list[Rdma] = field(default_factory=list)


class Reader:
    """The control files of one group, opened once each and read from their start ever after."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fds: dict[str, int] = {}

    def text(self, name: str) -> str:
        """The file's text, "" when there is none; NotFound when the whole group is gone."""
        fd = self._fds.get(name)
        if fd is None:
            try:
                fd = os.open(f"{self.path}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                if not os.path.isdir(self.path):
                    raise self._gone() from None
                fd = -1
            self._fds[name] = fd
        if fd < 0:
            return ""
        try:
            return read_fd(fd).decode(errors="replace")
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise self._gone() from None
            if error.errno == errno.EOPNOTSUPP:
                return ""
            raise

    def number(self, name: str, otherwise: int = 0) -> int:
        """A file of one number; "max" is what containerd writes for it, 2^64 - 1."""
        return parse_number(self.text(name), otherwise)

    def names(self) -> list[str]:
        """The names of the group's files."""
        try:
            return os.listdir(self.path)
        except FileNotFoundError:
            raise self._gone() from None

    def close(self) -> None:
        """Closes all; reading again opens again."""
        for fd in self._fds.values():
            if fd >= 0:
                os.close(fd)
        self._fds.clear()

    def _gone(self) -> NotFound:
        return NotFound(f"the container's cgroup {self.path} is gone")


def parse_number(text: str, otherwise: int = 0) -> int:
    word = text.strip()
    if word == "max":
        return U64_MAX
    try:
        return int(word)
    except ValueError:
        return otherwise


def parse_pairs(text: str) -> dict[str, int]:
    """Lines of "name number"; others (a new kernel's) are passed over."""
    pairs: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if value.isdecimal():
            pairs[name] = int(value)
    return pairs


def parse_pressure(text: str) -> dict[str, Pressure]:
    """A pressure file, by "some" and "full"; empty when the kernel keeps none."""
    found: dict[str, Pressure] = {}
    for line in filter(str.strip, text.splitlines()):
        kind, *words = line.split()
        fields = dict(word.split("=", 1) for word in words if "=" in word)
        try:
            found[kind] = Pressure(
                float(fields["avg10"]),
                float(fields["avg60"]),
                float(fields["avg300"]),
                int(fields["total"]),
            )
        except (KeyError, ValueError):
            continue
    return found


def parse_io(text: str) -> list[IO]:
    """io.stat: a line per device, "major:minor key=value ..."."""
    found = []
    for line in filter(str.strip, text.splitlines()):
        device, *words = line.split()
        major, colon, minor = device.partition(":")
        if not (colon and major.isdecimal() and minor.isdecimal()) or not words:
            continue
        entry = IO(int(major), int(minor))
        for word in words:
            key, _, value = word.partition("=")
            if key in ("rbytes", "wbytes", "rios", "wios") and value.isdecimal():
                setattr(entry, key, int(value))
        found.append(entry)
    return found


def parse_blkio(text: str, names: dict[tuple[int, int], str]) -> list[BlkIO]:
    """A blkio.* file: "major:minor Op number" or "major:minor number"; totals are left out.

    `names` remembers what devices are called.
    """
    found = []
    for line in text.splitlines():
        words = line.split()
        major, colon, minor = words[0].partition(":") if words else ("", "", "")
        if not colon or len(words) not in (2, 3) or not words[-1].isdecimal():
            continue
        if not (major.isdecimal() and minor.isdecimal()):
            continue
        number = (int(major), int(minor))
        op = words[1] if len(words) == 3 else ""
        found.append(BlkIO(op, _device(number, names), *number, int(words[-1])))
    return found


def _device(number: tuple[int, int], names: dict[tuple[int, int], str]) -> str:
    name = names.get(number)
    if name is None:
        try:
            link = os.readlink(f"/sys/dev/block/{number[0]}:{number[1]}")
            name = f"/dev/{os.path.basename(link)}"
        except OSError:
            name = ""
        names[number] = name
    return name


def parse_rdma(text: str) -> list[Rdma]:
    """rdma.current and rdma.max: "device hca_handle=N hca_object=N", where N may be max.

    The message has 32 bits for each, so "max" is 2^32 - 1 there.
    """
    found = []
    for line in filter(str.strip, text.splitlines()):
        device, *words = line.split()
        fields = dict(word.split("=", 1) for word in words if "=" in word)
        numbers = [
            min(parse_number(fields.get(key, "0")), (1 << 32) - 1)
            for key in ("hca_handle", "hca_object")
        ]
        found.append(Rdma(device, *numbers))
    return found
