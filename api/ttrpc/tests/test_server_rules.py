"""The rules of the protocol at the server's end, message by message, without a socket."""

from __future__ import annotations

import pytest

from ttrpc import Code, Error, StateError, wire
from ttrpc.connection import STREAM_ID_MAX, ServerConnection
from ttrpc.events import (
    ConnectionBroken,
    DataReceived,
    RemoteClosed,
    RequestReceived,
    StreamFailed,
)
from ttrpc.frames import (
    DATA,
    FLAG_NO_DATA,
    FLAG_REMOTE_CLOSED,
    FLAG_REMOTE_OPEN,
    REQUEST,
    RESPONSE,
    Frame,
    encode,
)
from ttrpc_frames import LAST, PING, open_stream, sent, status


@pytest.mark.parametrize(
    ("flags", "unary", "more"),
    [(0, True, False), (FLAG_REMOTE_OPEN, False, True), (FLAG_REMOTE_CLOSED, False, False)],
)
def test_request_opens_a_stream(flags: int, unary: bool, more: bool) -> None:
    server = ServerConnection()
    request = wire.Request("s", "ping", b"hello", 0, {})
    assert server.receive_data(encode(1, REQUEST, flags, PING)) == [
        RequestReceived(1, request, unary, more)
    ]
    assert server.active == 1
    server.send_response(1, b"world")
    assert sent(server) == [Frame(1, RESPONSE, 0, wire.encode_payload(b"world"))]
    assert server.active == 0
    assert server.data_to_send() == b""


def test_responses_may_come_in_any_order() -> None:
    server = ServerConnection()
    for stream_id in (1, 3, 5):
        open_stream(server, stream_id)
    server.send_response(5, b"")
    server.send_error(1, Code.NOT_FOUND, "gone", [("type", b"x")])
    server.send_response(3, b"three")
    assert [frame.stream_id for frame in sent(server)] == [5, 1, 3]


def test_even_ids_are_answered_on_that_id() -> None:
    server = ServerConnection()
    for kind in (REQUEST, DATA):
        (event,) = server.receive_data(encode(2, kind, 0, PING))
        assert isinstance(event, StreamFailed)
        assert not event.was_open
        (frame,) = sent(server)
        assert status(frame)[:2] == (2, Code.INVALID_ARGUMENT)
    open_stream(server)


@pytest.mark.parametrize("second", [1, 3, 5])
def test_ids_that_do_not_increase_are_answered_on_that_id(second: int) -> None:
    server = ServerConnection()
    open_stream(server, 5)
    (event,) = server.receive_data(encode(second, REQUEST, 0, PING))
    assert isinstance(event, StreamFailed)
    assert event.was_open == (second == 5)
    (frame,) = sent(server)
    assert status(frame)[:2] == (second, Code.INVALID_ARGUMENT)
    # A stream that was answered is over: its handler can't answer once more.
    assert server.is_open(5) == (second != 5)
    open_stream(server, 7)


def test_ids_may_skip_and_reach_the_last() -> None:
    server = ServerConnection()
    open_stream(server, 11)
    open_stream(server, STREAM_ID_MAX)
    assert server.active == 2


@pytest.mark.parametrize("kind", [0, RESPONSE, 4, 255])
@pytest.mark.parametrize("stream_id", [0, 1, 2, 3])
def test_types_that_are_not_for_servers_are_ignored(kind: int, stream_id: int) -> None:
    server = ServerConnection()
    open_stream(server)
    assert server.receive_data(encode(stream_id, kind, 0xFF, b"future")) == []
    assert server.data_to_send() == b""
    assert server.is_open(1)


def test_unknown_flags_are_ignored() -> None:
    server = ServerConnection()
    open_stream(server, 1, 0xF0)
    open_stream(server, 3, 0xF0 | FLAG_REMOTE_OPEN)
    assert server.receive_data(encode(3, DATA, 0xF0, b"x")) == [DataReceived(3, b"x")]


def test_request_that_is_no_protobuf_is_answered() -> None:
    server = ServerConnection()
    (event,) = server.receive_data(encode(1, REQUEST, 0, b"\x0a\xff"))
    assert isinstance(event, StreamFailed)
    assert status(sent(server)[0])[:2] == (1, Code.INVALID_ARGUMENT)
    assert server.active == 0
    open_stream(server, 3)


def test_request_that_is_open_and_closed_is_answered() -> None:
    server = ServerConnection()
    server.receive_data(encode(1, REQUEST, FLAG_REMOTE_OPEN | FLAG_REMOTE_CLOSED, PING))
    assert status(sent(server)[0])[:2] == (1, Code.INVALID_ARGUMENT)


def test_one_stream_too_many_is_answered_and_the_others_go_on() -> None:
    server = ServerConnection(streams_max=2)
    open_stream(server, 1)
    open_stream(server, 3)
    server.receive_data(encode(5, REQUEST, 0, PING))
    assert status(sent(server)[0])[:2] == (5, Code.RESOURCE_EXHAUSTED)
    server.send_response(1, b"")
    open_stream(server, 7)


def test_oversized_request_is_answered_and_the_connection_kept() -> None:
    server = ServerConnection(limit=64)
    (event,) = server.receive_data(encode(1, REQUEST, 0, bytes(65)))
    assert isinstance(event, StreamFailed)
    stream_id, code, text = status(sent(server)[0])
    assert (stream_id, code) == (1, Code.RESOURCE_EXHAUSTED)
    assert "65" in text
    assert "64" in text
    open_stream(server, 3)
    # The id counts as used.
    server.receive_data(encode(1, REQUEST, 0, PING))
    assert status(sent(server)[0])[:2] == (1, Code.INVALID_ARGUMENT)


def test_oversized_data_ends_its_stream_only() -> None:
    server = ServerConnection(limit=64)
    open_stream(server, 1, FLAG_REMOTE_OPEN)
    open_stream(server, 3, FLAG_REMOTE_OPEN)
    (event,) = server.receive_data(encode(1, DATA, 0, bytes(65)))
    assert isinstance(event, StreamFailed)
    assert event.was_open
    assert status(sent(server)[0])[:2] == (1, Code.RESOURCE_EXHAUSTED)
    assert server.receive_data(encode(3, DATA, 0, b"x")) == [DataReceived(3, b"x")]


def test_oversized_response_is_sent_as_an_error() -> None:
    server = ServerConnection(limit=64)
    open_stream(server, 1)
    open_stream(server, 3)
    server.send_response(1, bytes(63))
    assert status(sent(server)[0])[:2] == (1, Code.RESOURCE_EXHAUSTED)
    server.send_response(3, bytes(62))  # two bytes are the field's own
    assert len(sent(server)[0].data) == 64


def test_oversized_error_keeps_its_code() -> None:
    server = ServerConnection(limit=64)
    open_stream(server)
    server.send_error(1, Code.ABORTED, "x" * 200, [("type", bytes(100))])
    stream_id, code, text = status(sent(server)[0])
    assert (stream_id, code) == (1, Code.ABORTED)
    assert text
    assert set(text) == {"x"}


def test_oversized_data_is_refused_to_the_sender_and_the_stream_goes_on() -> None:
    server = ServerConnection(limit=64)
    open_stream(server, 1, FLAG_REMOTE_OPEN)
    with pytest.raises(Error, match="RESOURCE_EXHAUSTED"):
        server.send_data(1, bytes(65))
    server.send_data(1, bytes(64))
    server.send_end(1)
    assert [frame.flags for frame in sent(server)] == [0, LAST]


def test_client_stream() -> None:
    server = ServerConnection()
    open_stream(server, 1, FLAG_REMOTE_OPEN)
    data = encode(1, DATA, 0, b"a") + encode(1, DATA, 0, b"") + encode(1, DATA, LAST, b"")
    assert server.receive_data(data) == [
        DataReceived(1, b"a"),
        DataReceived(1, b""),
        RemoteClosed(1),
    ]
    server.send_response(1, b"sum")
    assert server.active == 0


def test_the_last_data_may_carry_a_message() -> None:
    server = ServerConnection()
    open_stream(server, 1, FLAG_REMOTE_OPEN)
    assert server.receive_data(encode(1, DATA, FLAG_REMOTE_CLOSED, b"z")) == [
        DataReceived(1, b"z"),
        RemoteClosed(1),
    ]


def test_no_data_without_closing_means_nothing() -> None:
    server = ServerConnection()
    open_stream(server, 1, FLAG_REMOTE_OPEN)
    assert server.receive_data(encode(1, DATA, FLAG_NO_DATA, b"")) == []
    assert server.is_open(1)


@pytest.mark.parametrize(
    ("flags", "before", "bad"),
    [
        (0, b"", encode(1, DATA, 0, b"x")),
        (FLAG_REMOTE_CLOSED, b"", encode(1, DATA, 0, b"x")),
        (FLAG_REMOTE_OPEN, encode(1, DATA, LAST, b""), encode(1, DATA, 0, b"x")),
        (FLAG_REMOTE_OPEN, encode(1, DATA, LAST, b""), encode(1, DATA, LAST, b"")),
        (FLAG_REMOTE_OPEN, b"", encode(1, DATA, LAST, b"x")),
    ],
    ids=["unary", "closed by request", "closed", "closed twice", "no data with data"],
)
def test_data_that_may_not_come_ends_the_stream(flags: int, before: bytes, bad: bytes) -> None:
    server = ServerConnection()
    open_stream(server, 1, flags)
    server.receive_data(before)
    (event,) = server.receive_data(bad)
    assert isinstance(event, StreamFailed)
    assert event.was_open
    assert status(sent(server)[0])[:2] == (1, Code.INVALID_ARGUMENT)
    assert not server.is_open(1)


@pytest.mark.parametrize("stream_id", [1, 3])
def test_data_on_a_stream_that_is_over_or_never_was_is_answered(stream_id: int) -> None:
    server = ServerConnection()
    open_stream(server, 1, FLAG_REMOTE_OPEN)
    server.send_response(1, b"")
    sent(server)
    (event,) = server.receive_data(encode(stream_id, DATA, 0, b"x"))
    assert isinstance(event, StreamFailed)
    assert not event.was_open
    assert status(sent(server)[0])[:2] == (stream_id, Code.INVALID_ARGUMENT)


def test_server_may_not_do_what_the_protocol_forbids() -> None:
    server = ServerConnection()
    with pytest.raises(StateError):
        server.send_response(1, b"")
    open_stream(server)
    with pytest.raises(StateError):
        server.send_data(1, b"")
    with pytest.raises(StateError):
        server.send_end(1)
    server.send_error(1, Code.UNKNOWN, "")
    with pytest.raises(StateError):
        server.send_error(1, Code.UNKNOWN, "")
    assert len(sent(server)) == 1


def test_noise_breaks_the_connection_for_ever() -> None:
    server = ServerConnection()
    open_stream(server)
    (event,) = server.receive_data(b"GET / HTTP/1.1\r\n\r\n")
    assert isinstance(event, ConnectionBroken)
    assert server.receive_data(encode(3, REQUEST, 0, PING)) == []
    assert server.data_to_send() == b""


def test_end_of_bytes() -> None:
    server = ServerConnection()
    assert server.receive_eof() == []
    server.receive_data(encode(1, REQUEST, 0, PING)[:-1])
    (event,) = server.receive_eof()
    assert isinstance(event, ConnectionBroken)
