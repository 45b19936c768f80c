"""The two brakes: a peer that does not read, and a stream that is not read."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

import ttrpc
from ttrpc import Client, Code, Limits
from ttrpc.frames import (
    DATA,
    FLAG_NO_DATA,
    FLAG_REMOTE_CLOSED,
    FLAG_REMOTE_OPEN,
    REQUEST,
    encode,
)
from ttrpc_demo import Run, Text, answer, raw, receive, request, settle, until, world

LAST = FLAG_REMOTE_CLOSED | FLAG_NO_DATA


async def send_for_ever(stream: Any, size: int) -> None:
    """Sends until it fails."""
    while True:
        await stream.send(Text(bytes(size)))


async def read_for_ever(stream: Any) -> None:
    """Reads until it fails."""
    while True:
        await stream.receive()


def test_a_peer_that_does_not_read_stops_the_handler(run: Run) -> None:
    async def main() -> None:
        async with raw() as (demo, server, sock):
            sock.send(encode(1, REQUEST, FLAG_REMOTE_CLOSED, request("Flood", b"65536")))
            await until(lambda: demo.log)
            for _ in range(200):
                await asyncio.sleep(0.001)
            # The socket's and the transport's buffers, and nothing beyond.
            assert len(demo.log) < 64
            (shell,) = server.shells
            assert shell.transport.get_write_buffer_size() < 1 << 20
            before = len(demo.log)
            await receive(sock, before + 20)
            assert len(demo.log) > before

    run(main())


def test_a_peer_that_does_not_read_is_not_read_from(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with raw() as (demo, server, sock):

            async def ask() -> None:
                for number in range(2000):
                    payload = request("Echo", bytes(4096))
                    await loop.sock_sendall(sock, encode(2 * number + 1, REQUEST, 0, payload))

            asking = asyncio.create_task(ask())
            (shell,) = server.shells
            await until(lambda: not shell.transport.is_reading())
            answered = len(demo.contexts)
            assert answered < 1000
            for _ in range(50):
                await asyncio.sleep(0.001)
            assert len(demo.contexts) == answered
            # When it reads again, everything goes on.
            assert len(await receive(sock, 2000)) == 2000
            await asking

    run(main())


def test_a_stream_that_is_not_read_is_failed_and_the_others_go_on(run: Run) -> None:
    limits = Limits(stream_grace=0.05, inbox_messages=8)

    async def main() -> None:
        async with world(limits=limits) as w, await w.stream("Ignore") as stream:
            with pytest.raises(ttrpc.Error, match=r"RESOURCE_EXHAUSTED.*stream is full"):
                await send_for_ever(stream, 4096)
            assert await w.call("Echo", b"x") == b"x"
            assert w.demo.log == ["cancelled"]

    run(main())


def test_a_full_stream_that_has_ended_is_left_to_its_reader(run: Run) -> None:
    limits = Limits(stream_grace=0.02, inbox_messages=4)

    async def main() -> None:
        async with world(limits=limits) as w, await w.stream("Ignore") as stream:
            for _ in range(8):
                await stream.send(Text(b"x"))
            await stream.close_send()
            assert await w.call("Echo", b"x") == b"x"
            await asyncio.sleep(0.1)
            w.demo.released.set()
            assert (await stream.result()).data == b",".join([b"x"] * 8)

    run(main())


def test_a_slow_reader_is_waited_for(run: Run) -> None:
    limits = Limits(stream_grace=0.05, inbox_messages=32)

    async def main() -> None:
        async with world(client_limits=limits) as w, await w.stream("Count", b"300") as stream:
            got = 0
            # Catching up takes several times the grace, but there is progress in each.
            async for _ in stream:
                got += 1
                await asyncio.sleep(0.01 if got < 50 else 0)
            assert got == 300

    run(main())


def test_a_client_that_does_not_read_its_stream(run: Run) -> None:
    limits = Limits(stream_grace=0.05, inbox_bytes=1 << 18)

    async def main() -> None:
        async with world(client_limits=limits) as w:
            async with await w.stream("Flood", b"65536") as stream:
                await until(lambda: w.client._shell.streams == {})
                assert await w.call("Echo", b"x") == b"x"
                with pytest.raises(ttrpc.Error, match=r"RESOURCE_EXHAUSTED.*stream is full"):
                    await read_for_ever(stream)
            # The protocol can't tell the server: it sends on, and that is thrown away.
            before = len(w.demo.log)
            await until(lambda: len(w.demo.log) > before + 20)

    run(main())


def test_a_server_that_does_not_read_stops_the_client(run: Run) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        client = await Client.attach(ours)
        with theirs:
            stream = await client.stream("s", "m", Text.FromString, sends=True, receives=True)
            sent = 0

            async def send() -> None:
                nonlocal sent
                while True:
                    await stream.send(Text(bytes(65536)))
                    sent += 1

            sending = asyncio.create_task(send())
            await until(lambda: client._shell.stuck)
            calls = [asyncio.create_task(client.call("s", "m", b"", timeout=0.02))]
            calls.append(asyncio.create_task(client.call("s", "m", b"")))
            with pytest.raises(ttrpc.Error, match="DEADLINE_EXCEEDED"):
                await calls[0]
            assert sent < 64
            sending.cancel()
            await settle()
            assert not calls[1].done()
        # The server goes: who waited for room gets the same error as who waits for an answer.
        with pytest.raises(ttrpc.ClosedError):
            await calls[1]
        await client.close()

    run(main())


def test_thousand_streams_at_once(run: Run) -> None:
    async def main() -> None:
        async with world() as w:
            streams = [await w.stream("Chat") for _ in range(1000)]
            for number, stream in enumerate(streams):
                await stream.send(Text(b"a%d" % number))
            for number, stream in reversed(list(enumerate(streams))):
                assert (await stream.receive()).data == b"A%d" % number
                await stream.aclose()

    run(main())


def test_more_streams_than_allowed(run: Run) -> None:
    async def main() -> None:
        async with world(limits=Limits(streams=2)) as w:
            calls = [asyncio.create_task(w.call("Wait")) for _ in range(2)]
            await w.demo.entered.wait()
            with pytest.raises(ttrpc.Error, match=r"RESOURCE_EXHAUSTED.*more than 2 streams"):
                await w.call("Echo")
            w.demo.released.set()
            await asyncio.gather(*calls)
            assert await w.call("Echo", b"x") == b"x"

    run(main())


def test_data_for_a_stream_that_is_over_is_answered(run: Run) -> None:
    async def main() -> None:
        async with raw() as (_, _, sock):
            sock.send(encode(1, REQUEST, FLAG_REMOTE_OPEN, request("Chat")))
            sock.send(encode(1, DATA, 0, b"stop"))
            (frame,) = await receive(sock, 1)
            assert (frame.kind, frame.flags) == (DATA, LAST)
            sock.send(encode(1, DATA, 0, b"late"))
            (frame,) = await receive(sock, 1)
            assert answer(frame) == (1, Code.INVALID_ARGUMENT)

    run(main())
