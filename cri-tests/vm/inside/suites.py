"""The shim's own tests of control groups, which need version 2 and a systemd that runs the node."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from vm.inside.node import PAYLOAD, WORK, run, tail
from vm.inside.report import Failed, check


def pytest(*files: str) -> str:
    """Runs test files of shim/tests/system on the node's Python; gives pytest's last line."""
    checkout = WORK / "checkout"
    if not checkout.exists():
        shutil.copytree(PAYLOAD / "checkout", checkout)
    tree = Path("/usr/lib/copepod/current").read_text().split()[0]
    places = [checkout / name for name in ("shim", "api", "api/ttrpc", "shim/tests")]
    path = ":".join(map(str, [*places, PAYLOAD / "site", tree]))
    words = ["-m", "pytest", "-q", "-c", f"{checkout}/pyproject.toml", "--rootdir", str(checkout)]
    words += ["-p", "no:cacheprovider", *(f"{checkout}/shim/tests/system/{one}" for one in files)]
    old = os.getcwd()
    os.chdir(checkout)
    try:
        done = run("/usr/bin/python3", *words, check=False, timeout=900, PYTHONPATH=path)
    finally:
        os.chdir(old)
    if done.code:
        failures = [line for line in done.out.splitlines() if line.startswith(("E ", "FAILED"))]
        raise Failed("\n".join(failures[-20:]) + "\n" + tail(done.text, 6))
    return done.out.strip().splitlines()[-1]


@check("the shim's tests of control groups version 2")
def version_2() -> str:
    return pytest("test_cgroup_v2.py")


@check("the shim's tests of systemd's scopes, on systems within this one")
def scopes() -> str:
    return pytest("test_cgroup_systemd.py")
