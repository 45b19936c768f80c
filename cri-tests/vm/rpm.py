"""The rpm, installed into a root of its own by rpm, with its scripts run; then removed again.

Debian has rpm and no packages for it, so the dependencies are looked at, not resolved.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from rig import debian
from rig.shell import Done, run

Row = tuple[str, bool, str]
TIMEOUT = 600.0
FILES = (
    "usr/bin/copepod",
    "usr/bin/containerd-shim-copepod-v1",
    "usr/lib/copepod/admin",
    "usr/lib/systemd/system/copepod-zygote.socket",
    "usr/lib/systemd/system/copepod-zygote.service",
    "etc/copepod/config.toml",
)


def check(package: Path, base: Path, home: Path) -> Iterator[Row]:
    """Yields (title, passed, text) for each thing looked at; `base` is a Debian tree to copy."""
    debian.need("rpm")
    root = home / "rpm-root"
    run(["cp", "-a", base, root], timeout=TIMEOUT)
    for name in ("dev", "proc"):
        run(["mount", "--bind", f"/{name}", root / name])
    try:
        yield from _rows(package, root)
    finally:
        for name in ("dev", "proc"):
            run(["umount", root / name])
        shutil.rmtree(root)


def _rows(package: Path, root: Path) -> Iterator[Row]:
    asked = run(["rpm", "-qp", "--requires", package], timeout=60).out
    good = "python(abi) = 3.11" in asked and "libseccomp" in asked
    yield "the rpm asks for Python and libseccomp", good, asked
    done = _rpm(root, "-i", "--nodeps", str(package))
    good = done.code == 0 and "copepod node install" in done.text
    yield "the rpm installs, its scripts run, and say what to do next", good, done.text
    missing = [name for name in FILES if not (root / name).exists()]
    yield "the rpm's files are there", not missing, f"missing: {missing}" if missing else ""
    done = _inside(root, "/usr/bin/containerd-shim-copepod-v1", "-v")
    good = "io.containerd.copepod.v1" in done.out
    yield "the shim of the rpm runs on the root's own Python", good, done.text
    done = _inside(root, "/usr/bin/copepod", "--help")
    yield "so does its command line tool", done.code == 0, done.text.splitlines()[0]
    done = _rpm(root, "-V", "--nodeps", "copepod")
    yield "rpm finds its files as it left them", done.code == 0, done.text
    (root / "etc/copepod/config.toml").write_text("native = 'deny'\n")
    done = _rpm(root, "-U", "--nodeps", "--replacepkgs", str(package))
    kept = "deny" in (root / "etc/copepod/config.toml").read_text()
    yield "installed again it keeps the configuration", done.code == 0 and kept, done.text
    done = _rpm(root, "-e", "--nodeps", "copepod")
    left = [str(path) for path in root.glob("usr/**/*copepod*") if "lib/sysimage" not in str(path)]
    yield "removed it leaves nothing below /usr", done.code == 0 and not left, f"{done.text} {left}"


def _rpm(root: Path, *words: str) -> Done:
    return run(["rpm", "--root", root, *words], timeout=TIMEOUT, check=False)


def _inside(root: Path, *words: str) -> Done:
    return run(["chroot", root, *words], timeout=120, check=False)
