"""The packages' parts: what goes into them, and the script that keeps trees under running pods."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
FILES = ROOT / "packaging/files"


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "packaging"))
    return importlib.import_module("bundle")


def test_the_lock_has_what_we_run_with(bundle: ModuleType) -> None:
    """Every wheel for each machine and Python, in the versions that the tests run with."""
    text = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    wanted = {name.lower().replace("-", "_"): version for name, version in pins}
    wheels = bundle.locked()
    assert {wheel.name: wheel.version for wheel in wheels} == {
        name: wanted[name] for name in (*bundle.PURE, *bundle.PER_MACHINE, *bundle.PER_PYTHON)
    }
    for machine in bundle.MACHINES.values():
        mine = [wheel for wheel in wheels if wheel.serves(machine)]
        pythons = {wheel.python for wheel in mine if wheel.name == "grpcio"}
        assert pythons == {f"cp{one.replace('.', '')}" for one in bundle.PYTHONS}
        assert {wheel.name for wheel in mine} == {wheel.name for wheel in wheels}


def test_our_dependencies_are_all_bundled(bundle: ModuleType) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=]", one)[0] for one in project["dependencies"]}
    assert names - {"ttrpc"} <= {*bundle.PURE, *bundle.PER_MACHINE, *bundle.PER_PYTHON}


def test_what_is_dropped(bundle: ModuleType) -> None:
    for name in ("a/b.pyi", "google/protobuf/compiler/x.py", "wasmtime/_func.py", "rich/syntax.py",
                 "grpc/_cython/_credentials/roots.pem", "x-1.dist-info/RECORD",
                 "a/tests/t.py"):  # fmt: skip
        assert bundle._DROPPED.search(name), name
    for name in ("wasmtime/linux-x86_64/_libwasmtime.so", "wasmtime-50.0.1.dist-info/METADATA",
                 "rich/console.py", "google/protobuf/message.py", "grpc/_channel.py"):  # fmt: skip
        assert not bundle._DROPPED.search(name), name


def test_the_same_tree_has_the_same_name(bundle: ModuleType) -> None:
    tree = {"a": b"1", "b": b"2"}
    assert bundle.identity(tree) == bundle.identity(dict(reversed(tree.items())))
    assert bundle.identity(tree) != bundle.identity({**tree, "b": b"3"})


class Tree:
    """An installation in a directory of its own, driven by the real script."""

    def __init__(self, top: Path) -> None:
        self.top, self.bin, self.run = top / "lib", top / "bin", top / "run"
        for folder in (self.top / "dist", self.bin, self.run / "seccomp"):
            folder.mkdir(parents=True)
        for name in ("admin", "find-python"):
            shutil.copy2(FILES / name, self.top)
        # Any Python does: which one is found is not what is tested here.
        (self.top / "find-python").write_text(f"#!/bin/sh\necho {sys.executable}\n")
        self.processes: list[subprocess.Popen[bytes]] = []

    def unpack(self, name: str) -> None:
        """What a package manager does: the old files go, the new ones come."""
        shutil.rmtree(self.top / "dist")
        (self.top / "dist" / name).mkdir(parents=True)
        (self.top / "dist" / name / "shim.py").write_text(
            "import sys\nprint(flush=True)\nsys.stdin.read()\n"
        )
        (self.top / "dist/name").write_text(f"{name}\n")

    def admin(self, *words: str, program: Path | None = None) -> subprocess.CompletedProcess[str]:
        argv = ["sh", str(program or self.top / "admin"), *words]
        env = {**os.environ, "COPEPOD_BIN": str(self.bin), "COPEPOD_RUN": str(self.run)}
        return subprocess.run(argv, capture_output=True, text=True, env=env, timeout=60)

    def pod(self) -> subprocess.Popen[bytes]:
        tree, python = (self.top / "current").read_text().split()
        argv = [python, "-ISB", f"{tree}/shim.py"]
        made = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert made.stdout
        made.stdout.readline()
        self.processes.append(made)
        return made

    def end(self, pod: subprocess.Popen[bytes]) -> None:
        pod.communicate(timeout=30)
        self.processes.remove(pod)

    def versions(self) -> set[str]:
        return {one.name for one in (self.top / "versions").iterdir()}


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path)
    made.unpack("1")
    done = made.admin("activate")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    yield made
    for pod in [*made.processes]:
        made.end(pod)


def test_a_tree_is_activated_and_compiled(tree: Tree) -> None:
    folder = tree.top / "versions/1"
    assert (tree.top / "current").read_text() == f"{folder} {sys.executable}\n"
    assert list(folder.glob("__pycache__/shim.*.pyc"))
    assert (folder / "shim.py").stat().st_nlink == 2  # costs no room
    assert tree.admin("in-use").returncode == 1


def test_an_upgrade_leaves_a_running_pod_its_tree(tree: Tree) -> None:
    old = tree.pod()
    tree.unpack("2")
    assert tree.admin("activate").returncode == 0
    new = tree.pod()
    assert tree.versions() == {"1", "2"}
    assert tree.admin("in-use").returncode == 0
    tree.end(old)
    assert tree.admin("collect").returncode == 0
    assert tree.versions() == {"2"}
    tree.end(new)


def test_a_removal_waits_for_the_last_pod(tree: Tree) -> None:
    pod = tree.pod()
    for name in ("dist", "admin", "find-python"):  # the package manager's part
        path = tree.top / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    copy = tree.top / "versions/1/bin/admin"
    done = tree.admin("withdraw", program=copy)
    assert done.returncode == 0
    assert "pods still run" in done.stdout
    assert tree.run.exists()
    launcher = tree.bin / "containerd-shim-copepod-v1"
    assert f"-ISB {tree.top}/versions/1/shim.py" in launcher.read_text()
    tree.end(pod)
    assert tree.admin("wait", program=copy).returncode == 0
    assert not tree.top.exists()
    assert not tree.run.exists()
    assert not launcher.exists()


def test_a_removal_without_pods_leaves_nothing(tree: Tree) -> None:
    copy = tree.top / "versions/1/bin/admin"
    for name in ("dist", "admin", "find-python"):
        path = tree.top / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert tree.admin("withdraw", program=copy).returncode == 0
    assert not tree.top.exists()
    assert not tree.run.exists()


def launcher(top: Path, text: str) -> Path:
    template = (FILES / "launch.in").read_text()
    path = top / "program"
    path.write_text(template.replace("@TOP@", str(top)).replace("@ENTRY@", "shim.py"))
    path.chmod(0o755)
    (top / "find-python").write_text(text)
    (top / "find-python").chmod(0o755)
    return path


def test_the_launcher(tree: Tree) -> None:
    program = launcher(tree.top, "#!/bin/sh\necho 'no Python here' >&2\nexit 1\n")
    done = subprocess.run([program], input=b"", capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    (tree.top / "current").write_text(f"{tree.top}/versions/1 /nonexistent/python3\n")
    done = subprocess.run([program], capture_output=True)
    assert (done.returncode, done.stderr) == (1, b"no Python here\n")
    (tree.top / "current").unlink()
    done = subprocess.run([program], capture_output=True)
    assert b"not set up yet" in done.stderr


def test_manifests_are_what_they_name() -> None:
    """nfpm's configuration names scripts that are there; the SBOM's version is the package's."""
    nfpm = json.loads((ROOT / "packaging/nfpm.json").read_text())
    for kind in nfpm["overrides"].values():
        for script in kind["scripts"].values():
            path = ROOT / "packaging" / script
            assert subprocess.run(["sh", "-n", str(path)]).returncode == 0
    for name in ("admin", "find-python"):
        assert subprocess.run(["sh", "-n", str(FILES / name)]).returncode == 0


def test_one_version_everywhere() -> None:
    from copepod import __version__

    chart = (ROOT / "packaging/k8s/chart/Chart.yaml").read_text()
    assert f"version: {__version__}" in chart
    assert f"appVersion: {__version__}" in chart
    daemonset = (ROOT / "packaging/k8s/installer/daemonset.yaml").read_text()
    assert f"node-installer:{__version__}" in daemonset
