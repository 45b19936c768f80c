"""A shim process started as containerd starts it, and containerd's side of it: task calls, events.

Only containerd is missing; the shim, its containers and all that they hold are real.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import sysconfig
from pathlib import Path
from types import TracebackType
from typing import Any

from google.protobuf.empty_pb2 import Empty

import ttrpc
import ttrpc.server
from copepod_api import events_service_pb2, types_pb2
from copepod_api import task_v2_pb2 as pb
from copepod_api.events_service_ttrpc import EventsBase
from copepod_api.task_v2_ttrpc import TaskClient
from fakes import walls

ROOT = Path(__file__).parents[3]
ROOMS = [str(ROOT / name) for name in ("shim", "api", "api/ttrpc")]
TIMEOUT = 30.0
# containerd waits as long for an answer to State, and takes a shim that is slower for dead.
AT_ONCE = 2.0


class Events(EventsBase):
    """Takes what the shim publishes."""

    def __init__(self) -> None:
        self.topics: list[str] = []

    async def forward(
        self, request: events_service_pb2.ForwardRequest, ctx: ttrpc.Context
    ) -> Empty:
        """One event."""
        self.topics.append(request.envelope.topic.removeprefix("/tasks/"))
        return Empty()


class Shim:
    """One shim and the bundle of one container, called "box"; an async context manager."""

    def __init__(self, spec: dict[str, Any], config: str = "") -> None:
        self.config = config
        group = f"/copepod-{os.getpid()}-box"
        spec["linux"]["cgroupsPath"] = group
        self.bundle = walls.Bundle(spec)
        self.events = Events()
        self.pid = 0

    async def __aenter__(self) -> Shim:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(f"{self.bundle.path}/events")
        self._listener.listen()
        self._server = ttrpc.server.Server([self.events])
        await self._server.serve_unix(self._listener)
        address = await self._call("start")
        self._client = await ttrpc.Client.connect(address.removeprefix("unix://"))
        self.task = TaskClient(self._client)
        answer = await self.task.connect(pb.ConnectRequest(id="box"), timeout=TIMEOUT)
        self.pid = answer.shim_pid
        self._pidfd = os.pidfd_open(self.pid)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                await self.task.shutdown(pb.ShutdownRequest(id="box"), timeout=TIMEOUT)
                assert await ended(self._pidfd, TIMEOUT), "the shim did not end"
        finally:
            await self._client.close()
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            os.close(self._pidfd)
            if error is not None:
                await self._call("delete")
            await self._server.shutdown(1)
            self.bundle.close()

    async def _call(self, action: str) -> str:
        """One of the ways in which containerd runs the shim's program; gives what it printed."""
        paths = [*ROOMS, sysconfig.get_path("purelib")]
        code = f"import sys; sys.path.extend({paths!r})\nfrom copepod.launch import main\nmain()"
        flags = ["-namespace", "ns", "-address", f"{self.bundle.path}/grpc", "-id", "box", action]
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-ISBc", code, *flags),
            cwd=self.bundle.path,
            env={
                "PATH": "/usr/bin:/bin",
                "COPEPOD_ZYGOTE": "",
                "COPEPOD_CONFIG": self.config,
                "TTRPC_ADDRESS": f"{self.bundle.path}/events",
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await asyncio.wait_for(running.communicate(), TIMEOUT)
        assert running.returncode == 0, out
        return out.decode(errors="replace")

    async def create(self, **stdio: Any) -> int:
        """Create and Start of the container; gives its pid."""
        request = pb.CreateTaskRequest(id="box", bundle=self.bundle.path, **stdio)
        for mount in self.bundle.mounts():
            request.rootfs.append(
                types_pb2.Mount(
                    type=mount.type,
                    source=mount.source,
                    target=mount.target,
                    options=mount.options,
                )
            )
        await self.task.create(request, timeout=TIMEOUT)
        return (await self.task.start(pb.StartRequest(id="box"), timeout=TIMEOUT)).pid

    async def exec(self, process: bytes, **stdio: Any) -> int:
        """Exec and Start of one more process, called "more"; gives its pid."""
        request = pb.ExecProcessRequest(id="box", exec_id="more", **stdio)
        request.spec.value = process
        await self.task.exec(request, timeout=TIMEOUT)
        started = pb.StartRequest(id="box", exec_id="more")
        return (await self.task.start(started, timeout=TIMEOUT)).pid

    async def state(self, exec_id: str = "") -> pb.StateResponse:
        """State, at once."""
        return await self.task.state(pb.StateRequest(id="box", exec_id=exec_id), timeout=AT_ONCE)

    async def pids(self) -> set[int]:
        """Pids, at once."""
        answer = await self.task.pids(pb.PidsRequest(id="box"), timeout=AT_ONCE)
        return {one.pid for one in answer.processes}

    async def kill(self, exec_id: str = "") -> int:
        """SIGKILL and the exit that Wait tells of, both at once; gives its status."""
        request = pb.KillRequest(id="box", exec_id=exec_id, signal=signal.SIGKILL)
        await self.task.kill(request, timeout=AT_ONCE)
        waited = pb.WaitRequest(id="box", exec_id=exec_id)
        return (await self.task.wait(waited, timeout=AT_ONCE)).exit_status

    async def delete(self, exec_id: str = "") -> None:
        """Delete."""
        request = pb.DeleteRequest(id="box", exec_id=exec_id)
        await self.task.delete(request, timeout=TIMEOUT)

    def descriptors(self) -> list[str]:
        """What the shim holds open; connections to containerd come and go."""
        folder = f"/proc/{self.pid}/fd"
        found = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
        return sorted(name for name in found if not name.startswith("socket:"))


async def ended(pidfd: int, timeout: float) -> bool:
    """Waits for the end of any process."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(pidfd, over.set)
    try:
        await asyncio.wait_for(over.wait(), timeout)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True


def cpu_seconds(pid: int) -> float:
    """The processor time that a process has used (proc_pid_stat(5))."""
    fields = walls.read(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
