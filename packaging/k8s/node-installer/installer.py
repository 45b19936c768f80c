"""Puts Copepod on a Kubernetes node from a DaemonSet, and takes it away when that is deleted.

It writes below /opt/copepod and, through `copepod node install`, containerd's configuration; it
restarts containerd only while no pod of the node is being started. It needs nothing but Python's
standard library, and runs the node's programs in the node's own namespaces.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOP = "/opt/copepod"
LABEL = "copepod.dev/runtime"
RUNTIME = "copepod"
# How a program of the node is run: in the namespaces of its process 1, or, for a node whose root
# is a folder of this machine, in that root.
NAMESPACES = ("nsenter", "--target", "1", "--mount", "--uts", "--ipc", "--net", "--pid", "--")
FOLDER = ("chroot", "/host")
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# What a container waits for before it runs (kubelet's reasons for `waiting`).
STARTING = {"ContainerCreating", "PodInitializing"}


class Gone(Exception):
    """The API server does not know us any more, or not what we asked for."""


@dataclass
class Api:
    """The few requests that are made of the API server."""

    url: str
    context: ssl.SSLContext | None = None
    account: Path = ACCOUNT

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One request; raises Gone for 401, 403 and 404, OSError when nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        # The kubelet renews the token's file.
        request.add_header("Authorization", f"Bearer {(self.account / 'token').read_text()}")
        if data:
            request.add_header("Content-Type", "application/merge-patch+json")
        try:
            with urllib.request.urlopen(request, timeout=10, context=self.context) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:  # it holds the answer's socket
                if error.code in (401, 403, 404):
                    raise Gone(f"{path}: {error.code}") from error
                raise


@dataclass
class Installer:
    """One node's installation; `enter` is how a program of the node is run."""

    api: Api
    node: str
    host: Path = Path("/host")
    payload: Path = Path("/payload")
    ready: Path = Path("/tmp/ready")
    enter: tuple[str, ...] = NAMESPACES
    containerd: str = "auto"
    restart: bool = True
    settle: float = 120.0
    grace: float = 300.0
    poll: float = 2.0
    ending: threading.Event = field(default_factory=threading.Event)

    def install(self) -> None:
        """Files, containerd's configuration, its restart when that changed, the node's label."""
        self.copy()
        self.program(f"{TOP}/admin", "activate")
        flags = self.flags()
        shim = f"{TOP}/bin/containerd-shim-copepod-v1"
        self.program(
            f"{TOP}/bin/copepod", "node", "install", "--no-restart", "--shim", shim, *flags
        )
        pending = self.pending(flags)
        if pending and self.restart:
            self.wait_until_settled()
            self.program(
                f"{TOP}/bin/copepod", "node", "install", "--restart", "--shim", shim, *flags
            )
            pending = self.pending(flags)
        if pending:
            say("containerd has to be restarted before this node is ready")
            self.label(None)
            return
        self.label("ready")
        self.ready.touch()
        say(f"node {self.node} is ready")

    def flags(self) -> list[str]:
        """Which containerd, where the administrator says so."""
        return [] if self.containerd == "auto" else ["--containerd", self.containerd]

    def pending(self, flags: list[str]) -> bool:
        """True while containerd runs with an older configuration."""
        answer = self.program(f"{TOP}/bin/copepod", "node", "status", "--json", *flags, check=False)
        return bool(json.loads(answer)["pending"])

    def copy(self) -> None:
        """The payload to the node, beside what is there: running pods keep their own tree."""
        target = self.host / TOP.lstrip("/")
        target.mkdir(parents=True, exist_ok=True)
        for one in sorted(self.payload.iterdir()):
            fresh, final = target / f".new-{one.name}", target / one.name
            if one.name.startswith("python-") and final.exists():
                continue  # its name says its version, and running shims import from it
            remove(fresh)
            if one.is_dir():
                shutil.copytree(one, fresh, symlinks=True)
            else:
                shutil.copy2(one, fresh)
            if final.is_dir():
                remove(final)
            os.replace(fresh, final)

    def wait_until_settled(self) -> None:
        """Until no pod of this node is being started, or `settle` seconds are over."""
        deadline = time.monotonic() + self.settle
        while time.monotonic() < deadline:
            starting = [name for name, pod in self.pods() if is_starting(pod)]
            if not starting:
                return
            say(f"waiting for {', '.join(starting[:3])} before containerd is restarted")
            self.ending.wait(self.poll)
        say("pods are still being started: containerd is restarted now")

    def pods(self) -> list[tuple[str, dict[str, Any]]]:
        """The pods of this node by name, without this one."""
        path = f"/api/v1/pods?fieldSelector=spec.nodeName%3D{self.node}"
        return [
            (pod["metadata"]["name"], pod)
            for pod in self.api.call("GET", path)["items"]
            if pod["metadata"]["name"] != os.environ.get("HOSTNAME")
        ]

    def label(self, value: str | None) -> None:
        """Sets or removes the label that the RuntimeClass selects."""
        body = {"metadata": {"labels": {LABEL: value}}}
        self.api.call("PATCH", f"/api/v1/nodes/{self.node}", body)

    def program(self, *words: str, check: bool = True) -> str:
        """Runs a program of the node; gives what it printed, shows it, too."""
        done = subprocess.run([*self.enter, *words], stdout=subprocess.PIPE, text=True)
        for line in done.stdout.splitlines() if check else ():
            say(line)
        if check and done.returncode:
            raise SystemExit(f"installer: {' '.join(words)} ended with {done.returncode}")
        return done.stdout

    def deleted(self, namespace: str, name: str) -> bool:
        """True when the DaemonSet goes, and not only this pod.

        Deleted with all else, our account may be gone first: that says the same. A silent API
        server says nothing, and what is installed stays.
        """
        try:
            found = self.api.call("GET", f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}")
        except Gone:
            return True
        except OSError as error:
            say(f"the API server does not answer ({error}): Copepod stays on this node")
            return False
        return "deletionTimestamp" in found["metadata"]

    def uninstall(self) -> None:
        """Waits for pods of this runtime as long as there is time, then undoes all of it."""
        attempt(lambda: self.label(None), "remove the node's label")
        deadline = time.monotonic() + self.grace * 0.7
        while time.monotonic() < deadline and self.in_use():
            time.sleep(self.poll)
        flags = [*self.flags(), *(["--restart"] if self.restart else ["--no-restart"])]
        self.program(f"{TOP}/bin/copepod", "node", "uninstall", *flags)
        target = self.host / TOP.lstrip("/")
        tree = (target / "current").read_text().split()[0]
        for name in ("dist", "admin", "find-python"):
            remove(target / name)
        # Pods that still run keep their tree; it goes with the last of them.
        self.program("env", f"COPEPOD_BIN={TOP}/bin", f"{tree}/bin/admin", "withdraw")
        if not (target / "versions").exists():
            remove(target)
            remove(self.host / "var/lib/copepod")  # what was compiled here
        say(f"Copepod is gone from node {self.node}")

    def in_use(self) -> bool:
        """True while a process of the node runs from one of our trees."""
        done = subprocess.run([*self.enter, f"{TOP}/admin", "in-use"])
        return done.returncode == 0


def is_starting(pod: dict[str, Any]) -> bool:
    """True while containerd works for a pod: pulls its images, makes its containers."""
    if pod.get("status", {}).get("phase") not in (None, "Pending", "Running"):
        return False
    states = pod.get("status", {}).get("containerStatuses", [])
    return any(one.get("state", {}).get("waiting", {}).get("reason") in STARTING for one in states)


def remove(path: Path) -> None:
    """Whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def attempt(action: Any, what: str) -> None:
    """What may fail when everything is being deleted."""
    try:
        action()
    except (Gone, OSError) as error:
        say(f"could not {what}: {error}")


def say(text: str) -> None:
    """A line of the pod's log."""
    print(text, flush=True)


def main() -> int:
    """Installs, stays, and on SIGTERM undoes it if the DaemonSet was deleted."""
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    # Python 3.13 asks for all that RFC 5280 does; clusters' own authorities often lack some of it.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    installer = Installer(
        Api(f"https://{host}:{port}", context), os.environ["NODE_NAME"],
        enter=NAMESPACES if os.environ.get("HOST_ROOT", "/") == "/" else FOLDER,
        containerd=os.environ.get("CONTAINERD", "auto"),
        restart=os.environ.get("RESTART", "true") == "true",
        settle=float(os.environ.get("SETTLE_SECONDS", "120")),
        grace=float(os.environ.get("GRACE_SECONDS", "300")),
    )  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: installer.ending.set())
    installer.install()
    installer.ending.wait()
    if installer.deleted(os.environ["POD_NAMESPACE"], os.environ["DAEMONSET"]):
        installer.uninstall()
    return 0


if __name__ == "__main__":
    sys.exit(main())
