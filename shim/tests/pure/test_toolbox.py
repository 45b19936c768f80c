"""Which commands are the toolbox's, where its module is, and what it costs to know its digest."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import copepod
from copepod import errors
from copepod.child import toolbox as inside
from copepod.child.job import Identity, Job, Namespaces, Program
from copepod.config import Config, parse
from copepod.image import toolbox
from copepod.linux import ns


@pytest.mark.parametrize("name", ["sh", "[", "/bin/sh", "/usr/bin/tar", "/usr/local/bin/ls"])
def test_a_tools_name(name: str) -> None:
    assert toolbox.has(name)


@pytest.mark.parametrize(
    "name", ["", "/", "bash", "/app.wasm", "./sh", "/opt/sh", "bin/sh", "//sh", "/sh", "sh/"]
)
def test_not_a_tools_name(name: str) -> None:
    assert not toolbox.has(name)


@given(st.text())
def test_any_text_is_a_name_or_not(name: str) -> None:
    assert toolbox.has(name) == any(
        name in (tool, *(f"{folder}/{tool}" for folder in toolbox.FOLDERS))
        for tool in toolbox.NAMES
    )


def test_every_tool_is_in_the_guide() -> None:
    root = Path(__file__).parents[3]
    guide = (root / "docs/toolbox.md").read_text()
    listed = guide.partition("commands:\n\n")[2].partition("\n\n")[0]
    assert set(listed.replace("`", "").split()) == toolbox.NAMES


def test_the_module_lies_beside_the_package() -> None:
    package = Path(copepod.__file__).parent
    assert toolbox.path(Config()) == str(package.with_name("guests") / "toolbox.wasm")
    checkout = Path(__file__).parents[2] / "guests/toolbox.wasm"
    assert os.readlink(checkout) == "../../build/guests/toolbox.wasm"
    assert toolbox.path(parse('[toolbox]\npath = "/x.wasm"')) == "/x.wasm"


def test_the_digest_follows_the_file(tmp_path: Path) -> None:
    config = Config(toolbox_path=str(tmp_path / "t.wasm"))
    with pytest.raises(errors.NotFound, match=r"t\.wasm: No such file"):
        toolbox.open_(config)
    for data in (b"one", b"three"):
        (tmp_path / "t.wasm").write_bytes(data)
        for _ in range(2):
            fd, digest = toolbox.open_(config)
            os.close(fd)
            assert digest == sha256(data).hexdigest()


def test_a_file_is_the_toolbox_only_with_all_its_bytes(tmp_path: Path) -> None:
    config = Config(toolbox_path=str(tmp_path / "t.wasm"))
    (tmp_path / "other").write_bytes(b"two")

    def same() -> bool:
        with (tmp_path / "other").open("rb") as file:
            return toolbox.same(config, file.fileno())

    assert not same()  # there is no toolbox
    for data, expected in ((b"one", False), (b"longer", False), (b"two", True)):
        (tmp_path / "t.wasm").write_bytes(data)
        assert same() == expected, data


def job(flags: int, **sets: Any) -> Job:
    return Job("exec", "", Namespaces(), Program(identity=Identity(**sets)), join_flags=flags)


def test_it_is_unseen_only_where_it_can_do_no_harm() -> None:
    tracer = 1 << 19
    assert inside.stays_unseen(job(ns.CLONE_NEWPID | ns.CLONE_NEWNS, effective=~tracer))
    assert not inside.stays_unseen(job(ns.CLONE_NEWNS))
    for name in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        assert not inside.stays_unseen(job(ns.CLONE_NEWPID, **{name: tracer}))
