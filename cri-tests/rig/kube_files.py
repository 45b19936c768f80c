"""The files that a one-node Kubernetes starts from: certificates, kubeconfigs, the kubelet's
configuration.

It writes files and starts nothing; the certificates are good for a day and trusted by this one
cluster only.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rig import debian
from rig.shell import run

API_PORT = 6443
DAYS = "1"
SERVICES = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"  # the first of SERVICES is the API server's own (kube-apiserver)
# Who a certificate says its holder is: common name, and organisation, which is the RBAC group.
USERS = {
    "admin": ("admin", "system:masters"),
    "kubelet-client": ("kube-apiserver", "system:masters"),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
}


@dataclass(frozen=True, slots=True)
class Files:
    """Where they are; `address` is the node's, `name` the node's name."""

    folder: Path
    address: str
    name: str

    def crt(self, name: str) -> Path:
        """A certificate."""
        return self.folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        """Its private key."""
        return self.folder / f"{name}.key"

    def kubeconfig(self, name: str) -> Path:
        """The kubeconfig of a user or a component."""
        return self.folder / f"{name}.kubeconfig"

    @property
    def server(self) -> str:
        return f"https://{self.address}:{API_PORT}"

    @property
    def kubelet(self) -> Path:
        """The kubelet's configuration."""
        return self.folder / "kubelet.json"


def make(files: Files, *, socket: Path, cgroup: str) -> None:
    """Writes all of them; `socket` is containerd's, `cgroup` the one below which pods run."""
    debian.need_command("openssl", "openssl")
    files.folder.mkdir(mode=0o700)
    _certificate(files, "ca", ("copepod-e2e", ""))
    _certificate(files, "service-account", ("service-account", ""))
    names = f"IP:{files.address},IP:{SERVICE_ADDRESS},IP:127.0.0.1,DNS:kubernetes.default.svc"
    _certificate(files, "kube-apiserver", ("kube-apiserver", ""), names)
    _certificate(files, "kubelet-server", (files.name, ""), f"IP:{files.address}")
    users = {**USERS, "kubelet": (f"system:node:{files.name}", "system:nodes")}
    for name, subject in users.items():
        _certificate(files, name, subject)
        _write(files.kubeconfig(name), _kubeconfig(files, name))
    _write(files.kubelet, _kubelet(files, socket, cgroup))


def _key(path: Path) -> None:
    words = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    run(["openssl", "genpkey", *words, "-out", path])


def _certificate(files: Files, name: str, subject: tuple[str, str], names: str = "") -> None:
    """A certificate signed by the cluster's own authority; "ca" is that authority."""
    _key(files.key(name))
    common, group = subject
    words = ["-subj", (f"/O={group}" if group else "") + f"/CN={common}"]
    if name != "ca":
        words += ["-CA", str(files.crt("ca")), "-CAkey", str(files.key("ca"))]
        words += ["-addext", "basicConstraints=critical,CA:FALSE"]
        words += ["-addext", "extendedKeyUsage=serverAuth,clientAuth"]
    if names:
        words += ["-addext", f"subjectAltName={names}"]
    words += ["-key", str(files.key(name)), "-days", DAYS, "-out", str(files.crt(name))]
    run(["openssl", "req", "-x509", "-new", *words])


def _write(path: Path, body: dict[str, Any]) -> None:
    path.write_text(json.dumps(body, indent=1))  # JSON is YAML


def _kubeconfig(files: Files, name: str) -> dict[str, Any]:
    cluster = {"server": files.server, "certificate-authority": str(files.crt("ca"))}
    user = {"client-certificate": str(files.crt(name)), "client-key": str(files.key(name))}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "e2e", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": name}}],
        "current-context": "e2e",
    }


def _kubelet(files: Files, socket: Path, cgroup: str) -> dict[str, Any]:
    """Nothing of a node is reserved and no pod is evicted: the machine is not the cluster's own."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": files.address,
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(files.crt("ca"))},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(files.crt("kubelet-server")),
        "tlsPrivateKeyFile": str(files.key("kubelet-server")),
        "containerRuntimeEndpoint": f"unix://{socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "enforceNodeAllocatable": [],
        "failCgroupV1": False,
        "failSwapOn": False,
        "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "volumePluginDir": str(files.folder / "plugins"),
        "resolvConf": "",
        # As often as the tests look.
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
    }
