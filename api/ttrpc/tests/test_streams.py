"""Streams on real sockets: the three shapes and their ends."""

from __future__ import annotations

import socket

import pytest

import ttrpc
from ttrpc import Client, wire
from ttrpc.frames import (
    DATA,
    FLAG_NO_DATA,
    FLAG_REMOTE_CLOSED,
    RESPONSE,
    encode,
)
from ttrpc_demo import Run, Text, until, world

LAST = FLAG_REMOTE_CLOSED | FLAG_NO_DATA


def test_server_stream(run: Run) -> None:
    async def main() -> None:
        async with world() as w:
            for count in (0, 1, 1000):
                async with await w.stream("Count", b"%d" % count) as stream:
                    assert [m.data async for m in stream] == [b"%d" % n for n in range(count)]
                    assert await stream.receive() is None
            assert w.client._shell.streams == {}

    run(main())


def test_server_stream_that_fails(run: Run) -> None:
    async def main() -> None:
        async with world() as w, await w.stream("Count", b"2", metadata={"fail": "1"}) as stream:
            assert (await stream.receive()).data == b"0"
            assert (await stream.receive()).data == b"1"
            for _ in range(2):
                with pytest.raises(ttrpc.Error, match=r"^DATA_LOSS: in the middle$"):
                    await stream.receive()

    run(main())


def test_client_stream(run: Run) -> None:
    async def main() -> None:
        async with world() as w:
            for count in (0, 1, 500):
                async with await w.stream("Join") as stream:
                    for number in range(count):
                        await stream.send(Text(b"%d" % number))
                    assert (await stream.result()).data == b",".join(
                        b"%d" % n for n in range(count)
                    )
            async with await w.stream("Join", b"in the request") as stream:
                await stream.send(Text())
                assert (await stream.result()).data == b"in the request,"

    run(main())


def test_message_that_can_not_be_parsed(run: Run) -> None:
    async def main() -> None:
        async with world() as w, await w.stream("Join") as stream:
            await stream.send(Text(b"unparsable"))
            with pytest.raises(ttrpc.Error, match=r"INVALID_ARGUMENT: a message .* no text"):
                await stream.result()

    run(main())


def test_bidirectional_stream(run: Run) -> None:
    async def main() -> None:
        async with world() as w:
            async with await w.stream("Chat") as stream:
                for word in (b"a", b"", b"c"):
                    await stream.send(Text(word))
                    assert (await stream.receive()).data == word.upper()
                await stream.close_send()
                await stream.close_send()
                assert await stream.receive() is None
            # The server may end first; what crosses its end harms nobody.
            async with await w.stream("Chat") as stream:
                await stream.send(Text(b"stop"))
                assert await stream.receive() is None
                with pytest.raises(ttrpc.Error, match="CANCELLED"):
                    await stream.send(Text(b"x"))
                await stream.close_send()
            assert await w.call("Echo", b"x") == b"x"

    run(main())


def test_oversized_message_in_a_stream(run: Run) -> None:
    async def main() -> None:
        async with world() as w:
            async with await w.stream("Chat") as stream:
                with pytest.raises(ttrpc.Error, match="RESOURCE_EXHAUSTED"):
                    await stream.send(Text(bytes((4 << 20) + 1)))
                await stream.send(Text(b"a"))
                assert (await stream.receive()).data == b"A"
            async with await w.stream("Flood", b"%d" % ((4 << 20) + 1)) as stream:
                with pytest.raises(ttrpc.Error, match="RESOURCE_EXHAUSTED"):
                    await stream.receive()

    run(main())


def test_stream_of_an_unknown_method(run: Run) -> None:
    async def main() -> None:
        async with world() as w:
            stream = await w.client.stream("no", "No", Text.FromString, sends=True, receives=True)
            with pytest.raises(ttrpc.Error, match=r"^UNIMPLEMENTED: service no$"):
                await stream.receive()
            with pytest.raises(ttrpc.Error, match=r"^UNIMPLEMENTED: service no$"):
                await stream.send(Text())
            await stream.aclose()

    run(main())


def test_stream_deadline(run: Run) -> None:
    async def main() -> None:
        async with world() as w:
            async with await w.stream("Ignore", timeout=0.02) as stream:
                with pytest.raises(ttrpc.Error, match="DEADLINE_EXCEEDED"):
                    await stream.receive()
            await until(lambda: w.demo.log == ["cancelled"])
            assert w.client._shell.streams == {}

    run(main())


def test_a_handler_that_sends_after_the_end_gets_an_error(run: Run) -> None:
    async def main() -> None:
        async with world() as w, await w.stream("Defiant", timeout=0.02) as stream:
            with pytest.raises(ttrpc.Error, match="DEADLINE_EXCEEDED"):
                await stream.receive()
            await until(lambda: w.demo.log)
            assert w.demo.log[0].startswith("CANCELLED: the stream is over")

    run(main())


def test_closing_a_stream_early_lets_the_server_finish(run: Run) -> None:
    async def main() -> None:
        async with world() as w:
            async with await w.stream("Chat") as stream:
                await stream.send(Text(b"a"))
            await until(lambda: w.server.shells and not next(iter(w.server.shells))._calls)

    run(main())


def test_a_response_may_end_a_stream_of_messages(run: Run) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        client = await Client.attach(ours)
        with theirs:
            for stream_id, payload in ((1, b"last"), (3, b"")):
                stream = await client.stream("s", "m", Text.FromString, sends=False, receives=True)
                theirs.send(encode(stream_id, DATA, 0, b"first"))
                theirs.send(encode(stream_id, RESPONSE, 0, wire.encode_payload(payload)))
                got = [message.data async for message in stream]
                assert got == ([b"first", b"last"] if payload else [b"first"])
            # A single response is a message even when it is empty.
            stream = await client.stream("s", "m", Text.FromString, sends=True, receives=False)
            theirs.send(encode(5, RESPONSE, 0, b""))
            assert await stream.result() == Text(b"")
            stream = await client.stream("s", "m", Text.FromString, sends=True, receives=False)
            theirs.send(encode(7, DATA, LAST, b""))
            with pytest.raises(ttrpc.Error, match="without a response"):
                await stream.result()
        await client.close()

    run(main())
