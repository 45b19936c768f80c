"""The linters, the type checker and the import contracts, as tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PATHS = ("shim", "api", "cri-tests", "packaging")


def files(*tops: str) -> list[str]:
    """By name: mypy takes a folder of tests for a package where one above it is on its path."""
    found = [path for top in tops for path in sorted((ROOT / top).rglob("*.py"))]
    return [str(path) for path in found if not path.name.endswith("_pb2.py")]


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "ruff", "check", *PATHS),
        ("-m", "ruff", "format", "--check", *PATHS),
        ("-m", "mypy", *files("shim", "api")),
        ("-m", "mypy", *files("cri-tests")),
        ("-c", "from importlinter.cli import lint_imports_command as m; m()", "--no-cache"),
    ],
    ids=["ruff-check", "ruff-format", "mypy", "mypy-cri-tests", "import-linter"],
)
def test_linter(command: tuple[str, ...]) -> None:
    paths = ":".join(str(ROOT / p) for p in ("shim", "api", "api/ttrpc"))
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={"PYTHONPATH": paths, "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_modules_are_short() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in (ROOT / "shim" / "copepod").rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 350
    }
    assert long == {}
