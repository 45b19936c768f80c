"""Pods and containers through CRI, by crictl: what the kubelet asks of containerd, in short words.

It holds no state but the ids that crictl gave.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rig.containerd import Containerd
from rig.shell import Done, until

STOP_TIMEOUT = 120.0


# What the kubelet asks for unless a pod shares its process namespace (NamespaceMode CONTAINER).
OWN_PIDS = {"security_context": {"namespace_options": {"pid": 1}}}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both tables in one, `over` last, tables inside them too."""
    found = dict(base)
    for key, value in over.items():
        inner = found.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        found[key] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return found


class Pods:
    """The pods of one runtime handler on one private containerd."""

    def __init__(self, node: Containerd, handler: str) -> None:
        self.node = node
        self.handler = handler
        self._specs = node.home / "specs"
        self._logs = node.home / "logs"
        self._specs.mkdir(exist_ok=True)
        self._logs.mkdir(exist_ok=True)

    def _file(self, name: str, body: Mapping[str, Any]) -> Path:
        path = self._specs / f"{name}.json"
        path.write_text(json.dumps(body))
        return path

    def _pod_file(self, name: str, fields: dict[str, Any]) -> Path:
        logs = self._logs / name
        logs.mkdir(exist_ok=True)
        base = {"cgroup_parent": f"/{self.node.cell.name}", **OWN_PIDS}
        linux = merged(base, fields.pop("linux", {}))
        body = {
            "metadata": {"name": name, "namespace": "test", "uid": uuid.uuid4().hex, "attempt": 1},
            "log_directory": str(logs),
            "linux": linux,
            **fields,
        }
        return self._file(name, body)

    def container_file(self, pod: str, name: str, image: str, fields: dict[str, Any]) -> Path:
        """Writes a container's configuration as crictl takes it."""
        body = {
            "metadata": {"name": name},
            "image": {"image": image},
            "log_path": f"{name}.log",
            **fields,
            "linux": merged(OWN_PIDS, fields.get("linux", {})),
        }
        return self._file(f"{pod}-{name}", body)

    def write(self, name: str, image: str, command: Sequence[str]) -> tuple[Path, Path]:
        """The files of a pod and of one container for it, for a caller that runs crictl itself."""
        pod = self._pod_file(name, {})
        return pod, self.container_file(name, "one", image, {"command": list(command)})

    def run(self, name: str, **fields: Any) -> "Pod":
        """RunPodSandbox; `fields` are added to the pod's configuration."""
        path = self._pod_file(name, fields)
        words: list[str | Path] = ["runp", "--runtime", self.handler, path]
        return Pod(self, name, path, self.node.crictl(*words).out.strip())


class Pod:
    """One pod sandbox."""

    def __init__(self, pods: Pods, name: str, path: Path, pod_id: str) -> None:
        self.pods = pods
        self.node = pods.node
        self.name = name
        self.path = path
        self.id = pod_id

    def create(
        self,
        name: str,
        image: str,
        args: Sequence[str] = (),
        *,
        volumes: Mapping[Path, str] | None = None,
        **fields: Any,
    ) -> "Container":
        """CreateContainer; `args` follow the image's entry point, volumes are host to container."""
        mounts = [
            {"host_path": str(host), "container_path": inside}
            for host, inside in (volumes or {}).items()
        ]
        body = {"args": list(args), "mounts": mounts, **fields}
        path = self.pods.container_file(self.name, name, image, body)
        made = self.node.crictl("create", "--no-pull", self.id, path, self.path)
        return Container(self, name, made.out.strip())

    def start(self, name: str, image: str, args: Sequence[str] = (), **fields: Any) -> "Container":
        """CreateContainer and StartContainer."""
        container = self.create(name, image, args, **fields)
        self.node.crictl("start", container.id)
        return container

    def inspect(self) -> dict[str, Any]:
        """PodSandboxStatus, verbose."""
        found: dict[str, Any] = self.node.crictl_json("inspectp", self.id)
        return found

    @property
    def pid(self) -> int:
        """The sandbox's process."""
        return int(self.inspect()["info"]["pid"])

    def remove(self) -> None:
        """StopPodSandbox and RemovePodSandbox, with all containers."""
        self.node.crictl("stopp", self.id, timeout=STOP_TIMEOUT)
        self.node.crictl("rmp", self.id, timeout=STOP_TIMEOUT)


class Container:
    """One container of a pod."""

    def __init__(self, pod: Pod, name: str, container_id: str) -> None:
        self.pod = pod
        self.node = pod.node
        self.name = name
        self.id = container_id

    @property
    def log(self) -> str:
        """What CRI has written to the log file, its prefix of time and stream taken off."""
        path = self.node.home / "logs" / self.pod.name / f"{self.name}.log"
        text = path.read_text(errors="replace") if path.exists() else ""
        return "\n".join(line.split(" ", 3)[3] for line in text.splitlines() if line.count(" ") > 2)

    def inspect(self) -> dict[str, Any]:
        """ContainerStatus, verbose."""
        found: dict[str, Any] = self.node.crictl_json("inspect", self.id)
        return found

    @property
    def status(self) -> dict[str, Any]:
        """The status part of inspect."""
        found: dict[str, Any] = self.inspect()["status"]
        return found

    @property
    def pid(self) -> int:
        """The container's first process."""
        return int(self.inspect()["info"]["pid"])

    def stop(self, grace: int = 10) -> None:
        """StopContainer: SIGTERM, after `grace` seconds SIGKILL."""
        self.node.crictl("stop", f"--timeout={grace}", self.id, timeout=grace + STOP_TIMEOUT)

    def remove(self) -> None:
        """RemoveContainer."""
        self.node.crictl("rm", "-f", self.id, timeout=STOP_TIMEOUT)

    def exec(self, *words: str, timeout: int = 0, check: bool = True) -> Done:
        """ExecSync, as an exec probe does it; `timeout` in seconds is the probe's own."""
        limit = [f"--timeout={timeout}"] if timeout else []
        return self.node.crictl("exec", "--sync", *limit, self.id, *words, check=check)

    def wait_exited(self, timeout: float = 30.0) -> dict[str, Any]:
        """Waits for the container's end; gives its status."""

        def ended() -> dict[str, Any] | None:
            status = self.status
            return status if status["state"] == "CONTAINER_EXITED" else None

        return until(f"container {self.name} to end", ended, timeout)

    def wait_log(self, text: str, timeout: float = 20.0) -> str:
        """Waits until the log holds `text`; gives the log."""
        until(f"{text!r} in the log of {self.name}", lambda: text in self.log, timeout)
        return self.log
