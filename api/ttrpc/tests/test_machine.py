"""A client and a server connection talk in random ways, over a pipe that cuts as it likes.

The model knows what was sent on each stream; nothing may be lost, doubled, reordered or come
after the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ttrpc import StateError, wire
from ttrpc.connection import ClientConnection, ServerConnection
from ttrpc.events import (
    ConnectionBroken,
    DataReceived,
    RemoteClosed,
    RequestReceived,
    ResponseReceived,
    StreamFailed,
)

PAYLOADS = st.sampled_from([b"", b"a", b"bb"])


@dataclass
class Model:
    """What should be true of one stream."""

    unary: bool
    more: bool
    to_server: list[bytes] = field(default_factory=list)
    to_client: list[bytes] = field(default_factory=list)
    at_server: list[bytes] = field(default_factory=list)
    at_client: list[bytes] = field(default_factory=list)
    client_ended: bool = False
    server_saw_request: bool = False
    server_saw_end: bool = False
    server_ended: bool = False
    client_saw_end: bool = False
    forgotten: bool = False


class Conversation(RuleBasedStateMachine):
    """Every rule is one thing that a side or the pipe may do."""

    @initialize()
    def connect(self) -> None:
        self.client, self.server = ClientConnection(), ServerConnection(streams_max=1000)
        self.streams: dict[int, Model] = {}
        self.up = self.down = b""

    def pick(self, data: st.DataObject) -> tuple[int, Model]:
        """Some stream."""
        stream_id = data.draw(st.sampled_from(sorted(self.streams)))
        return stream_id, self.streams[stream_id]

    @rule(unary=st.booleans(), more=st.booleans())
    def open(self, unary: bool, more: bool) -> None:
        more = more and not unary
        stream_id = self.client.open(
            wire.encode_request("s", "m", b"", 0, None), unary=unary, more=more
        )
        self.streams[stream_id] = Model(unary, more)

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), payload=PAYLOADS)
    def client_sends(self, data: st.DataObject, payload: bytes) -> None:
        stream_id, model = self.pick(data)
        if model.more and not (model.client_ended or model.client_saw_end or model.forgotten):
            self.client.send_data(stream_id, payload)
            model.to_server.append(payload)
        else:
            with pytest.raises(StateError):
                self.client.send_data(stream_id, payload)

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def client_ends(self, data: st.DataObject) -> None:
        stream_id, model = self.pick(data)
        if model.more and not (model.client_ended or model.client_saw_end or model.forgotten):
            self.client.send_end(stream_id)
            model.client_ended = True
        else:
            with pytest.raises(StateError):
                self.client.send_end(stream_id)

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def client_forgets(self, data: st.DataObject) -> None:
        stream_id, model = self.pick(data)
        self.client.forget(stream_id)
        model.forgotten = True

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), payload=PAYLOADS)
    def server_sends(self, data: st.DataObject, payload: bytes) -> None:
        stream_id, model = self.pick(data)
        if model.server_saw_request and not model.unary and not model.server_ended:
            self.server.send_data(stream_id, payload)
            model.to_client.append(payload)
        else:
            with pytest.raises(StateError):
                self.server.send_data(stream_id, payload)

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), response=st.booleans())
    def server_ends(self, data: st.DataObject, response: bool) -> None:
        stream_id, model = self.pick(data)
        may = model.server_saw_request and not model.server_ended and (response or not model.unary)
        end = (
            partial(self.server.send_response, stream_id, b"end")
            if response
            else partial(self.server.send_end, stream_id)
        )
        if may:
            end()
            model.server_ended = True
        else:
            with pytest.raises(StateError):
                end()

    @rule(size=st.integers(1, 64))
    def upward(self, size: int) -> None:
        self.up += self.client.data_to_send()
        piece, self.up = self.up[:size], self.up[size:]
        for event in self.server.receive_data(piece):
            assert not isinstance(event, ConnectionBroken | ResponseReceived)
            model = self.streams[event.stream_id]
            if isinstance(event, RequestReceived):
                assert (event.unary, event.more) == (model.unary, model.more)
                assert not model.server_saw_request
                model.server_saw_request = True
            elif isinstance(event, DataReceived):
                assert not model.server_saw_end
                model.at_server.append(event.payload)
            elif isinstance(event, RemoteClosed):
                assert not model.server_saw_end
                model.server_saw_end = True
            else:
                # The one thing that may go wrong between two good ends: data crossed the answer.
                assert isinstance(event, StreamFailed)
                assert model.server_ended
                assert not event.was_open

    @rule(size=st.integers(1, 64))
    def downward(self, size: int) -> None:
        self.down += self.server.data_to_send()
        piece, self.down = self.down[:size], self.down[size:]
        for event in self.client.receive_data(piece):
            assert isinstance(event, DataReceived | RemoteClosed | ResponseReceived)
            model = self.streams[event.stream_id]
            assert not model.client_saw_end
            assert not model.forgotten
            if isinstance(event, DataReceived):
                model.at_client.append(event.payload)
            else:
                model.client_saw_end = True
                assert model.server_ended
                assert model.at_client == model.to_client

    @invariant()
    def nothing_is_lost_or_reordered(self) -> None:
        for model in self.streams.values():
            assert model.at_server == model.to_server[: len(model.at_server)]
            assert model.at_client == model.to_client[: len(model.at_client)]

    @invariant()
    def both_ends_count_right(self) -> None:
        models = self.streams.values()
        assert self.server.active == sum(
            m.server_saw_request and not m.server_ended for m in models
        )
        assert self.client.active == sum(not (m.client_saw_end or m.forgotten) for m in models)


TestConversation = Conversation.TestCase
