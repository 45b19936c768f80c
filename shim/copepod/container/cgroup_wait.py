"""Waits of an event loop for what the kernel tells about groups and processes.

It never sleeps to look again, and leaves no reader in the loop behind.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable, Iterable

from copepod.container.cgroup_stats import parse_pairs
from copepod.container.cgroup_tree import read_fd


async def readable(fds: Iterable[int], timeout: float, done: Callable[[], bool]) -> bool:
    """True once `done()` is, which is asked whenever a descriptor is readable; False in the end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bool] = loop.create_future()

    def look() -> None:
        if not future.done() and done():
            future.set_result(True)

    fds = list(fds)
    for fd in fds:
        loop.add_reader(fd, look)
    try:
        look()
        return await asyncio.wait_for(future, timeout)
    except TimeoutError:
        return False
    finally:
        for fd in fds:
            loop.remove_reader(fd)


async def one_ends(pids: Iterable[int], timeout: float) -> None:
    """Returns when a process has ended; at once if one of them had; in any case after `timeout`."""
    fds: list[int] = []
    try:
        for pid in pids:
            try:
                fds.append(os.pidfd_open(pid))
            except ProcessLookupError:
                # Ended and waited for, but the kernel has not taken it off the group's list yet.
                await asyncio.sleep(min(timeout, 0.001))
                return
            if len(fds) == 16:  # enough to hear of one; a fork bomb must not eat our descriptors
                break
        poll = select.poll()
        for fd in fds:
            poll.register(fd, select.POLLIN)
        await readable(fds, timeout, lambda: bool(poll.poll(0)))
    finally:
        for fd in fds:
            os.close(fd)


async def event(path: str, name: str, wanted: int, timeout: float) -> bool:
    """Waits until line `name` of a version 2 events file is `wanted`; False after `timeout`.

    The file raises POLLPRI on a change (cgroup-v2.rst) and always POLLIN, which is what a loop
    waits for: an epoll descriptor, readable when it has news, stands in between.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with select.epoll() as epoll:
            epoll.register(fd, select.EPOLLPRI)
            return await readable(
                [epoll.fileno()],
                timeout,
                lambda: parse_pairs(read_fd(fd).decode()).get(name) == wanted,
            )
    finally:
        os.close(fd)
