"""The core dump's bytes, read back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copepod.engine import compile as engine_compile
from copepod.engine import coredump
from copepod.engine.capi import Frame


@given(st.integers(0, 2**32 - 1))
def test_signed_leb(value: int) -> None:
    data, read = coredump._sleb(value), 0
    for index, byte in enumerate(data):
        read |= (byte & 0x7F) << (7 * index)
    if data[-1] & 0x40:
        read -= 1 << (7 * len(data))
    assert read & 0xFFFFFFFF == value
    assert len(data) <= 5


def test_sections_and_pages(tmp_path: Path) -> None:
    memory = bytearray(5 * 65536)
    memory[65536 + 7] = 1
    memory[2 * 65536] = 2
    memory[4 * 65536 + 65535] = 3
    path = tmp_path / "core"
    coredump.write(str(path), "guest", [Frame(300, 17), Frame(1, 2)], memoryview(memory))
    data = path.read_bytes()
    assert os.stat(path).st_mode & 0o777 == 0o600
    sections = engine_compile._sections(data)
    assert [number for number, _, _ in sections] == [0, 0, 0, 0, 5, 11]
    assert b"\x09corestack\0\x04main\x02\0\0\xac\x02\x11\0\0\0\0\x01\x02\0\0" in data
    segments = list(coredump._segments(memoryview(memory)))
    assert [bytes(each) for _, each in segments] == [
        bytes(memory[65536 : 3 * 65536]),
        bytes(memory[4 * 65536 :]),
    ]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "core").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        coredump.write(str(tmp_path / "core"), "guest", [], memoryview(b""))
