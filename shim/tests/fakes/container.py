"""Stand-ins at the seams: a container without walls, a runtime without a kernel."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence

from copepod import errors


class FakeHandle:
    """A process of one's own: a real pidfd, no walls. `argv` runs once `start` is called."""

    def __init__(self, argv: Sequence[str] = ("/bin/sleep", "60"), *, fail: bool = False) -> None:
        read, self._go = os.pipe2(os.O_CLOEXEC)
        script = 'read -r _ || exit 255; exec "$@"'
        self.pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", script, "sh", *argv],
            {},
            file_actions=[(os.POSIX_SPAWN_DUP2, read, 0)],
            setsigdef=[signal.SIGPIPE],
        )
        os.close(read)
        self.pidfd = os.pidfd_open(self.pid)
        self.console = -1
        self._fail = fail

    async def start(self) -> None:
        """Lets the program run, or fails as told."""
        if self._fail:
            raise errors.StepFailed("execve", 2, "/nothing")
        os.write(self._go, b"go\n")

    def kill(self, signum: int) -> None:
        """Signals the process."""
        try:
            signal.pidfd_send_signal(self.pidfd, signum)
        except ProcessLookupError:
            raise errors.NotFound("gone") from None

    def close(self) -> None:
        """Gives up the fds."""
        for fd in (self.pidfd, self._go):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self._go = -1


class FakeContainer:
    """Fulfils `task.task.Container` with processes that have no walls."""

    def __init__(self, argv: Sequence[str] = ("/bin/sleep", "60"), *, fail: bool = False) -> None:
        self.init = FakeHandle(argv, fail=fail)
        self.handles = [self.init]
        self.exec_argv: Sequence[str] = ("/bin/sleep", "60")
        self.calls: list[str] = []
        self.oom: Callable[[], None] = lambda: None
        self.oom_at_exit = False
        self.slow_one_is_made, self.gate = asyncio.Event(), asyncio.Event()
        self.freezing, self.resumed = asyncio.Event(), asyncio.Event()
        self.frozen = asyncio.Event()
        self.frozen.set()

    def pids(self) -> list[int]:
        """Whoever has an open pidfd."""
        return [handle.pid for handle in self.handles if handle.pidfd >= 0]

    def kill_all(self, signum: int) -> None:
        """Signals them all."""
        for handle in self.handles:
            if handle.pidfd >= 0:
                try:
                    handle.kill(signum)
                except errors.NotFound:
                    pass

    def stats(self) -> object:
        """There are none."""
        raise errors.NotFound("no metrics")

    async def started(self) -> None:
        """Fine."""

    async def pause(self) -> None:
        """Noted; takes as long as the test says."""
        self.calls.append("pause")
        self.freezing.set()
        await self.frozen.wait()

    async def resume(self) -> None:
        """Noted."""
        self.calls.append("resume")
        self.resumed.set()

    async def update(self, resources: bytes) -> None:
        """Noted."""
        self.calls.append(f"update {resources.decode()}")

    async def exec(self, process: bytes, stdio: Sequence[int], *, terminal: bool) -> FakeHandle:
        """One more process."""
        if process == b"bad":
            raise errors.InvalidArgument("bad process")
        if process == b"slow":
            self.slow_one_is_made.set()
            await self.gate.wait()
        handle = FakeHandle(self.exec_argv, fail=process == b"not started")
        self.handles.append(handle)
        return handle

    def watch_oom(self, killed: Callable[[], None]) -> None:
        """Kept for the test to call."""
        self.oom = killed

    def check_oom(self) -> None:
        """Tells of a kill at the exit if the test said so."""
        if self.oom_at_exit:
            self.oom()

    def record_exit(self, status: int, exited_at: int) -> None:
        """Noted."""
        self.calls.append(f"exit {status}")

    async def delete(self) -> None:
        """Noted."""
        self.calls.append("delete")
