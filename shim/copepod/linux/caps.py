"""capabilities(7): names to numbers, and the calls that set the five sets.

It does not know which capabilities a container should have.
"""

from __future__ import annotations

import ctypes
import errno
from functools import cache
from typing import TYPE_CHECKING

from copepod.linux import libc, prctl

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO "
    "SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG "
    "WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


@cache
def numbers() -> dict[str, int]:
    """Gives CAP_ name -> number for all that this code knows."""
    return {f"CAP_{name}": number for number, name in enumerate(_NAMES.split())}


@cache
def last() -> int:
    """Gives the number of the kernel's last capability."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())


def mask(names: Iterable[str]) -> int:
    """Gives the bit set of the names; those that this kernel lacks count for nothing, as in runc:
    what does not exist can't be given."""
    known, top, bits = numbers(), last(), 0
    for name in names:
        number = known.get(name.upper(), 64)
        if number <= top:
            bits |= 1 << number
    return bits


def get() -> tuple[int, int, int]:
    """capget(2): this process's (effective, permitted, inheritable) sets."""
    header, data = _Header(_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    if libc.named("capget")(ctypes.addressof(header), ctypes.addressof(data)):
        raise libc.fail()
    return data[0] | data[3] << 32, data[1] | data[4] << 32, data[2] | data[5] << 32


def set(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2)."""
    header = _Header(_VERSION_3, 0)
    low = (effective, permitted, inheritable)
    data = (ctypes.c_uint32 * 6)(*(x & 0xFFFFFFFF for x in low), *(x >> 32 for x in low))
    if libc.named("capset")(ctypes.addressof(header), ctypes.addressof(data)):
        raise libc.fail()


def limit_bounding(keep: int) -> None:
    """Drops from the bounding set all that is not in `keep`; needs CAP_SETPCAP."""
    for number in range(last() + 1):
        if not keep >> number & 1:
            prctl.prctl(prctl.PR_CAPBSET_DROP, number)


def bounding() -> int:
    """Gives the bounding set."""
    return sum(prctl.prctl(prctl.PR_CAPBSET_READ, number) << number for number in range(last() + 1))


def ambient() -> int:
    """Gives the ambient set."""
    option, asked = prctl.PR_CAP_AMBIENT, prctl.PR_CAP_AMBIENT_IS_SET
    return sum(prctl.prctl(option, asked, number) << number for number in range(last() + 1))


def raise_ambient(wanted: int) -> None:
    """Sets the ambient set; each has to be permitted and inheritable."""
    try:
        prctl.prctl(prctl.PR_CAP_AMBIENT, prctl.PR_CAP_AMBIENT_CLEAR_ALL)
    except OSError as error:
        if error.errno != errno.EINVAL or wanted:
            raise
        return
    for number in range(last() + 1):
        if wanted >> number & 1:
            prctl.prctl(prctl.PR_CAP_AMBIENT, prctl.PR_CAP_AMBIENT_RAISE, number)
