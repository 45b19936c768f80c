"""Roots of other Debians, in the cache: unpacked by mmdebstrap, never configured to boot."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from rig import debian
from rig.paths import cache_dir
from rig.shell import run
from vm.root import mirror

TIMEOUT = 900.0


def ensure(suite: str, *packages: str, arch: str = "amd64", variant: str = "extract") -> Path:
    """A root with `packages` and what they depend on."""
    debian.need("mmdebstrap", "debian-archive-keyring")
    recipe = repr((suite, packages, arch, variant))
    home = (
        cache_dir() / "roots" / f"{suite}-{arch}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    )
    if home.is_dir():
        return home
    home.parent.mkdir(exist_ok=True)
    stage = home.with_name(f".{home.name}.{os.getpid()}")
    words = ["nice", "mmdebstrap", "--quiet", f"--variant={variant}", f"--architectures={arch}"]
    words += [f"--include={','.join(packages)}"] if packages else []
    # A mirror may have stood still for weeks, which the suites that move hold against it.
    words += ['--aptopt=Acquire::Check-Valid-Until "false"']
    try:
        run([*words, suite, str(stage), mirror()], timeout=TIMEOUT)
        for name in ("bin", "sbin", "lib", "lib64"):  # base-files' links, where it is not there
            if not (stage / name).exists() and (stage / "usr" / name).exists():
                (stage / name).symlink_to(f"usr/{name}")
        shutil.rmtree(stage / "dev")  # devices; the machine's are mounted there
        (stage / "dev").mkdir()
        stage.rename(home)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return home
