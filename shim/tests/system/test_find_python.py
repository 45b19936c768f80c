"""Which interpreter the packages take, on nodes as distributions make them: a root of fake ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FILES = Path(__file__).parents[3] / "packaging/files"
BUSYBOX = "/usr/bin/busybox"
OURS = "usr/lib/copepod"

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot is root's"),
    pytest.mark.skipif(not os.path.exists(BUSYBOX), reason="busybox-static is not installed"),
]


class Root:
    """A root with a shell, the script and interpreters that answer its question with yes or no."""

    def __init__(self, top: Path) -> None:
        self.top = top
        for folder in ("bin", "dev", OURS):
            (top / folder).mkdir(parents=True)
        (top / "dev/null").touch()
        shutil.copy2(BUSYBOX, top / "bin/sh")
        shutil.copy2(FILES / "find-python", top / OURS)

    def python(self, name: str, fits: bool) -> None:
        """An interpreter at `name`; one that does not fit is older, or lacks a module."""
        path = self.top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\nexit {0 if fits else 1}\n")
        path.chmod(0o755)

    def find(self) -> subprocess.CompletedProcess[str]:
        argv = ["chroot", str(self.top), f"/{OURS}/find-python"]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60)


NODES = {
    "Debian 12, Debian 13, Ubuntu 24.04, Fedora": ({"usr/bin/python3": True}, "/usr/bin/python3"),
    "RHEL 9 with its python3.12": (
        {"usr/bin/python3": False, "usr/bin/python3.12": True}, "/usr/bin/python3.12"),
    "Ubuntu 22.04 with python3.11": (
        {"usr/bin/python3": False, "usr/bin/python3.11": True}, "/usr/bin/python3.11"),
    "several beside an old one: the newest": (
        {"usr/bin/python3": False, "usr/bin/python3.13": True, "usr/bin/python3.11": True},
        "/usr/bin/python3.13"),
    "one that the administrator has built": (
        {"usr/bin/python3": False, "usr/local/bin/python3": True}, "/usr/local/bin/python3"),
    "the node installer's own": (
        {"usr/bin/python3": False, f"{OURS}/python-3.13.1/bin/python3": True},
        f"/{OURS}/python-3.13.1/bin/python3"),
}  # fmt: skip


@pytest.mark.parametrize("name", NODES)
def test_the_one_that_is_taken(tmp_path: Path, name: str) -> None:
    root = Root(tmp_path)
    there, wanted = NODES[name]
    for path, fits in there.items():
        root.python(path, fits)
    done = root.find()
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{wanted}\n", "")


@pytest.mark.parametrize("old", [True, False])
def test_none_is_a_sentence(tmp_path: Path, old: bool) -> None:
    root = Root(tmp_path)
    if old:
        root.python("usr/bin/python3", fits=False)
    done = root.find()
    assert (done.returncode, done.stdout) == (1, "")
    assert "install CPython 3.11, 3.12, 3.13 or 3.14 (on RHEL 9: dnf install" in done.stderr
    assert f"then run /{OURS}/admin activate" in done.stderr
