"""Helpers to look at what a connection without a socket says."""

from __future__ import annotations

from ttrpc import wire
from ttrpc.connection import ClientConnection, ServerConnection
from ttrpc.events import (
    RequestReceived,
)
from ttrpc.frames import (
    FLAG_NO_DATA,
    FLAG_REMOTE_CLOSED,
    REQUEST,
    RESPONSE,
    Frame,
    FrameReader,
    encode,
)

PING = wire.encode_request("s", "ping", b"hello", 0, None)
LAST = FLAG_REMOTE_CLOSED | FLAG_NO_DATA


def sent(connection: ServerConnection | ClientConnection) -> list[Frame]:
    """The frames that a connection wants to send."""
    frames = FrameReader().feed(connection.data_to_send())
    assert all(isinstance(frame, Frame) for frame in frames)
    return [frame for frame in frames if isinstance(frame, Frame)]


def status(frame: Frame) -> tuple[int, int, str]:
    """(stream, code, message) of a response that failed."""
    assert frame.kind == RESPONSE
    assert frame.flags == 0
    answer = wire.decode_response(frame.data).status
    assert answer is not None
    return frame.stream_id, answer.code, answer.message


def open_stream(server: ServerConnection, stream_id: int = 1, flags: int = 0) -> None:
    """Lets a client open a stream."""
    (event,) = server.receive_data(encode(stream_id, REQUEST, flags, PING))
    assert isinstance(event, RequestReceived)
