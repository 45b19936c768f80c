"""Writes the core dump of a trapped guest: a wasm file with its stack and its exported memory.

It holds what the engine tells: functions and places of the frames, no locals, and the memory that
the module exports. Format: Coredump.md of WebAssembly's tool-conventions, as wasmtime's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from copepod.engine import capi

_PAGE = 65536
_CUSTOM, _MEMORY, _DATA = 0, 5, 11  # section ids
_ZEROS = bytes(_PAGE)


def write(path: str, name: str, frames: list[capi.Frame], memory: memoryview) -> None:
    """Writes to a new file, or over an old one, readable by its owner.

    Raises OSError; what was written until then stays.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    try:
        _put(fd, b"\0asm\1\0\0\0" + b"".join(_head(name, frames, len(memory) // _PAGE)))
        segments = list(_segments(memory))
        size = sum(len(head) + len(data) for head, data in segments)
        count = leb(len(segments))
        _put(fd, bytes((_DATA,)) + leb(size + len(count)) + count)
        for head, data in segments:
            _put(fd, head)
            _put(fd, data)
    finally:
        os.close(fd)


def leb(value: int) -> bytes:
    """An unsigned LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _sleb(value: int) -> bytes:
    """A signed LEB128, as i32.const wants it, of an unsigned 32-bit number."""
    value -= (value & 0x80000000) << 1
    out = bytearray()
    while not -64 <= value <= 63:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value & 0x7F)
    return bytes(out)


def _head(name: str, frames: list[capi.Frame], pages: int) -> Iterator[bytes]:
    yield _section(_CUSTOM, _name("core") + b"\0" + _name(name))
    yield _section(_CUSTOM, _name("coremodules") + b"\1\0" + _name(name))
    memories, globals_ = leb(1) + leb(0), leb(0)
    yield _section(_CUSTOM, _name("coreinstances") + b"\1\0" + leb(0) + memories + globals_)
    stack = b"".join(
        b"\0" + leb(0) + leb(frame.function) + leb(frame.offset) + leb(0) + leb(0)
        for frame in frames
    )
    yield _section(_CUSTOM, _name("corestack") + b"\0" + _name("main") + leb(len(frames)) + stack)
    yield _section(_MEMORY, leb(1) + b"\0" + leb(pages))


def _section(number: int, content: bytes) -> bytes:
    return bytes((number,)) + leb(len(content)) + content


def _name(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    return leb(len(data)) + data


def _segments(memory: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Runs of pages that are not all zero, each with its head: active, in memory 0, at i32."""
    start = None
    for at in range(0, len(memory) + 1, _PAGE):
        empty = at >= len(memory) or memory[at : at + _PAGE] == _ZEROS
        if not empty and start is None:
            start = at
        elif empty and start is not None:
            yield b"\0\x41" + _sleb(start) + b"\x0b" + leb(at - start), memory[start:at]
            start = None


def _put(fd: int, data: bytes | memoryview) -> None:
    at = 0
    while at < len(data):
        at += os.write(fd, data[at : at + (1 << 24)])
