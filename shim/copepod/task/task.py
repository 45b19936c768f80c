"""One container as containerd sees it: its init process, its execs, and what happens to both.

It publishes events and keeps their order; the walls, the cgroup and the module are the business of
the `Container` that it drives.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

from copepod import errors
from copepod.task.process import Process
from copepod.task.state import Status, Verb, check
from copepod_api import events_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

    from copepod.container.cgroup_stats import V1Stats, V2Stats
    from copepod.log import Log
    from copepod.task.io import Stdio
    from copepod.task.process import Handle

SIGKILL = 9
EXEC_DEATH_TIMEOUT = 5.0


class Container(Protocol):
    """What is asked of a container's walls: the seam between the shim's mind and the kernel."""

    @property
    def init(self) -> Handle:
        """The container's own process."""

    def pids(self) -> list[int]:
        """Every process in the container, from its cgroup."""

    def kill_all(self, signum: int) -> None:
        """Sends a signal to every process in the container."""

    def stats(self) -> V1Stats | V2Stats:
        """The cgroup's metrics; errors.NotFound once it is gone."""

    async def started(self) -> None:
        """Is told when the container's own program runs; raises if it should not have."""

    async def pause(self) -> None:
        """Freezes every process."""

    async def resume(self) -> None:
        """Thaws them."""

    async def update(self, resources: bytes) -> None:
        """Applies OCI LinuxResources (JSON) to the living container."""

    async def exec(self, process: bytes, stdio: Sequence[int], *, terminal: bool) -> Handle:
        """Makes one more process (OCI Process, JSON) in the walls, ready to run."""

    def watch_oom(self, killed: Callable[[], None]) -> None:
        """Calls `killed` each time that the kernel kills for lack of memory."""

    def check_oom(self) -> None:
        """Looks once more, at the exit, for a kill that was not told of yet."""

    def record_exit(self, status: int, exited_at: int) -> None:
        """Writes the exit down for a stranger that may have to clean up."""

    async def delete(self) -> None:
        """Frees everything that the container has on the node."""


class Task:
    """A container's life. Every method may raise an `errors.Error`."""

    def __init__(
        self,
        container: Container,
        init: Process,
        publish: Callable[[str, Message], None],
        log: Log,
        bundle: str,
    ) -> None:
        self.container, self.init, self.bundle = container, init, bundle
        self.id = init.container_id
        self.execs: dict[str, Process] = {}
        self.deleting = asyncio.Lock()
        self._ending = self._killed_early = False
        self._publish, self._log = publish, log
        init.adopt(container.init, self._init_exited)
        container.watch_oom(self._oom)

    def process(self, exec_id: str) -> Process:
        """Gives the init process for "", else the exec of that id; errors.NotFound."""
        if not exec_id:
            return self.init
        process = self.execs.get(exec_id)
        if process is None:
            raise errors.NotFound(f"exec {exec_id} of container {self.id} does not exist")
        return process

    async def start(self) -> None:
        """Lets the container's own program run."""
        async with self.init.lock:
            check(Verb.START, self.init.status, self.id)
            assert self.init.handle is not None
            await self.init.handle.start()
            self.init.status = Status.RUNNING
            self._publish(
                "/tasks/start", events_pb2.TaskStart(container_id=self.id, pid=self.init.pid)
            )
        try:
            await self.container.started()
        except BaseException:
            self._kill_rest()
            raise

    def kill(self, exec_id: str, signum: int, *, everyone: bool) -> None:
        """Signals one process, or with `everyone` the whole container."""
        if everyone and not exec_id:
            check(Verb.KILL, self.init.status, self.id)
            self.container.kill_all(signum)
        else:
            self.process(exec_id).kill(signum)
        if signum == SIGKILL:
            self._thaw_killed()

    def _thaw_killed(self) -> None:
        """A frozen process of cgroup v1 dies only once it is thawed."""
        if self.init.status is Status.PAUSED:
            self._background(self.resume())
        elif self.init.status is Status.PAUSING:
            self._killed_early = True

    def _background(self, work: Coroutine[object, object, None]) -> None:
        asyncio.ensure_future(work).add_done_callback(self._note_failure)

    def _note_failure(self, task: asyncio.Future[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._log.warning("background work failed", id=self.id, error=task.exception())

    async def add_exec(self, exec_id: str, stdio: Stdio, spec: bytes) -> None:
        """Registers an exec, which `start_exec` runs."""
        self._check_exec()
        if exec_id in self.execs:
            raise errors.AlreadyExists(f"exec {exec_id} of container {self.id} exists already")
        process = Process(self.id, exec_id, stdio)
        process.spec = spec
        self.execs[exec_id] = process
        self._publish(
            "/tasks/exec-added", events_pb2.TaskExecAdded(container_id=self.id, exec_id=exec_id)
        )

    def _check_exec(self) -> None:
        check(Verb.EXEC, self.init.status, self.id)
        if self._ending:
            raise errors.FailedPrecondition(f"cannot exec in {self.id}: it is ending")

    async def start_exec(self, exec_id: str) -> None:
        """Runs a registered exec; if that fails its waiters are let go."""
        process = self.process(exec_id)
        async with process.lock:
            check(Verb.START, process.status, exec_id)
            self._check_exec()
            process.starting = asyncio.current_task()
            try:
                handle = await self.container.exec(
                    process.spec, process.stdio.child, terminal=process.stdio.paths.terminal
                )
                process.adopt(handle, lambda status: self._exec_exited(process, status))
                await handle.start()
            except BaseException as error:
                if process.handle is None:
                    await process.close_io()
                    process.finish(255)
                if isinstance(error, asyncio.CancelledError):
                    text = f"exec {exec_id} was given up before it had started"
                    raise errors.FailedPrecondition(text) from None
                raise
            finally:
                process.starting = None
            process.status = Status.RUNNING
            self._publish(
                "/tasks/exec-started",
                events_pb2.TaskExecStarted(container_id=self.id, exec_id=exec_id, pid=process.pid),
            )

    async def _exec_exited(self, process: Process, status: int) -> None:
        started = process.status is not Status.CREATED
        process.exited_at = time.time_ns()
        process.end_io()
        if started:
            self._publish_exit(process, status)
        process.finish(status)

    async def _init_exited(self, status: int) -> None:
        self.init.exited_at = time.time_ns()
        # Whoever is left would outlive its container where it has no pid namespace of its own.
        self._ending = True
        self._kill_rest()
        left = [p for p in self.execs.values() if p.status is not Status.STOPPED]
        alive = [p.give_up_start() if p.starting else p.wait() for p in left if p.starting or p.pid]
        if alive:
            _, late = await asyncio.wait(
                [asyncio.ensure_future(w) for w in alive], timeout=EXEC_DEATH_TIMEOUT
            )
            for waiter in late:
                waiter.cancel()
        self.init.end_io()
        self.container.check_oom()
        self.container.record_exit(status, self.init.exited_at)
        # The last exit that is heard of from a container is its init's.
        self._publish_exit(self.init, status)
        self.init.finish(status)

    def _kill_rest(self) -> None:
        try:
            self.container.kill_all(SIGKILL)
        except errors.NotFound:
            pass
        except Exception as error:
            self._log.warning("killing what init left failed", id=self.id, error=error)

    def _publish_exit(self, process: Process, status: int) -> None:
        event = events_pb2.TaskExit(
            container_id=self.id, id=process.name, pid=process.pid, exit_status=status
        )
        set_time(event.exited_at, process.exited_at)
        self._publish("/tasks/exit", event)

    def _oom(self) -> None:
        self._publish("/tasks/oom", events_pb2.TaskOOM(container_id=self.id))

    async def pause(self) -> None:
        """Freezes the container."""
        check(Verb.PAUSE, self.init.status, self.id)
        self.init.status, self._killed_early = Status.PAUSING, False
        try:
            await self.container.pause()
        except BaseException:
            if self.init.status is Status.PAUSING:
                self.init.status = Status.RUNNING
            raise
        if self.init.status is Status.PAUSING:
            self.init.status = Status.PAUSED
        self._publish("/tasks/paused", events_pb2.TaskPaused(container_id=self.id))
        if self._killed_early:
            self._thaw_killed()

    async def resume(self) -> None:
        """Thaws the container."""
        check(Verb.RESUME, self.init.status, self.id)
        await self.container.resume()
        if self.init.status is Status.PAUSED:
            self.init.status = Status.RUNNING
        self._publish("/tasks/resumed", events_pb2.TaskResumed(container_id=self.id))

    async def update(self, resources: bytes) -> None:
        """Applies new limits."""
        check(Verb.UPDATE, self.init.status, self.id)
        await self.container.update(resources)

    async def delete_exec(self, exec_id: str) -> Process:
        """Forgets an exec that has ended or never ran; gives it.

        Its Start may still be at work: a probe whose time is over gives up both.
        """
        process = self.process(exec_id)
        check(Verb.DELETE, process.status, exec_id)
        await process.give_up_start()
        await process.close_io()
        await process.stdio.stop_logger()
        process.finish(process.exit_status)
        self.execs.pop(exec_id, None)
        return process

    async def delete(self) -> None:
        """Frees the container; one that was never started is killed first."""
        check(Verb.DELETE, self.init.status, self.id)
        if self.init.status is Status.CREATED:
            try:
                self.init.kill(SIGKILL)
            except errors.NotFound:
                pass
            await self.init.wait()
        for exec_id in tuple(self.execs):
            await self.delete_exec(exec_id)
        await self.init.close_io()
        await self.init.stdio.stop_logger()
        await self.container.delete()
        event = events_pb2.TaskDelete(
            container_id=self.id, pid=self.init.pid, exit_status=self.init.exit_status, id=self.id
        )
        set_time(event.exited_at, self.init.exited_at)
        self._publish("/tasks/delete", event)


def set_time(stamp: Timestamp, nanoseconds: int) -> None:
    """Fills `stamp` from nanoseconds since 1970; 0 leaves it unset."""
    if nanoseconds:
        stamp.seconds, stamp.nanos = divmod(nanoseconds, 1_000_000_000)
