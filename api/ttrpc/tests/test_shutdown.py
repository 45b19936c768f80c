"""Listening, and the ways to stop."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

import ttrpc
from ttrpc import Client, Server
from ttrpc_demo import Demo, Run, settle, until


def listen(path: Path) -> socket.socket:
    """A bound and listening unix socket."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


def test_serve_and_shut_down(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        demo = Demo()
        server = Server([demo])
        await server.serve_unix(listen(path))
        clients = [await Client.connect(str(path)) for _ in range(3)]
        for client in clients:
            assert await client.call("test.Demo", "Echo", b"x") == b"x"
        waiting = asyncio.create_task(clients[0].call("test.Demo", "Wait", b"answer"))
        await demo.entered.wait()
        stopping = asyncio.create_task(server.shutdown(10))
        # Idle connections are closed and new ones refused; the active one still answers all calls.
        await until(lambda: clients[1].closed and clients[2].closed)
        with pytest.raises(OSError, match="refused"):
            await Client.connect(str(path))
        assert await clients[0].call("test.Demo", "Echo", b"y") == b"y"
        assert not stopping.done()
        demo.released.set()
        assert await waiting == b"answer"
        assert await stopping
        await server.wait_closed()
        await until(lambda: clients[0].closed)
        for client in clients:
            await client.close()
        # The path belongs to the caller.
        assert path.exists()

    run(main())


def test_shutdown_has_a_deadline(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        demo = Demo()
        server = Server([demo])
        await server.serve_unix(listen(tmp_path / "s"))
        client = await Client.connect(str(tmp_path / "s"))
        waiting = asyncio.create_task(client.call("test.Demo", "Wait", b""))
        await demo.entered.wait()
        assert not await server.shutdown(0.02)
        with pytest.raises(ttrpc.ClosedError):
            await waiting
        await until(lambda: demo.log == ["cancelled"])
        assert await server.shutdown(0.02)
        await client.close()

    run(main())


def test_shutdown_from_a_handler_answers_first(run: Run, tmp_path: Path) -> None:
    class Stopping(Demo):
        async def echo(self, request: object, ctx: object) -> object:  # type: ignore[override]
            stopping.append(asyncio.create_task(server.shutdown(5)))
            await settle()
            return request

    stopping: list[asyncio.Task[bool]] = []
    server = Server()

    async def main() -> None:
        server.add(Stopping())
        await server.serve_unix(listen(tmp_path / "s"))
        client = await Client.connect(str(tmp_path / "s"))
        assert await client.call("test.Demo", "Echo", b"bye") == b"bye"
        assert await stopping[0]
        await client.close()

    run(main())


def test_shutdown_without_connections(run: Run) -> None:
    async def main() -> None:
        server = Server()
        assert await server.shutdown()
        await server.wait_closed()
        ours, theirs = socket.socketpair()
        with theirs:
            await server.attach(ours)
            theirs.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(theirs, 1) == b""

    run(main())


def test_two_services_of_one_name(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match=r"test\.Demo"):
            Server([Demo(), Demo()])

    run(main())


def test_a_client_that_is_closed_while_calls_wait(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        demo = Demo()
        server = Server([demo])
        await server.serve_unix(listen(tmp_path / "s"))
        client = await Client.connect(str(tmp_path / "s"))
        waiting = asyncio.create_task(client.call("test.Demo", "Wait", b""))
        await demo.entered.wait()
        await client.close()
        await client.close()
        with pytest.raises(ttrpc.ClosedError):
            await waiting
        with pytest.raises(ttrpc.ClosedError):
            await client.call("test.Demo", "Echo", b"")
        assert await server.shutdown(5)

    run(main())


def test_connect_to_nobody_and_to_an_abstract_socket(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            await Client.connect(str(tmp_path / "none"))
        name = f"\0ttrpc-test-{os.getpid()}"
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(name)
        server = Server([Demo()])
        await server.serve_unix(sock)
        client = await Client.connect(name)
        assert await client.call("test.Demo", "Echo", b"x") == b"x"
        await client.close()
        assert await server.shutdown(5)

    run(main())
