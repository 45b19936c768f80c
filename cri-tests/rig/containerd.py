"""A private containerd: started in a cell with its own state, killed and restarted at will.

It never talks to a containerd that it did not start.
"""

import json
import os
import re
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rig import config, debian, tools
from rig.cell import Cell
from rig.paths import SHIM, SHIM_DIR
from rig.shell import Daemon, Done, RigError, run, until

DEBIAN = "debian"
VERSIONS = (DEBIAN, "1.7.34", "2.4.2")
SUBNET = "10.88.7.0/24"
BRIDGE = "cpd0"
CAP_SYS_RESOURCE = 24  # capabilities(7), linux/capability.h


@dataclass(frozen=True, slots=True)
class Release:
    """A containerd to run: where its programs are and what version they say they are."""

    wanted: str
    version: str
    programs: Path

    @property
    def major(self) -> int:
        """1 or 2."""
        return self.numbers[0]

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version as numbers, to be compared."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])

    @property
    def wasm_layers(self) -> bool:
        """True when it can take images whose layers are no tar (from 1.6.25 and 1.7.7)."""
        return self.numbers >= (1, 7, 7) or (1, 6, 25) <= self.numbers < (1, 7)


def release(wanted: str) -> Release:
    """Gets a containerd of VERSIONS ready: built from source, or Debian's own, unpacked."""
    if wanted == DEBIAN:
        programs = debian.unpacked("containerd") / "usr" / "bin"
    else:
        programs = tools.ensure(f"containerd-{wanted}")
    said = run([programs / "containerd", "--version"]).out.split()
    version = said[2].removeprefix("v").partition("+")[0].partition("~")[0]
    return Release(wanted, version, programs)


def debian_runc() -> Path:
    """Debian's own runc, unpacked: for what should not wait until the pinned one is built."""
    return next(path for path in debian.unpacked("runc").rglob("*bin/runc") if path.is_file())


def lowers_oom_score() -> bool:
    """True when this process may lower oom_score_adj (proc_pid_oom_score_adj(5))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1)
    return False


class Containerd:
    """One private instance; a context manager that starts it in `cell` and ends it.

    `env` goes to containerd and so to the shims; `sandboxer` is set on our handler if given; `runc`
    is another than the pinned one. With RIG_ZYGOTE=1 in this process's environment the cell has
    our warm fork server too.
    """

    def __init__(
        self,
        cell: Cell,
        wanted: str = "2.4.2",
        *,
        env: Mapping[str, str] | None = None,
        sandboxer: str = "",
        runc: Path | None = None,
    ) -> None:
        self.cell = cell
        self.release = release(wanted)
        self.runc = runc or tools.ensure("runc") / "runc"
        self.home = cell.home
        cni_bin = debian.unpacked("containernetworking-plugins") / "usr" / "lib" / "cni"
        self.settings = config.Settings(
            self.home, self.runc, cni_bin, not lowers_oom_score(), sandboxer
        )
        self._env = dict(env or {})
        self._daemon: Daemon | None = None
        self._zygote: Daemon | None = None
        self._cri_ready = False
        self._crictl = tools.ensure("cri-tools-1.36") / "crictl"

    def __enter__(self) -> "Containerd":
        self._write_files()
        if os.environ.get("RIG_ZYGOTE") == "1":
            self._start_zygote()
        self.start()
        return self

    def _start_zygote(self) -> None:
        argv = self.cell.inside([SHIM, "zygote"])
        zygote = self._zygote = Daemon(argv, self.home / "zygote.log")
        socket_path = self.cell.run_dir / "copepod" / "zygote.sock"

        def listens() -> bool:
            if not zygote.alive():
                raise RigError(f"the zygote ended:\n{zygote.tail()}")
            return socket_path.exists()

        until("the zygote to listen", listens)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if self._zygote:
            self._zygote.stop()

    def _write_files(self) -> None:
        # Host ports are iptables rules of the portmap plugin; the rules stay in the cell.
        debian.need_command("iptables", "iptables")
        settings = self.settings
        for path in (settings.cni, settings.certs):
            path.mkdir(exist_ok=True)
        (settings.cni / "10-cell.conflist").write_text(config.conflist(BRIDGE, SUBNET))
        (self.home / "config.toml").write_text(config.render(settings, self.release.major))
        endpoint = f"unix://{settings.socket}"
        lines = [f"runtime-endpoint: {endpoint}", f"image-endpoint: {endpoint}", "timeout: 120"]
        (self.home / "crictl.yaml").write_text("\n".join(lines) + "\n")

    @property
    def log(self) -> Path:
        return self.home / "containerd.log"

    @property
    def pid(self) -> int:
        """containerd's process id."""
        assert self._daemon, "containerd is not running"
        return self._daemon.pid

    @property
    def running(self) -> bool:
        """True while containerd runs."""
        return self._daemon is not None and self._daemon.alive()

    def start(self, timeout: float = 30.0) -> None:
        """Starts containerd and returns when it says READY=1 (sd_notify(3))."""
        path = self.home / "notify"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(path))
            notify.settimeout(timeout)
            self._daemon = Daemon(
                self.cell.inside(
                    [self.release.programs / "containerd", "-c", self.home / "config.toml"]
                ),
                self.log,
                env={**self._environment(), "NOTIFY_SOCKET": str(path)},
            )
            try:
                while b"READY=1" not in notify.recv(4096):
                    pass
            except TimeoutError:
                tail = self._daemon.tail()
                self.kill()
                raise RigError(f"containerd was not ready after {timeout:g} s:\n{tail}") from None
        self._cri_ready = False

    def _environment(self) -> dict[str, str]:
        found = [SHIM_DIR, self.release.programs, self.runc.parent]
        path = ":".join([*map(str, found), os.environ.get("PATH", ""), "/usr/sbin:/sbin"])
        return {"PATH": path, **self._env}

    def kill(self) -> None:
        """SIGKILL to containerd, as a crash would end it; shims and containers go on."""
        if self._daemon:
            self._daemon.stop(signal.SIGKILL)
            self._daemon = None

    def stop(self) -> None:
        """An orderly end of containerd; shims and containers go on."""
        if self._daemon:
            self._daemon.stop()
            self._daemon = None

    def restart(self, *, hard: bool = False) -> None:
        """Ends containerd, by SIGKILL when `hard`, and starts it again on the same state."""
        if hard:
            self.kill()
        else:
            self.stop()
        self.start()

    def ctr_argv(self, *words: str | Path, namespace: str = "default") -> list[str]:
        """The argv of a ctr command, to be run inside the cell."""
        ctr = self.release.programs / "ctr"
        head = [str(ctr), "-a", str(self.settings.socket), "-n", namespace]
        return [*head, *map(str, words)]

    def ctr(
        self,
        *words: str | Path,
        namespace: str = "default",
        timeout: float = 60.0,
        stdin: bytes | str | None = None,
        check: bool = True,
    ) -> Done:
        """Runs ctr against this instance."""
        argv = self.ctr_argv(*words, namespace=namespace)
        return self.cell.call(argv, timeout=timeout, stdin=stdin, check=check)

    def crictl_argv(self, *words: str | Path) -> list[str]:
        """The argv of a crictl command, to be run inside the cell."""
        return [str(self._crictl), "--config", str(self.home / "crictl.yaml"), *map(str, words)]

    def crictl(
        self,
        *words: str | Path,
        timeout: float = 60.0,
        stdin: bytes | str | None = None,
        check: bool = True,
    ) -> Done:
        """Runs crictl against this instance, which is first waited for to serve CRI."""
        self.wait_cri()
        return self.cell.call(self.crictl_argv(*words), timeout=timeout, stdin=stdin, check=check)

    def crictl_json(self, *words: str | Path) -> Any:
        """crictl's answer as JSON."""
        return json.loads(self.crictl(*words).out)

    def wait_cri(self, timeout: float = 30.0) -> None:
        """Waits until CRI serves and its network is configured: READY=1 comes before that."""
        if self._cri_ready:
            return

        def ready() -> bool:
            done = self.cell.call(self.crictl_argv("info"), check=False)
            if done.code != 0:
                return False
            status = json.loads(done.out)["status"]["conditions"]
            return all(one["status"] for one in status if one["type"].endswith("Ready"))

        until("CRI to be ready", ready, timeout)
        self._cri_ready = True

    def import_image(
        self, archive: Path, *, namespace: str = "default", unpack: bool = True
    ) -> None:
        """Imports an OCI archive; its index names the images."""
        words: list[str | Path] = ["images", "import"]
        if self.release.major == 2:
            # The transfer service refuses to unpack an image that has no tar layer.
            words.append("--local")
        if not unpack:
            words.append("--no-unpack")
        self.ctr(*words, archive, namespace=namespace, timeout=120)
