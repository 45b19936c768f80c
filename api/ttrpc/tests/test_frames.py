"""The frame reader: the same frames whatever the portions, limits, and what is no frame."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ttrpc.frames import (
    DATA,
    HEADER,
    HEADER_LENGTH,
    MESSAGE_LENGTH_MAX,
    REQUEST,
    RESPONSE,
    Frame,
    FrameReader,
    Malformed,
    Oversized,
    encode,
)

FRAMES = st.builds(
    Frame,
    st.integers(0, 0xFFFF_FFFF),
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=40),
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cuts data at the given places (taken modulo its length)."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


def test_header_is_ten_big_endian_bytes() -> None:
    assert encode(0x01020304, REQUEST, 0x2, b"abc") == b"\0\0\0\3\1\2\3\4\1\2abc"
    assert HEADER_LENGTH == 10
    assert MESSAGE_LENGTH_MAX == 4 * 1024 * 1024


@given(st.lists(FRAMES), st.lists(st.integers(0, 10_000)))
def test_frames_come_out_as_they_went_in_whatever_the_portions(
    sent: list[Frame], cuts: list[int]
) -> None:
    data = b"".join(encode(*frame) for frame in sent)
    reader = FrameReader()
    assert [frame for piece in pieces(data, cuts) for frame in reader.feed(piece)] == sent
    assert not reader.in_frame


@given(st.binary(max_size=400), st.lists(st.integers(0, 400)), st.integers(0, 64))
def test_random_bytes_mean_the_same_whole_and_in_portions(
    data: bytes, cuts: list[int], limit: int
) -> None:
    whole, portions = FrameReader(limit), FrameReader(limit)
    expected = whole.feed(data)
    assert [item for piece in pieces(data, cuts) for item in portions.feed(piece)] == expected
    single = FrameReader(limit)
    assert [item for byte in data for item in single.feed(bytes([byte]))] == expected
    assert whole.in_frame == portions.in_frame == single.in_frame


def test_a_message_of_exactly_the_limit_is_taken() -> None:
    reader = FrameReader(limit=8)
    assert reader.feed(encode(1, REQUEST, 0, b"12345678")) == [Frame(1, REQUEST, 0, b"12345678")]


def test_an_oversized_message_is_dropped_and_the_next_one_taken() -> None:
    reader = FrameReader(limit=8)
    data = encode(1, REQUEST, 0, b"123456789") + encode(3, DATA, 0, b"next")
    expected = [Oversized(1, REQUEST, 9), Frame(3, DATA, 0, b"next")]
    assert [item for byte in data for item in reader.feed(bytes([byte]))] == expected


def test_an_oversized_message_takes_no_memory() -> None:
    reader = FrameReader(limit=8)
    assert reader.feed(HEADER.pack(1 << 30, 5, RESPONSE, 0)) == [Oversized(5, RESPONSE, 1 << 30)]
    portion = bytes(1 << 20)
    for _ in range(1 << 10):
        assert reader.in_frame
        assert reader.feed(portion) == []
    assert not reader.in_frame
    assert reader.feed(encode(7, DATA, 0, b"x")) == [Frame(7, DATA, 0, b"x")]


def test_text_and_noise_are_malformed_and_end_the_reading() -> None:
    for data in (
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\xff" * 64,
    ):
        reader = FrameReader()
        (item,) = reader.feed(data)
        assert isinstance(item, Malformed)
        assert reader.feed(encode(1, REQUEST, 0, b"")) == []


def test_frames_before_the_noise_are_not_lost() -> None:
    reader = FrameReader()
    first, second = reader.feed(encode(1, REQUEST, 0, b"a") + b"GET / HTTP/1.1\r\n")
    assert first == Frame(1, REQUEST, 0, b"a")
    assert isinstance(second, Malformed)


def test_the_end_of_the_bytes_inside_a_frame_can_be_told() -> None:
    reader = FrameReader()
    for byte in encode(1, REQUEST, 0, b"abc")[:-1]:
        assert reader.feed(bytes([byte])) == []
        assert reader.in_frame
