"""`copepod node` against real containerds, each in a mount namespace with its own /etc/containerd.

The judge is `containerd config dump`, before and after; the machine's own files stay hidden.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cli_fakes as fakes
import node_configs as configs
from copepod.cli.node import check, detect, runtime

pytestmark = [
    pytest.mark.system,
    pytest.mark.peer,
    pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces and /etc/containerd are root's"),
]

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "copepod" / "tools"

# Runs in the namespace: two bind mounts, then each command line of the arguments.
SCRIPT = """
mkdir -p /etc/containerd /var/lib/copepod
mount --bind "$1/etc" /etc/containerd
mount --bind "$1/lib" /var/lib/copepod
shift
for line; do sh -c "$line" || exit $?; done
"""


def containerds() -> list[str]:
    """Debian's, and those that the peer tests have built."""
    found = [shutil.which("containerd") or "", *map(str, CACHE.glob("containerd-*/containerd"))]
    return sorted({one for one in found if one})


class Sandbox:
    """A place where the tool and one containerd see an /etc/containerd of the test's own."""

    def __init__(self, root: Path, containerd: str) -> None:
        self.root, self.containerd = root, containerd
        for name in ("etc", "lib", "bin"):
            (root / name).mkdir()
        (root / "bin/containerd").symlink_to(containerd)
        (root / "bin/containerd-shim-copepod-v1").touch(mode=0o755)

    @property
    def version(self) -> tuple[int, int, int]:
        """Of its containerd."""
        said = subprocess.run([self.containerd, "--version"], capture_output=True, text=True).stdout
        found = detect.parse_version(said)
        assert found, said
        return found

    def run(self, *lines: str) -> subprocess.CompletedProcess[str]:
        shim = Path(__file__).parents[2]
        env = {"PATH": f"{self.root}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
               "PYTHONPATH": f"{shim}:{shim.parent}/api"}  # fmt: skip
        # Nor does it see a containerd that runs on the machine.
        alone = ["unshare", "--mount", "--pid", "--fork", "--mount-proc"]
        argv = [*alone, "sh", "-c", SCRIPT, "sh", str(self.root), *lines]
        return subprocess.run(argv, capture_output=True, text=True, env=env, timeout=60)

    def dump(self) -> dict[str, object]:
        config = "/etc/containerd/config.toml"
        line = f"if [ -e {config} ]; then containerd -c {config} config dump; "
        return tomllib.loads(self.run(line + "else containerd config default; fi").stdout)

    def files(self) -> dict[str, bytes]:
        return {str(one): one.read_bytes() for one in (self.root / "etc").rglob("*.*ml")}


@pytest.mark.parametrize("containerd", containerds())
@pytest.mark.parametrize(
    "config",
    [None, "default", fakes.KUBEADM_DEBIAN_12, fakes.WITHOUT_RUNTIMES, fakes.VERSION_1,
     b'version = 2\nimports = [\n # none\n]\n', b"oom_score = -999 # no version\r\n",
     configs.DEBIAN, configs.rancher("k3s", 1), configs.rancher("rke2", 2), configs.microk8s()],
    ids=["none", "default", "kubeadm", "bare", "version1", "imports", "no-version",
         "debian", "k3s", "rke2", "microk8s"],
)  # fmt: skip
def test_installed_and_taken_back(tmp_path: Path, containerd: str, config: object) -> None:
    box = Sandbox(tmp_path, containerd)
    if isinstance(config, bytes) and b"version = 3" in config and box.version < (2, 0, 0):
        pytest.skip("containerd 1 does not know files of version 3")
    if config == "default":
        config = subprocess.run([containerd, "config", "default"], capture_output=True).stdout
    if isinstance(config, bytes):
        (box.root / "etc/config.toml").write_bytes(config)
    before, files = box.dump(), box.files()
    copepod = f"{sys.executable} -m copepod.cli node"
    done = box.run(f"{copepod} install --no-restart --config /etc/containerd/config.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert check.compare(before, box.dump(), runtime.settings()) is None
    once = box.files()
    done = box.run(f"{copepod} install --no-restart --config /etc/containerd/config.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert box.files() == once
    done = box.run(f"{copepod} uninstall --no-restart --config /etc/containerd/config.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert box.files() == files
    assert box.dump() == before
    assert not list((box.root / "lib").iterdir())


@pytest.mark.parametrize("containerd", containerds())
def test_dockers_default_is_refused(tmp_path: Path, containerd: str) -> None:
    box = Sandbox(tmp_path, containerd)
    (box.root / "etc/config.toml").write_bytes(fakes.DOCKER)
    done = box.run(f"{sys.executable} -m copepod.cli node install --yes "
                   "--config /etc/containerd/config.toml")  # fmt: skip
    assert done.returncode == 1
    assert "switches the CRI plugin off" in done.stderr
    assert (box.root / "etc/config.toml").read_bytes() == fakes.DOCKER


@pytest.mark.parametrize("containerd", containerds())
def test_a_read_only_file_system_is_said(tmp_path: Path, containerd: str) -> None:
    box = Sandbox(tmp_path, containerd)
    (box.root / "etc/config.toml").write_bytes(fakes.KUBEADM_DEBIAN_12)
    done = box.run("mount -o remount,bind,ro /etc/containerd && "
                   f"{sys.executable} -m copepod.cli node install --yes "
                   "--config /etc/containerd/config.toml")  # fmt: skip
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr
    assert (box.root / "etc/config.toml").read_bytes() == fakes.KUBEADM_DEBIAN_12
