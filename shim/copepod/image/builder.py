"""Compiles modules in children of the shim: forks them, waits, explains how they ended.

It never blocks the event loop and compiles nothing itself: what the child does is in `worker`.
"""

from __future__ import annotations

import array
import asyncio
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from copepod import errors
from copepod.image import worker
from copepod.linux import pidfd as pidfds

if TYPE_CHECKING:
    from copepod.engine.profile import Profile
    from copepod.image.cache import Cache

_DYING = 5.0  # seconds that a killed child may take to be gone; a frozen one takes longer
_LOST = 255


def cached(cache: Cache, profile: Profile, digest: str) -> tuple[int, str] | None:
    """Gives (descriptor, compiler) of the best code in the cache, None if there is none."""
    for tier in (worker.GOOD, worker.QUICK):
        fd = cache.open(profile.at(tier).key(), digest)
        if fd is not None:
            return fd, tier
    return None


async def build(job: worker.Job) -> tuple[int, str]:
    """Compiles in a fresh child; gives (descriptor, "core" or "component").

    The descriptors in `job` stay the caller's. Raises what the child says, and ResourceExhausted
    when time or memory run out. Cancelling kills the child and waits until its cgroup is free.
    """
    child = Child.fork(lambda wire: worker.build(job, wire), job)
    try:
        async with asyncio.timeout(job.seconds):
            text, fd = await child.answer()
            if not text:
                raise died(await child.dead(), job.what)
    except TimeoutError:
        await child.kill()
        raise errors.ResourceExhausted(
            f"compiling {job.what} took longer than the {job.seconds:g} s that this node allows"
        ) from None
    except BaseException:
        await child.kill()
        raise
    child.leave()
    code, _, said = text.partition("\n")
    if code != "0":
        raise error_of(int(code), said)
    if fd < 0:
        raise errors.ResourceExhausted(
            f"the shim has no free descriptor for the code of {job.what}"
        )
    return fd, said


def improve(job: worker.Job) -> None:
    """Starts making better code for the next start, if the cgroup has the memory; waits for none.

    The child ends with its work, with the shim, or when the cgroup's processes are killed.
    """
    if worker.has_room(job, os.fstat(job.source).st_size):
        Child.fork(lambda wire: worker.improve(job, worker.read(job)), job).leave()


def died(status: int, what: str) -> errors.Error:
    """Says in one sentence why a child that gave no answer ended; 128 + n is signal n."""
    if status == 128 + signal.SIGKILL:
        return errors.ResourceExhausted(
            f"compiling {what} was killed, most likely at the container's memory limit: it takes"
            " about 30 times the module's size, once on this node; raise the limit, or compile"
            " ahead with `copepod cache`"
        )
    if 128 < status < _LOST:
        name = signal.Signals(status - 128).name
        return errors.Internal(f"the compiler crashed with {name} while compiling {what}")
    return errors.Internal(f"compiling {what} ended without an answer (exit code {status})")


def error_of(code: int, text: str) -> errors.Error:
    """Gives the exception that stands for a status code, with `text` as its sentence."""
    for kind in errors.Error.__subclasses__():
        if kind.code == code:
            return kind(text)
    return errors.Internal(text)


class Child:
    """A forked process: its pidfd and our end of the socket through which its answer comes."""

    def __init__(self, pidfd: int, wire: socket.socket) -> None:
        self._pidfd = pidfd
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self._status: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(pidfd, self._reap)

    @classmethod
    def fork(cls, work: Callable[[socket.socket], None], job: worker.Job) -> Child:
        """Forks; the child does `work` with its end of the wire, and ends."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            worker.run(work, job, theirs, parent)
        theirs.close()
        ours.setblocking(False)
        return cls(pidfds.pidfd_open(pid), ours)

    async def answer(self) -> tuple[str, int]:
        """Gives the child's message and the descriptor with it or -1; ("", -1) when it ended."""
        arrived: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._wire, _wake, arrived)
        try:
            await arrived
        finally:
            self._loop.remove_reader(self._wire)
        fds = array.array("i")
        data, ancillary, _, _ = self._wire.recvmsg(
            worker.MESSAGE_MAX, socket.CMSG_SPACE(fds.itemsize), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        return data.decode(errors="replace"), fds[0] if fds else -1

    async def dead(self) -> int:
        """Waits for the end; gives the status as shells do."""
        try:
            return await asyncio.shield(self._status)
        finally:
            self._wire.close()

    async def kill(self) -> None:
        """Ends the child and waits until it is gone, a frozen one excepted."""
        self._signal()
        try:
            async with asyncio.timeout(_DYING):
                await self.dead()
        except TimeoutError:
            pass

    def leave(self) -> None:
        """Lets the child finish by itself; it is reaped then, or killed if the loop ends first."""
        self._wire.close()
        task = self._loop.create_task(self._outlast(), name="resolver")
        self._status.add_done_callback(lambda _: task)  # the loop keeps no strong reference

    async def _outlast(self) -> None:
        try:
            await asyncio.shield(self._status)
        except asyncio.CancelledError:
            self._signal()
            gone = select.poll()
            gone.register(self._pidfd, select.POLLIN)
            gone.poll(1000)
            self._reap()
            raise

    def _signal(self) -> None:
        if not self._status.done():
            pidfds.send_signal(self._pidfd, signal.SIGKILL)

    def _reap(self) -> None:
        """Takes the exit status, once, and lets go of the process."""
        if self._status.done():
            return
        self._loop.remove_reader(self._pidfd)
        try:
            status = pidfds.wait(self._pidfd)
        except ChildProcessError:  # somebody else waited for all children
            status = None
        os.close(self._pidfd)
        self._status.set_result(_LOST if status is None else status)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
