"""Waits of the shim's loop: for a descriptor, and for the end of a child that is nobody else's."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from copepod.linux import pidfd

if TYPE_CHECKING:
    import socket


async def readable(fd: int | socket.socket) -> None:
    """Returns when there is something to read, or the end; nobody else may wait for `fd`."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def ended(pid: int, seconds: float | None) -> int | None:
    """Gives the child's exit status, None when the time was over and it had to be killed. It is
    killed, too, when the wait is given up."""
    fd = pidfd.pidfd_open(pid)
    over = False
    try:
        async with asyncio.timeout(seconds):
            await readable(fd)
        over = True
        return pidfd.wait(fd)
    except TimeoutError:
        return None
    finally:
        os.close(fd)
        if not over:
            _end(pid)


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)  # at once: nothing outlives SIGKILL for long
