"""Resolver children as the shim sees them: forked, waited for, and their ends explained.

It never blocks the event loop and does none of the work itself: that is in `worker` and `lookup`.
"""

from __future__ import annotations

import array
import asyncio
import os
import select
import signal
import socket
from collections.abc import Callable, Iterable

from copepod import errors
from copepod.image import worker
from copepod.linux import cgroup
from copepod.linux import pidfd as pidfds

_DYING = 5.0  # seconds that a killed child may take to be gone; a frozen one takes longer
_LOST = 255


class Child:
    """A resolver child: its pidfd and our end of the socket through which its answer comes.

    Whoever forks one calls `code`, `leave` or `drop` in the end.
    """

    def __init__(self, pidfd: int, wire: socket.socket, seconds: float, node_memory: int) -> None:
        self._pidfd = pidfd
        self._wire = wire
        self._seconds, self._node_memory = seconds, node_memory
        self._loop = asyncio.get_running_loop()
        self._status: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(pidfd, self._reap)

    @classmethod
    def fork(
        cls,
        work: Callable[[socket.socket], None],
        settings: worker.Settings,
        keep: Iterable[int] = (),
        *,
        inside: bool = True,
    ) -> Child:
        """Forks; the child does `work` with its end of the wire, and ends. `inside`: it is in the
        container's cgroups from the start."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        pid, groups = cgroup.fork(settings.cgroup_fds if inside else ())
        if pid == 0:
            worker.run(work, settings, theirs, parent, keep, groups)
        theirs.close()
        ours.setblocking(False)
        return cls(
            pidfds.pidfd_open(pid), ours, settings.seconds, 0 if inside else settings.node_memory
        )

    async def code(self, what: str, message: bytes = b"") -> tuple[int, str]:
        """Says `message`, if any; gives (descriptor of the code, "core" or "component").

        `what` names the module in errors. Raises what the child says, and ResourceExhausted when
        time or memory run out. Cancelling kills the child and waits until its cgroup is free.
        """
        try:
            self._say(message)
            async with asyncio.timeout(self._seconds):
                text, fd = await self._answer()
                if not text:
                    raise died(await self._dead(), what, self._node_memory)
        except TimeoutError:
            await self.drop()
            raise errors.ResourceExhausted(
                f"compiling {what} took longer than the {self._seconds:g} s that this node allows"
            ) from None
        except BaseException:
            await self.drop()
            raise
        self.leave()
        number, _, said = text.partition("\n")
        if number != "0":
            raise error_of(int(number), said)
        if fd < 0:
            raise errors.ResourceExhausted(f"the shim has no free descriptor for {what}")
        return fd, said

    def leave(self) -> None:
        """Lets the child finish by itself; it is reaped then, or killed if the loop ends first."""
        self._wire.close()
        task = self._loop.create_task(self._outlast(), name="resolver")
        self._status.add_done_callback(lambda _: task)  # the loop keeps no strong reference

    async def drop(self) -> None:
        """Ends the child and waits until it is gone, a frozen one excepted."""
        self._signal()
        try:
            async with asyncio.timeout(_DYING):
                await self._dead()
        except TimeoutError:
            pass

    def _say(self, message: bytes) -> None:
        try:
            if message:
                self._wire.send(message)
        except OSError:
            pass  # it has ended: its answer, or its status, says why

    async def _answer(self) -> tuple[str, int]:
        """Gives the child's message and the descriptor with it or -1; ("", -1) when it ended."""
        arrived: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._wire, _wake, arrived)
        try:
            await arrived
        finally:
            self._loop.remove_reader(self._wire)
        fds = array.array("i")
        data, ancillary = self._receive(socket.CMSG_SPACE(fds.itemsize))
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        return data.decode(errors="replace"), fds[0] if fds else -1

    def _receive(self, room: int) -> tuple[bytes, list[tuple[int, int, bytes]]]:
        for _ in range(2):
            try:
                data, ancillary, _flags, _address = self._wire.recvmsg(
                    worker.MESSAGE_MAX, room, socket.MSG_CMSG_CLOEXEC
                )
            except ConnectionResetError:
                # It ended without having read what we said, which the kernel reports once,
                # before what it had to say itself.
                continue
            return data, ancillary
        return b"", []

    async def _dead(self) -> int:
        try:
            return await asyncio.shield(self._status)
        finally:
            self._wire.close()

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


def died(status: int, what: str, node_memory: int) -> errors.Error:
    """Says in one sentence why a child that gave no answer ended; 128 + n is signal n."""
    if status == 128 + signal.SIGKILL:
        return errors.ResourceExhausted(
            f"compiling {what} was killed, most likely at the container's memory limit: it takes"
            " about 30 times the module's size, once on this node; raise the limit"
        )
    if status == 128 + signal.SIGABRT and node_memory:
        return worker.too_little(what, node_memory)
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


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
