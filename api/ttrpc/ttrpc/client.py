"""The asyncio client: calls and streams on one connection to a server.

It retries nothing and never reconnects: after ClosedError, make another one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from .connection import ClientConnection
from .errors import ClosedError, Code, Error
from .events import (
    ConnectionBroken,
    DataReceived,
    RemoteClosed,
    ResponseReceived,
    StreamFailed,
)
from .service import DEFAULT_LIMITS, Limits, Message
from .shell import Inbox, Shell
from .wire import Metadata, Response, encode_request

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp")

_TIMEOUT_MAX = (1 << 63) - 1  # timeout_nano is an int64


def _late(service: str, method: str) -> Error:
    return Error(Code.DEADLINE_EXCEEDED, f"no answer from {service}/{method} before the deadline")


class _ClientShell(Shell[ClientConnection]):
    """The client's connection and who waits for what on it."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(ClientConnection(limits.message_length), limits)
        self.calls: dict[int, asyncio.Future[Response]] = {}
        self.streams: dict[int, ClientStream[Any, Any]] = {}
        self.gone = self.loop.create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        reason = self.broken or str(exc or "")
        text = f"ttrpc: closed: {reason}" if reason else "ttrpc: closed"
        for future in self.calls.values():
            if not future.done():
                future.set_exception(ClosedError(text))
        for stream in self.streams.values():
            stream.finish(ClosedError(text))
        self.streams.clear()
        self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            if isinstance(event, ResponseReceived):
                self._response(event)
            elif isinstance(event, DataReceived):
                stream = self.streams.get(event.stream_id)
                if stream is not None and not stream.inbox.put(event.payload):
                    self.overfull(event.stream_id, stream.inbox, self._starved)
            elif isinstance(event, RemoteClosed):
                self.end(event.stream_id, None)
            elif isinstance(event, StreamFailed):
                self.end(event.stream_id, Error(event.code, event.message))
            elif isinstance(event, ConnectionBroken):
                self.hang_up(event.reason)
        self.flush()

    def _response(self, event: ResponseReceived) -> None:
        future = self.calls.get(event.stream_id)
        if future is not None:
            if not future.done():
                future.set_result(event.response)
            return
        stream = self.streams.pop(event.stream_id, None)
        if stream is not None:
            stream.respond(event.response)

    def end(self, stream_id: int, error: Error | None) -> None:
        """Ends the call or the stream, if somebody still waits for it."""
        future = self.calls.get(stream_id)
        if future is not None and error is not None and not future.done():
            future.set_exception(error)
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            stream.finish(error)

    def give_up(self, stream_id: int, error: Error | None) -> None:
        """Forgets a stream from this side; `error` is what its waiters get."""
        self.connection.forget(stream_id)
        self.flush()
        self.end(stream_id, error)

    def _starved(self, stream_id: int) -> None:
        text = "the stream is full: its messages were not read in time"
        self.give_up(stream_id, Error(Code.RESOURCE_EXHAUSTED, text))


class ClientStream(Generic[Req, Resp]):
    """A call that is a stream in one direction or in both.

    To be used with `async with`, or closed with `aclose`: a stream that is left alone takes
    memory until the server ends it. Iterating gives the server's messages until its last.
    """

    def __init__(
        self, shell: _ClientShell, stream_id: int, parse: Callable[[bytes], Resp], receives: bool
    ) -> None:
        self._shell = shell
        self._id = stream_id
        self._parse = parse
        self._receives = receives
        self.inbox = Inbox(shell.limits, lambda: shell.release(stream_id))
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> ClientStream[Req, Resp]:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    def __aiter__(self) -> ClientStream[Req, Resp]:
        return self

    async def __anext__(self) -> Resp:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def send(self, message: Req) -> None:
        """Sends one message, and waits while the server does not read.

        Error if the message is over the limit, or with the server's answer if the stream is over.
        """
        payload = message.SerializeToString()
        await self._shell.take_turn(len(payload))
        if not self._shell.connection.is_open(self._id):
            raise self.inbox.error or Error(Code.CANCELLED, "the server has ended the stream")
        self._shell.connection.send_data(self._id, payload)
        self._shell.flush()

    async def close_send(self) -> None:
        """Says that no more messages follow; nothing if it was said."""
        if not self._shell.closed and self._shell.connection.can_send(self._id):
            self._shell.connection.send_end(self._id)
            self._shell.flush()

    async def receive(self) -> Resp | None:
        """Waits for the server's next message; None after the last. Error if the call failed."""
        payload = await self.inbox.get()
        return None if payload is None else self._parse(payload)

    async def result(self) -> Resp:
        """Closes the sending side and gives the single response of a client stream."""
        await self.close_send()
        message = await self.receive()
        if message is None:
            raise Error(Code.INTERNAL, "the server ended the stream without a response")
        return message

    async def aclose(self) -> None:
        """Gives the stream up if it is not over; what still comes for it is dropped."""
        if self._shell.streams.get(self._id) is self and not self._shell.closed:
            self._shell.give_up(self._id, Error(Code.CANCELLED, "the stream was closed"))
        self.finish(None)

    def expire_at(self, when: float, error: Error) -> None:
        """Ends the stream with `error` at a time of the loop's clock."""
        self._timer = self._shell.loop.call_at(when, self._shell.give_up, self._id, error)

    def respond(self, response: Response) -> None:
        """The connection hands in the response that ends the stream."""
        status, payload = response
        if status is not None and status.code:
            self.finish(Error(*status))
            return
        # Where a stream of messages was expected, an empty response only says that it is over.
        if payload or not self._receives:
            self.inbox.put(payload)
        self.finish(None)

    def finish(self, error: Error | None) -> None:
        """The connection says that nothing more comes."""
        self.inbox.finish(error)
        self._shell.release(self._id)
        if self._timer is not None:
            self._timer.cancel()


class Client:
    """Calls to one server. Any number of calls and streams may be under way at once."""

    def __init__(self, shell: _ClientShell) -> None:
        self._shell = shell

    @classmethod
    async def connect(cls, path: str, *, limits: Limits = DEFAULT_LIMITS) -> Client:
        """Connects to a unix socket (a path that begins with NUL is an abstract one); OSError."""
        loop = asyncio.get_running_loop()
        _, shell = await loop.create_unix_connection(lambda: _ClientShell(limits), path)
        return cls(shell)

    @classmethod
    async def attach(cls, sock: socket.socket, *, limits: Limits = DEFAULT_LIMITS) -> Client:
        """Makes a client on a connected stream socket, which it owns from then on."""
        loop = asyncio.get_running_loop()
        _, shell = await loop.connect_accepted_socket(lambda: _ClientShell(limits), sock)
        return cls(shell)

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._shell.closed

    async def call(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> bytes:
        """Calls a unary method with a serialized message and gives the serialized response.

        `timeout` in seconds; the server is told what is left of it. Error with the server's
        status, with DeadlineExceeded when the time is over, with ResourceExhausted when a message
        is over the limit; ClosedError if the connection is closed before the answer. When the
        caller is cancelled the call is forgotten; the protocol can't tell the server.
        """
        shell = self._shell
        deadline = None if timeout is None else shell.loop.time() + timeout
        stream_id = await self._open(service, method, payload, deadline, metadata, True, False)
        future: asyncio.Future[Response] = shell.loop.create_future()
        shell.calls[stream_id] = future
        timer = None
        if deadline is not None:
            late = _late(service, method)
            timer = shell.loop.call_at(deadline, shell.end, stream_id, late)
        try:
            shell.flush()
            status, answer = await future
        finally:
            del shell.calls[stream_id]
            shell.connection.forget(stream_id)
            if timer is not None:
                timer.cancel()
        if status is not None and status.code:
            raise Error(*status)
        return answer

    async def stream(
        self,
        service: str,
        method: str,
        parse: Callable[[bytes], Resp],
        *,
        payload: bytes = b"",
        sends: bool,
        receives: bool,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> ClientStream[Any, Resp]:
        """Opens a stream; generated clients do it with the right types.

        `sends`: this side sends messages (`payload` stays empty then). `receives`: the server
        answers with messages and not with one response. `parse` makes a message of bytes.
        """
        shell = self._shell
        deadline = None if timeout is None else shell.loop.time() + timeout
        stream_id = await self._open(service, method, payload, deadline, metadata, False, sends)
        stream: ClientStream[Any, Resp] = ClientStream(shell, stream_id, parse, receives)
        shell.streams[stream_id] = stream
        if deadline is not None:
            stream.expire_at(deadline, _late(service, method))
        shell.flush()
        return stream

    async def close(self) -> None:
        """Closes the connection; calls that wait get ClosedError."""
        self._shell.hang_up()
        await asyncio.shield(self._shell.gone)

    async def _open(
        self,
        service: str,
        method: str,
        payload: bytes,
        deadline: float | None,
        metadata: Metadata | None,
        unary: bool,
        more: bool,
    ) -> int:
        shell = self._shell
        try:
            if shell.stuck or shell.closed:
                async with asyncio.timeout_at(deadline):
                    await shell.drain()
        except TimeoutError:
            raise _late(service, method) from None
        nanoseconds = 0
        if deadline is not None:
            nanoseconds = int((deadline - shell.loop.time()) * 1e9)
            if nanoseconds <= 0:
                raise _late(service, method)
        request = encode_request(service, method, payload, min(nanoseconds, _TIMEOUT_MAX), metadata)
        return shell.connection.open(request, unary=unary, more=more)
