"""Whatever comes, in whatever portions: both ends raise nothing and mean the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ttrpc.connection import ClientConnection, ServerConnection
from ttrpc.events import (
    Event,
    StreamFailed,
)
from ttrpc.frames import (
    HEADER,
    encode,
)
from ttrpc_frames import PING, sent, status

# Headers that are near the truth, so that random traffic reaches the rules behind the header.
NEAR = st.builds(
    lambda stream_id, kind, flags, data: encode(stream_id, kind, flags, data),
    st.integers(0, 9),
    st.integers(0, 4),
    st.integers(0, 7),
    st.sampled_from([b"", b"x", PING, bytes(80)]) | st.binary(max_size=20),
)
TRAFFIC = st.lists(NEAR | st.binary(max_size=12), max_size=12).map(b"".join)


def portions(
    connection: ServerConnection | ClientConnection, data: bytes, step: int
) -> list[Event]:
    """Feeds data in steps."""
    return [
        event
        for start in range(0, len(data), step)
        for event in connection.receive_data(data[start : start + step])
    ]


@given(TRAFFIC | st.binary(), st.integers(1, 30))
def test_server_takes_any_bytes_in_any_portions(data: bytes, step: int) -> None:
    whole, cut = ServerConnection(limit=64), ServerConnection(limit=64)
    expected = whole.receive_data(data)
    assert portions(cut, data, step) == expected
    assert cut.data_to_send() == whole.data_to_send()
    assert cut.active == whole.active
    assert cut.receive_eof() == whole.receive_eof()


@given(TRAFFIC | st.binary(), st.integers(1, 30))
def test_client_takes_any_bytes_in_any_portions(data: bytes, step: int) -> None:
    whole, cut = ClientConnection(limit=64), ClientConnection(limit=64)
    for client in (whole, cut):
        client.open(PING)
        client.open(PING, unary=False)
        client.open(PING, unary=False, more=True)
    expected = whole.receive_data(data)
    assert portions(cut, data, step) == expected
    assert cut.data_to_send() == whole.data_to_send()
    assert cut.active == whole.active


@given(TRAFFIC)
def test_every_failed_stream_gets_exactly_one_answer(data: bytes) -> None:
    server = ServerConnection(limit=64)
    events = server.receive_data(data)
    failed = [event.stream_id for event in events if isinstance(event, StreamFailed)]
    assert [status(frame)[0] for frame in sent(server)] == failed


def test_header_only_noise_takes_no_memory() -> None:
    server = ServerConnection()
    for _ in range(1000):
        assert server.receive_data(HEADER.pack(0, 0, 0, 0) * 100) == []
    assert server.data_to_send() == b""
