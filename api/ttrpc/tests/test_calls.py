"""Server and client on real sockets: unary calls, their errors, limits and deadlines."""

from __future__ import annotations

import asyncio
import os

import pytest

import ttrpc
from ttrpc import Code, Peer
from ttrpc.frames import FLAG_REMOTE_OPEN, HEADER, REQUEST, encode
from ttrpc_demo import (
    LIMIT,
    Run,
    answer,
    raw,
    receive,
    request,
    settle,
    until,
    world,
)

# -- unary calls -------------------------------------------------------------------------------


def test_call(run: Run) -> None:
    async def main() -> None:
        async with world() as w:
            assert await w.call("Echo", b"hello") == b"hello"
            assert await w.call("Echo") == b""

    run(main())


def test_a_call_that_waits_does_not_hold_up_others(run: Run) -> None:
    async def main() -> None:
        async with world() as w:
            waiting = asyncio.create_task(w.call("Wait", b"long"))
            await w.demo.entered.wait()
            answers = await asyncio.gather(*(w.call("Echo", b"%d" % n) for n in range(500)))
            assert answers == [b"%d" % n for n in range(500)]
            assert not waiting.done()
            w.demo.released.set()
            assert await waiting == b"long"

    run(main())


def test_unknown_service_and_method_and_bad_request(run: Run) -> None:
    async def main() -> None:
        async with world() as w:
            with pytest.raises(ttrpc.Error, match=r"^UNIMPLEMENTED: service no.Such$"):
                await w.client.call("no.Such", "Echo", b"")
            with pytest.raises(ttrpc.Error, match=r"^UNIMPLEMENTED: method Gone$"):
                await w.call("Gone")
            with pytest.raises(ttrpc.Error, match=r"INVALID_ARGUMENT.*Echo.*no text"):
                await w.call("Echo", b"unparsable")
            assert await w.call("Echo", b"x") == b"x"

    run(main())


def test_errors_of_handlers(run: Run) -> None:
    async def main() -> None:
        async with world() as w:
            with pytest.raises(ttrpc.Error) as caught:
                await w.call("Fail", b"error")
            assert caught.value.code is Code.NOT_FOUND
            assert caught.value.message == "no such thing"
            assert caught.value.details == (("type.url/x", b"detail"),)
            with pytest.raises(ttrpc.Error, match="UNKNOWN: ValueError: bad"):
                await w.call("Fail")
            with pytest.raises(ttrpc.Error, match="DEADLINE_EXCEEDED"):
                await w.call("Fail", b"time")
            with pytest.raises(ttrpc.Error, match="UNKNOWN: no error at all"):
                await w.call("Fail", b"ok")
            with pytest.raises(ttrpc.Error, match=r"^code 99: of our own$"):
                await w.call("Fail", b"99")
            with pytest.raises(ttrpc.Error, match="CANCELLED"):
                await w.call("Cancelled")
            with pytest.raises(ttrpc.Error, match=r"UNKNOWN.*NoneType"):
                await w.call("Nothing")

    run(main())


def test_error_mapper(run: Run) -> None:
    def mapper(error: BaseException) -> tuple[int, str] | ttrpc.Error:
        if isinstance(error, OSError):
            return Code.NOT_FOUND, str(error.filename)
        if isinstance(error, TimeoutError):
            return ttrpc.Error(Code.ABORTED, "x", [("t", b"v")])
        raise RuntimeError("mapper is broken")

    async def main() -> None:
        async with world(error_mapper=mapper) as w:
            with pytest.raises(ttrpc.Error, match=r"^NOT_FOUND: /x$"):
                await w.call("Fail", b"os")
            with pytest.raises(ttrpc.Error, match=r"^NOT_FOUND: no such thing$"):
                await w.call("Fail", b"error")
            with pytest.raises(ttrpc.Error, match=r"^INTERNAL: .*mapper is broken"):
                await w.call("Fail")

    run(main())


def test_metadata_and_context(run: Run) -> None:
    async def main() -> None:
        async with world() as w:
            metadata = {"containerd-namespace-ttrpc": "k8s.io", "many": ["a", "b"]}
            await w.call("Echo", metadata=metadata, timeout=10)
            await w.call("Echo")
            first, second = w.demo.contexts
            assert first.metadata == {"containerd-namespace-ttrpc": ["k8s.io"], "many": ["a", "b"]}
            assert first.deadline is not None
            assert 9 < first.deadline - asyncio.get_running_loop().time() <= 10
            assert (first.service, first.method) == ("test.Demo", "Echo")
            assert (second.metadata, second.deadline) == ({}, None)
            assert first.peer == Peer(os.getpid(), os.geteuid(), os.getegid())

    run(main())


def test_oversized_messages_in_both_directions(run: Run) -> None:
    async def main() -> None:
        async with world() as w:
            waiting = asyncio.create_task(w.call("Wait"))
            with pytest.raises(ttrpc.Error, match=f"RESOURCE_EXHAUSTED.*{LIMIT}"):
                await w.call("Echo", bytes(LIMIT))
            with pytest.raises(ttrpc.Error, match=f"RESOURCE_EXHAUSTED.*{LIMIT}"):
                await w.call("Big", b"%d" % LIMIT)
            most = LIMIT - 5  # the field's key and length take five bytes
            assert len(await w.call("Big", b"%d" % most)) == most
            assert len(await w.call("Echo", bytes(LIMIT - 100))) == LIMIT - 100
            w.demo.released.set()
            await waiting

    run(main())


def test_oversized_request_from_a_bare_socket(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with raw() as (_, _, sock):
            await loop.sock_sendall(sock, HEADER.pack(LIMIT + 1, 1, REQUEST, 0))
            portion = bytes(1 << 16)
            for _ in range(LIMIT >> 16):
                await loop.sock_sendall(sock, portion)
            await loop.sock_sendall(sock, b"\0" + encode(3, REQUEST, 0, request("Echo", b"x")))
            first, second = await receive(sock, 2)
            assert answer(first) == (1, Code.RESOURCE_EXHAUSTED)
            assert answer(second) == (3, 0)

    run(main())


# -- deadlines and cancelling ------------------------------------------------------------------


def test_client_stops_waiting_at_the_deadline_and_drops_the_late_answer(run: Run) -> None:
    async def main() -> None:
        async with world() as w:
            with pytest.raises(ttrpc.Error, match=r"DEADLINE_EXCEEDED.*test\.Demo/Wait"):
                await w.call("Wait", timeout=0.02)
            for timeout in (0, -1, 1e-12):
                with pytest.raises(ttrpc.Error, match="DEADLINE_EXCEEDED"):
                    await w.call("Echo", timeout=timeout)
            await until(lambda: w.demo.log == ["cancelled"])
            assert await w.call("Echo", b"on", timeout=1e12) == b"on"

    run(main())


def test_server_answers_at_the_deadline_by_itself(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with raw() as (demo, _, sock):
            await loop.sock_sendall(sock, encode(1, REQUEST, 0, request("Wait", b"", 20_000_000)))
            (frame,) = await receive(sock, 1)
            assert answer(frame) == (1, Code.DEADLINE_EXCEEDED)
            await until(lambda: demo.log == ["cancelled"])
            # One that is late already never reaches its handler.
            await loop.sock_sendall(sock, encode(3, REQUEST, 0, request("Echo", b"", -1)))
            (frame,) = await receive(sock, 1)
            assert answer(frame) == (3, Code.DEADLINE_EXCEEDED)
            assert demo.contexts == []

    run(main())


def test_a_handler_that_cleans_up_after_its_deadline_answers_nobody(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with raw() as (demo, server, sock):
            data = encode(1, REQUEST, 0, request("Stubborn", b"", 20_000_000))
            await loop.sock_sendall(sock, data)
            (frame,) = await receive(sock, 1)
            assert answer(frame) == (1, Code.DEADLINE_EXCEEDED)
            # It counts as active until it is done, so that a shutdown waits for it.
            stopping = asyncio.create_task(server.shutdown())
            await settle()
            assert not stopping.done()
            demo.released.set()
            assert await stopping
            assert demo.log == ["cleaned up"]
            assert await loop.sock_recv(sock, 100) == b""

    run(main())


def test_a_cancelled_caller_forgets_its_call(run: Run) -> None:
    async def main() -> None:
        async with world() as w:
            waiting = asyncio.create_task(w.call("Wait", b"late"))
            await w.demo.entered.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            w.demo.released.set()
            assert await w.call("Echo", b"on") == b"on"
            assert w.client._shell.connection.active == 0
            assert w.client._shell.calls == {}

    run(main())


def test_handlers_are_cancelled_when_the_client_goes(run: Run) -> None:
    async def main() -> None:
        async with raw() as (demo, server, sock):
            data = encode(1, REQUEST, 0, request("Wait")) + encode(3, REQUEST, 0, request("Wait"))
            await asyncio.get_running_loop().sock_sendall(sock, data)
            await demo.entered.wait()
            sock.close()
            await until(lambda: demo.log == ["cancelled", "cancelled"])
            await until(lambda: not server.shells)

    run(main())


def test_a_request_whose_client_goes_in_the_same_moment(run: Run) -> None:
    async def main() -> None:
        for method in ("Wait", "Count", "Join"):
            async with raw() as (_, server, sock):
                # Both are read in one turn of the loop: the call ends before its first step.
                data = encode(1, REQUEST, FLAG_REMOTE_OPEN, request(method, b"3"))
                sock.send(data + encode(1, REQUEST, 0, request(method)))
                sock.close()
                await until(lambda: not server.shells)  # awaited in this very turn

    run(main())
