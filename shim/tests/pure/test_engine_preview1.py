"""Preview 1's structures and its one wait, against the kernel's."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copepod.engine import preview1
from copepod.engine.preview1 import Memory


def memory(size: int) -> tuple[Memory, ctypes.Array[ctypes.c_char]]:
    buffer = (ctypes.c_char * size)()
    return Memory(ctypes.addressof(buffer), size), buffer


@given(st.integers(-(2**33), 2**33), st.integers(-(2**33), 2**33))
def test_no_view_leaves_the_memory(at: int, size: int) -> None:
    inside, _buffer = memory(100)
    if at >= 0 and size >= 0 and at + size <= 100:
        assert len(inside.view(at, size)) == size
    else:
        with pytest.raises(OSError, match="not the guest's memory"):
            inside.view(at, size)


def test_vectors_are_checked_each() -> None:
    inside, _buffer = memory(64)
    inside.write(0, struct.pack("<IIII", 32, 8, 40, 4))
    assert [len(view) for view in inside.vectors(0, 2)] == [8, 4]
    inside.write(8, struct.pack("<II", 60, 5))
    with pytest.raises(OSError, match="not the guest's memory"):
        inside.vectors(0, 2)


@pytest.mark.parametrize(
    ("number", "wasi"),
    [
        (errno.EAGAIN, 6),
        (errno.EBADF, 8),
        (errno.EPIPE, 64),
        (errno.ENOTCONN, 53),
        (errno.EFAULT, 21),
        (errno.ECONNRESET, 15),
        (errno.ENOTSUP, 58),
        (errno.EUCLEAN, 29),
    ],
)
def test_errno(number: int, wasi: int) -> None:
    expected = {58: (58, 29)}.get(wasi, (wasi,))  # Linux names ENOTSUP EOPNOTSUPP, WASI doesn't
    assert preview1.errno(OSError(number, "x")) in expected


def clock(user: int, nanoseconds: int, *, clock_id: int = 1, absolute: bool = False) -> bytes:
    head = struct.pack("<QBxxxxxxx", user, 0)
    return (head + struct.pack("<IxxxxQQH", clock_id, nanoseconds, 0, absolute)).ljust(48, b"\0")


def descriptor(user: int, fd: int, kind: int = 1) -> bytes:
    return (struct.pack("<QBxxxxxxx", user, kind) + struct.pack("<I", fd)).ljust(48, b"\0")


def users(events: list[bytes]) -> list[int]:
    assert all(len(event) == 32 for event in events)
    return [struct.unpack_from("<Q", event)[0] for event in events]


def test_clocks() -> None:
    begun = time.monotonic()
    assert users(preview1.poll(clock(1, 30_000_000) + clock(2, 10**15), {})) == [1]
    assert 0.03 <= time.monotonic() - begun < 5
    past = time.clock_gettime_ns(time.CLOCK_REALTIME) - 10**9
    assert users(preview1.poll(clock(3, past, clock_id=0, absolute=True), {})) == [3]


def test_descriptors() -> None:
    out, into = os.pipe()
    try:
        sockets = {65536: out, 65537: into}
        waits = descriptor(1, 65536) + clock(2, 10_000_000)
        assert users(preview1.poll(waits, sockets)) == [2]
        os.write(into, b"four")
        events = preview1.poll(waits, sockets)
        assert users(events) == [1]
        assert struct.unpack_from("<QHBxxxxxQH", events[0]) == (1, 0, 1, 4, 0)
        both = descriptor(3, 65536) + descriptor(4, 65537, 2)
        assert users(preview1.poll(both, sockets)) == [3, 4]
        assert users(preview1.poll(descriptor(5, 7), sockets)) == [5]  # a file
        events = preview1.poll(descriptor(6, 70000), sockets)
        assert struct.unpack_from("<QH", events[0]) == (6, preview1.BADF)
    finally:
        os.close(out)
        os.close(into)


@pytest.mark.parametrize("wrong", [b"", clock(1, 1, clock_id=9), descriptor(1, 0, kind=7)])
def test_nonsense_is_invalid(wrong: bytes) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011  # the number is what counts
        preview1.poll(wrong, {})
    assert caught.value.errno == errno.EINVAL
