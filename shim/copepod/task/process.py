"""One process that containerd knows, a container's init or an exec: its state, exit and stdio.

It drives a handle of the container room and holds no policy: what may be asked when stands in
`state`, what the container as a whole does in `task`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

from copepod import errors
from copepod.task.reaper import reap_when_dead
from copepod.task.state import Status, Verb, check

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from copepod.task.console import Console
    from copepod.task.io import Stdio


DRAIN_TIMEOUT = 2.0
SIGKILL = 9


class Handle(Protocol):
    """What the container room gives for a process that it has made."""

    pid: int
    pidfd: int
    console: int
    """The terminal's master, or -1; taken over by the receiver."""

    async def start(self) -> None:
        """Lets it run; for a native program returns when execve(2) has succeeded."""

    def kill(self, signum: int) -> None:
        """Sends a signal; errors.NotFound once the process is gone."""

    def close(self) -> None:
        """Closes the pidfd and all else that is held for it."""


class Process:
    """State of one process. `exit_status` and `exited_at` (ns) are set once it is STOPPED."""

    def __init__(self, container_id: str, exec_id: str, stdio: Stdio) -> None:
        self.container_id, self.exec_id, self.stdio = container_id, exec_id, stdio
        self.status = Status.CREATED
        self.pid = 0
        self.exit_status = 0
        self.exited_at = 0
        self.console: Console | None = None
        self.handle: Handle | None = None
        self.spec = b""
        """An exec's OCI Process as JSON, until it is started."""
        self.starting: asyncio.Task[object] | None = None
        """An exec's Start, while it is at work."""
        self.lock = asyncio.Lock()
        self._exit: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watcher: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The process's name in a sentence."""
        return self.exec_id or self.container_id

    def adopt(self, handle: Handle, on_exit: Callable[[int], Awaitable[None]]) -> None:
        """Takes a process that is ready to run; `on_exit` is awaited with its exit status."""
        self.handle, self.pid = handle, handle.pid
        self.stdio.release_child()
        if handle.console >= 0:
            from copepod.task.console import Console

            self.console = Console(handle.console, self.stdio.console_in, self.stdio.console_out)
        self._watcher = asyncio.create_task(self._watch(handle, on_exit))

    async def _watch(self, handle: Handle, on_exit: Callable[[int], Awaitable[None]]) -> None:
        status = await reap_when_dead(handle.pidfd)
        # Whoever starts the process publishes its start before it lets go of the lock, so that
        # no exit is ever heard of before the start.
        async with self.lock:
            await on_exit(status)

    def end_io(self) -> None:
        """After the exit: every FIFO is let go of, a terminal's as soon as its last output is out.

        The exit is told meanwhile: while containerd is down nobody takes that output.
        """
        if self.console is None:
            self.stdio.close()
            return
        ending = self.console.end()
        if ending.done():
            self._close_io()
        else:
            ending.add_done_callback(lambda _: self._close_io())

    async def close_io(self) -> None:
        """Before the process is forgotten: the same at last, whether anybody took the output or
        not (it is waited for, 2 s as runc's shim does)."""
        if self.console is not None:
            await asyncio.wait([self.console.end()], timeout=DRAIN_TIMEOUT)
        self._close_io()

    def _close_io(self) -> None:
        console, self.console = self.console, None
        if console is not None:
            console.close()
        self.stdio.close()

    def finish(self, status: int) -> None:
        """The process is gone: Wait answers from here on. Twice is once."""
        if self.status is Status.STOPPED:
            return
        self.status, self.exit_status = Status.STOPPED, status
        self.exited_at = self.exited_at or time.time_ns()
        if self.handle is not None:
            self.handle.close()
        if not self._exit.done():
            self._exit.set_result(None)

    async def wait(self) -> None:
        """Returns when the process has ended; at once if it has."""
        await asyncio.shield(self._exit)

    async def give_up_start(self) -> None:
        """Ends a Start that is at work, and kills what a Start has made that did not succeed."""
        if self.starting is not None:
            self.starting.cancel()
            await asyncio.wait([self.starting])
        if self.handle is not None and self.status is Status.CREATED:
            try:
                self.handle.kill(SIGKILL)
            except errors.NotFound:
                pass
            await self.wait()

    def kill(self, signum: int) -> None:
        """Sends `signum`; errors.NotFound once the process has finished."""
        check(Verb.KILL, self.status, self.name)
        if self.handle is None:
            raise errors.FailedPrecondition(f"exec {self.name} has not been started")
        self.handle.kill(signum)
