"""The list of checks, and the reports about them: one JSON object a line, on a serial line.

A check is a function; it passes when it returns, and what it returns is a note for the reader.
"""

from __future__ import annotations

import json
import subprocess
import time
import traceback
from collections.abc import Callable
from typing import IO, Any

Body = Callable[[], str | None]


class Failed(Exception):
    """What a check found wrong; the text says it."""


class Check:
    """A title and a function; without a `vital` one the rest makes no sense."""

    def __init__(self, title: str, body: Body, vital: bool) -> None:
        self.title, self.body, self.vital = title, body, vital


CHECKS: list[Check] = []


def check(title: str, *, vital: bool = False) -> Callable[[Body], Body]:
    """Adds a function to the list; they run in the order of the files."""

    def add(body: Body) -> Body:
        CHECKS.append(Check(title, body, vital))
        return body

    return add


class Line:
    """The serial line."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def send(self, **report: Any) -> None:
        """Writes one report."""
        self._stream.write(json.dumps(report) + "\n")
        self._stream.flush()

    def run(self, one: Check) -> bool:
        """Runs a check and reports it; True when it passed."""
        began = time.monotonic()
        try:
            text, passed = one.body() or "", True
        except Exception as error:
            text, passed = f"{_explain(error)}\n{_journal()}", False
        seconds = round(time.monotonic() - began, 2)
        self.send(check=one.title, passed=passed, seconds=seconds, text=text)
        return passed


def _journal() -> str:
    """What containerd and the fork server said last; the node's journal ends with the node."""
    units = ["--unit=containerd", "--unit=copepod-zygote"]
    argv = ["journalctl", "--no-pager", "--quiet", "--lines=12", "--output=cat", *units]
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no journal: {error}"


def _explain(error: Exception) -> str:
    """The message, and the line of the check where it came up."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if "inside" in one.filename]
    where = " < ".join(f"{one.name}:{one.lineno}" for one in reversed(frames[1:]))
    name = "" if isinstance(error, Failed | AssertionError) else f"{type(error).__name__}: "
    return f"{name}{error} [{where}]"
