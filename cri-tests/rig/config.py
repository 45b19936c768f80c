"""containerd's configuration for a private instance, in the dialect of each version.

It writes text only; what the keys mean is in containerd's docs/cri/config.md.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PAUSE = "registry.k8s.io/pause:3.10"
RUNTIME_TYPE = "io.containerd.copepod.v1"
ANNOTATIONS = ("copepod.dev/*",)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a private containerd needs to know."""

    home: Path
    runc: Path
    cni_bin: Path
    restrict_oom_score: bool
    sandboxer: str = ""

    @property
    def socket(self) -> Path:
        return self.home / "c.sock"

    @property
    def state(self) -> Path:
        return self.home / "state"

    @property
    def root(self) -> Path:
        return self.home / "root"

    @property
    def cni(self) -> Path:
        return self.home / "net.d"

    @property
    def certs(self) -> Path:
        return self.home / "certs.d"


Value = str | int | bool | Sequence[str]


def _table(name: str, values: Mapping[str, Value]) -> str:
    lines = [f"[{name}]"] if name else []
    # JSON's strings, numbers, booleans and arrays of strings are TOML's too.
    lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def render(settings: Settings, major: int) -> str:
    """The text of config.toml: version 2 for containerd 1.x, version 3 for 2.x."""
    head: dict[str, Value] = {
        "version": 2 if major == 1 else 3,
        "root": str(settings.root),
        "state": str(settings.state),
    }
    parts = [
        _table("", head),
        _table("grpc", {"address": str(settings.socket)}),
        _table("debug", {"level": "info"}),
        _table('plugins."io.containerd.internal.v1.opt"', {"path": str(settings.home / "opt")}),
    ]
    parts += _cri_1(settings) if major == 1 else _cri_2(settings)
    return "\n".join(parts)


def _cri_1(settings: Settings) -> list[str]:
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    top: dict[str, Value] = {
        "sandbox_image": PAUSE,
        "restrict_oom_score_adj": settings.restrict_oom_score,
        "stream_server_address": "127.0.0.1",
    }
    return [
        _table(cri, top),
        _table(f"{cri}.cni", _cni(settings)),
        _table(f"{cri}.registry", {"config_path": str(settings.certs)}),
        _table(f"{cri}.containerd", {"default_runtime_name": "runc"}),
        *_handlers(cri, settings),
    ]


def _cri_2(settings: Settings) -> list[str]:
    cri = 'plugins."io.containerd.cri.v1.runtime"'
    images = 'plugins."io.containerd.cri.v1.images"'
    cni = {key + "s" if key == "bin_dir" else key: value for key, value in _cni(settings).items()}
    cni["bin_dirs"] = [str(settings.cni_bin)]
    return [
        _table(cri, {"restrict_oom_score_adj": settings.restrict_oom_score}),
        _table(f"{cri}.cni", cni),
        _table(f"{cri}.containerd", {"default_runtime_name": "runc"}),
        *_handlers(cri, settings),
        _table(f"{images}.pinned_images", {"sandbox": PAUSE}),
        _table(f"{images}.registry", {"config_path": str(settings.certs)}),
        _table('plugins."io.containerd.grpc.v1.cri"', {"stream_server_address": "127.0.0.1"}),
    ]


def _cni(settings: Settings) -> dict[str, Value]:
    return {"bin_dir": str(settings.cni_bin), "conf_dir": str(settings.cni)}


def _handlers(cri: str, settings: Settings) -> list[str]:
    runtimes = f"{cri}.containerd.runtimes"
    ours: dict[str, Value] = {
        "runtime_type": RUNTIME_TYPE,
        "pod_annotations": ANNOTATIONS,
        "container_annotations": ANNOTATIONS,
    }
    if settings.sandboxer:
        ours["sandboxer"] = settings.sandboxer
    return [
        _table(f"{runtimes}.runc", {"runtime_type": "io.containerd.runc.v2"}),
        _table(f"{runtimes}.runc.options", {"BinaryName": str(settings.runc)}),
        _table(f"{runtimes}.copepod", ours),
    ]


def conflist(bridge: str, subnet: str) -> str:
    """A CNI network: a bridge with addresses of `subnet`, loopback and host ports."""
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": subnet}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [
        {
            "type": "bridge",
            "bridge": bridge,
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": ipam,
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return json.dumps({"cniVersion": "1.0.0", "name": "cell", "plugins": plugins}, indent=1)
