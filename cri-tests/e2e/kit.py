"""What a row has in hand: a namespace of its own in the cluster, and kubectl in short words.

Every wait is bounded. What a row made is deleted at its end, and must then go within a time.
"""

import json
from collections.abc import Callable
from types import TracebackType
from typing import Any

from e2e.manifests import Object
from rig.kube import Cluster
from rig.piped import Piped
from rig.shell import CommandFailed, Done, RigError, until

WAIT = 90.0
KINDS = "deployments,replicasets,jobs,services,pods"


class Kube:
    """A namespace; a context manager that makes and removes it."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace

    def __enter__(self) -> "Kube":
        self.cluster.kubectl("create", "namespace", self.namespace)
        # Pods are refused until the namespace has it.
        self.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kubectl("delete", KINDS, "--all", "--timeout=60s", timeout=90)
        self.cluster.kubectl("delete", "namespace", self.namespace, "--wait=false")

    def kubectl_argv(self, *words: str) -> list[str]:
        """The argv of kubectl in this namespace, to be run inside the cell."""
        return self.cluster.kubectl_argv(f"--namespace={self.namespace}", *words)

    def kubectl(
        self, *words: str, stdin: str | None = None, check: bool = True, timeout: float = 60.0
    ) -> Done:
        """Runs kubectl in this namespace."""
        head = f"--namespace={self.namespace}"
        return self.cluster.kubectl(head, *words, stdin=stdin, check=check, timeout=timeout)

    def start(self, *words: str, stdin: bool = False) -> Piped:
        """Starts a kubectl that goes on, such as port-forward."""
        return Piped(self.cluster.cell.inside(self.kubectl_argv(*words)), stdin=stdin)

    def apply(self, *objects: Object) -> None:
        """`kubectl apply`."""
        body = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def get(self, *words: str) -> Any:
        """`kubectl get` as JSON."""
        return json.loads(self.kubectl("get", *words, "--output=json").out)

    def wait(self, what: str, condition: str, timeout: float = WAIT) -> None:
        """`kubectl wait --for=CONDITION WHAT`; RigError tells what the pods were doing."""
        words = ("wait", what, f"--for={condition}", f"--timeout={timeout:g}s")
        try:
            self.kubectl(*words, timeout=timeout + 30)
        except CommandFailed as error:
            raise RigError(f"{error.done.err.strip()}\n{self.story()}") from None

    def until(self, what: str, probe: Callable[[], Any], timeout: float = WAIT) -> Any:
        """Asks again and again for what kubectl cannot wait for."""
        try:
            return until(what, probe, timeout, pause=0.3)
        except RigError as error:
            raise RigError(f"{error}\n{self.story()}") from None

    def phase(self, pod: str, wanted: str) -> None:
        """Waits until a pod has ended: Succeeded or Failed."""
        self.wait(f"pod/{pod}", f"jsonpath={{.status.phase}}={wanted}")

    def ready(self, pod: str) -> None:
        """Waits until a pod is ready."""
        self.wait(f"pod/{pod}", "condition=Ready")

    def status(self, pod: str, container: str = "main") -> Object:
        """A container's status; its state is empty while there is no container."""
        found: list[Object] = self.get("pod", pod)["status"].get("containerStatuses", [])
        return next((one for one in found if one["name"] == container), {"state": {}})

    def ended(self, pod: str, container: str = "main") -> Object:
        """How a container ended: exitCode, reason, message."""
        state: Object = self.status(pod, container)["state"]["terminated"]
        return state

    def log(self, pod: str, *words: str) -> str:
        """`kubectl logs`; empty while there is no container."""
        return self.kubectl("logs", pod, *words, check=False).out

    def wait_log(self, pod: str, text: str) -> str:
        """Waits until the log holds `text`; gives the log."""
        self.until(f"{text!r} in the log of {pod}", lambda: text in self.log(pod))
        return self.log(pod)

    def exec(
        self, pod: str, *argv: str, flags: tuple[str, ...] = (), stdin: str | None = None
    ) -> Done:
        """`kubectl exec`, whose exit code is the program's."""
        return self.kubectl("exec", *flags, pod, "--", *argv, stdin=stdin, check=False)

    def fetch(self, pod: str, path: str = "/", port: int = 8080) -> str:
        """An HTTP GET of a pod through the API server's proxy; empty when it is refused."""
        url = f"/api/v1/namespaces/{self.namespace}/pods/{pod}:{port}/proxy{path}"
        done = self.kubectl("get", "--raw", url, check=False)
        return done.out if done.code == 0 else ""

    def pods(self, app: str) -> list[Object]:
        """The pods of an app that are not being deleted."""
        found = self.get("pods", f"--selector=app={app}")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def story(self) -> str:
        """The states of the pods here and the last events, for messages."""
        lines: list[str] = []
        for pod in self.get("pods")["items"]:
            for one in pod["status"].get("containerStatuses", []):
                state = json.dumps(one.get("state"))
                lines.append(f"{pod['metadata']['name']}/{one['name']}: {state}")
        events = self.kubectl("events", "--no-headers", check=False).out
        return "\n".join(lines + events.splitlines()[-8:])
