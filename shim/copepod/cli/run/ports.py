"""`-p HOST:CONTAINER`: connections to a port of the node, carried into the container's network.

No firewall rule and no bridge: the sockets listen in the node's network namespace, then the
process that serves them enters the container's, where it connects to loopback.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from copepod import errors

_CLONE_NEWNET = 0x40000000  # setns(2)
_BUFFER = 1 << 16
_LAST = 10.0  # seconds for what a container that has ended sent before


@dataclass(frozen=True, slots=True)
class Port:
    """One published TCP port."""

    address: str
    host: int
    container: int

    @classmethod
    def parse(cls, text: str) -> Port:
        """[ADDRESS:]HOST:CONTAINER or PORT; raises errors.InvalidArgument."""
        words = text.removesuffix("/tcp").split(":")
        try:
            numbers = [int(one) for one in words[-2:]]
        except ValueError:
            numbers = []
        if len(words) > 3 or not numbers or not all(0 < one < 65536 for one in numbers):
            raise errors.InvalidArgument(f"-p {text}: write [ADDRESS:]HOST:CONTAINER, TCP ports")
        return cls(words[0] if len(words) == 3 else "0.0.0.0", numbers[0], numbers[-1])


def listen(published: list[Port]) -> list[socket.socket]:
    """The listening sockets; errors.Unavailable names the port that somebody else has."""
    made = []
    for port in published:
        try:
            made.append(socket.create_server((port.address, port.host), backlog=128))
        except OSError as error:
            raise errors.Unavailable(f"-p {port.address}:{port.host}: {error.strerror}") from None
    return made


def serve(
    listeners: list[socket.socket],
    published: list[Port],
    pid_file: str,
    ctr: subprocess.Popen[bytes],
    *,
    detached: bool,
) -> None:
    """Forks the process that carries the connections; it ends with the container."""
    pid = _pid(pid_file, ctr)
    if pid and not os.fork():
        try:
            if detached:
                os.setsid()
            _enter(pid)
            pidfd = os.pidfd_open(pid)
            asyncio.run(_serve(listeners, published, pidfd))
        finally:
            os._exit(0)
    for sock in listeners:
        sock.close()


def _pid(pid_file: str, ctr: subprocess.Popen[bytes]) -> int:
    """The container's first process; 0 when ctr ends before there is one."""
    ended = False
    while not ended:
        ended = ctr.poll() is not None  # what it wrote before its end is read all the same
        try:
            with open(pid_file) as file:
                return int(file.read())
        except (FileNotFoundError, ValueError):
            time.sleep(0.02)
    return 0


def _enter(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns is there from Python 3.12 only
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if libc.setns(fd, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), f"/proc/{pid}/ns/net")
    os.close(fd)


async def _serve(listeners: list[socket.socket], published: list[Port], pidfd: int) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, ended.set)  # pidfd_open(2): readable at exit
    carried: set[asyncio.Task[Any]] = set()
    servers = [
        await asyncio.start_server(_carrier(port.container, carried), sock=sock)
        for sock, port in zip(listeners, published, strict=True)
    ]
    await ended.wait()
    for server in servers:
        server.close()
    if carried:  # the last answer may still be on its way
        await asyncio.wait(carried, timeout=_LAST)


def _carrier(port: int, carried: set[asyncio.Task[Any]]):  # type: ignore[no-untyped-def]  # asyncio's own type has no name
    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        carried.add(task)
        task.add_done_callback(carried.discard)
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_copy(reader, inner_writer))
            tasks.create_task(_copy(inner_reader, writer))
        for each in (inner_writer, writer):
            each.close()
            try:
                await each.wait_closed()  # what was written is with the kernel then
            except OSError:
                pass

    return carry


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction, to its end, which is passed on as half a close."""
    try:
        while data := await reader.read(_BUFFER):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()
