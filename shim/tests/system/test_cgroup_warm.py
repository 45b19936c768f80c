"""The short-lived process that takes the grace period out of entering a group."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from copepod.container import cgroup_warm

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="writing to cgroup.procs needs root"),
]
SHIM = Path(__file__).parents[2]


def test_its_own_group_is_found_and_left_as_it_is() -> None:
    before = Path("/proc/self/cgroup").read_text()
    fd = cgroup_warm._own_group()
    os.write(fd, b"0")
    path = os.readlink(f"/proc/self/fd/{fd}")
    os.close(fd)
    assert path.endswith("/cgroup.procs")
    assert Path("/proc/self/cgroup").read_text() == before


def test_nobody_waits_for_it_and_it_ends_by_itself(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(SHIM)!r})\n"
        "from copepod.container import cgroup_warm\n"
        "cgroup_warm.start()\n"
        "print('os' in sys.modules)\n"
    )
    began = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-ISBc", code],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        start_new_session=True,
    )
    # The pipe ends when all who hold it have, and containerd waits for that.
    out, _ = child.communicate(timeout=10)
    ended = time.monotonic()
    assert out == b"False\n", "the launcher must not pay for `os`"
    assert child.returncode == 0
    for _ in range(200):
        left = _session(child.pid)
        if not left:
            break
        time.sleep(0.01)
    assert not left
    assert ended - began < 10


def _session(leader: int) -> list[int]:
    """The processes of a session that are still there."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and os.getsid(int(entry.name)) == leader:
                found.append(int(entry.name))
        except ProcessLookupError:
            continue
    return found
