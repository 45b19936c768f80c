"""Programs, services, pods and containers of this node, in short words.

Every wait has an end; nothing here decides what is right.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vm.inside.report import Failed

T = TypeVar("T")
PAYLOAD = Path("/payload")
WORK = Path("/var/tmp/copepod-vm")
CGROUPS = Path("/sys/fs/cgroup")
HOST = "images.copepod.test"
WASM = f"{HOST}/guest-c:rootfs"
WASM_LAYER = f"{HOST}/guest-c:layer"
WASM_GO = f"{HOST}/guest-go:layer"
BUSYBOX = f"{HOST}/busybox:1"
MODULE = "/guest.wasm"
TIMEOUT = 240.0  # seconds; an emulated processor is some fifteen times slower than a real one


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return f"{self.out.strip()}\n{self.err.strip()}".strip()


def run(*words: str, timeout: float = TIMEOUT, check: bool = True, **env: str) -> Done:
    """Runs a program to its end; Failed for an exit code other than 0 when `check` is set."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8", **env},
        )
    except subprocess.TimeoutExpired as error:
        shown = (error.stdout or b"") + (error.stderr or b"")
        raise Failed(f"{' '.join(words)}: not done after {timeout:g} s: {tail(shown)}") from None
    result = Done(
        done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )
    if check and result.code:
        raise Failed(f"{' '.join(words)}: exit code {result.code}: {tail(result.text)}")
    return result


def tail(text: str | bytes, lines: int = 12) -> str:
    """The last lines, for a message."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return "\n".join(text.strip().splitlines()[-lines:])


def until(what: str, probe: Callable[[], T | None], timeout: float = 60.0) -> T:
    """Asks until the answer is something true; Failed, naming `what`, when that takes too long."""
    end = time.monotonic() + timeout
    while not (found := probe()):
        if time.monotonic() > end:
            raise Failed(f"waited {timeout:g} s for {what}: it did not happen")
        select.select([], [], [], 0.1)
    return found


def crictl(*words: str, check: bool = True, timeout: float = TIMEOUT) -> Done:
    """crictl, as the kubelet would ask; asked again when it found no time to connect.

    It gives that five seconds, which an emulated node may spend on something else.
    """
    program, tries = str(PAYLOAD / "bin/crictl"), 5
    while True:
        done = run(program, *words, check=False, timeout=timeout)
        tries -= 1
        if not tries or not done.code or "validate service connection" not in done.err:
            break
    if check and done.code:
        raise Failed(f"crictl {' '.join(words)}: exit code {done.code}: {tail(done.text)}")
    return done


def ctr(*words: str, namespace: str = "k8s.io", check: bool = True) -> Done:
    """containerd's own client."""
    return run("ctr", "-n", namespace, *words, check=check)


def systemctl(*words: str, check: bool = True) -> Done:
    """systemd's client."""
    return run("systemctl", *words, check=check)


def show(unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit."""
    done = systemctl("show", unit, *(f"-p{name}" for name in names))
    return dict(line.split("=", 1) for line in done.out.splitlines() if "=" in line)


def main_pid(unit: str) -> int:
    """The main process of a service; 0 when it isn't running."""
    return int(show(unit, "MainPID").get("MainPID") or 0)


def alive(pid: int) -> bool:
    """True while the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def cgroup_of(pid: int) -> Path:
    """The group of a process, seen from the node."""
    return CGROUPS / Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/")


class Pod:
    """A pod sandbox in a slice of its own, as the kubelet with the systemd driver asks for it."""

    handler = "copepod"

    def __init__(self, name: str, **fields: Any) -> None:
        self.name = name
        self.slice = f"kubepods-burstable-pod{name}.slice"
        self.logs = WORK / "logs" / name
        self.logs.mkdir(parents=True, exist_ok=True)
        body: dict[str, Any] = {
            "metadata": {"name": name, "namespace": "test", "uid": f"{name}-uid", "attempt": 1},
            "log_directory": str(self.logs),
            "hostname": name,
            **fields,
        }
        parent = f"/kubepods.slice/kubepods-burstable.slice/{self.slice}"
        body["linux"] = {"cgroup_parent": parent, **body.get("linux", {})}
        self.file = WORK / f"{name}.json"
        self.file.write_text(json.dumps(body))
        self.id = crictl("runp", "--runtime", self.handler, str(self.file)).out.strip()

    def create(self, name: str, image: str, *command: str, **fields: Any) -> Container:
        """CreateContainer."""
        body = {
            "metadata": {"name": name},
            "image": {"image": image},
            "command": list(command),
            "log_path": f"{name}.log",
            "linux": {},
            **fields,
        }
        path = WORK / f"{self.name}-{name}.json"
        path.write_text(json.dumps(body))
        made = crictl("create", "--no-pull", self.id, str(path), str(self.file))
        return Container(self, name, made.out.strip())

    def start(self, name: str, image: str, *command: str, **fields: Any) -> Container:
        """CreateContainer and StartContainer."""
        container = self.create(name, image, *command, **fields)
        crictl("start", container.id)
        return container

    @property
    def pid(self) -> int:
        """The waiting process of the sandbox."""
        return int(json.loads(crictl("inspectp", self.id).out)["info"]["pid"])

    @property
    def shim(self) -> int:
        """The shim: the parent of the waiting process."""
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[1])

    def remove(self) -> None:
        """StopPodSandbox, RemovePodSandbox, and the slice, which is the kubelet's to stop."""
        crictl("stopp", self.id)
        crictl("rmp", self.id)
        systemctl("stop", self.slice)

    def __enter__(self) -> Pod:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.remove()
            return
        crictl("rmp", "-f", self.id, check=False)
        systemctl("stop", self.slice, check=False)


class Container:
    """A container of a pod."""

    def __init__(self, pod: Pod, name: str, container_id: str) -> None:
        self.pod, self.name, self.id = pod, name, container_id
        self.unit = f"cri-containerd-{container_id}.scope"

    def inspect(self) -> dict[str, Any]:
        """ContainerStatus, verbose."""
        found: dict[str, Any] = json.loads(crictl("inspect", self.id).out)
        return found

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.inspect()["status"]
        return status

    @property
    def pid(self) -> int:
        """The first process."""
        return int(self.inspect()["info"]["pid"])

    @property
    def group(self) -> Path:
        """Its control group, by the name that the systemd driver gives."""
        return cgroup_of(self.pid)

    def read(self, name: str) -> str:
        """A file of its control group."""
        return (self.group / name).read_text().strip()

    @property
    def log(self) -> str:
        """What it wrote, as CRI keeps it, without time and stream."""
        path = self.pod.logs / f"{self.name}.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(line.split(" ", 3)[3] for line in lines if line.count(" ") > 2)

    def exec(self, *words: str, check: bool = True) -> Done:
        """ExecSync, as a probe does it."""
        return crictl("exec", "--sync", self.id, *words, check=check)

    def ended(self, timeout: float = 120.0) -> dict[str, Any]:
        """Waits for its end; gives its status."""

        def over() -> dict[str, Any] | None:
            status = self.status
            return status if status["state"] == "CONTAINER_EXITED" else None

        return until(f"container {self.name} to end", over, timeout)

    def says(self, text: str, timeout: float = 120.0) -> str:
        """Waits until the log holds `text`."""
        until(f"{text!r} in the log of {self.name}", lambda: text in self.log, timeout)
        return self.log

    def grows(self) -> None:
        """Waits until there is more in the log than now."""
        before = len(self.log)
        until(f"more in the log of {self.name}", lambda: len(self.log) > before)
