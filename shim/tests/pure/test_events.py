"""Events: order, retry, a closed connection, what is dropped and when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from copepod.log import Log
from copepod.task import events
from copepod_api import events_pb2
from copepod_api.events_service_pb2 import ForwardRequest

pytestmark = pytest.mark.pure


class Containerd:
    """Takes events; fails as often as it is told to."""

    def __init__(self, failures: int = 0, refusals: int = 0) -> None:
        self.failures, self.refusals = failures, refusals
        self.taken: list[ForwardRequest] = []
        self.dialled = self.closed = 0
        self.one_taken = asyncio.Event()
        self.asked = asyncio.Event()

    async def __call__(self, path: str) -> Containerd:
        self.dialled += 1
        self.asked.set()
        if self.refusals:
            self.refusals -= 1
            raise ConnectionRefusedError(path)
        return self

    async def call(
        self, service: str, method: str, payload: bytes, *, timeout: float | None
    ) -> bytes:
        assert (service, method) == ("containerd.services.events.ttrpc.v1.Events", "Forward")
        assert timeout == events.FORWARD_TIMEOUT
        if self.failures:
            self.failures -= 1
            raise ConnectionError("closed")
        self.taken.append(ForwardRequest.FromString(payload))
        self.one_taken.set()
        return b""

    async def close(self) -> None:
        self.closed += 1


def run(body: Callable[[events.Publisher, Containerd], Awaitable[None]], peer: Containerd) -> None:
    async def bounded() -> None:
        publisher = events.Publisher("/sock", "ns", peer, Log(fd=-1))
        sender = asyncio.create_task(publisher.run())
        async with asyncio.timeout(20):
            await body(publisher, peer)
        sender.cancel()

    asyncio.run(bounded())


def exit_of(name: str) -> events_pb2.TaskExit:
    return events_pb2.TaskExit(container_id=name)


def names(peer: Containerd) -> list[str]:
    result = []
    for request in peer.taken:
        event = events_pb2.TaskExit.FromString(request.envelope.event.value)
        result.append(event.container_id)
    return result


def test_envelope_is_what_containerd_checks() -> None:
    async def body(publisher: events.Publisher, peer: Containerd) -> None:
        publisher.publish("/tasks/exit", exit_of("a"))
        await publisher.flush(10)
        envelope = peer.taken[0].envelope
        assert (envelope.namespace, envelope.topic) == ("ns", "/tasks/exit")
        assert envelope.event.type_url == "containerd.events.TaskExit"
        assert envelope.timestamp.seconds > 0

    run(body, Containerd())


@pytest.mark.parametrize("peer", [Containerd(), Containerd(failures=1), Containerd(failures=2)])
def test_order_is_kept_through_failures(peer: Containerd) -> None:
    async def body(publisher: events.Publisher, peer: Containerd) -> None:
        for name in "abc":
            publisher.publish("/tasks/exit", exit_of(name))
        await publisher.flush(10)
        assert names(peer) == ["a", "b", "c"]

    run(body, peer)


def test_a_connection_closed_meanwhile_is_made_anew() -> None:
    async def body(publisher: events.Publisher, peer: Containerd) -> None:
        publisher.publish("/tasks/exit", exit_of("a"))
        await peer.one_taken.wait()
        peer.failures = 1
        publisher.publish("/tasks/exit", exit_of("b"))
        await publisher.flush(10)
        assert names(peer) == ["a", "b"]
        assert peer.dialled == 2

    run(body, Containerd())


@pytest.mark.parametrize(("refusals", "dialled"), [(0, 1), (1, 2)])
def test_the_connection_is_there_before_the_event_that_was_announced(
    refusals: int, dialled: int
) -> None:
    """And a containerd that was not there then costs the event no try."""

    async def body(publisher: events.Publisher, peer: Containerd) -> None:
        publisher.expect()
        await peer.asked.wait()
        publisher.publish("/tasks/exit", exit_of("a"))
        await publisher.flush(10)
        assert (peer.dialled, names(peer)) == (dialled, ["a"])

    run(body, Containerd(refusals=refusals))


def test_an_announced_event_that_never_comes_keeps_nobody_waiting() -> None:
    async def body(publisher: events.Publisher, peer: Containerd) -> None:
        publisher.expect()
        await peer.asked.wait()
        await publisher.flush(0.001)
        assert (peer.closed, peer.taken) == (1, [])

    run(body, Containerd())


def test_nobody_waits_for_an_absent_containerd() -> None:
    async def body(publisher: events.Publisher, peer: Containerd) -> None:
        for number in range(events.QUEUE_MAX + 10):
            publisher.publish("/tasks/exit", exit_of(str(number)))
        await publisher.flush(0.01)
        assert peer.taken == []

    run(body, Containerd(refusals=10**6))
