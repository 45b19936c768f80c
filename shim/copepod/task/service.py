"""containerd's task service: one short method per RPC, all of one shape.

Find the task, ask it, answer. It holds the table of tasks and nothing else; errors leave it as
exceptions (`errors.to_status` makes status codes of them).

Source: containerd api/runtime/task/v2/shim.proto; v3 differs by the package's name alone, so the
same methods serve both under their two names.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Protocol, TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty

from copepod import errors
from copepod.task import io, stats
from copepod.task.process import Process
from copepod.task.state import Status
from copepod.task.task import Task, set_time
from copepod_api import events_pb2
from copepod_api import task_v2_pb2 as pb
from copepod_api.task_v2_ttrpc import TaskBase

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from google.protobuf.message import Message

    import ttrpc
    from copepod.log import Log
    from copepod.task.task import Container
    from copepod_api import task_types_pb2


T = TypeVar("T")
# Seconds between an exit and the first look whether containerd still knows of the container.
PATIENCE = 30.0


class Runtime(Protocol):
    """Makes containers."""

    async def create(self, request: pb.CreateTaskRequest, stdio: io.Stdio, /) -> Container:
        """Builds the walls and the process, ready to run; undoes all of it on failure."""


class TaskService(TaskBase):
    """The tasks of one shim. `empty` is called at a Shutdown that finds none left."""

    def __init__(
        self,
        runtime: Runtime,
        publish: Callable[[str, Message], None],
        empty: Callable[[], None],
        namespace: str,
        log: Log,
        patience: float = PATIENCE,
    ) -> None:
        self._patience = patience
        self._outlasting: set[asyncio.Task[None]] = set()
        self._runtime, self._publish, self._empty = runtime, publish, empty
        self._namespace, self._log = namespace, log
        self._tasks: dict[str, Task] = {}
        self._creating: set[str] = set()

    def _task(self, container_id: str) -> Task:
        task = self._tasks.get(container_id)
        if task is None:
            raise errors.NotFound(f"container {container_id} does not exist in this shim")
        return task

    async def create(
        self, request: pb.CreateTaskRequest, ctx: ttrpc.Context
    ) -> pb.CreateTaskResponse:
        """Makes a container and its process, which waits for Start."""
        old = self._tasks.get(request.id)
        if old is not None and old.init.status is Status.STOPPED:
            # containerd knows of no such task: it has had the old one cleaned up by `delete`.
            await _whole(self._delete(old, ""))
        if request.id in self._tasks or request.id in self._creating:
            raise errors.AlreadyExists(f"container {request.id} exists already")
        if request.checkpoint:
            raise errors.Unimplemented("restoring a checkpoint is not implemented by copepod")
        self._creating.add(request.id)
        try:
            task = await self._create(request)
        finally:
            self._creating.discard(request.id)
        self._tasks[request.id] = task
        outlasting = asyncio.create_task(self._outlast(task))
        self._outlasting.add(outlasting)
        outlasting.add_done_callback(self._outlasting.discard)
        self._publish("/tasks/create", _create_event(request, task.init.pid))
        return pb.CreateTaskResponse(pid=task.init.pid)

    async def _create(self, request: pb.CreateTaskRequest) -> Task:
        paths = io.Paths(request.stdin, request.stdout, request.stderr, request.terminal)
        stdio = await io.open_stdio(paths, request.id, self._namespace)
        try:
            container = await self._runtime.create(request, stdio)
        except BaseException:
            stdio.close()
            await stdio.stop_logger()
            raise
        init = Process(request.id, "", stdio)
        return Task(container, init, self._publish, self._log, request.bundle)

    async def start(self, request: pb.StartRequest, ctx: ttrpc.Context) -> pb.StartResponse:
        """Runs a created container or a registered exec."""
        task = self._task(request.id)
        await _whole(task.start_exec(request.exec_id) if request.exec_id else task.start())
        return pb.StartResponse(pid=task.process(request.exec_id).pid)

    async def state(self, request: pb.StateRequest, ctx: ttrpc.Context) -> pb.StateResponse:
        """What a process is doing; stdio as Create or Exec gave it."""
        task = self._task(request.id)
        process = task.process(request.exec_id)
        paths = process.stdio.paths
        response = pb.StateResponse(
            id=request.id,
            bundle=task.bundle,
            pid=process.pid,
            status=int(process.status),  # type: ignore[arg-type]  # the numbers are the wire's
            stdin=paths.stdin,
            stdout=paths.stdout,
            stderr=paths.stderr,
            terminal=paths.terminal,
            exit_status=process.exit_status,
            exec_id=request.exec_id,
        )
        if process.status == Status.STOPPED:
            set_time(response.exited_at, process.exited_at)
        return response

    async def wait(self, request: pb.WaitRequest, ctx: ttrpc.Context) -> pb.WaitResponse:
        """Answers when the process has ended, however long that takes."""
        process = self._task(request.id).process(request.exec_id)
        await process.wait()
        response = pb.WaitResponse(exit_status=process.exit_status)
        set_time(response.exited_at, process.exited_at)
        return response

    async def kill(self, request: pb.KillRequest, ctx: ttrpc.Context) -> Empty:
        """Sends a signal, any number; NotFound once the process is gone."""
        task = self._task(request.id)
        task.kill(request.exec_id, request.signal, everyone=request.all)
        return Empty()

    async def delete(self, request: pb.DeleteRequest, ctx: ttrpc.Context) -> pb.DeleteResponse:
        """Frees an ended container or exec; a second time is NotFound."""
        process = await _whole(self._delete(self._task(request.id), request.exec_id))
        response = pb.DeleteResponse(pid=process.pid, exit_status=process.exit_status)
        set_time(response.exited_at, process.exited_at)
        return response

    async def _delete(self, task: Task, exec_id: str) -> Process:
        async with task.deleting:
            if self._tasks.get(task.id) is not task:
                raise errors.NotFound(f"container {task.id} is deleted already")
            if exec_id:
                return await task.delete_exec(exec_id)
            await task.delete()
            del self._tasks[task.id]
            return task.init

    async def _outlast(self, task: Task) -> None:
        """Frees an ended container that nobody will delete, and the shim with the last one.

        A containerd that found this shim too slow (5 s at its own start) has run `delete`, removed
        the bundle and forgotten both.
        """
        await task.init.wait()
        while self._tasks.get(task.id) is task:
            await asyncio.sleep(self._patience)
            if os.access(task.bundle, os.F_OK) or self._tasks.get(task.id) is not task:
                continue
            self._log.warning("containerd has forgotten this container", id=task.id)
            try:
                await self._delete(task, "")
            except errors.NotFound:
                return
            if not self._tasks and not self._creating:
                self._empty()

    async def pids(self, request: pb.PidsRequest, ctx: ttrpc.Context) -> pb.PidsResponse:
        """Every process of the container; at least its init, until that is deleted.

        A containerd that comes back takes a task without any for one that never was, and forgets
        the exit that nobody has asked for yet (core/runtime/v2/shim_load.go).
        """
        task = self._task(request.id)
        pids = task.container.pids()
        if not pids or (task.init.status != Status.STOPPED and task.init.pid not in pids):
            pids.append(task.init.pid)
        response = pb.PidsResponse()
        for pid in pids:
            info = response.processes.add(pid=pid)
            for exec_id, process in task.execs.items():
                if process.pid == pid:
                    _pack_details(info, exec_id)
        return response

    async def connect(self, request: pb.ConnectRequest, ctx: ttrpc.Context) -> pb.ConnectResponse:
        """The pids of shim and container: containerd's sign of life, never an error."""
        task = self._tasks.get(request.id)
        pid = task.init.pid if task is not None else 0
        return pb.ConnectResponse(shim_pid=os.getpid(), task_pid=pid, version="v2")

    async def shutdown(self, request: pb.ShutdownRequest, ctx: ttrpc.Context) -> Empty:
        """Ends the shim if no container is left in it."""
        if not self._tasks and not self._creating:
            self._empty()
        return Empty()

    async def stats(self, request: pb.StatsRequest, ctx: ttrpc.Context) -> pb.StatsResponse:
        """The container's metrics, read from its cgroup now; an ended one has it until Delete."""
        task = self._task(request.id)
        type_url, value = stats.metrics(task.container.stats())
        return pb.StatsResponse(stats=Any(type_url=type_url, value=value))

    async def close_io(self, request: pb.CloseIORequest, ctx: ttrpc.Context) -> Empty:
        """Gives the process the end of its stdin."""
        process = self._task(request.id).process(request.exec_id)
        if request.stdin:
            process.stdio.close_stdin()
        return Empty()

    async def exec(self, request: pb.ExecProcessRequest, ctx: ttrpc.Context) -> Empty:
        """Registers one more process, which Start runs."""
        task = self._task(request.id)
        paths = io.Paths(request.stdin, request.stdout, request.stderr, request.terminal)
        stdio = await io.open_stdio(paths, request.id, self._namespace)
        try:
            await task.add_exec(request.exec_id, stdio, request.spec.value)
        except BaseException:
            stdio.close()
            await stdio.stop_logger()
            raise
        return Empty()

    async def resize_pty(self, request: pb.ResizePtyRequest, ctx: ttrpc.Context) -> Empty:
        """Sets the size of a process's terminal; without one, does nothing."""
        process = self._task(request.id).process(request.exec_id)
        if process.console is not None:
            process.console.resize(request.width, request.height)
        return Empty()

    async def pause(self, request: pb.PauseRequest, ctx: ttrpc.Context) -> Empty:
        """Freezes the container."""
        await _whole(self._task(request.id).pause())
        return Empty()

    async def resume(self, request: pb.ResumeRequest, ctx: ttrpc.Context) -> Empty:
        """Thaws the container."""
        await _whole(self._task(request.id).resume())
        return Empty()

    async def update(self, request: pb.UpdateTaskRequest, ctx: ttrpc.Context) -> Empty:
        """Applies new resource limits to the living container."""
        await _whole(self._task(request.id).update(request.resources.value))
        return Empty()

    async def checkpoint(self, request: pb.CheckpointTaskRequest, ctx: ttrpc.Context) -> Empty:
        """Is not implemented: CRIU can't restore a wasm engine's process elsewhere."""
        raise errors.Unimplemented("checkpoint is not implemented by copepod")


async def _whole(work: Coroutine[object, object, T]) -> T:
    """Awaits `work`, which goes on to its end even if the caller is cancelled meanwhile.

    A caller is cancelled when containerd's connection is lost; half a start would be a process
    that nobody knows of.
    """
    return await asyncio.shield(asyncio.ensure_future(work))


def _pack_details(info: task_types_pb2.ProcessInfo, exec_id: str) -> None:
    from copepod_api import any as bare_any
    from copepod_api import runc_options_pb2

    details = bare_any.pack(runc_options_pb2.ProcessDetails(exec_id=exec_id))
    info.info.CopyFrom(details)


def _create_event(request: pb.CreateTaskRequest, pid: int) -> events_pb2.TaskCreate:
    event = events_pb2.TaskCreate(
        container_id=request.id, bundle=request.bundle, checkpoint=request.checkpoint, pid=pid
    )
    event.rootfs.extend(request.rootfs)
    event.io.stdin, event.io.stdout = request.stdin, request.stdout
    event.io.stderr, event.io.terminal = request.stderr, request.terminal
    return event
