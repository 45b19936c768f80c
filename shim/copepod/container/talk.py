"""The shim's end of the wire to a container's first process, and what is owed to that process.

It waits without blocking the loop and never for ever. What the messages mean is spawn.py's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import TYPE_CHECKING

from copepod import errors
from copepod.child import wire
from copepod.container.waiting import readable
from copepod.linux import pidfd
from copepod.linux.fds import receive

if TYPE_CHECKING:
    from collections.abc import Sequence

# Longer than anything but a hanging network file system; the kubelet's own limit is two minutes.
DEADLINE = 110.0
_DYING = 10.0
_TRIES = 100


class Talk:
    """A conversation with one child. Owns the socket and, until `steal`, the pidfd."""

    def __init__(self, sock: socket.socket, pid: int, *, middle: bool) -> None:
        """`middle`: it leads a process group and will make the process that stays."""
        sock.setblocking(False)
        self._group = pid if middle else 0
        self._socket = sock
        self.pid = pid
        self.pidfd = pidfd.pidfd_open(pid)
        self._fds: list[int] = []

    async def hear(self) -> tuple[str, ...]:
        """Gives the next message, ("",) when the child has closed its end; fds that came with it
        are taken by `take_fd`. A message of failure is raised as what it says."""
        while True:
            try:
                data, fds = receive(self._socket, wire.MAX_MESSAGE, wire.MAX_FDS)
                break
            except BlockingIOError:
                try:
                    async with asyncio.timeout(DEADLINE):
                        await readable(self._socket)
                except TimeoutError:
                    raise TimeoutError(
                        f"the container's first process said nothing for {DEADLINE:.0f} s: does "
                        "a mount hang?"
                    ) from None
            except ConnectionResetError:
                data, fds = b"", []
        self._fds += fds
        words = wire.decode(data)
        if words[0] == "failed":
            raise errors.StepFailed(words[1], int(words[2]), words[3], words[4])
        if words[0] == "error":
            raise _error(words[1], words[2])
        return words

    async def expect(self, *tags: str) -> tuple[str, ...]:
        """`hear`, for one of the tags; anything else is the child's end or a defect."""
        words = await self.hear()
        if words[0] == "":
            raise await self._death()
        if words[0] not in tags:
            raise errors.Internal(f"copepod: the container said {words[0]!r}, not {tags}")
        return words

    async def _death(self) -> errors.Error:
        status = await self.reap()
        if status == 128 + signal.SIGKILL:
            return errors.ResourceExhausted(
                "the container's first process was killed while its walls were built: is the "
                "memory limit too low?"
            )
        return errors.Internal(
            f"copepod: the container's first process ended without a word, with status {status}"
        )

    def take_fd(self) -> int:
        """Gives an fd that came with the last message; it is the caller's from now on."""
        if not self._fds:
            raise errors.Internal("copepod: a message from the container lacks its fd")
        return self._fds.pop(0)

    def say(self, tag: str, *fields: str, fds: Sequence[int] = ()) -> None:
        """Sends a message; a child that is gone will be noticed by the next `hear`."""
        try:
            socket.send_fds(self._socket, [wire.encode(tag, *fields)], list(fds))
        except (BrokenPipeError, ConnectionResetError):
            pass

    def follow(self, pid: int) -> None:
        """The child has made the process that stays and goes: talk to that one from now on."""
        opened = pidfd.pidfd_open(pid)
        os.close(self.pidfd)
        self.pid, self.pidfd, self._group = pid, opened, 0

    async def reap(self) -> int:
        """Waits (bounded) for the end of the process and takes its status; -1 if unknown."""
        try:
            async with asyncio.timeout(_DYING):
                await readable(self.pidfd)
            return pidfd.wait(self.pidfd) or 0
        except (TimeoutError, ChildProcessError):
            return -1

    async def destroy(self) -> None:
        """Ends the process, if it lives, the one that it may just have made to stay in its place,
        and everything that was received from it."""
        await self._end()
        self.close()
        if self._group:
            await self._reap_born()
        os.close(self.pidfd)

    async def _end(self) -> None:
        try:
            pidfd.send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        await self.reap()

    async def _reap_born(self) -> None:
        """The process in between may have made its child, which ends with the wire, and not told
        of it. It is our child then, and still in the other's process group."""
        for _ in range(_TRIES):
            if pidfd.reap_group(self._group):
                return
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """Ends the conversation; the process and its pidfd stay."""
        self._socket.close()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


def _error(name: str, text: str) -> errors.Error:
    kind = getattr(errors, name, errors.Internal)
    if not (isinstance(kind, type) and issubclass(kind, errors.Error)):
        kind = errors.Internal
    if kind is errors.StepFailed:
        return errors.StepFailed("container", text=text)
    return kind(text)
