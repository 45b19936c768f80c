"""What a connection tells its shell: plain values, in the order in which the bytes meant them.

They carry no behaviour and no reference to the connection.
"""

from __future__ import annotations

from typing import NamedTuple

from .wire import Request, Response


class RequestReceived(NamedTuple):
    """Server: a client opened a stream.

    `unary`: exactly one response is expected. `more`: data from the client follows.
    """

    stream_id: int
    request: Request
    unary: bool
    more: bool


class ResponseReceived(NamedTuple):
    """Client: the answer came and the stream is over."""

    stream_id: int
    response: Response


class DataReceived(NamedTuple):
    """One message of a stream, serialized; an empty one is a message too."""

    stream_id: int
    payload: bytes


class RemoteClosed(NamedTuple):
    """The peer sends no more on this stream; for a client the stream is over with it."""

    stream_id: int


class StreamFailed(NamedTuple):
    """A message broke a rule, or a limit, and the stream it named (if it was open) is over.

    A server connection has already put the answer into its output. `was_open` tells whether
    somebody is working on the stream and must be told.
    """

    stream_id: int
    code: int
    message: str
    was_open: bool


class ConnectionBroken(NamedTuple):
    """What arrived is not ttrpc, or ends in the middle of a frame: close the connection."""

    reason: str


Event = (
    RequestReceived
    | ResponseReceived
    | DataReceived
    | RemoteClosed
    | StreamFailed
    | ConnectionBroken
)
