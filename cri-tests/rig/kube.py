"""A one-node Kubernetes in a cell: etcd, the control plane and a kubelet, as plain processes.

Its node has an address that exists in the cell's network only, and pods run in the cell's
containerd; it changes no setting of the machine and leaves nothing.
"""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from rig import kube_files, kube_folders, tools
from rig.containerd import Containerd
from rig.kube_files import SERVICES, Files
from rig.leaks import CGROUPS
from rig.shell import Daemon, Done, RigError, until

VERSION = "1.37.2"
ADDRESS = "10.77.0.2"
ETCD = "http://127.0.0.1:2379"
START_TIMEOUT = 180.0
# What the kubelet and its plugins hard-code; they are the cell's own in there.
FOLDERS = ("/var/lib/kubelet", "/var/log")
# The kubelet sets these (its setupKernelTunables) and would set them for the whole machine: it
# finds files that hold what it wants instead.
TUNABLES = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}

# The node's address: the kubelet wants one of an interface, and not of the loopback.
_NETWORK = f"""
set -e
ip link add node0 type veth peer name node1
ip addr add {ADDRESS}/24 dev node0
ip link set node0 up
ip link set node1 up
ip route add default via 10.77.0.1 dev node0
for path in {" ".join(FOLDERS)}; do
    mkdir -p "$CELL$path"
    mount --bind "$CELL$path" "$path"
    # Out of the peer group of the file system that it is part of: else all would be mounted twice.
    mount --make-private "$path"
    mount --make-shared "$path"
done
# What kube-proxy would do for the one Service that pods of the cluster itself talk to.
iptables --wait --table nat --append PREROUTING --protocol tcp \\
    --destination {kube_files.SERVICE_ADDRESS} --dport 443 \\
    --jump DNAT --to-destination {ADDRESS}:{kube_files.API_PORT}
"""
# Runs the kubelet in a mount namespace where /proc/sys looks as it likes it. What it mounts for
# pods is seen in the cell all the same, where containerd takes it from.
_KUBELET = """
set -e
mount --make-rprivate /proc
cd "$CELL/tunables"
for file in */* */*/*; do
    [ ! -f "$file" ] || mount --bind "$file" "/proc/sys/$file"
done
cd /
exec "$@"
"""


class Cluster:
    """The cluster; a context manager that starts it beside `node` and ends it."""

    def __init__(self, node: Containerd) -> None:
        self.node = node
        self.cell = node.cell
        self.name = node.cell.name
        self.files = Files(node.home / "kubernetes", ADDRESS, self.name)
        self._programs = tools.ensure(f"kubernetes-{VERSION}")
        self._daemons: dict[str, Daemon] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Cluster":
        with ExitStack() as stack:
            stack.enter_context(kube_folders.present(FOLDERS))
            stack.callback(self._stop)
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        self.cell.call(["sh", "-c", _NETWORK], env={"CELL": str(self.cell.home)})
        kube_files.make(self.files, socket=self.node.settings.socket, cgroup=self.name)
        self._cgroups()
        self.node.wait_cri()
        folder = self.files.folder
        listen = [f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}"]
        peers = ["--listen-peer-urls=http://127.0.0.1:2380", "--unsafe-no-fsync"]
        self._run("server", f"--data-dir={folder / 'etcd'}", *listen, *peers)
        self._run("kube-apiserver", *self._apiserver())
        self._ready("the API server", lambda: self._answers("get", "--raw=/readyz"))
        self._run("kube-controller-manager", *self._controllers())
        self._run("kube-scheduler", *self._common("kube-scheduler"), "--leader-elect=false")
        self._kubelet()
        self._ready("the node", self._node_is_ready)
        # The kubelet makes its groups for classes of pods in the hierarchies that it limits; in
        # the others every runtime leaves them behind with its first pod, and so they are there.
        for top in CGROUPS.glob(f"*/{self.name}"):
            for name in ("burstable", "besteffort"):
                (top / "kubepods" / name).mkdir(parents=True, exist_ok=True)

    def _cgroups(self) -> None:
        """The group below which all pods run, in every hierarchy; the kubelet makes none."""
        tops = [path for path in CGROUPS.iterdir() if (path / "tasks").is_file()]
        for top in tops or [CGROUPS]:
            group = top / self.name
            group.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group (cpuset(7))
                if tops and (group / name).is_file():
                    (group / name).write_text((top / name).read_text())

    def _common(self, name: str) -> list[str]:
        config = self.files.kubeconfig(name)
        keep = ["--bind-address=127.0.0.1", f"--cert-dir={self.files.folder / name}"]
        allow = [f"--{kind}-kubeconfig={config}" for kind in ("authentication", "authorization")]
        return [f"--kubeconfig={config}", *keep, *allow]

    def _apiserver(self) -> list[str]:
        files = self.files
        return [
            f"--etcd-servers={ETCD}",
            f"--bind-address={files.address}",
            f"--advertise-address={files.address}",
            f"--secure-port={kube_files.API_PORT}",
            f"--service-cluster-ip-range={SERVICES}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--client-ca-file={files.crt('ca')}",
            f"--tls-cert-file={files.crt('kube-apiserver')}",
            f"--tls-private-key-file={files.key('kube-apiserver')}",
            f"--kubelet-certificate-authority={files.crt('ca')}",
            f"--kubelet-client-certificate={files.crt('kubelet-client')}",
            f"--kubelet-client-key={files.key('kubelet-client')}",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={files.crt('service-account')}",
            f"--service-account-signing-key-file={files.key('service-account')}",
        ]

    def _controllers(self) -> list[str]:
        files = self.files
        return [
            *self._common("kube-controller-manager"),
            "--leader-elect=false",
            "--use-service-account-credentials",
            f"--root-ca-file={files.crt('ca')}",
            f"--service-account-private-key-file={files.key('service-account')}",
        ]

    def _kubelet(self) -> None:
        for name, value in TUNABLES.items():
            path = self.cell.home / "tunables" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")
        self._run(
            "kubelet",
            f"--config={self.files.kubelet}",
            f"--kubeconfig={self.files.kubeconfig('kubelet')}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.files.address}",
            before=["unshare", "--mount", "--propagation=unchanged", "sh", "-c", _KUBELET, "sh"],
        )

    def _run(self, program: str, *flags: str, before: Sequence[str] = ()) -> None:
        argv = self.cell.inside([*before, self._programs / program, *flags])
        env = {"CELL": str(self.cell.home), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        self._daemons[program] = Daemon(argv, self.cell.home / f"{program}.log", env=env)

    def _node_is_ready(self) -> bool:
        """It says so, and the controllers have taken their mark of a new node away."""
        for node in self.get("nodes")["items"]:
            conditions = node["status"].get("conditions", [])
            ready = {one["type"]: one["status"] for one in conditions}.get("Ready")
            return ready == "True" and not node["spec"].get("taints")
        return False

    def _answers(self, *words: str) -> bool:
        return self.kubectl(*words, check=False).code == 0

    def _ready(self, what: str, probe: Any) -> None:
        def alive() -> bool:
            for name, daemon in self._daemons.items():
                if not daemon.alive():
                    raise RigError(f"{name} ended:\n{daemon.tail()}")
            return bool(probe())

        until(what, alive, START_TIMEOUT, pause=0.3)

    def _stop(self) -> None:
        """In the reverse order: nobody is to miss who it talks to."""
        for daemon in reversed(self._daemons.values()):
            daemon.stop()

    @property
    def logs(self) -> list[Path]:
        """The programs' log files."""
        return [daemon.log for daemon in self._daemons.values()]

    def kubectl_argv(self, *words: str | Path) -> list[str]:
        """The argv of a kubectl command, to be run inside the cell."""
        head = [f"--kubeconfig={self.files.kubeconfig('admin')}"]
        cache = [f"--cache-dir={self.cell.home / 'kubectl-cache'}"]
        return [str(self._programs / "kubectl"), *head, *cache, *map(str, words)]

    def kubectl(
        self,
        *words: str | Path,
        timeout: float = 60.0,
        stdin: bytes | str | None = None,
        check: bool = True,
    ) -> Done:
        """Runs kubectl as the cluster's administrator."""
        argv = self.kubectl_argv(*words)
        return self.cell.call(argv, timeout=timeout, stdin=stdin, check=check)

    def get(self, *words: str) -> Any:
        """`kubectl get` as JSON."""
        return json.loads(self.kubectl("get", *words, "--output=json").out)
