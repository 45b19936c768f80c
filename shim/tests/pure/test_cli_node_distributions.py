"""`copepod node` on whole configurations of Debian, k3s, RKE2 and MicroK8s: installed, read by the
next start, taken back byte for byte; and what of each can be broken.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

import cli_fakes as fakes
import node_configs as configs
from copepod import errors
from copepod.cli import command
from copepod.cli.node import check, detect, plan, runtime, tomltext
from copepod.cli.system import Process, Result

ETC = "/etc/containerd"
SNAP = "/var/snap/microk8s/current/args"
BASE = '{{ template "base" . }}\n'
TABLE = runtime.settings()


@dataclass(frozen=True, slots=True)
class Case:
    """A node: its containerd, what lies on it, and the file that is to hold our table."""

    version: str
    files: dict[str, bytes]
    target: str
    flavour: str = detect.PLAIN
    release: str = ""

    @property
    def config(self) -> str:
        """The root file."""
        return next(iter(self.files))

    def node(self, root: Path, running: bool = True) -> fakes.Node:
        """The node below `root`."""
        exe = {
            detect.PLAIN: "/usr/bin/containerd",
            detect.MICROK8S: "/snap/microk8s/current/bin/containerd",
        }.get(self.flavour, f"/var/lib/rancher/{self.flavour}/data/current/bin/containerd")
        argv = (exe, "--config", self.config)
        process = Process(7, argv, exe, "/usr/bin", 1e10) if running else None
        made = fakes.Node(root, self.version, process)
        made.put(exe, b"")
        for name, data in self.files.items():
            made.put(name, data)
        if self.release:
            told = f"{self.flavour} version {self.release} (0123abcd)\n"
            made.answers[(self.flavour, "--version")] = Result(0, told)
        return made


def debian(version: str, target: str, config: bytes = configs.DEBIAN, **more: bytes) -> Case:
    files = {f"{ETC}/config.toml": config}
    files |= {f"{ETC}/conf.d/{name}.toml": data for name, data in more.items()}
    return Case(version, files, f"{ETC}/{target}")


def rancher(
    flavour: str, version: str, release: str, target: str, template: bytes | None = None
) -> Case:
    folder = f"/var/lib/rancher/{flavour}/agent/etc/containerd"
    major = int(version.lstrip("v")[0])
    config = configs.rancher(flavour, major, imports=target.startswith("config-v3.toml.d"))
    files = {f"{folder}/config.toml": config}
    if template is not None:
        files[f"{folder}/{target}"] = template
    return Case(version, files, f"{folder}/{target}", flavour, release)


MICROK8S = Case(
    "v1.7.28",
    {
        f"{SNAP}/containerd.toml": configs.microk8s(),
        f"{SNAP}/containerd-template.toml": configs.MICROK8S,
    },
    f"{SNAP}/containerd-template.toml",
    detect.MICROK8S,
)
CASES = {
    "debian12": debian("1.6.20~ds1", "config.toml"),
    "debian13": debian("1.7.24~ds1", "config.toml"),
    "debian-containerd2": debian("2.1.4", "conf.d/copepod.toml", configs.DEBIAN_2),
    "debian-gpu": debian(
        "2.1.4", "conf.d/copepod.toml", configs.DEBIAN_2, nvidia=configs.GPU_DROP_IN
    ),
    "k3s-1.30": rancher("k3s", "v1.7.20-k3s1", "v1.30.4+k3s1", "config.toml.tmpl"),
    "k3s-1.30-template": rancher(
        "k3s", "v1.7.20-k3s1", "v1.30.4+k3s1", "config.toml.tmpl", configs.OWN_TEMPLATE
    ),
    "k3s-1.31": rancher("k3s", "v2.0.2-k3s2", "v1.31.6+k3s1", "config-v3.toml.tmpl"),
    "k3s-1.34": rancher("k3s", "v2.1.4-k3s1", "v1.34.1+k3s1", "config-v3.toml.d/copepod.toml"),
    "rke2-1.30": rancher("rke2", "v1.7.20-k3s1", "v1.30.4+rke2r1", "config.toml.tmpl"),
    "rke2-1.34": rancher("rke2", "v2.1.4-k3s1", "v1.34.1+rke2r1", "config-v3.toml.d/copepod.toml"),
    "microk8s": MICROK8S,
}


def run(node: fakes.Node, *words: str) -> int:
    return command.run(["node", *words], node)


def generate(case: Case, node: fakes.Node) -> None:
    """What the distribution does at its next start: the root file anew, from the template."""
    template = node.read(case.target)
    original = case.files[case.config]
    if case.flavour == detect.MICROK8S and template is not None:
        node.put(case.config, original + template.removeprefix(configs.MICROK8S))
    elif case.target.endswith(".tmpl"):
        text = (template or BASE.encode()).decode()
        node.put(case.config, text.replace(BASE, original.decode()).encode())


def dump(case: Case, node: fakes.Node) -> dict[str, object]:
    return check.dump(node, detect.find(node), case.config)


@pytest.mark.parametrize("name", CASES)
def test_whole_configurations(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    node = case.node(tmp_path)
    generate(case, node)
    files, before = node.files(), dump(case, node)
    assert run(node, "status") == 3
    assert run(node, "install", "--no-restart") == 0
    block = (node.read(case.target) or b"").decode()
    assert tomltext.find_block(block)
    generate(case, node)
    after = dump(case, node)
    assert check.compare(before, after, TABLE) is None
    assert set(runtime.runtimes(after)) == {*runtime.runtimes(before), "copepod"}
    assert run(node, "status") == 0
    once = node.files()
    assert run(node, "install", "--no-restart") == 0
    assert node.files() == once, "a second installation after the restart changes nothing"
    assert run(node, "uninstall", "--no-restart") == 0
    generate(case, node)
    assert node.files() == files
    assert run(node, "status") == 3


@pytest.mark.parametrize("name", ["k3s-1.30", "k3s-1.34", "rke2-1.30", "rke2-1.34", "microk8s"])
def test_installed_while_it_stands_still(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    node = case.node(tmp_path, running=False)
    files = node.files()
    found = detect.find(node)
    assert (found.flavour, found.pid) == (case.flavour, 0)
    assert run(node, "install", "--yes") == 0
    assert tomltext.find_block((node.read(case.target) or b"").decode())
    assert run(node, "uninstall", "--yes") == 0
    assert node.files() == files


def test_before_the_first_start(tmp_path: Path) -> None:
    """MicroK8s is installed and has not made its root file yet: the template is all there is."""
    node = MICROK8S.node(tmp_path, running=False)
    node.remove(MICROK8S.config)
    assert run(node, "install", "--yes") == 0
    assert b"copepod" in (node.read(MICROK8S.target) or b"")
    generate(MICROK8S, node)
    assert runtime.runtimes(dump(MICROK8S, node))["copepod"] == TABLE
    assert run(node, "uninstall", "--yes") == 0
    assert node.read(MICROK8S.target) == configs.MICROK8S


def other(version: int) -> bytes:
    return runtime.to_toml(version, {"copepod": {"runtime_type": "io.else.v1"}}).encode()


def with_target(name: str, data: bytes | None) -> Case:
    case = CASES[name]
    files = {key: value for key, value in case.files.items() if key != case.target}
    return Case(
        case.version,
        files if data is None else {**files, case.target: data},
        case.target, case.flavour, case.release,
    )  # fmt: skip


def broken(name: str, data: bytes) -> Case:
    """The root file with something put at its end."""
    case = CASES[name]
    files = {**case.files, case.config: case.files[case.config] + data}
    return Case(case.version, files, case.target, case.flavour, case.release)


BROKEN = {
    "a template that is missing": (with_target("microk8s", None), "installed completely"),
    "a template that is no text": (
        with_target("k3s-1.30", BASE.encode() + b"# f\xfcr GPUs\n"), "tmpl is not UTF-8 text"),
    "a template whose block lost its end": (
        with_target("k3s-1.30", f"{BASE}{tomltext.BEGIN}\n".encode()), "lost its '# END copepod'"),
    "no base template": (
        rancher("k3s", "v1.7.3", "v1.27.4+k3s1", "config.toml.tmpl"), "has no base template"),
    "another copepod from a template": (
        broken("k3s-1.30", other(2)), "tmpl already declares a runtime 'copepod' that is not"),
    "another copepod of MicroK8s": (
        broken("microk8s", other(2)), "template.toml already declares a runtime 'copepod'"),
    "another copepod in a folder": (
        broken("rke2-1.34", other(3)), "already declares a runtime 'copepod'"),
    "a drop-in that is no TOML": (
        debian("2.1.4", "conf.d/copepod.toml", configs.DEBIAN_2, gpu=fakes.BROKEN),
        "refuses /etc/containerd/config.toml: .*TOML"),
    "a drop-in of a version that is refused": (
        debian("2.1.4", "conf.d/copepod.toml", configs.DEBIAN_2, gpu=b"version = 3\n"),
        "refuses .*version of .*gpu.toml differs"),
    "a root file that is no TOML": (
        broken("debian13", b'[plugins."half\n'), "not valid TOML: .*repair it first"),
    "imports that are no list": (
        debian("2.1.4", "conf.d/copepod.toml", b'version = 3\nimports = "conf.d/*.toml"\n'),
        "refuses /etc/containerd/config.toml: .*TOML"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_refused_and_untouched(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    case, sentence = BROKEN[name]
    node = case.node(tmp_path)
    files = node.files()
    with pytest.raises(errors.Error, match=sentence):
        plan.make(node, detect.find(node), None)
    assert run(node, "install", "--yes") == 1
    assert capsys.readouterr().err.startswith("copepod: ")
    assert node.files() == files


@pytest.mark.parametrize("name", ["k3s-1.30", "microk8s"])
def test_a_template_s_own_copepod_serves(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Written by hand into the template, and so in the generated file: left alone."""
    case = broken(name, runtime.to_toml(2, {"copepod": TABLE}).encode())
    node = case.node(tmp_path)
    files = node.files()
    assert run(node, "install", "--no-restart") == 0
    assert "written by hand" in capsys.readouterr().out
    assert node.files() == files
    assert tomllib.loads(files[case.config].decode())
