"""Small files and lines: the node's configuration, a bundle's record, the shim's log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copepod import config, errors
from copepod.container import record
from copepod.log import Log

pytestmark = pytest.mark.pure


def test_no_file_is_the_defaults(tmp_path: Path) -> None:
    assert config.parse("") == config.Config()
    with pytest.raises(errors.InvalidArgument, match="no such file"):
        config.load(str(tmp_path / "nothing.toml"))


def test_values_are_taken() -> None:
    got = config.parse('native = "deny"\n[cache]\ndir = "/c"\nmax_bytes = 5\n')
    assert (got.native_allowed, got.cache_dir, got.cache_max_bytes) == (False, "/c", 5)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('native = "maybe"', "native must be"),
        ("nativ = 1", "unknown key nativ"),
        ("[cache]\nsize = 1", "unknown key cache.size"),
        ('[cache]\nmax_bytes = "big"', "cache.max_bytes must be a whole number"),
        ("[cache]\nmax_bytes = 0", "cache.max_bytes must be above 0"),
        ("[cache]\nmax_bytes = true", "cache.max_bytes must be a whole number"),
        ("[cachee]\nx = 1", "unknown key cachee.x"),
        ("[toolbox]\nenabled = 1", "toolbox.enabled must be true or false"),
        ("[toolbox]\npath = true", "toolbox.path must be a string"),
        ("= 3", "not TOML"),
    ],
)
def test_mistakes_are_named(text: str, named: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=named):
        config.parse(text)


@given(st.text(max_size=60))
def test_no_text_does_worse_than_invalid(text: str) -> None:
    try:
        config.parse(text)
    except errors.InvalidArgument:
        pass


def test_record_survives(tmp_path: Path) -> None:
    first = record.Record(str(tmp_path))
    first.set_process(os.getpid())
    first.cgroups, first.netns = ("/sys/fs/cgroup/a", "/sys/fs/cgroup/b"), "copepod-1"
    first.wanted = ("/sys/fs/cgroup/c",)
    first.exit_status, first.exited_at = 3, 99
    first.write()
    second = record.read(str(tmp_path))
    assert all(getattr(first, name) == getattr(second, name) for name in record.Record.__slots__)
    assert second.starttime == record.starttime(os.getpid()) > 0
    second.forget()
    assert os.listdir(tmp_path) == []


@given(st.lists(st.text(max_size=30)))
def test_damaged_records_are_read_as_far_as_they_go(lines: list[str]) -> None:
    record.record_from(record.Record("/b"), lines)


def test_starttime_of_nobody_is_zero() -> None:
    assert record.starttime(1 << 22) == 0


@given(st.text(), st.text())
def test_log_lines_are_one_line(message: str, value: str) -> None:
    read, write = os.pipe()
    try:
        Log(write).bind(id="x").info(message, value=value)
        os.close(write)
        data = os.read(read, 1 << 16)
    finally:
        os.close(read)
    assert data.endswith(b"\n")
    assert data.count(b"\n") == 1
    assert b" id=x " in data


def test_a_log_that_nobody_reads_is_no_error() -> None:
    read, write = os.pipe2(os.O_NONBLOCK)
    os.close(read)
    Log(write).error("lost")
    os.close(write)
    Log(write).error("closed")
