"""A node made of files: configurations as the named distributions ship them, and a containerd
that answers `--version` and `config dump` by the merge rules of its version.

The configurations are our own words, written after each distribution's documentation.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from copepod.cli.node import runtime, tomltext
from copepod.cli.system import Process, Result, System

DOCKER = b"""\
#   This is what Docker's containerd.io package ships:
#   no CRI, everything else is a comment.

disabled_plugins = ["cri"]

#root = "/var/lib/containerd"
#state = "/run/containerd"
"""

KUBEADM_DEBIAN_12 = b"""\
version = 2

# systemd is the cgroup driver here, keep it
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "registry.k8s.io/pause:3.9"   # kubeadm's
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
    [plugins."io.containerd.grpc.v1.cri".containerd]
      default_runtime_name = "runc"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes]
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
          runtime_type = "io.containerd.runc.v2"
          [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
            SystemdCgroup = true
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd"
"""

WITHOUT_RUNTIMES = b'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nsandbox_image = "p:1"'

VERSION_1 = b"""\
# older than 2019
[plugins.cri]
  sandbox_image = "k8s.gcr.io/pause:3.1"
[plugins.cri.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"""

DEFAULT_2_0 = b"""\
version = 3
root = '/var/lib/containerd'
disabled_plugins = []
imports = []

[plugins.'io.containerd.cri.v1.runtime']
  enable_selinux = false
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = true
"""
DEFAULT_2_1 = DEFAULT_2_0.replace(b"enable_selinux = false", b"cgroup_writable = false")
DEFAULT_2_2 = DEFAULT_2_0.replace(b"imports = []", b"imports = ['/etc/containerd/conf.d/*.toml']")
DEFAULT_2_3 = DEFAULT_2_2.replace(b"version = 3", b"version = 4")

MANY_IMPORTS = b"""\
# a node with other drop-ins
version = 3
imports = [ # keep the order
  "/etc/containerd/nvidia.toml",   # GPUs
  '/etc/containerd/proxy.toml', # last, with a comma
]
oom_score = -999
"""

V2_ON_2X = KUBEADM_DEBIAN_12

K3S_1_30 = b"""\
# made at every start
version = 2

[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/rancher/k3s/agent/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_port = "10010"
  enable_unprivileged_ports = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = true
"""
RKE2 = K3S_1_30.replace(b"k3s", b"rke2")
K3S_1_33 = b"""\
version = 3
imports = ["/var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d/*.toml"]
root = "/var/lib/rancher/k3s/agent/containerd"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"""

MICROK8S = b"""\
# Use config version 2 to enable new configuration fields.
version = 2
oom_score = 0
[grpc]
  uid = 0
  max_recv_message_size = 16777216
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "${SNAPSHOTTER}"
    default_runtime_name = "${RUNTIME}"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "${RUNTIME_TYPE}"
"""

BROKEN = b'version = 2\n[plugins."io.containerd.grpc.v1.cri"\n  sandbox_image = "x"\n'
INLINE = b'version = 2\n[plugins]\n"io.containerd.grpc.v1.cri" = {sandbox_image = "x"}\n'

_BUILT_IN = {"runc": {"runtime_type": "io.containerd.runc.v2"}}


class Node(System):
    """A node below `root` with one containerd of `version`; it runs as `process`, if given."""

    def __init__(self, root: Path, version: str, process: Process | None = None) -> None:
        super().__init__(root)
        self.version = version
        self.process = process
        self.programs = {
            "containerd": "/usr/bin/containerd",
            runtime.SHIM: f"/usr/bin/{runtime.SHIM}",
        }
        self.answers: dict[tuple[str, ...], Result] = {}
        self.ran: list[tuple[str, ...]] = []
        self.read_only: set[str] = set()
        self.user = 0

    def put(self, name: str, data: bytes) -> None:
        """A file that was there before we came."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def files(self) -> dict[str, bytes]:
        """Every file of the node."""
        paths = [one for one in self.root.rglob("*") if one.is_file()]
        return {f"/{one.relative_to(self.root)}": one.read_bytes() for one in sorted(paths)}

    def euid(self) -> int:
        return self.user

    def which(self, name: str, path: str | None = None) -> str | None:
        return self.programs.get(name)

    def processes(self, name: str) -> list[Process]:
        return [self.process] if self.process else []

    def write(self, name: str, data: bytes) -> None:
        if name in self.read_only:
            raise OSError(30, "Read-only file system", name)
        super().write(name, data)

    def run(
        self, argv: Sequence[str], *, timeout: float = 60.0, stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Result:  # fmt: skip
        words = tuple(argv)
        self.ran.append(words)
        if words in self.answers:
            return self.answers[words]
        if os.path.basename(words[0]) == "containerd" or words[0].startswith("/proc/"):
            return self._containerd(words[1:])
        return Result(127, "", f"{words[0]}: No such file or directory")

    def _containerd(self, words: tuple[str, ...]) -> Result:
        if words == ("--version",):
            return Result(
                0, f"containerd github.com/containerd/containerd {self.version} 0123abc\n"
            )
        if words == ("config", "default"):
            return Result(0, to_toml(self._effective({"version": self._own_version()})))
        name = "/" + str(Path(words[1]).relative_to(self.root))
        try:
            return Result(0, to_toml(self._effective(self._load(name))))
        except ValueError as error:
            return Result(1, "", f"containerd: failed to load TOML: {error}")

    @property
    def major(self) -> int:
        return int(self.version.lstrip("v")[0])

    def _own_version(self) -> int:
        return 2 if self.major < 2 else 3

    def _load(self, name: str) -> dict[str, Any]:
        """The root file with its imports: 1.x replaces a plugin's table, 2.x merges it."""
        doc = tomllib.loads((self.read(name) or b"").decode())
        if not isinstance(doc.get("imports", []), list):
            raise ValueError("incompatible types: TOML value has type string; destination slice")
        for pattern in doc.get("imports", ()):
            for one in self.glob(os.path.join(os.path.dirname(name), pattern)):
                more = tomllib.loads((self.read(one) or b"").decode())
                if more.get("version", 1) != doc.get("version", 1):
                    raise ValueError(f"version of {one} differs")
                if self.major < 2:
                    doc.setdefault("plugins", {}).update(more.get("plugins", {}))
                else:
                    _merge(doc, {key: more[key] for key in more if key != "version"})
        return doc

    def _effective(self, doc: dict[str, Any]) -> dict[str, Any]:
        """With the built-in runtimes, which 1.x forgets as soon as a file declares one."""
        declared = runtime.runtimes(doc, doc.get("version", 1))
        runtimes = declared if self.major < 2 and declared else {**_BUILT_IN, **declared}
        name = runtime.plugin(self._own_version())
        table = doc.get("plugins", {}).pop(runtime.plugin(doc.get("version", 1)), {})
        table.setdefault("containerd", {})["runtimes"] = runtimes
        doc.setdefault("plugins", {})[name] = table
        doc["version"] = self._own_version()
        return doc


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def to_toml(doc: Mapping[str, Any], header: str = "") -> str:
    """Enough of a TOML writer for what a dump holds."""
    plain = {key: value for key, value in doc.items() if not isinstance(value, Mapping)}
    lines = [f"[{header}]"] if header else []
    lines += [f"{tomltext.quote(key)} = {runtime._value(value)}" for key, value in plain.items()]
    for key, value in doc.items():
        if isinstance(value, Mapping):
            lines.append(to_toml(value, f"{header}{'.' if header else ''}{tomltext.quote(key)}"))
    return "\n".join(lines)
