"""Who is let in, and what happens to peers that talk nonsense or go away."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

import ttrpc
from ttrpc import Client, Code, Peer, Server
from ttrpc.frames import DATA, FLAG_REMOTE_OPEN, REQUEST, RESPONSE, encode
from ttrpc_demo import (
    Demo,
    Run,
    Text,
    answer,
    closed,
    raw,
    receive,
    request,
    settle,
    until,
    world,
)


def test_a_call_that_ends_before_its_first_step(run: Run) -> None:
    async def main() -> None:
        async with raw() as (demo, server, _):
            (shell,) = server.shells
            shell.data_received(encode(1, REQUEST, 0, request("Wait")))
            shell.data_received(encode(1, REQUEST, 0, request("Wait")))
            await settle()
            assert shell._calls == {}
            assert demo.log in (
                [],
                ["cancelled"],
            )  # Python 3.12 and later run the first step at once

    run(main())


def test_authorize(run: Run) -> None:
    seen: list[Peer] = []

    def nobody(peer: Peer) -> bool:
        seen.append(peer)
        return False

    async def main() -> None:
        async with raw(authorize=nobody) as (_, server, sock):
            assert await closed(sock)
            assert not server.shells
        assert seen == [Peer(os.getpid(), os.geteuid(), os.getegid())]
        async with world(authorize=ttrpc.same_user) as w:
            assert await w.call("Echo", b"x") == b"x"

    run(main())
    assert ttrpc.same_user(Peer(1, os.geteuid(), os.getegid()))
    assert not ttrpc.same_user(Peer(1, os.geteuid() + 1, os.getegid()))
    assert not ttrpc.same_user(Peer(1, os.geteuid(), os.getegid() + 1))


def test_an_authorize_hook_that_fails_lets_nobody_in() -> None:
    def broken(peer: Peer) -> bool:
        raise RuntimeError("hook is broken")

    async def main() -> None:
        problems: list[str] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, what: problems.append(str(what.get("exception")))
        )
        demo = Demo()
        server = Server([demo], authorize=broken)
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.setblocking(False)
            theirs.send(encode(1, REQUEST, 0, request("Echo")))
            await server.attach(ours)
            assert await asyncio.wait_for(closed(theirs), 10)
        assert demo.contexts == []
        assert await server.shutdown(5)
        assert problems == ["hook is broken"]

    asyncio.run(main())


def test_a_tcp_peer_has_no_credentials(run: Run) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
        demo = Demo()
        server = Server([demo])
        await server.attach(ours)
        client = await Client.attach(theirs)
        assert await client.call("test.Demo", "Echo", b"x") == b"x"
        assert demo.contexts[0].peer == Peer(-1, -1, -1)
        await client.close()
        assert await server.shutdown(5)
        await settle()

    run(main())


# -- what is no ttrpc --------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096])
def test_noise_closes_its_connection_only(run: Run, noise: bytes) -> None:
    async def main() -> None:
        async with world() as w:
            ours, theirs = socket.socketpair()
            with theirs:
                theirs.setblocking(False)
                await w.server.attach(ours)
                theirs.send(encode(1, REQUEST, 0, request("Wait")) + noise)
                assert await closed(theirs)
            await until(lambda: w.demo.log == ["cancelled"])
            assert await w.call("Echo", b"x") == b"x"

    run(main())


def test_violations_are_answered_on_their_stream(run: Run) -> None:
    async def main() -> None:
        async with raw() as (demo, _, sock):
            ping = request("Echo")
            sock.send(encode(2, REQUEST, 0, ping))
            sock.send(encode(5, REQUEST, 0, request("Wait")))
            await demo.entered.wait()
            sock.send(encode(3, REQUEST, 0, ping))
            sock.send(encode(9, 77, 0, b"future"))
            sock.send(encode(7, REQUEST, FLAG_REMOTE_OPEN, ping))
            sock.send(encode(9, REQUEST, 0, request("Count", b"1")))
            sock.send(encode(5, DATA, 0, b"x"))
            sock.send(encode(11, REQUEST, 0, ping))
            frames = await receive(sock, 6)
            bad = Code.INVALID_ARGUMENT
            expected = [(2, bad), (3, bad), (5, bad), (7, bad), (9, bad), (11, 0)]
            assert sorted(map(answer, frames)) == expected
            await until(lambda: demo.log == ["cancelled"])

    run(main())


def test_a_client_whose_server_talks_nonsense(run: Run) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        client = await Client.attach(ours)
        with theirs:
            call = asyncio.create_task(client.call("s", "m", b""))
            await settle()
            theirs.send(b"HTTP/1.1 400 Bad Request\r\n")
            with pytest.raises(ttrpc.ClosedError, match="not a ttrpc header"):
                await call
            assert client.closed
            with pytest.raises(ttrpc.ClosedError):
                await client.call("s", "m", b"")
        await client.close()

    run(main())


def test_a_client_whose_server_goes(run: Run) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        client = await Client.attach(ours)
        call = asyncio.create_task(client.call("s", "m", b""))
        stream = await client.stream("s", "m", Text.FromString, sends=True, receives=True)
        await settle()
        theirs.send(encode(1, RESPONSE, 0, b"abc")[:-1])
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ttrpc.ClosedError, match="middle of a frame"):
            await call
        with pytest.raises(ttrpc.ClosedError):
            await stream.receive()
        with pytest.raises(ttrpc.ClosedError):
            await stream.send(Text())
        await stream.close_send()
        await stream.aclose()
        theirs.close()
        await client.close()

    run(main())
