"""`copepod doctor`'s own container: made, run and removed by a ctr whose answers are ours."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

import cli_fakes as fakes
from copepod.cli.doctor import ours
from copepod.cli.doctor.context import Context
from copepod.cli.node import detect
from copepod.cli.system import Result
from doctor_nodes import PROCESS, healthy, system


def stopped(context: Context) -> None:
    system(context).process = None


class Ctr(fakes.Node):
    """`ctr` of containerd's package: what it was asked, and how `images import` and `run` end."""

    imported = Result(0)
    ran_to = Result(0, "copepod is well\n")

    def run(
        self, argv: Sequence[str], *, timeout: float = 60.0, stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Result:  # fmt: skip
        words = list(argv)
        if os.path.basename(words[0]) != "ctr":
            return super().run(argv, timeout=timeout, stdin=stdin, env=env)
        self.ran.append(tuple(words[5:]))
        return {"images": self.imported, "run": self.ran_to}.get(words[5], Result(0))


def with_ctr(root: Path) -> tuple[Context, Ctr]:
    context, made = healthy(root), Ctr(root, "1.7.34", PROCESS)
    made.put("/usr/bin/ctr", b"")
    context.system = made
    return context, made


NOT_RUN = [
    (Result(0), Result(0, "copepod is well\n"), "ok", "was made, ran and was removed"),
    (Result(1, "", "ctr: content digest: no space left on device"), Result(0), "fail",
     "did not take the image: content digest: no space left on device"),
    (Result(0), Result(1, "", "ctr: runtime \"io.containerd.copepod.v1\" binary not installed"),
     "fail", "did not run: .*not installed"),
    (Result(0), Result(0, "somebody else's\n"), "fail", "did not run: somebody else's"),
    (Result(0), Result(124, "", "ctr did not end within 60 seconds"), "fail", "within 60 seconds"),
]  # fmt: skip


@pytest.mark.parametrize(("imported", "ran_to", "kind", "text"), NOT_RUN)
def test_a_container(
    tmp_path: Path, imported: Result, ran_to: Result, kind: str, text: str
) -> None:
    """However it goes, its image and its namespace are removed again."""
    context, made = with_ctr(tmp_path)
    made.imported, made.ran_to = imported, ran_to
    (found,) = ours.container(context)
    assert (found.kind, found.check) == (kind, "container"), found
    assert re.search(text, found.text), found
    assert bool(found.advice) == (kind == "fail")
    assert [words[:2] for words in made.ran[-2:]] == [("images", "rm"), ("namespaces", "rm")]


def not_root(context: Context) -> None:
    system(context).user = 1000


def no_ctr(context: Context) -> None:
    context.system.remove("/usr/bin/ctr")


UNTRIED = [(not_root, "needs root"), (stopped, "containerd is not running"),
           (no_ctr, "no ctr on PATH")]  # fmt: skip


@pytest.mark.parametrize(("spoil", "text"), UNTRIED)
def test_no_container_is_tried(tmp_path: Path, spoil: Callable[[Context], None], text: str) -> None:
    context, made = with_ctr(tmp_path)
    spoil(context)
    context.node = detect.find(made)
    (found,) = ours.container(context)
    assert found.kind == "skip"
    assert text in found.text
