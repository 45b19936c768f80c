"""Containers for tests of the walls: a busybox root, specs as CRI writes them, and a census.

Nothing here is faked but containerd: the kernel, the mounts and the processes are real.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import select
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from copepod import errors
from copepod import spec as s
from copepod.container import spawn

BUSYBOX = "/usr/bin/busybox"
TIMEOUT = 30.0
APPLETS = (
    "sh cat chmod chown dd echo env false grep head hostname id kill ln ls mkdir mount mv nc "
    "pidof ps readlink rm sed setsid sleep sort stat stty tail test touch true tty umount wc"
)
# CRI's default capabilities.
_CAPS = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP "
    "NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
)
CAPS = [f"CAP_{name}" for name in _CAPS.split()]
SAFE = ["nosuid", "noexec", "nodev"]
PTS = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
needs = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="making containers needs root"),
    pytest.mark.skipif(not os.path.exists(BUSYBOX), reason="busybox-static is not installed"),
]


@cache
def rootfs() -> str:
    """Gives a directory with busybox and a few files, made once in a test run and removed at its
    end; a fork leaves by os._exit and removes nothing."""
    root = Path(tempfile.mkdtemp(prefix=f"copepod-{os.getpid()}-root-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "var", "home/app"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for name in APPLETS.split():
        (root / "bin" / name).symlink_to("busybox")
    passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"
    (root / "etc/passwd").write_text(passwd)
    shutil.copy(BUSYBOX, root / "bin/not-executable")
    (root / "bin/not-executable").chmod(0o644)
    (root / "bin/text").write_text("just words\n")
    (root / "bin/text").chmod(0o755)
    (root / "bin/no-loader").write_text("#!/nowhere/sh\n")
    (root / "bin/no-loader").chmod(0o755)
    (root / "bin/empty").touch(0o755)
    # As in many images: /var/run leads to /run, which is not there.
    (root / "var/run").symlink_to("/run")
    (root / "tmp").chmod(0o1777)
    return str(root)


def cri(*args: str, **changes: Any) -> dict[str, Any]:
    """Gives config.json as CRI writes it for an ordinary container; `changes` are by path, with
    two underscores between names (`process__cwd="/tmp"`)."""
    caps = {name: list(CAPS) for name in ("bounding", "effective", "permitted")}
    kinds = ("pid", "ipc", "uts", "mount", "network", "cgroup")
    spec: dict[str, Any] = {
        "ociVersion": "1.1.0",
        "process": {
            "user": {"uid": 0, "gid": 0, "additionalGids": [0, 10]},
            "args": list(args),
            "env": ["PATH=/usr/local/bin:/usr/bin:/bin", "HOSTNAME=pod"],
            "cwd": "/",
            "capabilities": caps,
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            _mount("/proc", "proc", *SAFE),
            _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            _mount("/dev/pts", "devpts", *PTS),
            _mount("/dev/mqueue", "mqueue", *SAFE),
            _mount("/sys", "sysfs", *SAFE, "ro"),
            _mount("/sys/fs/cgroup", "cgroup", *SAFE, "relatime", "ro"),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in kinds],
            "maskedPaths": ["/proc/acpi", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
        },
    }
    for path, value in changes.items():
        place = spec
        *parents, last = path.split("__")
        for name in parents:
            place = place.setdefault(name, {})
        place[last] = value
    return spec


def _mount(destination: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}


def bind(source: str | Path, destination: str, *options: str) -> dict[str, Any]:
    """Gives a bind mount of the spec."""
    return {
        "destination": destination,
        "type": "bind",
        "source": str(source),
        "options": list(options) or ["rbind", "rprivate", "rw"],
    }


async def no_module(found: spawn.Found) -> spawn.Module:
    """What resolves modules where there is no image."""
    if found.fd >= 0:
        os.close(found.fd)
    raise errors.NotFound(f"exec {found.name!r}: not found: searched {found.searched}")


@dataclass
class Bundle:
    """A bundle with an overlay of the busybox root; `close` removes it."""

    spec: dict[str, Any]
    path: str = field(
        default_factory=lambda: tempfile.mkdtemp(prefix=f"copepod-{os.getpid()}-bundle-")
    )

    def __post_init__(self) -> None:
        for name in ("rootfs", "upper", "work"):
            os.mkdir(f"{self.path}/{name}")
        self.write()

    def write(self) -> None:
        """Writes config.json, again after a change of `spec`."""
        Path(self.path, "config.json").write_text(json.dumps(self.spec))

    def mounts(self) -> tuple[s.RootfsMount, ...]:
        """What containerd's overlayfs snapshotter would ask for."""
        data = f"lowerdir={rootfs()}", f"upperdir={self.path}/upper", f"workdir={self.path}/work"
        return (s.RootfsMount("overlay", "overlay", "", data),)

    def order(self, stdio: tuple[int, int, int] = (-1, -1, -1), **fields: Any) -> spawn.Order:
        """Gives what spawn.create takes."""
        return spawn.Order(
            id=fields.pop("id", "box"),
            namespace="test",
            bundle=self.path,
            spec=s.load(f"{self.path}/config.json"),
            rootfs=fields.pop("rootfs", self.mounts()),
            stdio=stdio,
            terminal=fields.pop("terminal", False),
            cgroup_fds=fields.pop("cgroup_fds", []),
            **fields,
        )

    def close(self) -> None:
        """Removes it."""
        shutil.rmtree(self.path)


@dataclass(frozen=True)
class Result:
    """What a container did."""

    out: str
    code: int


def run(spec: dict[str, Any], **fields: Any) -> Result:
    """Runs a container to its end, stdout and stderr together."""
    return asyncio.run(run_async(spec, **fields))


async def run_async(spec: dict[str, Any], **fields: Any) -> Result:
    """As `run`, in a loop that is there."""
    bundle = Bundle(spec)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    resolve = fields.pop("resolve", no_module)
    try:
        process = await spawn.create(bundle.order((-1, writing, writing), **fields), resolve)
        try:
            await process.start()
        finally:
            os.close(writing)
            writing = -1
            out = read_all(reading)
            code = ended(process)
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
        bundle.close()
    return Result(out, code)


def exec_order(
    bundle: Bundle,
    order: spawn.Order,
    init: spawn.Process,
    args: list[str],
    stdio: tuple[int, int, int],
    **changes: Any,
) -> spawn.ExecOrder:
    """Gives what spawn.exec_ takes: the container's process with other args and `changes`."""
    document = {**bundle.spec["process"], "args": args, **changes}
    return spawn.ExecOrder(
        id=order.id,
        spec=order.spec,
        bundle=order.bundle,
        process=s.parse_process(json.dumps(document).encode()),
        init=init,
        stdio=stdio,
        terminal=bool(changes.get("terminal")),
        cgroup_fds=[],
    )


async def joined(
    bundle: Bundle,
    order: spawn.Order,
    init: spawn.Process,
    *args: str,
    resolve: Callable[[spawn.Found], Awaitable[spawn.Module]] = no_module,
    **changes: Any,
) -> Result:
    """Runs a process in a running container, as kubectl exec does, to its end."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    wanted = exec_order(bundle, order, init, list(args), (-1, writing, writing), **changes)
    try:
        process = await spawn.exec_(wanted, resolve)
        try:
            await process.start()
        finally:
            os.close(writing)
            writing = -1
            out = read_all(reading)
            code = ended(process)
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    return Result(out, code)


def read_all(fd: int, timeout: float = TIMEOUT) -> str:
    """Reads to the end; fails when nothing comes for `timeout` seconds."""
    chunks: list[bytes] = []
    while True:
        ready, _, _ = select.select([fd], [], [], timeout)
        assert ready, f"nothing came for {timeout} s, before that: {b''.join(chunks)!r}"
        try:
            chunk = os.read(fd, 65536)
        except OSError:  # EIO: the last one who held the terminal is gone
            break
        if not chunk:
            break
        chunks.append(chunk)
    return b"".join(chunks).decode("utf-8", "replace")


def ended(process: spawn.Process, timeout: float = TIMEOUT) -> int:
    """Waits for the end of a process, reaps it and gives its status as shells do."""
    ready, _, _ = select.select([process.pidfd], [], [], timeout)
    if not ready:
        process.kill(signal.SIGKILL)
    result = os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED)
    process.close()
    assert ready, f"the process did not end within {timeout} s"
    assert result is not None
    return result.si_status + (0 if result.si_code == os.CLD_EXITED else 128)


def until(true: Callable[[], bool], timeout: float = TIMEOUT) -> None:
    """Looks again and again until it is so; for what no fd tells of."""
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, f"it is not so after {timeout} s"
        os.sched_yield()


def read(path: str) -> str:
    """Reads a small file of /proc, in async tests, too: it never blocks."""
    return Path(path).read_text()


def census() -> dict[str, Any]:
    """Counts what a container could leave behind."""
    me = os.getpid()
    return {
        # Others may mount and unmount meanwhile; ours have our pid in their name.
        "mounts": [line for line in read("/proc/self/mountinfo").splitlines() if str(me) in line],
        "fds": sorted(os.listdir("/proc/self/fd")),
        "children": read(f"/proc/{me}/task/{me}/children").split(),
        "threads": threading.active_count(),
        "namespaces": [
            os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")
        ],
        "signals": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "cwd": os.getcwd(),
    }


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Every test: the same census after as before."""
    rootfs()
    spawn.machine()
    before = census()
    yield
    after = census()
    for what, was in before.items():
        assert after[what] == was, what
