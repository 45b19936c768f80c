"""`copepod node`: the right file for each containerd, undone byte for byte, and every refusal."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

import cli_fakes as fakes
from copepod import errors
from copepod.cli import command
from copepod.cli.node import apply, check, detect, plan, runtime
from copepod.cli.system import Process, Result

ETC = "/etc/containerd/config.toml"
K3S = "/var/lib/rancher/k3s/agent/etc/containerd"
RKE2 = "/var/lib/rancher/rke2/agent/etc/containerd"
SNAP = "/var/snap/microk8s/current/args"
TABLE = runtime.settings()


def node_with(root: Path, version: str, config: bytes | None, name: str = ETC) -> fakes.Node:
    node = fakes.Node(root, version)
    if config is not None:
        node.put(name, config)
    return node


def rancher(root: Path, flavour: str, version: str, config: bytes, release: str) -> fakes.Node:
    base = f"/var/lib/rancher/{flavour}"
    argv = ("containerd", "-c", f"{base}/agent/etc/containerd/config.toml", "-a",
            "/run/k3s/containerd/containerd.sock")  # fmt: skip
    exe = f"{base}/data/0123/bin/containerd"
    node = fakes.Node(root, version, Process(7, argv, exe, "/usr/bin", 1e10))
    node.put(exe, b"")
    node.put(f"{base}/agent/etc/containerd/config.toml", config)
    node.answers[(flavour, "--version")] = Result(0, f"{flavour} version {release} (abc)\n")
    return node


def run(node: fakes.Node, *words: str) -> int:
    return command.run(["node", *words], node)


def declared(node: fakes.Node, name: str) -> dict[str, object]:
    return runtime.runtimes(tomllib.loads(node.files()[name].decode()))


def assert_inserted(old: bytes, new: bytes) -> None:
    """`new` is `old` with text put in at one place."""
    same = 0
    while same < len(old) and old[same] == new[same]:
        same += 1
    assert new.endswith(old[same:])


PLAIN = [
    ("1.6.20~ds1", fakes.KUBEADM_DEBIAN_12, ETC), ("1.7.34", fakes.KUBEADM_DEBIAN_12, ETC),
    ("1.6.39", fakes.WITHOUT_RUNTIMES, ETC), ("1.7.24", fakes.VERSION_1, ETC),
    ("1.6.20", None, ETC), ("1.7.34", b"", ETC),
    ("v2.0.11", fakes.DEFAULT_2_0, "/etc/containerd/conf.d/copepod.toml"),
    ("v2.1.9", fakes.DEFAULT_2_1, "/etc/containerd/conf.d/copepod.toml"),
    ("v2.2.7", fakes.DEFAULT_2_2, "/etc/containerd/conf.d/copepod.toml"),
    ("v2.3.4", fakes.DEFAULT_2_3, "/etc/containerd/conf.d/copepod.toml"),
    ("v2.4.2", fakes.MANY_IMPORTS, "/etc/containerd/conf.d/copepod.toml"),
    ("v2.4.2", fakes.V2_ON_2X, "/etc/containerd/conf.d/copepod.toml"),
    ("v2.4.2", fakes.VERSION_1, "/etc/containerd/conf.d/copepod.toml"),
    ("v2.4.2", None, "/etc/containerd/conf.d/copepod.toml"),
    ("v2.1.0", b"version = 3\r\nimports = ['conf.d/*.toml']\r\n",
     "/etc/containerd/conf.d/copepod.toml"),
    ("v2.1.0", b"version = 3\nimports = ['/etc/containerd/config.d/*.toml']\n",
     "/etc/containerd/config.d/copepod.toml"),
]  # fmt: skip


@pytest.mark.parametrize(("version", "config", "target"), PLAIN)
def test_plain(tmp_path: Path, version: str, config: bytes | None, target: str) -> None:
    """Installed, installed again, changed, taken back: bytes and files are those of before."""
    node = node_with(tmp_path, version, config)
    node.put("/opt/shim", b"")
    before = node.files()
    assert run(node, "install", "--yes") == 0
    assert declared(node, target)["copepod"] == TABLE
    assert_inserted(config or b"", node.files().get(ETC, b""))
    found = detect.find(node)
    dumped = check.dump(node, found, ETC)
    assert set(runtime.runtimes(dumped)) == {"runc", "copepod"}
    once = node.files()
    assert run(node, "install", "--yes") == 0
    assert node.files() == once
    assert run(node, "install", "--shim", "/opt/shim") == 0
    assert declared(node, target)["copepod"] == {**TABLE, "runtime_path": "/opt/shim"}
    assert run(node, "uninstall") == 0
    assert node.files() == before
    assert not node.path("/etc/containerd/conf.d").exists()
    assert run(node, "uninstall") == 0


TEMPLATES = [
    ("k3s", "v1.7.20-k3s1", fakes.K3S_1_30, "v1.30.4+k3s1", f"{K3S}/config.toml.tmpl"),
    ("rke2", "v1.7.20-k3s1", fakes.RKE2, "v1.30.4+rke2r1", f"{RKE2}/config.toml.tmpl"),
    ("k3s", "v2.0.4-k3s2", fakes.DEFAULT_2_0, "v1.32.3+k3s1", f"{K3S}/config-v3.toml.tmpl"),
    ("k3s", "v2.1.4-k3s1", fakes.K3S_1_33, "v1.34.1+k3s1", f"{K3S}/config-v3.toml.d/copepod.toml"),
]  # fmt: skip


@pytest.mark.parametrize(("flavour", "version", "config", "release", "target"), TEMPLATES)
def test_rancher(
    tmp_path: Path, flavour: str, version: str, config: bytes, release: str, target: str
) -> None:
    node = rancher(tmp_path, flavour, version, config, release)
    before = node.files()
    assert run(node, "install", "--no-restart") == 0
    text = node.files()[target].decode()
    if target.endswith(".tmpl"):
        assert text.startswith('{{ template "base" . }}\n')
        text = text.partition("\n")[2]
    assert runtime.runtimes(tomllib.loads(text)) == {"copepod": TABLE}
    once = node.files()
    assert run(node, "install", "--no-restart") == 0
    assert node.files() == once
    assert run(node, "uninstall", "--no-restart") == 0
    assert node.files() == before


def test_a_template_that_is_there_is_extended(tmp_path: Path) -> None:
    node = rancher(tmp_path, "k3s", "v1.7.20", fakes.K3S_1_30, "v1.30.4")
    own = (
        b'{{ template "base" . }}\n[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]\n'
    )
    node.put(f"{K3S}/config.toml.tmpl", own)
    before = node.files()
    assert run(node, "install", "--no-restart") == 0
    assert node.files()[f"{K3S}/config.toml.tmpl"].startswith(own)
    assert run(node, "uninstall", "--no-restart") == 0
    assert node.files() == before


def test_microk8s(tmp_path: Path) -> None:
    exe = "/snap/microk8s/7229/bin/containerd"
    argv = (exe, "--config", f"{SNAP}/containerd.toml", "--address",
            "/var/snap/microk8s/common/run/containerd.sock")  # fmt: skip
    node = fakes.Node(tmp_path, "v1.7.28", Process(8, argv, exe, "/usr/bin", 0.0))
    node.put(exe, b"")
    node.put(f"{SNAP}/containerd.toml", fakes.MICROK8S.replace(b"${RUNTIME}", b"runc"))
    node.put(f"{SNAP}/containerd-template.toml", fakes.MICROK8S)
    before = node.files()
    assert run(node, "install", "--no-restart") == 0
    assert node.files()[f"{SNAP}/containerd-template.toml"].startswith(fakes.MICROK8S)
    assert declared(node, f"{SNAP}/containerd-template.toml")["copepod"] == TABLE
    assert node.files()[f"{SNAP}/containerd.toml"] == before[f"{SNAP}/containerd.toml"]
    assert run(node, "uninstall", "--no-restart") == 0
    assert node.files() == before


def test_1x_edits_the_import_that_wins(tmp_path: Path) -> None:
    """On 1.x the last file with a CRI table replaces the others: that is where we must be."""
    node = node_with(tmp_path, "1.7.24", b'version = 2\nimports = ["conf.d/*.toml"]\n')
    node.put("/etc/containerd/conf.d/10-gpu.toml", fakes.KUBEADM_DEBIAN_12)
    before = node.files()
    assert run(node, "install", "--no-restart") == 0
    assert "copepod" in declared(node, "/etc/containerd/conf.d/10-gpu.toml")
    assert run(node, "uninstall", "--no-restart") == 0
    assert node.files() == before


REFUSALS = [
    ("1.7.27", fakes.DOCKER, 'disabled_plugins = \\["cri"\\], the default of Docker'),
    ("v2.4.2", fakes.DOCKER, "switches the CRI plugin off"),
    ("1.7.27", fakes.BROKEN, "config.toml is not valid TOML: .*repair it first"),
    ("1.7.27", fakes.INLINE, "inline tables or dotted keys"),
    ("1.5.18", fakes.KUBEADM_DEBIAN_12, "containerd 1.5.18 is too old"),
    ("1.7.27", fakes.KUBEADM_DEBIAN_12 + runtime.to_toml(2, {"copepod": {"runtime_type": "x"}})
     .encode(), "already declares a runtime 'copepod' that is not"),
    ("v2.4.2", fakes.KUBEADM_DEBIAN_12 + runtime.to_toml(2, {"copepod": {"runtime_type": "x"}})
     .encode(), "or a file that it imports already declares"),
    ("1.7.27", b"version = 'two'\n", "no version of a containerd file"),
]  # fmt: skip


@pytest.mark.parametrize(("version", "config", "sentence"), REFUSALS)
def test_refusals_change_nothing(
    tmp_path: Path, version: str, config: bytes, sentence: str
) -> None:
    node = node_with(tmp_path, version, config)
    before = node.files()
    with pytest.raises(errors.Error, match=sentence):
        plan.make(node, detect.find(node), None)
    assert run(node, "install", "--yes") == 1
    assert node.files() == before


def test_by_hand_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = runtime.to_toml(2, {"copepod": {**TABLE, "snapshotter": "native"}})
    node = node_with(tmp_path, "1.7.24", fakes.KUBEADM_DEBIAN_12 + table.encode())
    before = node.files()
    assert run(node, "install", "--yes") == 0
    assert "written by hand" in capsys.readouterr().out
    assert node.files() == before


@pytest.mark.parametrize("version", ["1.7.24", "v2.1.0"])
def test_read_only_is_said_and_rolled_back(
    tmp_path: Path, version: str, capsys: pytest.CaptureFixture[str]
) -> None:
    node = node_with(tmp_path, version, fakes.KUBEADM_DEBIAN_12)
    before = node.files()[ETC]
    node.read_only.add(ETC)
    assert run(node, "install", "--yes") == 1
    assert "can't be written: Read-only file system" in capsys.readouterr().err
    assert node.files()[ETC] == before
    assert not node.exists("/etc/containerd/conf.d/copepod.toml")


def test_containerd_s_objection_rolls_back(tmp_path: Path) -> None:
    """A containerd that loses a setting with our file: told, and nothing is left of it."""

    class Forgetful(fakes.Node):
        def _effective(self, doc: dict[str, Any]) -> dict[str, Any]:
            full = super()._effective(doc)
            runtimes = runtime.runtimes(full)
            if "copepod" in runtimes:
                full["plugins"]["io.containerd.cri.v1.runtime"].pop("containerd")
                full["plugins"]["io.containerd.cri.v1.runtime"]["containerd"] = {
                    "runtimes": {"copepod": runtimes["copepod"]}
                }
            return full

    node = Forgetful(tmp_path, "v2.1.0")
    node.put(ETC, fakes.DEFAULT_2_2)
    found = detect.find(node)
    made = plan.make(node, found, None)
    with pytest.raises(
        errors.FailedPrecondition, match=r"runtimes\.runc\.runtime_type would change"
    ):
        apply.install(node, found, made)
    assert node.files()[ETC] == fakes.DEFAULT_2_2
    assert not node.exists("/etc/containerd/conf.d/copepod.toml")


@pytest.mark.parametrize("version", ["1.7.24", "v2.1.0"])
def test_uninstall_spares_later_edits(tmp_path: Path, version: str) -> None:
    node = node_with(tmp_path, version, fakes.KUBEADM_DEBIAN_12)
    assert run(node, "install", "--yes") == 0
    node.put(ETC, node.files()[ETC] + b"# added since\n")
    assert run(node, "uninstall") == 0
    assert node.files() == {ETC: fakes.KUBEADM_DEBIAN_12 + b"# added since\n"}


def test_uninstall_without_a_record(tmp_path: Path) -> None:
    node = node_with(tmp_path, "1.7.24", fakes.KUBEADM_DEBIAN_12)
    assert run(node, "install", "--yes") == 0
    node.remove(apply.RECORD)
    assert run(node, "uninstall") == 0
    assert node.files()[ETC] == fakes.KUBEADM_DEBIAN_12


def test_missing_containerd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = fakes.Node(tmp_path, "1.7.24")
    node.programs.clear()
    assert run(node, "install") == 1
    assert "no containerd on this node" in capsys.readouterr().err


def test_missing_shim_and_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = node_with(tmp_path, "1.7.24", fakes.KUBEADM_DEBIAN_12)
    del node.programs[runtime.SHIM]
    assert run(node, "install") == 1
    assert "name it with --shim" in capsys.readouterr().err
    node.user = 1000
    assert run(node, "install") == 1
    assert "run this as root" in capsys.readouterr().err


def test_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = Process(9, ("/usr/bin/containerd",), "/usr/bin/containerd", "/usr/bin", 1e10)
    node = fakes.Node(tmp_path, "1.7.24", process)
    node.put(ETC, fakes.KUBEADM_DEBIAN_12)
    node.put("/usr/bin/containerd", b"")
    assert run(node, "status") == 3
    assert run(node, "install", "--no-restart") == 0
    assert run(node, "status") == 0
    capsys.readouterr()
    node.process = Process(9, process.argv, process.exe, "/usr/bin", 1.0)
    assert run(node, "status", "--json") == 1
    state = json.loads(capsys.readouterr().out)
    assert state["configured"]
    assert state["by_us"]
    assert state["pending"]
    assert state["version"] == [1, 7, 24]


def test_restart_is_asked_and_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = Process(9, ("/usr/bin/containerd",), "/usr/bin/containerd", "/usr/bin", 1.0)
    node = fakes.Node(tmp_path, "1.7.24", process)
    node.put(ETC, fakes.KUBEADM_DEBIAN_12)
    node.put("/usr/bin/containerd", b"")
    node.put("/run/systemd/system/x", b"")
    node.answers[("systemctl", "is-active", "--quiet", "containerd")] = Result(0)
    assert run(node, "install") == 0  # nobody to ask: not restarted
    assert "not restarted; when it suits you: `systemctl restart" in capsys.readouterr().out
    node.answers[("systemctl", "restart", "containerd")] = Result(1, "", "Job failed")
    assert run(node, "install", "--yes") == 1
    assert "failed: Job failed" in capsys.readouterr().err


def test_several_containerds_are_not_guessed(tmp_path: Path) -> None:
    class Two(fakes.Node):
        def processes(self, name: str) -> list[Process]:
            one = Process(5, ("/x/containerd", "--config", "/tmp/a.toml"), "/x/containerd")
            return [one, Process(6, ("/x/containerd", "-c=/tmp/b.toml"), "/x/containerd")]

    with pytest.raises(errors.InvalidArgument, match=r"several containerds .*--config"):
        detect.find(Two(tmp_path, "1.7.24"))
    node = fakes.Node(tmp_path, "1.7.24", Two(tmp_path, "1").processes("")[0])
    with pytest.raises(errors.InvalidArgument, match=r"say so with --config /tmp/a\.toml"):
        detect.find(node)
    assert detect.find(node, config="/tmp/a.toml").pid == 5


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", (1, 6, 20)),
        ("containerd containerd.io 1.7.27 05044ec0a9a75232cad458027ca83437aae3f4da", (1, 7, 27)),
        ("containerd github.com/containerd/containerd/v2 v2.4.2 fb4c30d4", (2, 4, 2)),
        ("containerd github.com/k3s-io/containerd v1.7.20-k3s1 ", (1, 7, 20)),
        ("k3s version v1.30.4+k3s1 (98262b5d)\ngo version go1.22.5", (1, 30, 4)),
        ("nonsense", None),
    ],
)  # fmt: skip
def test_versions(text: str, version: tuple[int, int, int] | None) -> None:
    assert detect.parse_version(text) == version


def test_old_k3s_has_no_base_template(tmp_path: Path) -> None:
    node = rancher(tmp_path, "k3s", "v1.7.3", fakes.K3S_1_30, "v1.27.4+k3s1")
    with pytest.raises(errors.FailedPrecondition, match=r"k3s 1\.27\.4 has no base template"):
        plan.make(node, detect.find(node), None)


def test_notes(tmp_path: Path) -> None:
    node = node_with(tmp_path, "1.7.24", fakes.KUBEADM_DEBIAN_12)
    node.put("/kind/version", b"v0.24.0")
    node.put("/var/lib/minikube/x", b"")
    notes = " ".join(detect.find(node).notes)
    assert "kind node" in notes
    assert "minikube start" in notes
