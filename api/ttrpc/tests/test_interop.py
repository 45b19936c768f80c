"""Against containerd's own ttrpc in Go: as its server, and as its client."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import BytesValue, Int64Value, StringValue

import ttrpc
from ttrpc import Client, Code, Server
from ttrpc_demo import Run
from ttrpc_go import SERVICE, Interop, go

OVER = "8 message length {} exceeds the maximum message size of 4194304"
WHY = '[value:"why"]'

# What the Go client must get from the Python server, check by check.
EXPECTED = {
    "unary": "hello",
    "empty": "0",
    "errors": "\n".join(["ok", *(f"{n} failed with {n} {WHY}" for n in range(1, 17))]),
    "unknown": "12 method Gone\n12 service no.Such",
    "bad request": "3 the request of method Wait can't be parsed: ",
    "metadata": "many=a,b;one=1",
    "deadline": "-1 true",
    "expired": "late, then ok",
    "concurrency": "ok",
    "limits": "ok\n4194284\n"
    + OVER.format(4194304 + 10)
    + "\n8 rpc error: code = ResourceExhausted desc = "
    "message length 4194335 exceed maximum message size of 4194304\nok",
    "server stream": "5000 ok\n0 ok\n3 15 in the middle",
    "client stream": "0\n4498500",
    "bidirectional": "EOF",
    "abandoned": "ok",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What the Go client got, by check."""
    path = str(tmp_path_factory.mktemp("go") / "s")

    async def main() -> bytes:
        server, service = Server(authorize=ttrpc.same_user), Interop()
        server.add(service)
        await server.serve_unix(listen(path))
        async with asyncio.timeout(120), go("client", path) as process:
            out, _ = await process.communicate()
        assert process.returncode == 0
        assert await server.shutdown(5)
        assert service.cancelled == 1
        return out

    lines = asyncio.run(main()).splitlines()
    return {result["check"]: result for result in map(json.loads, lines)}


def listen(path: str) -> Any:
    """A bound unix socket."""
    import socket

    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    return sock


@pytest.mark.parametrize("check", EXPECTED)
def test_go_client(answers: dict[str, dict[str, str]], check: str) -> None:
    got = answers[check]
    assert "error" not in got
    text = got["got"].replace("\u00a0", " ")  # protobuf for Go varies its spaces on purpose
    if check == "bad request":
        text = text[: len(EXPECTED[check])]  # the rest is the parser's, and varies with its version
    assert text == EXPECTED[check]


def test_go_client_has_no_other_checks(answers: dict[str, dict[str, str]]) -> None:
    assert set(answers) == set(EXPECTED)


@contextlib.asynccontextmanager
async def go_server(tmp_path: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, Client]]:
    """A Go server and a Python client on it."""
    path = str(tmp_path / "s")
    async with go("server", path) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        client = await Client.connect(path)
        try:
            yield process, client
        finally:
            await client.close()


async def echo(client: Client, data: bytes) -> bytes:
    """One call of Echo."""
    payload = BytesValue(value=data).SerializeToString()
    return BytesValue.FromString(await client.call(SERVICE, "Echo", payload)).value


def test_unary_errors_and_metadata_of_a_go_server(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with go_server(tmp_path) as (_, client):
            assert await echo(client, b"hello") == b"hello"
            assert await echo(client, b"") == b""
            for code in range(1, 17):
                payload = Int64Value(value=code).SerializeToString()
                with pytest.raises(ttrpc.Error) as caught:
                    await client.call(SERVICE, "Fail", payload)
                assert caught.value.code == Code(code)
                assert caught.value.message == f"failed with {code}"
                ((url, value),) = caught.value.details
                assert url == "type.googleapis.com/google.protobuf.StringValue"
                assert StringValue.FromString(value).value == "why"
            with pytest.raises(ttrpc.Error, match="UNIMPLEMENTED: method Gone"):
                await client.call(SERVICE, "Gone", b"")
            with pytest.raises(ttrpc.Error, match=r"UNIMPLEMENTED: service no\.Such"):
                await client.call("no.Such", "Echo", b"")
            metadata: dict[str, str | list[str]] = {"one": "1", "many": ["a", "b"]}
            answer = await client.call(SERVICE, "Metadata", b"", metadata=metadata)
            assert StringValue.FromString(answer).value == "many=a,b;one=1"

    run(main())


def test_deadlines_at_a_go_server(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with go_server(tmp_path) as (_, client):
            none = Int64Value.FromString(await client.call(SERVICE, "Deadline", b""))
            assert none.value == -1
            some = Int64Value.FromString(await client.call(SERVICE, "Deadline", b"", timeout=10))
            assert 9000 < some.value <= 10000
            for _ in range(5):
                with pytest.raises(ttrpc.Error, match="DEADLINE_EXCEEDED"):
                    await client.call(SERVICE, "Wait", b"", timeout=0.03)
            assert await echo(client, b"on") == b"on"

    run(main())


def test_concurrency_at_a_go_server(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with go_server(tmp_path) as (_, client):
            waiting = asyncio.create_task(client.call(SERVICE, "Wait", b""))
            got = await asyncio.gather(*(echo(client, b"%d" % n) for n in range(400)))
            assert got == [b"%d" % n for n in range(400)]
            assert not waiting.done()
            await client.call(SERVICE, "Release", b"")
            assert await waiting == b""

    run(main())


def test_limits_at_a_go_server(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with go_server(tmp_path) as (_, client):
            fits = Int64Value(value=(4 << 20) - 20).SerializeToString()
            answer = BytesValue.FromString(await client.call(SERVICE, "Big", fits))
            assert len(answer.value) == (4 << 20) - 20
            with pytest.raises(ttrpc.Error, match="RESOURCE_EXHAUSTED"):
                await echo(client, bytes(4 << 20))
            assert await echo(client, b"on") == b"on"
            # Go's server gives the connection up over a response that is too long.
            over = Int64Value(value=4 << 20).SerializeToString()
            with pytest.raises(ttrpc.ClosedError):
                await client.call(SERVICE, "Big", over)

    run(main())


def test_streams_at_a_go_server(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with go_server(tmp_path) as (_, client):
            for count in (0, 5000):
                async with await client.stream(
                    SERVICE,
                    "Count",
                    Int64Value.FromString,
                    payload=Int64Value(value=count).SerializeToString(),
                    sends=False,
                    receives=True,
                ) as numbers:
                    assert [m.value async for m in numbers] == list(range(count))
            async with await client.stream(
                SERVICE,
                "Count",
                Int64Value.FromString,
                payload=Int64Value(value=-3).SerializeToString(),
                sends=False,
                receives=True,
            ) as numbers:
                for expected in range(3):
                    message = await numbers.receive()
                    assert message is not None
                    assert message.value == expected
                with pytest.raises(ttrpc.Error, match="DATA_LOSS: in the middle"):
                    await numbers.receive()
            for count in (0, 3000):
                async with await client.stream(
                    SERVICE, "Sum", Int64Value.FromString, sends=True, receives=False
                ) as summing:
                    for number in range(count):
                        await summing.send(Int64Value(value=number))
                    assert (await summing.result()).value == sum(range(count))
            await chat(client)

    run(main())


async def chat(client: Client) -> None:
    """A conversation in both directions, empty message included."""
    async with await client.stream(
        SERVICE, "Chat", StringValue.FromString, sends=True, receives=True
    ) as stream:
        for number in range(500):
            word = f"word {number}" if number != 7 else ""
            await stream.send(StringValue(value=word))
            message = await stream.receive()
            assert message is not None
            assert message.value == word.upper()
        await stream.close_send()
        assert await stream.receive() is None


def test_shutdown_of_a_go_server(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with go_server(tmp_path) as (process, client):
            waiting = asyncio.create_task(client.call(SERVICE, "Wait", b""))
            # Go's server takes a connection for idle until it has sent a response while Wait is
            # pending; the second answer proves that it has seen the first.
            for _ in range(2):
                assert await echo(client, b"x") == b"x"
            process.terminate()
            while True:
                try:
                    await (await Client.connect(str(tmp_path / "s"))).close()
                except OSError:
                    break
            # Go waits for the call that is under way, then closes.
            assert not waiting.done()
            await client.call(SERVICE, "Release", b"")
            assert await waiting == b""
            assert await process.wait() == 0
            with pytest.raises(ttrpc.ClosedError):
                await echo(client, b"x")

    run(main())
