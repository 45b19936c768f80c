"""The second disk: two packages, images, crictl, the tests of the node and those of the shim.

Everything comes from the working tree as it stands; the second package is the same code under a
higher version.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from rig import guests, images, tools
from rig.paths import CHECKOUT, CRI_TESTS, cache_dir
from rig.shell import run
from vm import root

NEWER = "99.0.0"
SIZE = "512M"
BUILD_TIMEOUT = 900.0
# What pytest consists of; all of it is Python, so that any interpreter takes it.
PYTEST = ("_pytest", "pytest", "py.py", "pluggy", "iniconfig", "packaging", "pygments")
TESTED = ("shim/copepod", "shim/tests", "api/copepod_api", "api/ttrpc/ttrpc", "pyproject.toml")


def make(home: Path, image: Path) -> None:
    """Lays everything out below `home` and makes the disk of it."""
    tree = home / "payload"
    (tree / "debs").mkdir(parents=True)
    (tree / "bin").mkdir()
    build("deb", CHECKOUT, tree / "debs/copepod.deb")
    newer(home, tree / "debs/newer.deb")
    shutil.copy2(tools.ensure("cri-tools-1.36") / "crictl", tree / "bin/crictl")
    catalogue = [*images.good_wasm(layers=True), images.busybox(), images.pause()]
    images.archive(tree / "images.tar", catalogue)
    shutil.copyfile(guests.wasm_c(), tree / "guest.wasm")
    shutil.copytree(
        CRI_TESTS / "vm", tree / "code/vm", ignore=shutil.ignore_patterns("__pycache__")
    )
    copy_tracked(TESTED, tree / "checkout")
    site = Path(_purelib())
    (tree / "site").mkdir()
    for source in (*(site / name for name in PYTEST), *site.glob("pytest-*.dist-info")):
        if source.is_dir():
            ignore = shutil.ignore_patterns("*.pyc")
            shutil.copytree(source, tree / "site" / source.name, ignore=ignore)
        else:
            shutil.copy2(source, tree / "site" / source.name)
    root.disk(tree, image, SIZE, root.LABEL)
    shutil.rmtree(tree)


def build(kind: str, checkout: Path, target: Path) -> None:
    """Builds one package of a checkout by its own script."""
    out = target.parent / f".{target.name}"
    argv = [sys.executable, f"{checkout}/packaging/build.py", "--arch=amd64", f"--format={kind}"]
    env = {"SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH") or _commit_time()}
    words = ["nice", *argv, f"--output={out}", f"--cache={cache_dir()}"]
    run(words, timeout=BUILD_TIMEOUT, env=env)
    (made,) = out.glob(f"*.{kind}")
    made.rename(target)
    shutil.rmtree(out)


def newer(home: Path, target: Path) -> None:
    """The package of a copy of the checkout whose version is higher; not compressed."""
    copy = home / "newer"
    copy_tracked((".",), copy)
    for name in ("__init__", "answers"):
        path = copy / f"shim/copepod/{name}.py"
        pattern = r'^((?:__version__|VERSION) = )"[^"]*"'
        path.write_text(re.sub(pattern, rf'\1"{NEWER}"', path.read_text(), flags=re.MULTILINE))
    for path in (copy / "shim/copepod").glob("answers.py"):
        path.write_text(
            re.sub(r'^(VERSION = )"[^"]*"', rf'\1"{NEWER}"', path.read_text(), flags=re.M)
        )
    packed = copy / "packaging/nfpm.json"
    packed.write_text(packed.read_text().replace('"compression": "xz"', '"compression": "none"'))
    run(["git", "init", "-q", copy])  # the packaging asks git which files there are
    build("deb", copy, target)
    shutil.rmtree(copy)


def copy_tracked(names: tuple[str, ...], target: Path) -> None:
    """Copies files and folders of the working tree without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-zco", "--exclude-standard", "--", *names],
        cwd=CHECKOUT, check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        source, copy = CHECKOUT / name, target / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)


def _commit_time() -> str:
    return run(["git", "log", "-1", "--format=%ct"], cwd=CHECKOUT).out.strip()


def _purelib() -> str:
    import sysconfig

    return sysconfig.get_path("purelib")
