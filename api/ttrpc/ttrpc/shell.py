"""What the asyncio server and client share: the transport, its two brakes, and stream inboxes.

It decides nothing about calls. The brakes: a peer that doesn't read stops whoever writes to it
(`drain`); a stream that isn't read stops the reading of its connection, for a while.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from .connection import Connection
from .errors import ClosedError, Code, Error
from .events import ConnectionBroken
from .service import Limits

M = TypeVar("M")
C = TypeVar("C", bound=Connection)

_WRITING = -1  # the key of "the peer does not read" among the stream ids that stop the reading

# How many bytes of streams are sent before everybody else has a turn, and what a message counts
# besides its own length.
_BURST_MAX = 1 << 16
_MESSAGE_COST = 1 << 10

_READ_MAX = 1 << 15


class Inbox:
    """The messages of one stream that wait for their reader.

    `on_room` is called when the reader has caught up to half of what made the inbox full; `taken`
    counts the messages that it has taken.
    """

    __slots__ = (
        "_bytes",
        "_error",
        "_finished",
        "_full",
        "_items",
        "_limits",
        "_room",
        "_waiter",
        "taken",
    )

    def __init__(self, limits: Limits, on_room: Callable[[], None]) -> None:
        self.taken = 0
        self._items: deque[bytes] = deque()
        self._bytes = 0
        self._limits = limits
        self._room = on_room
        self._full = False
        self._finished = False
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, payload: bytes) -> bool:
        """Takes a message; False when the inbox is full with it."""
        if self._finished:
            return True
        self._items.append(payload)
        self._bytes += len(payload)
        self._wake()
        limits = self._limits
        self._full = self._bytes >= limits.inbox_bytes or len(self._items) >= limits.inbox_messages
        return not self._full

    @property
    def error(self) -> BaseException | None:
        """What ended the stream, if it failed."""
        return self._error

    def finish(self, error: BaseException | None = None) -> None:
        """Says that no more messages come; with an error, the reader gets it after the last."""
        if not self._finished:
            self._finished, self._error = True, error
            self._wake()

    async def get(self) -> bytes | None:
        """Waits for the next message; None after the last."""
        while not self._items:
            if self._finished:
                if self._error is not None:
                    raise self._error
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        payload = self._items.popleft()
        self.taken += 1
        self._bytes -= len(payload)
        if self._full and self._has_room():
            self._full = False
            self._room()
        return payload

    def _has_room(self) -> bool:
        limits = self._limits
        return self._bytes * 2 <= limits.inbox_bytes and (
            len(self._items) * 2 <= limits.inbox_messages
        )

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class InboxReceiver(Generic[M]):
    """A Receiver over an inbox."""

    __slots__ = ("_inbox", "_parse")

    def __init__(self, inbox: Inbox, parse: Callable[[bytes], M]) -> None:
        self._inbox = inbox
        self._parse = parse

    def __aiter__(self) -> InboxReceiver[M]:
        return self

    async def __anext__(self) -> M:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def receive(self) -> M | None:
        """Waits for a message; None after the last. Error if it can't be parsed."""
        payload = await self._inbox.get()
        if payload is None:
            return None
        try:
            return self._parse(payload)
        except Exception as error:
            text = f"a message of the stream can't be parsed: {error}"
            raise Error(Code.INVALID_ARGUMENT, text) from error


class Shell(asyncio.BufferedProtocol, Generic[C]):
    """A connection on a transport.

    It reads into a buffer of its own: asyncio would allocate 256 KiB for each read, which costs
    as much as all the rest of a small call.
    """

    def __init__(self, connection: C, limits: Limits) -> None:
        self.connection = connection
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.broken = ""
        self._burst = 0
        self._buffer = memoryview(bytearray(_READ_MAX))
        self._transport: asyncio.Transport | None = None
        self._brakes: dict[int, asyncio.TimerHandle | None] = {}
        self._drained: asyncio.Future[None] | None = None

    @property
    def closed(self) -> bool:
        """Whether the connection is gone or going: nothing can be sent any more."""
        return self._transport is None or self._transport.is_closing()

    @property
    def transport(self) -> asyncio.Transport:
        """The transport; only there between connection_made and connection_lost."""
        if self._transport is None:
            raise ClosedError
        return self._transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is there."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone, in whatever way."""
        self._transport = None
        for stream_id in [_WRITING, *self._brakes]:
            self.release(stream_id)

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio: where to put what is read."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio: so much has been read."""
        self.data_received(bytes(self._buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Does what the peer's bytes ask for."""
        raise NotImplementedError

    def eof_received(self) -> None:
        """asyncio: the peer has closed its side; the transport closes ours."""
        for event in self.connection.receive_eof():
            assert isinstance(event, ConnectionBroken)
            self.broken = event.reason

    def flush(self) -> None:
        """Hands the connection's output to the transport."""
        data = self.connection.data_to_send()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def hang_up(self, reason: str = "") -> None:
        """Closes the connection; what was answered still goes out if the peer takes it at once."""
        self.broken = self.broken or reason
        if self._transport is None:
            return
        self.flush()
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    def pause_writing(self) -> None:
        """asyncio: the peer does not read. Who doesn't read answers may not send requests."""
        self._drained = self.loop.create_future()
        if self.stops_reading_when_stuck:
            self._brake(_WRITING, None)

    stops_reading_when_stuck = False

    def resume_writing(self) -> None:
        """asyncio: the peer reads again."""
        self.release(_WRITING)

    @property
    def stuck(self) -> bool:
        """Whether the peer does not read."""
        return self._drained is not None

    async def drain(self) -> None:
        """Waits while the peer does not read; ClosedError if the connection is closed."""
        while self._drained is not None:
            # Shielded: the future is shared, and one waiter that is cancelled must not take the
            # others along.
            await asyncio.shield(self._drained)
        if self.closed:
            raise ClosedError

    async def take_turn(self, size: int) -> None:
        """Waits until another message of a stream may be sent; ClosedError as `drain`.

        A peer that reads fast never makes the transport full, so a sender that only waited for
        room would keep the loop from everybody else.
        """
        self._burst += size + _MESSAGE_COST
        if self._burst >= _BURST_MAX:
            self._burst = 0
            await asyncio.sleep(0)
        await self.drain()

    def overfull(self, stream_id: int, inbox: Inbox, fail: Callable[[int], None]) -> None:
        """Stops reading for an inbox that is full; `fail(stream_id)` if its reader stands still."""
        if stream_id not in self._brakes:
            self._brake(stream_id, self._watch(stream_id, inbox, fail))

    def _watch(
        self, stream_id: int, inbox: Inbox, fail: Callable[[int], None]
    ) -> asyncio.TimerHandle:
        taken = inbox.taken

        def look() -> None:
            if inbox.taken == taken:
                fail(stream_id)
            elif stream_id in self._brakes:
                self._brakes[stream_id] = self._watch(stream_id, inbox, fail)

        return self.loop.call_later(self.limits.stream_grace, look)

    def release(self, stream_id: int) -> None:
        """Lets the reading go on as far as this stream is concerned."""
        if stream_id == _WRITING and self._drained is not None:
            self._drained.set_result(None)
            self._drained = None
        if stream_id not in self._brakes:
            return
        timer = self._brakes.pop(stream_id)
        if timer is not None:
            timer.cancel()
        if not self._brakes and self._transport is not None:
            self._transport.resume_reading()

    def _brake(self, stream_id: int, timer: asyncio.TimerHandle | None) -> None:
        self._brakes[stream_id] = timer
        if len(self._brakes) == 1 and self._transport is not None:
            self._transport.pause_reading()
