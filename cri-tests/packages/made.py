"""Builds the packages by their own script; unpacks them; compares two builds."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from rig.paths import CHECKOUT, cache_dir
from rig.shell import run
from vm import payload

TIMEOUT = 1800.0
DEB_MAX = 40e6
INSTALLED_MAX = 120e6


def build(output: Path, checkout: Path = CHECKOUT, umask: int = 0o022) -> list[Path]:
    """All four, below `output`."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    epoch = epoch or run(["git", "log", "-1", "--format=%ct"], cwd=CHECKOUT).out.strip()
    shutil.rmtree(output, ignore_errors=True)
    words = ["nice", sys.executable, f"{checkout}/packaging/build.py"]
    words += [f"--output={output}", f"--cache={cache_dir()}"]
    env = {"SOURCE_DATE_EPOCH": epoch}
    script = f'umask {umask:03o} && exec "$@"'
    run(["sh", "-c", script, "sh", *words], timeout=TIMEOUT, env=env)
    found = sorted([*output.glob("*.deb"), *output.glob("*.rpm")])
    assert len(found) == 4, found
    return found


def unpacked(packages: Path, arch: str, work: Path) -> Path:
    """The files of the deb for `arch`."""
    target = work / arch
    if not target.exists():
        (package,) = packages.glob(f"*_{arch}.deb")
        run(["dpkg-deb", "-x", package, target], timeout=120)
    return target


def private(root: Path) -> Path:
    """The private tree that a package's programs run from."""
    top = root / "usr/lib/copepod/dist"
    return top / (top / "name").read_text().strip()


def size(packages: Path, tree: Callable[[], Path]) -> str:
    """Of the file and installed, and where it goes."""
    (package,) = packages.glob("*_amd64.deb")
    packed = package.stat().st_size
    root = tree()
    installed = _size(root)
    parts = {path.name: _size(path) for path in private(root).iterdir()}
    largest = sorted(parts, key=lambda name: -parts[name])[:6]
    shown = ", ".join(f"{name} {parts[name] / 1e6:.1f}" for name in largest)
    text = f"{packed / 1e6:.1f} MB, {installed / 1e6:.1f} MB installed, of these {shown}"
    assert packed <= DEB_MAX, text
    assert installed <= INSTALLED_MAX, text
    return text


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(one.stat().st_size for one in files if one.is_file() and not one.is_symlink())


def again(packages: Path, work: Path) -> str:
    """A second build of a copy in another folder, whose files nobody else may read."""
    copy = work / "copy"
    payload.copy_tracked((".",), copy)
    run(["git", "init", "-q", copy])  # the packaging asks git which files there are
    second = build(work / "second", copy, 0o077)
    for one in second:
        assert _digest(one) == _digest(packages / one.name), f"{one.name} differs"
    shutil.rmtree(copy)
    shutil.rmtree(work / "second")
    return ", ".join(sorted(_digest(packages / one.name)[:12] for one in second))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
