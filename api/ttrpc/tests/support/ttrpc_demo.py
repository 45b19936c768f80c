"""A service with a method for each thing that can happen, and worlds to call it in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import ttrpc
from ttrpc import Client, Code, Context, Limits, Method, Receiver, Sender, Server, wire
from ttrpc.frames import RESPONSE, FrameReader
from ttrpc.service import DEFAULT_LIMITS

Run = Callable[[Coroutine[Any, Any, None]], None]
LIMIT = 4 << 20


@dataclass(frozen=True)
class Text:
    """A message without protobuf."""

    data: bytes = b""

    def SerializeToString(self) -> bytes:  # protobuf's own name
        return self.data

    @classmethod
    def FromString(cls, data: bytes) -> Text:  # protobuf's own name
        if data == b"unparsable":
            raise ValueError("no text")
        return cls(data)


class Demo:
    """A service with a method for each thing that can happen."""

    SERVICE = "test.Demo"

    def __init__(self) -> None:
        self.log: list[str] = []
        self.contexts: list[Context] = []
        self.entered = asyncio.Event()
        self.released = asyncio.Event()

    def methods(self) -> Mapping[str, Method]:
        parse = Text.FromString
        return {
            "Echo": Method(self.echo, parse),
            "Wait": Method(self.wait, parse),
            "Stubborn": Method(self.stubborn, parse),
            "Fail": Method(self.fail, parse),
            "Cancelled": Method(self.cancelled, parse),
            "Nothing": Method(self.nothing, parse),
            "Big": Method(self.big, parse),
            "Count": Method(self.count, parse, server_streaming=True),
            "Flood": Method(self.flood, parse, server_streaming=True),
            "Defiant": Method(self.defiant, parse, server_streaming=True),
            "Join": Method(self.join, parse, client_streaming=True),
            "Ignore": Method(self.ignore, parse, client_streaming=True),
            "Chat": Method(self.chat, parse, client_streaming=True, server_streaming=True),
        }

    async def echo(self, request: Text, ctx: Context) -> Text:
        self.contexts.append(ctx)
        return request

    async def wait(self, request: Text, ctx: Context) -> Text:
        self.entered.set()
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        return request

    async def stubborn(self, request: Text, ctx: Context) -> Text:
        self.entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await self.released.wait()
            self.log.append("cleaned up")
        return request

    async def fail(self, request: Text, ctx: Context) -> Text:
        if request.data == b"error":
            raise ttrpc.Error(Code.NOT_FOUND, "no such thing", [("type.url/x", b"detail")])
        if request.data == b"99":
            raise ttrpc.Error(99, "of our own")
        if request.data == b"ok":
            raise ttrpc.Error(Code.OK, "no error at all")
        if request.data == b"os":
            raise FileNotFoundError(2, "No such file", "/x")
        if request.data == b"time":
            raise TimeoutError
        raise ValueError("bad")

    async def cancelled(self, request: Text, ctx: Context) -> Text:
        raise asyncio.CancelledError

    async def nothing(self, request: Text, ctx: Context) -> None:
        return None

    async def big(self, request: Text, ctx: Context) -> Text:
        return Text(bytes(int(request.data)))

    async def count(self, request: Text, responses: Sender[Text], ctx: Context) -> None:
        for number in range(int(request.data)):
            await responses.send(Text(b"%d" % number))
        if ctx.metadata.get("fail"):
            raise ttrpc.Error(Code.DATA_LOSS, "in the middle")

    async def flood(self, request: Text, responses: Sender[Text], ctx: Context) -> None:
        try:
            while True:
                await responses.send(Text(bytes(int(request.data))))
                self.log.append("sent")
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise

    async def defiant(self, request: Text, responses: Sender[Text], ctx: Context) -> None:
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            try:
                await responses.send(Text(b"nevertheless"))
            except ttrpc.Error as error:
                self.log.append(str(error))

    async def join(self, requests: Receiver[Text], ctx: Context) -> Text:
        return Text(b",".join([request.data async for request in requests]))

    async def ignore(self, requests: Receiver[Text], ctx: Context) -> Text:
        self.entered.set()
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        return Text(b",".join([request.data async for request in requests]))

    async def chat(self, requests: Receiver[Text], responses: Sender[Text], ctx: Context) -> None:
        async for request in requests:
            if request.data == b"stop":
                return
            await responses.send(Text(request.data.upper()))


@dataclass
class World:
    """A server with one client on a socketpair."""

    demo: Demo
    server: Server
    client: Client

    async def call(self, method: str, data: bytes = b"", **options: Any) -> bytes:
        return await self.client.call("test.Demo", method, data, **options)

    async def stream(self, method: str, data: bytes = b"", **options: Any) -> Any:
        kinds = self.demo.methods()[method]
        return await self.client.stream(
            "test.Demo",
            method,
            Text.FromString,
            payload=data,
            sends=kinds.client_streaming,
            receives=kinds.server_streaming,
            **options,
        )


@asynccontextmanager
async def world(client_limits: Limits = DEFAULT_LIMITS, **options: Any) -> AsyncIterator[World]:
    """A World that is closed at the end."""
    demo = Demo()
    server = Server([demo], **options)
    ours, theirs = socket.socketpair()
    await server.attach(ours)
    client = await Client.attach(theirs, limits=client_limits)
    try:
        yield World(demo, server, client)
    finally:
        await client.close()
        demo.released.set()
        assert await server.shutdown(5)
        await settle()


@asynccontextmanager
async def raw(**options: Any) -> AsyncIterator[tuple[Demo, Server, socket.socket]]:
    """A server and the bare other end of its socket."""
    demo = Demo()
    server = Server([demo], **options)
    ours, theirs = socket.socketpair()
    await server.attach(ours)
    theirs.setblocking(False)
    try:
        yield demo, server, theirs
    finally:
        theirs.close()
        demo.released.set()
        await server.shutdown(5)
        await settle()


async def settle() -> None:
    """Lets everything run that is ready to."""
    for _ in range(10):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Waits for something that the other side does; the runner bounds it."""
    while not condition():  # noqa: ASYNC110  # what it waits for has no event to wait on
        await asyncio.sleep(0.001)


async def receive(sock: socket.socket, count: int) -> list[Any]:
    """Reads frames from a bare socket."""
    reader = FrameReader()
    frames: list[Any] = []
    while len(frames) < count:
        data = await asyncio.get_running_loop().sock_recv(sock, 1 << 16)
        assert data, "the server closed the connection"
        frames += reader.feed(data)
    return frames


async def closed(sock: socket.socket) -> bool:
    """Reads until the server has closed."""
    try:
        while await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


def request(method: str, payload: bytes = b"", timeout_nano: int = 0) -> bytes:
    """A serialized Request to the demo."""
    return wire.encode_request("test.Demo", method, payload, timeout_nano, None)


def answer(frame: Any) -> tuple[int, int]:
    """(stream, code) of a response."""
    assert frame.kind == RESPONSE
    status = wire.decode_response(frame.data).status
    return frame.stream_id, status.code if status else 0
