"""What importing costs and does: a fresh interpreter for each question."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ttrpc

ROOT = str(Path(ttrpc.__file__).parents[1])


def loaded(statement: str) -> set[str]:
    """The modules that a statement loads in a fresh interpreter, and that it starts no thread."""
    code = (
        f"import sys; sys.path.insert(0, {ROOT!r})\n{statement}\n"
        "import os; assert len(os.listdir('/proc/self/task')) == 1\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-ISc", code], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import ttrpc, ttrpc.connection", ("asyncio", "google", "socket", "logging")),
        ("import ttrpc.server", ("google", "ttrpc.client", "ttrpc.plugin")),
        ("import ttrpc.client", ("google", "ttrpc.server", "ttrpc.plugin")),
        ("import ttrpc.plugin", ("google", "asyncio")),
    ],
)
def test_importing_loads_no_more_than_it_must(statement: str, absent: tuple[str, ...]) -> None:
    assert loaded(statement).isdisjoint(absent)


def test_every_public_name_is_there() -> None:
    for name in ttrpc.__all__:
        assert getattr(ttrpc, name) is not None
    with pytest.raises(AttributeError, match="no_such"):
        ttrpc.no_such  # noqa: B018  # the look-up is what is tested
