"""Cuts a byte stream into ttrpc frames and builds frames: ten bytes of header, then data.

It knows nothing of streams, services or sockets, and keeps at most one frame in memory.
Header, big-endian: length of the data u32, stream id u32, message type u8, flags u8.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

HEADER = Struct(">IIBB")
HEADER_LENGTH = HEADER.size
MESSAGE_LENGTH_MAX = 4 << 20

REQUEST = 0x1
RESPONSE = 0x2
DATA = 0x3

FLAG_REMOTE_CLOSED = 0x1
FLAG_REMOTE_OPEN = 0x2
FLAG_NO_DATA = 0x4

_KNOWN = (REQUEST, RESPONSE, DATA)


class Frame(NamedTuple):
    """One message as it arrived."""

    stream_id: int
    kind: int
    flags: int
    data: bytes


class Oversized(NamedTuple):
    """The header of a message over the limit; its data is thrown away as it arrives."""

    stream_id: int
    kind: int
    length: int


class Malformed(NamedTuple):
    """What arrived is not ttrpc, and nothing after it can be made sense of."""

    reason: str


class FrameReader:
    """Takes bytes in any portions and gives whole frames, always the same ones."""

    def __init__(self, limit: int = MESSAGE_LENGTH_MAX) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._discard = 0
        self._broken = False

    @property
    def in_frame(self) -> bool:
        """Whether the bytes so far end in the middle of a frame."""
        return bool(self._buffer) or self._discard > 0

    def feed(self, data: bytes) -> list[Frame | Oversized | Malformed]:
        """Takes the next bytes and gives what they complete; after Malformed, nothing any more."""
        if self._broken:
            return []
        if self._discard:
            dropped = min(self._discard, len(data))
            self._discard -= dropped
            data = data[dropped:]
        if self._buffer:
            # A big message comes in many portions: joining it only when it is whole keeps the
            # cost linear.
            self._buffer += data
            if len(self._buffer) < HEADER_LENGTH or len(self._buffer) < self._wanted():
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
        return self._cut(data)

    def _wanted(self) -> int:
        length, _, _, _ = HEADER.unpack_from(self._buffer)
        return HEADER_LENGTH + (int(length) if length <= self._limit else 0)

    def _cut(self, data: bytes) -> list[Frame | Oversized | Malformed]:
        found: list[Frame | Oversized | Malformed] = []
        position, end = 0, len(data)
        while end - position >= HEADER_LENGTH:
            length, stream_id, kind, flags = HEADER.unpack_from(data, position)
            body = position + HEADER_LENGTH
            if length > self._limit:
                if kind not in _KNOWN:
                    # No message of any known type has this header: text, TLS or noise. Reading
                    # on would throw away up to 4 GiB before the next guess.
                    self._broken = True
                    found.append(Malformed(f"not a ttrpc header: {data[position:body].hex()}"))
                    return found
                found.append(Oversized(stream_id, kind, length))
                position = body + length
                if position > end:
                    self._discard, position = position - end, end
                continue
            if body + length > end:
                break
            position = body + length
            found.append(Frame(stream_id, kind, flags, data[body:position]))
        if position < end:
            self._buffer += data[position:] if position else data
        return found


def encode(stream_id: int, kind: int, flags: int, data: bytes) -> bytes:
    """Gives the bytes of one frame; the caller has checked that the data is within the limit."""
    return HEADER.pack(len(data), stream_id, kind, flags) + data
