"""Listening sockets for preview 1: a Go HTTP server and a C program that accepts."""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from copepod.engine.limits import Knobs
from enginekit import make
from enginekit.harness import Outcome, compiled, guest

pytestmark = pytest.mark.system


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def started(
    pool: ThreadPoolExecutor, module: Path, *args: str, count: int = 1, tier: str = "cranelift"
) -> tuple[Future[Outcome], list[int]]:
    """Runs the guest on ports of 127.0.0.1; they are open when this returns."""
    ports = [free_port() for _ in range(count)]
    knobs = Knobs(listen=tuple(("127.0.0.1", port) for port in ports))
    os.close(compiled(module.read_bytes(), knobs.profile().at(tier)))
    running = pool.submit(guest, module, *args, knobs=knobs, tier=tier, limit=30.0)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with open("/proc/net/tcp") as table:
            listening = {line.split()[1] for line in table if " 0A " in line}
        if all(f"0100007F:{port:04X}" in listening for port in ports):
            return running, ports
        assert not running.done(), running.result()
        threading.Event().wait(0.01)
    raise TimeoutError("the guest does not listen")


@pytest.mark.parametrize("tier", ["cranelift", "winch"])
def test_a_go_server(pool: ThreadPoolExecutor, tier: str) -> None:
    running, ports = started(pool, make.go("server"), count=2, tier=tier)
    connection = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=10)
    connection.request("GET", "/a")
    assert connection.getresponse().read() == b"GET /a 0\n"
    connection.request("POST", "/b", body=b"x" * 300_000)
    assert connection.getresponse().read() == b"POST /b 300000\n"

    def slow() -> bytes:
        other = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=10)
        other.request("GET", "/slow")
        answer = other.getresponse().read()
        other.close()
        return answer

    begun = time.monotonic()
    assert {each.result() for each in [pool.submit(slow) for _ in range(6)]} == {b"slow\n"}
    assert time.monotonic() - begun < 1.0  # side by side, 0.2 s each
    with socket.create_connection(("127.0.0.1", ports[1]), timeout=10) as echo:
        echo.sendall(b"one\ntwo\n")
        lines = echo.makefile("rb")
        assert [lines.readline(), lines.readline()] == [b"echo one\n", b"echo two\n"]
        lines.close()
    connection.request("GET", "/quit")
    assert connection.getresponse().status == 200
    connection.close()
    assert running.result() == (7, b"root true <nil>\nserving\n", b"")


@pytest.mark.parametrize("args", [(), ("nonblocking",)])
def test_a_c_program_that_accepts(pool: ThreadPoolExecutor, args: tuple[str, ...]) -> None:
    running, ports = started(pool, make.c("accept"), *args)
    with socket.create_connection(("127.0.0.1", ports[0]), timeout=10) as connection:
        connection.sendall(b"hello")
        answer = b""
        while chunk := connection.recv(100):
            answer += chunk
    assert answer == b"hellohello"
    outcome = running.result()
    assert outcome.out.decode().splitlines() == [
        "file 1",
        "socket 1 seek -1",
        "same 1",
        "end 0",
        "closed -1 Bad file descriptor",
    ]
    assert (outcome.code, outcome.err) == (0, b"")


def test_a_port_that_is_taken_is_refused_at_link() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        port = one.getsockname()[1]
        outcome = guest(make.c("probe"), knobs=Knobs(listen=(("127.0.0.1", port),)))
    assert outcome.code == 200
    text = f"FailedPrecondition: can't listen on 127.0.0.1:{port}: Address already in use"
    assert outcome.err.decode() == text


def test_pointers_outside_of_memory_are_faults() -> None:
    """Each function over sockets with addresses at and past the end gives EFAULT (21)."""
    far = "(i32.const 65533)"
    three = "(i32.const 3)"
    calls = {
        "fd_fdstat_get": f"{three} {far}",
        "fd_filestat_get": f"{three} {far}",
        "fd_prestat_get": f"{three} {far}",
        "fd_prestat_dir_name": f"{three} {far} (i32.const 10)",
        "fd_read": f"{three} {far} (i32.const 1) (i32.const 0)",
        "sock_accept": f"{three} (i32.const 0) {far}",
        "sock_recv": f"{three} (i32.const 0) (i32.const -1) (i32.const 0) {far} {far}",
        "sock_send": f"{three} (i32.const 8) (i32.const 1) (i32.const 0) (i32.const 0)",
        "poll_oneoff": f"{far} (i32.const 0) (i32.const 1) (i32.const 0)",
    }
    for name, arguments in calls.items():
        params = "i32 " * arguments.count("(")
        module = make.wat(f"""(module
          (import "wasi_snapshot_preview1" "{name}" (func $f (param {params}) (result i32)))
          (memory (export "memory") 1)
          (data (i32.const 8) "\\00\\00\\00\\80\\ff\\ff\\ff\\7f")
          (func (export "answer") (result i32) (call $f {arguments})))""")
        knobs = Knobs(listen=(("127.0.0.1", free_port()),))
        assert guest(module, entry="answer", knobs=knobs) == (21, b"", b""), name
