"""Both ends of a ttrpc connection without IO: bytes in, events out; calls in, bytes out.

No socket, clock, log or await is here, so every rule of the protocol can be tested byte by byte.
Whatever the peer sends, `receive_data` raises nothing: a message that breaks a rule ends its
stream (StreamFailed), bytes that are not ttrpc end the connection (ConnectionBroken). StateError
is for the caller's own mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import frames, wire
from .errors import Code, Detail, StateError, oversized
from .events import (
    ConnectionBroken,
    DataReceived,
    Event,
    RemoteClosed,
    RequestReceived,
    ResponseReceived,
    StreamFailed,
)
from .frames import (
    DATA,
    FLAG_NO_DATA,
    FLAG_REMOTE_CLOSED,
    FLAG_REMOTE_OPEN,
    MESSAGE_LENGTH_MAX,
    REQUEST,
    RESPONSE,
    Frame,
    FrameReader,
    Malformed,
    Oversized,
)
from .phases import Act, Phase, Streams

STREAM_ID_MAX = 0xFFFF_FFFF
STREAMS_MAX = 4096


class Connection:
    """What both ends share: the reader, the streams and the bytes that wait to be sent."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reader = FrameReader(limit)
        self._streams = Streams()
        self._output: list[bytes] = []

    @property
    def active(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def is_open(self, stream_id: int) -> bool:
        """Whether the stream is open, that is: whether something may still be sent on it."""
        return stream_id in self._streams

    def data_to_send(self) -> bytes:
        """Takes the bytes that the peer must get, whole frames in order; b"" if there are none."""
        output = self._output
        if not output:
            return b""
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        return data

    def receive_data(self, data: bytes) -> list[Event]:
        """Takes bytes from the peer, in any portions, and gives what they mean."""
        events: list[Event] = []
        for item in self._reader.feed(data):
            if type(item) is Frame:
                self._frame(item, events)
            elif type(item) is Oversized:
                self._oversized(item, events)
            elif type(item) is Malformed:
                events.append(ConnectionBroken(item.reason))
        return events

    def receive_eof(self) -> list[Event]:
        """Says that the peer sends no more; gives ConnectionBroken if a frame was cut off."""
        if self._reader.in_frame:
            return [ConnectionBroken("the peer left in the middle of a frame")]
        return []

    def _frame(self, frame: Frame, events: list[Event]) -> None:
        raise NotImplementedError

    def _oversized(self, item: Oversized, events: list[Event]) -> None:
        raise NotImplementedError

    def _send(self, stream_id: int, kind: int, flags: int, data: bytes) -> None:
        self._output.append(frames.encode(stream_id, kind, flags, data))

    def _send_data(self, stream_id: int, payload: bytes, act: Act) -> None:
        if len(payload) > self._limit:
            raise oversized(len(payload), self._limit)
        if not self._streams.act(stream_id, act):
            raise StateError(f"no data may be sent on stream {stream_id}")
        self._send(stream_id, DATA, 0, payload)

    def _send_end(self, stream_id: int, act: Act) -> None:
        if not self._streams.act(stream_id, act):
            raise StateError(f"stream {stream_id} can't be closed")
        self._send(stream_id, DATA, FLAG_REMOTE_CLOSED | FLAG_NO_DATA, b"")


class ServerConnection(Connection):
    """The end that accepted the connection.

    `limit` is the largest message in bytes, `streams_max` how many streams a client may have
    open at once; one more is answered ResourceExhausted.
    """

    def __init__(self, limit: int = MESSAGE_LENGTH_MAX, streams_max: int = STREAMS_MAX) -> None:
        super().__init__(limit)
        self._streams_max = streams_max
        self._last_id = 0

    def send_response(self, stream_id: int, payload: bytes) -> None:
        """Answers a stream with success and ends it.

        A payload over the limit is answered ResourceExhausted in its place. StateError if the
        stream is not open.
        """
        data = wire.encode_payload(payload)
        if len(data) > self._limit:
            error = oversized(len(data), self._limit)
            data = wire.encode_status(error.code, error.message)
        self._respond(stream_id, data)

    def send_error(
        self, stream_id: int, code: int, message: str, details: Sequence[Detail] = ()
    ) -> None:
        """Answers a stream with a status and ends it; a status over the limit is cut short.

        StateError if the stream is not open.
        """
        self._respond(stream_id, self._status(code, message, details))

    def send_data(self, stream_id: int, payload: bytes) -> None:
        """Sends one message of a stream.

        Error (ResourceExhausted) if it is over the limit, and nothing is sent; StateError if the
        stream is unary or not open.
        """
        self._send_data(stream_id, payload, Act.SERVER_DATA)

    def send_end(self, stream_id: int) -> None:
        """Ends a stream whose messages were all sent; StateError if it is unary or not open."""
        self._send_end(stream_id, Act.SERVER_END)

    def _status(self, code: int, message: str, details: Sequence[Detail]) -> bytes:
        data = wire.encode_status(code, message, details)
        if len(data) > self._limit:
            # The code is what programs act on: it must get through whatever the text is.
            data = wire.encode_status(code, message[: self._limit // 8])
        return data

    def _respond(self, stream_id: int, data: bytes) -> None:
        if not self._streams.act(stream_id, Act.RESPONSE):
            raise StateError(f"stream {stream_id} is not open")
        self._send(stream_id, RESPONSE, 0, data)

    def _refuse(self, stream_id: int, code: Code, message: str, events: list[Event]) -> None:
        # The answer goes out on the very id that was wrong, so that the client can tell which.
        was_open = self._streams.drop(stream_id)
        self._send(stream_id, RESPONSE, 0, wire.encode_status(code, message))
        events.append(StreamFailed(stream_id, code, message, was_open))

    def _oversized(self, item: Oversized, events: list[Event]) -> None:
        if item.kind == RESPONSE:
            return
        if item.kind == REQUEST and item.stream_id % 2 and item.stream_id > self._last_id:
            self._last_id = item.stream_id
        error = oversized(item.length, self._limit)
        self._refuse(item.stream_id, Code.RESOURCE_EXHAUSTED, error.message, events)

    def _frame(self, frame: Frame, events: list[Event]) -> None:
        if frame.kind not in (REQUEST, DATA):
            return  # a type of a later version of the protocol, or one that only servers send
        if frame.stream_id % 2 == 0:
            text = "the id of a stream that a client opens must be odd"
            self._refuse(frame.stream_id, Code.INVALID_ARGUMENT, text, events)
        elif frame.kind == REQUEST:
            self._request(frame, events)
        else:
            self._data(frame, events)

    def _request(self, frame: Frame, events: list[Event]) -> None:
        stream_id = frame.stream_id
        if stream_id <= self._last_id:
            text = "stream ids must increase and can't be used again"
            self._refuse(stream_id, Code.INVALID_ARGUMENT, text, events)
            return
        self._last_id = stream_id
        more = bool(frame.flags & FLAG_REMOTE_OPEN)
        done = bool(frame.flags & FLAG_REMOTE_CLOSED)
        try:
            request = wire.decode_request(frame.data)
        except wire.DecodeError as error:
            text = f"the request can't be parsed: {error}"
            self._refuse(stream_id, Code.INVALID_ARGUMENT, text, events)
            return
        if more and done:
            text = "a request can't be both remote open and remote closed"
            self._refuse(stream_id, Code.INVALID_ARGUMENT, text, events)
        elif len(self._streams) >= self._streams_max:
            text = f"more than {self._streams_max} streams are open on this connection"
            self._refuse(stream_id, Code.RESOURCE_EXHAUSTED, text, events)
        else:
            phase = Phase.OPEN if more else Phase.HALF_CLOSED if done else Phase.UNARY
            self._streams.open(stream_id, phase)
            events.append(RequestReceived(stream_id, request, not (more or done), more))

    def _data(self, frame: Frame, events: list[Event]) -> None:
        stream_id = frame.stream_id
        if stream_id not in self._streams:
            text = "the stream is not active any more"
            self._refuse(stream_id, Code.INVALID_ARGUMENT, text, events)
        elif frame.flags & FLAG_NO_DATA and frame.data:
            text = "a message that is flagged as having no data can't have data"
            self._refuse(stream_id, Code.INVALID_ARGUMENT, text, events)
        elif not self._streams.act(stream_id, Act.CLIENT_DATA):
            text = "no data may follow on this stream: the client has closed its side"
            self._refuse(stream_id, Code.INVALID_ARGUMENT, text, events)
        else:
            if not frame.flags & FLAG_NO_DATA:
                events.append(DataReceived(stream_id, frame.data))
            if frame.flags & FLAG_REMOTE_CLOSED:
                self._streams.act(stream_id, Act.CLIENT_END)
                events.append(RemoteClosed(stream_id))


class ClientConnection(Connection):
    """The end that opened the connection; `limit` is the largest message in bytes."""

    def __init__(self, limit: int = MESSAGE_LENGTH_MAX) -> None:
        super().__init__(limit)
        self._next_id = 1

    def open(self, request: bytes, *, unary: bool = True, more: bool = False) -> int:
        """Sends a serialized Request and gives the id of its stream.

        `unary`: one response is expected. If not, `more` tells whether data will follow.
        Error (ResourceExhausted) if the request is over the limit, and nothing is sent;
        StateError if all ids have been used.
        """
        if len(request) > self._limit:
            raise oversized(len(request), self._limit)
        stream_id = self._next_id
        if stream_id > STREAM_ID_MAX:
            raise StateError("all stream ids of this connection are used: open another one")
        self._next_id += 2
        if unary:
            phase, flags = Phase.UNARY, 0
        elif more:
            phase, flags = Phase.OPEN, FLAG_REMOTE_OPEN
        else:
            phase, flags = Phase.HALF_CLOSED, FLAG_REMOTE_CLOSED
        self._streams.open(stream_id, phase)
        self._send(stream_id, REQUEST, flags, request)
        return stream_id

    def send_data(self, stream_id: int, payload: bytes) -> None:
        """Sends one message of a stream; the errors are those of ServerConnection.send_data."""
        self._send_data(stream_id, payload, Act.CLIENT_DATA)

    def send_end(self, stream_id: int) -> None:
        """Says that no more data follows; StateError if that was said or can't be."""
        self._send_end(stream_id, Act.CLIENT_END)

    def can_send(self, stream_id: int) -> bool:
        """Whether data may be sent on the stream."""
        return self._streams.phase(stream_id) is Phase.OPEN

    def forget(self, stream_id: int) -> None:
        """Gives a stream up: what still comes for it is dropped, and its id is not used again.

        The protocol has no message to cancel a call. A server that waits for data is told that
        none will come, which is the nearest that can be said.
        """
        if self._streams.phase(stream_id) is Phase.OPEN:
            self._send_end(stream_id, Act.CLIENT_END)
        self._streams.drop(stream_id)

    def _fail(self, stream_id: int, code: Code, message: str, events: list[Event]) -> None:
        self.forget(stream_id)
        events.append(StreamFailed(stream_id, code, message, was_open=True))

    def _oversized(self, item: Oversized, events: list[Event]) -> None:
        if item.stream_id in self._streams:
            error = oversized(item.length, self._limit)
            self._fail(item.stream_id, Code.RESOURCE_EXHAUSTED, error.message, events)

    def _frame(self, frame: Frame, events: list[Event]) -> None:
        stream_id = frame.stream_id
        if stream_id not in self._streams:
            return  # a late answer to a call that was given up
        if frame.kind == RESPONSE:
            try:
                response = wire.decode_response(frame.data)
            except wire.DecodeError as error:
                text = f"the response can't be parsed: {error}"
                self._fail(stream_id, Code.INTERNAL, text, events)
                return
            self._streams.act(stream_id, Act.RESPONSE)
            events.append(ResponseReceived(stream_id, response))
        elif frame.kind == DATA:
            self._data(frame, events)
        elif frame.kind == REQUEST:
            text = "the server sent a request on a stream of the client"
            self._fail(stream_id, Code.INTERNAL, text, events)

    def _data(self, frame: Frame, events: list[Event]) -> None:
        stream_id = frame.stream_id
        if not self._streams.act(stream_id, Act.SERVER_DATA):
            self._fail(stream_id, Code.INTERNAL, "the server sent data on a unary call", events)
            return
        if not frame.flags & FLAG_NO_DATA:
            events.append(DataReceived(stream_id, frame.data))
        if frame.flags & FLAG_REMOTE_CLOSED:
            self._streams.act(stream_id, Act.SERVER_END)
            events.append(RemoteClosed(stream_id))
