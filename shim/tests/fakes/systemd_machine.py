"""A real systemd as pid 1 of namespaces of its own, for machines that systemd does not run.

It sees the machine's files read-only, has a /run and a cgroup version 2 tree of its own, and starts
nothing but itself and, if asked, a message bus. Run as a program, this is its first process.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from copepod.container import cgroup, cgroup_mounts

BINARY = "/lib/systemd/systemd"
TIMEOUT = 30.0
ROOT = Path(__file__).parents[3]
PATHS = [str(ROOT / name) for name in ("shim", "api", "api/ttrpc", "shim/tests")] + sys.path
UNITS = {
    "default.target": "[Unit]\nDescription=nothing but the manager\nDefaultDependencies=no\n",
    "sysinit.target": "[Unit]\nDescription=early\nDefaultDependencies=no\n",
    "basic.target": "[Unit]\nDescription=basic\nDefaultDependencies=no\n",
    "dbus.socket": "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/dbus/"
    "system_bus_socket\n",
    "dbus.service": "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\n[Service]\n"
    "Type=notify\nNotifyAccess=main\nExecStart=/usr/bin/dbus-daemon --system --address=systemd: "
    "--nofork --nopidfile --systemd-activation --syslog-only\nOOMScoreAdjust=0\n",
}


def _run(
    prefix: list[str],
    code: str,
    enter: Callable[[], object] | None = None,
    more: Callable[[], str] = str,
) -> str:
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=enter,
        env=os.environ | {"PYTHONPATH": ":".join(PATHS)},
    )
    assert done.returncode == 0, done.stderr + more()
    return done.stdout


class Here:
    """The machine that the tests run on, where systemd runs it."""

    def run(self, code: str) -> str:
        """What the code prints."""
        return _run([], code)


class Machine:
    """Starts it; `run` runs Python in it; ends it with the block and leaves nothing."""

    def __init__(self, *, bus: bool) -> None:
        unified = cgroup_mounts.host().unified
        assert unified
        self.bus = bus
        self.group = f"{unified.point}/copepod-test-{os.getpid()}-systemd"
        os.mkdir(self.group)
        self.log = tempfile.TemporaryFile()
        self.child = subprocess.Popen(
            ["unshare", "-mpCuin", "-f", "--kill-child", sys.executable, __file__, str(int(bus))],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            preexec_fn=self._enter,
            env=os.environ | {"PYTHONPATH": f"{ROOT}/shim", "container": "copepod-test"},
        )
        try:
            self.pid = self._wait_for_pid_1(bus)
        except BaseException:
            self.stop()
            raise

    def _enter(self) -> None:
        Path(self.group, "cgroup.procs").write_text("0")

    def _wait_for_pid_1(self, bus: bool) -> int:
        children = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children")
        for _ in range(int(TIMEOUT / 0.02)):
            assert self.child.poll() is None, self.output()
            pids = children.read_text().split()
            run = Path(f"/proc/{pids[0]}/root/run") if pids else Path("/nowhere")
            wanted = [run / "systemd/private", run / "systemd/ready"]
            if bus:
                wanted.append(run / "dbus/system_bus_socket")
            if all(path.exists() for path in wanted):
                return int(pids[0])
            select.select([], [], [], 0.02)
        raise AssertionError(f"systemd did not start:\n{self.output()}")

    def output(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def run(self, code: str) -> str:
        """What the code prints; it runs with our packages and in a group of that machine."""
        where = f"/proc/{self.pid}/root/sys/fs/cgroup/init.scope/cgroup.procs"
        inside = ["nsenter", f"--target={self.pid}", "-m", "-p", "-C", "-u", "-i"]
        return _run(inside, code, lambda: Path(where).write_text("0"), self.output)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """As a power cut would."""
        cgroup.kill_paths([self.group])
        self.child.wait(TIMEOUT)
        left = cgroup.remove_paths([self.group], TIMEOUT)
        self.log.close()
        assert not left, left


def boot(bus: bool) -> None:
    """The first process's life until it is systemd."""

    def mount(*words: str) -> None:
        subprocess.run(["mount", *words], check=True)

    mount("--make-rprivate", "/")
    mount("-t", "proc", "proc", "/proc")
    mount("-o", "remount,ro,bind", "/")
    mount("-t", "sysfs", "-o", "ro", "sysfs", "/sys")
    mount("-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
    for path in ("/run", "/var/tmp"):
        mount("-t", "tmpfs", "tmpfs", path)
    units = Path("/run/units")
    units.mkdir()
    for name, text in UNITS.items():
        (units / name).write_text(text)
    ready = "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nRemainAfterExit=yes\n"
    (units / "ready.service").write_text(ready + "ExecStart=/bin/touch /run/systemd/ready\n")
    (units / "default.target.wants").mkdir()
    wanted = ["ready.service", *(["dbus.socket", "dbus.service"] if bus else [])]
    for name in wanted:
        (units / "default.target.wants" / name).symlink_to(units / name)
    os.environ |= {"SYSTEMD_UNIT_PATH": str(units), "SYSTEMD_LOG_LEVEL": "warning"}
    os.execv(BINARY, [BINARY, "--system", "--unit=default.target", "--log-target=console"])


if __name__ == "__main__":
    boot(sys.argv[1] == "1")
