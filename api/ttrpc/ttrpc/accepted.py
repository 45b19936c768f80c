"""One accepted connection of a server: a task for each call, its deadline, its streams.

It keeps no rule of the protocol (connection.py does) and knows no service but its host's.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from .connection import ServerConnection
from .errors import Code, Error
from .events import ConnectionBroken, DataReceived, RemoteClosed, RequestReceived, StreamFailed
from .peer import peer_of
from .service import Context, Limits, Message, Method, Peer
from .shell import Inbox, InboxReceiver, Shell


class Host(Protocol):
    """What a connection needs of the server that it belongs to."""

    limits: Limits
    authorize: Callable[[Peer], bool] | None
    routes: dict[str, Mapping[str, Method]]
    closing: bool
    shells: set[ServerShell]

    def lost(self, shell: ServerShell) -> None:
        """The connection is gone."""

    def status_of(self, error: Exception) -> Error:
        """Gives the status for what a handler raised."""


class _Call(Context):
    """One stream that a handler works on."""

    __slots__ = ("inbox", "started", "stream_id", "task", "timer")

    def __init__(self, event: RequestReceived, peer: Peer, deadline: float | None) -> None:
        request = event.request
        super().__init__(request.service, request.method, peer, request.metadata, deadline)
        self.stream_id = event.stream_id
        self.started = False
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.inbox: Inbox | None = None


class _Sender:
    """A Sender on a stream of a server's connection."""

    __slots__ = ("_shell", "_stream_id")

    def __init__(self, shell: ServerShell, stream_id: int) -> None:
        self._shell = shell
        self._stream_id = stream_id

    async def send(self, message: Message) -> None:
        shell = self._shell
        payload = message.SerializeToString()
        await shell.take_turn(len(payload))
        if not shell.connection.is_open(self._stream_id):
            raise Error(Code.CANCELLED, "the stream is over: nobody waits for its messages")
        shell.connection.send_data(self._stream_id, payload)
        shell.flush()


class ServerShell(Shell[ServerConnection]):
    """One accepted connection."""

    stops_reading_when_stuck = True

    def __init__(self, server: Host) -> None:
        limits = server.limits
        super().__init__(ServerConnection(limits.message_length, limits.streams), limits)
        self._server = server
        self._peer = Peer(-1, -1, -1)
        self._calls: dict[int, _Call] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        server = self._server
        self._peer = peer_of(transport)
        server.shells.add(self)
        allowed = False
        try:
            allowed = not server.closing and (
                server.authorize is None or server.authorize(self._peer)
            )
        finally:
            # Also when the hook fails: asyncio only logs what is raised here.
            if not allowed:
                self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for call in list(self._calls.values()):
            self._stop(call)
        self._server.lost(self)

    def data_received(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            if isinstance(event, RequestReceived):
                self._open(event)
            elif isinstance(event, DataReceived):
                self._data(event)
            elif isinstance(event, RemoteClosed):
                call = self._calls.get(event.stream_id)
                if call is not None and call.inbox is not None:
                    call.inbox.finish()
                    self.release(call.stream_id)
            elif isinstance(event, StreamFailed):
                call = self._calls.get(event.stream_id)
                if event.was_open and call is not None:
                    self._stop(call)
            elif isinstance(event, ConnectionBroken):
                self.hang_up(event.reason)
        self.flush()

    def finish(self) -> None:
        """Closes the connection as soon as no handler works for it."""
        if not self._calls and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Closes the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _open(self, event: RequestReceived) -> None:
        stream_id, request = event.stream_id, event.request
        if not self.connection.is_open(stream_id):
            return  # a later message in the same portion has ended it already
        methods = self._server.routes.get(request.service)
        method = methods.get(request.method) if methods is not None else None
        if methods is None:
            self._fail(stream_id, Error(Code.UNIMPLEMENTED, f"service {request.service}"))
        elif method is None:
            self._fail(stream_id, Error(Code.UNIMPLEMENTED, f"method {request.method}"))
        elif problem := _mismatch(event, method):
            text = f"method {request.method} {problem}"
            self._fail(stream_id, Error(Code.INVALID_ARGUMENT, text))
        elif request.timeout_nano < 0:
            self._late(stream_id)
        else:
            self._start(event, method)

    def _start(self, event: RequestReceived, method: Method) -> None:
        stream_id, request = event.stream_id, event.request
        message: Any = None
        if not method.client_streaming:
            try:
                message = method.parse(request.payload)
            except Exception as error:
                text = f"the request of method {request.method} can't be parsed: {error}"
                self._fail(stream_id, Error(Code.INVALID_ARGUMENT, text))
                return
        deadline = None
        if request.timeout_nano:
            deadline = self.loop.time() + request.timeout_nano / 1e9
        call = _Call(event, self._peer, deadline)
        if deadline is not None:
            call.timer = self.loop.call_at(deadline, self._expire, call)
        self._calls[stream_id] = call
        if method.client_streaming:
            message = self._receiver(call, event, method)
        call.task = _task(self.loop, self._run(call, method, message))

    def _receiver(self, call: _Call, event: RequestReceived, method: Method) -> InboxReceiver[Any]:
        stream_id, payload = event.stream_id, event.request.payload
        inbox = call.inbox = Inbox(self.limits, lambda: self.release(stream_id))
        # A client may put its first message into the request (and protobuf can't tell an empty
        # payload from none, so an empty first message has to come as data).
        if payload or event.unary:
            inbox.put(payload)
        if not event.more:
            inbox.finish()
        return InboxReceiver(inbox, method.parse)

    def _data(self, event: DataReceived) -> None:
        call = self._calls.get(event.stream_id)
        if call is None or call.inbox is None:
            return
        if not call.inbox.put(event.payload):
            self.overfull(event.stream_id, call.inbox, self._starved)

    async def _run(self, call: _Call, method: Method, message: Any) -> None:
        call.started = True
        connection, stream_id = self.connection, call.stream_id
        try:
            if method.server_streaming:
                await method.handler(message, _Sender(self, stream_id), call)
                if connection.is_open(stream_id):
                    connection.send_end(stream_id)
            else:
                response = await method.handler(message, call)
                if connection.is_open(stream_id):
                    connection.send_response(stream_id, response.SerializeToString())
        except asyncio.CancelledError:
            # At its deadline, or when its stream or connection ended, the call has its answer (or
            # can't get one); a handler that was cancelled by others has not.
            self._fail(stream_id, Error(Code.CANCELLED, "the call was cancelled by the server"))
        except Exception as error:
            self._fail(stream_id, self._server.status_of(error))
        finally:
            self._done(call)

    def _fail(self, stream_id: int, error: Error) -> None:
        if self.connection.is_open(stream_id):
            # Code OK in an error would reach the client as a success.
            code = error.code or Code.UNKNOWN
            self.connection.send_error(stream_id, code, error.message, error.details)

    def _done(self, call: _Call) -> None:
        del self._calls[call.stream_id]
        if call.timer is not None:
            call.timer.cancel()
        if call.inbox is not None:
            call.inbox.finish()
            self.release(call.stream_id)
        self.flush()
        if self._server.closing:
            self.finish()

    def _stop(self, call: _Call) -> None:
        if call.timer is not None:
            call.timer.cancel()
        if call.task is not None:
            call.task.cancel()
            if not call.started:
                # A task that is cancelled before its first step never runs a line of ours.
                self._done(call)

    def _late(self, stream_id: int) -> None:
        self._fail(stream_id, Error(Code.DEADLINE_EXCEEDED, "the deadline of the call has passed"))

    def _expire(self, call: _Call) -> None:
        # Answered now and not when the handler is done with its clean-up: the caller counts.
        self._late(call.stream_id)
        self.flush()
        self._stop(call)

    def _starved(self, stream_id: int) -> None:
        self.release(stream_id)
        text = "the stream is full: its handler does not read"
        self._fail(stream_id, Error(Code.RESOURCE_EXHAUSTED, text))
        self.flush()
        call = self._calls.get(stream_id)
        if call is not None:
            self._stop(call)


def _mismatch(event: RequestReceived, method: Method) -> str:
    if event.unary and method.server_streaming:
        return "answers with a stream, and the request allows a single response only"
    if event.more and not method.client_streaming:
        return "takes a single request, not a stream"
    return ""


def _task(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    if sys.version_info >= (3, 12):
        # Runs the handler up to its first wait right here: one that doesn't wait answers in the
        # same turn of the loop, together with its neighbours.
        return asyncio.Task(work, loop=loop, eager_start=True)
    return loop.create_task(work)
