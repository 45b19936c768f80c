"""Checks of the kernel, of control groups and of Python.

They read /proc and /sys and try system calls that change nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from copepod.cli.doctor.context import Context, Finding
from copepod.cli.node import runtime

_OPENAT2, _PIDFD_OPEN, _MOUNT_SETATTR, _CLOSE_RANGE = 437, 434, 442, 436  # the same on all ports
_NEEDED = {
    _OPENAT2: "openat2 (5.6)",
    _PIDFD_OPEN: "pidfd_open (5.3)",
    _CLOSE_RANGE: "close_range (5.9)",
}
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_CONTROLLERS = {"cpu", "memory", "pids"}
_DRIVER = re.compile(rb"^cgroupDriver:\s*\"?(\w+)", re.MULTILINE)


def python(context: Context) -> Iterator[Finding]:
    """The interpreter that runs the shim is the one that runs this; an older one can't."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok", "python", f"Python {version} ({sys.executable})")


def features(context: Context) -> Iterator[Finding]:
    """System calls, namespaces and seccomp that the container's walls are made of."""
    missing = [name for number, name in _NEEDED.items() if not context.has_syscall(number)]
    if missing:
        yield Finding(
            "fail",
            "kernel",
            f"Linux {context.kernel} lacks {', '.join(missing)}",
            "run a kernel of 5.10 or newer",
        )
    else:
        yield Finding("ok", "kernel", f"Linux {context.kernel} has all system calls that we need")
    if not context.has_syscall(_MOUNT_SETATTR):
        yield Finding(
            "warn",
            "kernel",
            "no mount_setattr: recursive read-only and id-mapped mounts are refused",
            "5.12 or newer has it",
        )
    absent = [one for one in _NAMESPACES if not context.system.exists(f"/proc/self/ns/{one}")]
    if absent:
        yield Finding(
            "fail",
            "namespaces",
            f"the kernel has no {', '.join(absent)} namespaces",
            "run a kernel that has them (CONFIG_NAMESPACES)",
        )
    else:
        yield Finding("ok", "namespaces", "all namespaces are there")
    yield from _seccomp(context)
    yield _user_namespaces(context)


def _seccomp(context: Context) -> Iterator[Finding]:
    if not context.system.exists("/proc/sys/kernel/seccomp/actions_avail"):
        yield Finding(
            "fail",
            "seccomp",
            "the kernel can't filter system calls: pods with a seccomp profile fail",
            "run a kernel with CONFIG_SECCOMP_FILTER",
        )
    elif not context.has_library("libseccomp.so.2"):
        yield Finding(
            "fail",
            "seccomp",
            "libseccomp.so.2 is not installed: pods with a seccomp profile fail",
            "install libseccomp2 (libseccomp on Fedora)",
        )
    else:
        yield Finding("ok", "seccomp", "the kernel and libseccomp can filter system calls")


def _user_namespaces(context: Context) -> Finding:
    limit = context.system.read("/proc/sys/user/max_user_namespaces")
    if limit is not None and limit.strip() == b"0":
        return Finding(
            "warn",
            "user namespaces",
            "switched off: pods with hostUsers: false fail",
            "sysctl user.max_user_namespaces=15000",
        )
    return Finding("ok", "user namespaces", "allowed")


def cgroups(context: Context) -> Iterator[Finding]:
    """The mode, the controllers and the driver that kubelet and containerd agree upon."""
    mounts = (context.system.read("/proc/self/mounts") or b"").decode(errors="replace")
    kinds = {line.split()[2]: line.split()[1] for line in mounts.splitlines() if " cgroup" in line}
    if kinds.get("cgroup2") == "/sys/fs/cgroup":
        found = context.system.read("/sys/fs/cgroup/cgroup.controllers") or b""
        lacking = _CONTROLLERS - set(found.decode().split())
        mode = "v2"
    elif "cgroup" in kinds:
        table = (context.system.read("/proc/cgroups") or b"").decode().splitlines()
        enabled = {line.split()[0] for line in table if line.split()[-1] == "1"}
        lacking = _CONTROLLERS - enabled
        mode = "v1" if "cgroup2" not in kinds else "v1 (hybrid)"
    else:
        yield Finding(
            "fail",
            "cgroups",
            "no control groups are mounted on /sys/fs/cgroup",
            "mount cgroup2 there",
        )
        return
    if lacking:
        yield Finding(
            "fail",
            "cgroups",
            f"{mode} without {', '.join(sorted(lacking))}",
            "switch the controllers on (kernel command line cgroup_enable=...)",
        )
    else:
        yield Finding("ok", "cgroups", f"{mode} with cpu, memory and pids")
    yield _driver(context)


def _driver(context: Context) -> Finding:
    """Copepod follows what it is told per container; the others have to agree."""
    kubelet = _DRIVER.search(context.system.read("/var/lib/kubelet/config.yaml") or b"")
    runc = runtime.runtimes(context.dump).get("runc", {}).get("options", {})
    mine = "systemd" if runc.get("SystemdCgroup") else "cgroupfs"
    if kubelet and kubelet[1].decode() != mine and context.dump:
        return Finding(
            "warn",
            "cgroup driver",
            f"the kubelet uses {kubelet[1].decode()}, containerd's runc {mine}",
            "give both the same (SystemdCgroup in runc's options); Copepod follows the kubelet",
        )
    booted = context.system.exists("/run/systemd/system")
    if mine == "systemd" and not booted:
        return Finding(
            "warn",
            "cgroup driver",
            "systemd is asked for but is not running here",
            "use the cgroupfs driver",
        )
    return Finding("ok", "cgroup driver", f"{mine}; Copepod takes either, told per container")
