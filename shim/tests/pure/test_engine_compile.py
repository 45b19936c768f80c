"""Bytes told apart: what is wasm, and one sentence for each thing that isn't."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copepod import errors
from copepod.engine import compile as engine_compile

CORE = b"\0asm\1\0\0\0"
COMPONENT = b"\0asm\x0d\0\1\0"


def section(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes((number, len(content))) + content


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (CORE, "core"),
        (COMPONENT, "component"),
        (CORE + section(0, b"\4name"), "core"),
        (COMPONENT + section(10, b"\1\0\x15wasi:cli/stdin@0.2.12\5\0"), "component"),
    ],
)
def test_kinds(data: bytes, kind: str) -> None:
    assert engine_compile.kind(data) == kind


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the file is empty"),
        (b"\0asm", "truncated: it is 4 bytes long"),
        (b"\0asm\1\0\0", "truncated: it is 7 bytes long"),
        (b"\0asm\2\0\0\0", "unknown version 02 00 00 00"),
        (CORE + b"\1\x20abc", "the section at byte 8 wants 32 bytes, 3 are there"),
        (CORE + b"\1", "truncated at byte 9"),
        (CORE + b"\1\x80\x80\x80\x80\x80\x80", "no section length at byte 9"),
        (b"\x7fELF\2\1\1\xc8", "precompiled code is never taken from an image"),
        (b"  (module)", "text format"),
        (b"\n;; hello\n(module)", "text format"),
        (b"(; a ;) (component)", "text format"),
        (b"#!/bin/sh\n", "it starts with 23 21 2f 62"),
        (b"PK\3\4", "it starts with 50 4b 03 04"),
        (COMPONENT + section(10, b"\1\0\x14wasi:cli/stdin@0.3.0\5\0"), r"wasi:cli/stdin@0\.3\.0"),
        (
            COMPONENT + section(11, b"\1\0\x22wasi:http/handler@0.3.0-rc-2026-03\5\0"),
            r"wasi:http/handler@0\.3\.0-rc-2026-03: this engine serves WASI 0\.2",
        ),
    ],
)
def test_refusals(data: bytes, sentence: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=sentence) as caught:
        engine_compile.kind(data)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\0asm", CORE, COMPONENT]))
def test_any_bytes_are_a_kind_or_one_sentence(data: bytes, head: bytes) -> None:
    try:
        answer = engine_compile.kind(head + data)
    except errors.InvalidArgument as error:
        answer = str(error)
    assert answer
    assert len(answer) < 250
    assert "\n" not in answer


@given(st.integers(0, 2**32 - 1))
def test_leb_reads_what_was_written(value: int) -> None:
    data, rest = bytearray(), value
    while rest > 0x7F:
        data.append(rest & 0x7F | 0x80)
        rest >>= 7
    data.append(rest)
    assert engine_compile._leb(bytes(data), 0) == (value, len(data))


def test_brief_is_one_line() -> None:
    error = errors.Error("failed to parse\n\nCaused by:\n    0: bad thing\n    1: worse thing\n")
    assert engine_compile.brief(error) == "failed to parse: bad thing: worse thing"
    assert len(engine_compile.brief(errors.Error("x" * 1000))) == 300
