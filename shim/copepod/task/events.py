"""Events to containerd: one ordered queue, sent by one task, tried again, never in a caller's way.

It knows topics and envelopes, nothing of tasks. Source: containerd pkg/shim/publisher.go.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from copepod.log import Log

FORWARD_TIMEOUT = 5.0
TRIES = 5
QUEUE_MAX = 2048
SERVICE = "containerd.services.events.ttrpc.v1.Events"


class Connection(Protocol):
    """What is needed of a ttrpc client."""

    async def call(
        self, service: str, method: str, payload: bytes, *, timeout: float | None
    ) -> bytes:
        """Sends one request, gives the response's payload."""

    async def close(self) -> None:
        """Closes the connection."""


class Dialer(Protocol):
    """Makes connections to containerd."""

    async def __call__(self, path: str) -> Connection:
        """Connects to the Unix socket at `path`."""


class Publisher:
    """The way of events out of the shim, in the order in which they were published."""

    def __init__(self, path: str, namespace: str, dial: Dialer, log: Log) -> None:
        self._path, self._namespace, self._dial, self._log = path, namespace, dial, log
        self._queue: deque[tuple[str, Message, int]] = deque()
        self._more = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._connection: Connection | None = None

    def publish(self, topic: str, event: Message) -> None:
        """Queues `event`, stamped with the time of now. Never waits, never raises."""
        if len(self._queue) >= QUEUE_MAX:
            dropped, *_ = self._queue.popleft()
            self._log.warning("event dropped: containerd has not taken any for long", topic=dropped)
        # Packed when it is sent: the answer that the event goes with is not to wait for that.
        self._queue.append((topic, event, time.time_ns()))
        self._empty.clear()
        self._more.set()

    def expect(self) -> None:
        """Says that an event is about to come: the connection for it is made meanwhile."""
        self._more.set()

    def _envelope(self, topic: str, event: Message, at: int) -> bytes:
        from copepod_api import any as bare_any
        from copepod_api import events_service_pb2 as pb

        request = pb.ForwardRequest()
        envelope = request.envelope
        seconds, nanos = divmod(at, 1_000_000_000)
        envelope.timestamp.seconds, envelope.timestamp.nanos = seconds, nanos
        envelope.namespace, envelope.topic = self._namespace, topic
        envelope.event.CopyFrom(bare_any.pack(event))
        return request.SerializeToString()

    async def run(self) -> None:
        """Sends for ever; to be run as a task and cancelled."""
        while True:
            await self._more.wait()
            if not self._queue:
                await self._dial_ahead()
            while self._queue:
                first = topic, event, at = self._queue[0]
                await self._deliver(topic, self._envelope(topic, event, at))
                # The queue may have dropped its head while it was full.
                if self._queue and self._queue[0] is first:
                    self._queue.popleft()
            self._more.clear()
            self._empty.set()

    async def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = await self._dial(self._path)
        return self._connection

    async def _dial_ahead(self) -> None:
        try:
            await self._connected()
        except Exception as error:  # the event itself will be tried again
            self._log.debug("containerd does not take events yet", error=error)

    async def _deliver(self, topic: str, payload: bytes) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                await self._forward(payload)
            except Exception as error:
                self._log.debug("event not taken", topic=topic, attempt=attempt, error=error)
                if attempt < TRIES:
                    await asyncio.sleep(attempt)
            else:
                return
        self._log.warning("event lost: containerd did not take it", topic=topic)

    async def _forward(self, payload: bytes) -> None:
        """One try; a connection that containerd closed since the last event is made anew."""
        fresh = self._connection is None
        connection = await self._connected()
        try:
            await connection.call(SERVICE, "Forward", payload, timeout=FORWARD_TIMEOUT)
        except Exception:
            await self._close()
            if fresh:
                raise
            await self._forward(payload)

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close()
            except Exception as error:
                self._log.debug("closing the event connection failed", error=error)

    async def flush(self, timeout: float) -> None:
        """Waits until all events are out, at most `timeout` seconds, then closes the connection."""
        try:
            await asyncio.wait_for(self._empty.wait(), timeout)
        except TimeoutError:
            self._log.warning("events left when the shim ended", count=len(self._queue))
        await self._close()
