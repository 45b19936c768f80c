"""The rules of the protocol at the client's end, message by message, without a socket."""

from __future__ import annotations

import pytest

from ttrpc import Code, Error, StateError, wire
from ttrpc.connection import STREAM_ID_MAX, ClientConnection
from ttrpc.events import (
    DataReceived,
    RemoteClosed,
    ResponseReceived,
    StreamFailed,
)
from ttrpc.frames import (
    DATA,
    FLAG_REMOTE_CLOSED,
    FLAG_REMOTE_OPEN,
    REQUEST,
    RESPONSE,
    Frame,
    encode,
)
from ttrpc_frames import LAST, PING, sent


def test_client_ids_are_odd_and_increase() -> None:
    client = ClientConnection()
    ids = [
        client.open(PING),
        client.open(PING, unary=False),
        client.open(PING, unary=False, more=True),
    ]
    assert ids == [1, 3, 5]
    assert [(frame.kind, frame.flags) for frame in sent(client)] == [
        (REQUEST, 0),
        (REQUEST, FLAG_REMOTE_CLOSED),
        (REQUEST, FLAG_REMOTE_OPEN),
    ]


def test_client_runs_out_of_ids() -> None:
    client = ClientConnection()
    client._next_id = STREAM_ID_MAX
    assert client.open(PING) == STREAM_ID_MAX
    with pytest.raises(StateError):
        client.open(PING)


def test_client_gets_the_response_once() -> None:
    client = ClientConnection()
    client.open(PING)
    data = encode(1, RESPONSE, 0, wire.encode_payload(b"pong"))
    assert client.receive_data(data) == [ResponseReceived(1, wire.Response(None, b"pong"))]
    assert client.receive_data(data) == []
    assert client.active == 0


def test_late_answers_of_all_kinds_are_dropped() -> None:
    client = ClientConnection(limit=64)
    client.open(PING)
    client.forget(1)
    sent(client)
    for kind in (RESPONSE, DATA, REQUEST, 9):
        assert client.receive_data(encode(1, kind, 0, b"")) == []
    assert client.receive_data(encode(1, RESPONSE, 0, bytes(65))) == []
    assert client.data_to_send() == b""


def test_forgetting_a_stream_tells_the_server_that_no_data_follows() -> None:
    client = ClientConnection()
    client.open(PING, unary=False, more=True)
    sent(client)
    client.forget(1)
    client.forget(1)
    assert sent(client) == [Frame(1, DATA, LAST, b"")]


def test_client_oversized_request_is_refused_and_takes_no_id() -> None:
    client = ClientConnection(limit=64)
    with pytest.raises(Error, match="RESOURCE_EXHAUSTED"):
        client.open(bytes(65))
    assert client.data_to_send() == b""
    assert client.open(bytes(64)) == 1


def test_client_oversized_response_fails_its_call_only() -> None:
    client = ClientConnection(limit=64)
    client.open(PING)
    client.open(PING)
    (event,) = client.receive_data(encode(1, RESPONSE, 0, bytes(65)))
    assert isinstance(event, StreamFailed)
    assert (event.stream_id, event.code) == (1, Code.RESOURCE_EXHAUSTED)
    (event,) = client.receive_data(encode(3, RESPONSE, 0, b""))
    assert event == ResponseReceived(3, wire.Response(None, b""))


@pytest.mark.parametrize(
    "bad",
    [encode(1, DATA, 0, b""), encode(1, REQUEST, 0, b""), encode(1, RESPONSE, 0, b"\x0a")],
    ids=["data on a unary call", "request", "no protobuf"],
)
def test_client_call_fails_when_the_server_breaks_a_rule(bad: bytes) -> None:
    client = ClientConnection()
    client.open(PING)
    (event,) = client.receive_data(bad)
    assert isinstance(event, StreamFailed)
    assert event.code == Code.INTERNAL
    assert client.active == 0


def test_client_reads_a_server_stream() -> None:
    client = ClientConnection()
    client.open(PING, unary=False)
    data = encode(1, DATA, 0, b"a") + encode(1, DATA, 0, b"") + encode(1, DATA, LAST, b"")
    assert client.receive_data(data) == [
        DataReceived(1, b"a"),
        DataReceived(1, b""),
        RemoteClosed(1),
    ]
    assert client.active == 0


def test_client_may_not_send_what_the_protocol_forbids() -> None:
    client = ClientConnection()
    for more in (False, True):
        stream_id = client.open(PING, unary=False, more=more)
        assert client.can_send(stream_id) == more
    client.send_data(3, b"x")
    client.send_end(3)
    for stream_id in (1, 3, 5):
        with pytest.raises(StateError):
            client.send_data(stream_id, b"x")
        with pytest.raises(StateError):
            client.send_end(stream_id)
