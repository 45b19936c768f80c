"""What a service and its callers see of each other: methods, contexts, peers, limits.

Nothing here does IO; generated code and handlers need no more than this to be imported.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from .connection import STREAMS_MAX
from .frames import MESSAGE_LENGTH_MAX

M_co = TypeVar("M_co", covariant=True)
M_contra = TypeVar("M_contra", contravariant=True)


class Message(Protocol):
    """Anything that can be sent: protobuf messages are, and so is a hand-made class."""

    def SerializeToString(self) -> bytes:
        """Gives the serialized message."""


class Method(NamedTuple):
    """One method of a service.

    `handler` is an async function of (request, context) that returns the response. With
    `client_streaming` it gets a Receiver in place of the request; with `server_streaming` it gets
    a Sender between the two and returns None. `parse` makes a request of bytes (FromString).
    """

    handler: Callable[..., Awaitable[Any]]
    parse: Callable[[bytes], Any]
    client_streaming: bool = False
    server_streaming: bool = False


class Service(Protocol):
    """What a Server serves; the generated base classes have this shape."""

    @property
    def SERVICE(self) -> str:
        """The full name, such as "containerd.task.v2.Task"."""

    def methods(self) -> Mapping[str, Method]:
        """Gives the methods by the names that travel on the wire."""


class Peer(NamedTuple):
    """Who is at the other end of a unix socket (SO_PEERCRED, unix(7)).

    The ids are those of the moment of connect(2), as seen from this process's namespaces;
    -1 where the socket can't tell.
    """

    pid: int
    uid: int
    gid: int


def same_user(peer: Peer) -> bool:
    """An `authorize` hook that lets in only the effective user and group of this process."""
    return (peer.uid, peer.gid) == (os.geteuid(), os.getegid())


class Context:
    """What a handler may know of its call besides the request."""

    __slots__ = ("deadline", "metadata", "method", "peer", "service")

    def __init__(
        self,
        service: str,
        method: str,
        peer: Peer,
        metadata: dict[str, list[str]],
        deadline: float | None,
    ) -> None:
        self.service = service
        self.method = method
        self.peer = peer
        self.metadata = metadata
        """Keys as they came (lower case by convention), each with all its values in order."""
        self.deadline = deadline
        """The time of the event loop's clock at which the handler is cancelled, or None."""


class Sender(Protocol[M_contra]):
    """The handler's end of a stream of responses."""

    async def send(self, message: M_contra, /) -> None:
        """Sends one message, and waits while the peer does not read.

        Error if the message is over the limit (the stream goes on) or the stream is over.
        """


class Receiver(Protocol[M_co]):
    """The messages that the other side sends, in order, until it has sent its last."""

    def __aiter__(self) -> Receiver[M_co]:
        """Gives itself."""

    async def __anext__(self) -> M_co:
        """Waits for a message; Error if the stream or the connection failed."""

    async def receive(self) -> M_co | None:
        """Waits for a message; None after the last."""


class Limits(NamedTuple):
    """What one connection may use.

    The protocol has no flow control. A stream whose reader falls behind by `inbox_messages` or
    `inbox_bytes` stops the reading of its connection, so that the peer's writes block; if its
    reader then takes nothing for `stream_grace` seconds, the stream is failed and the others go on.
    """

    message_length: int = MESSAGE_LENGTH_MAX
    streams: int = STREAMS_MAX
    inbox_messages: int = 64
    inbox_bytes: int = 1 << 20
    stream_grace: float = 1.0


DEFAULT_LIMITS = Limits()
