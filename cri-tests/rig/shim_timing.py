"""Times a shim without containerd's part: starts it as containerd would and calls its task service.

It speaks ttrpc itself and needs a containerd only for the events. Run inside the cell as
`python -m rig.shim_timing`, a job on standard input.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import ttrpc
from copepod_api import bootstrap_v1_pb2, task_v2_pb2, types_pb2
from copepod_api.task_v2_ttrpc import TaskClient
from copepod_api.task_v3_ttrpc import TaskClient as NewTaskClient

T = TypeVar("T")
LIMIT = 60.0
STEPS = (
    "start binary",
    "first answer",
    "Create",
    "Start",
    "Kill to Wait",
    "Delete",
    "delete binary",
)


class Trial:
    """One container's life through one shim; `times` holds the seconds of each step."""

    def __init__(self, job: dict[str, Any], number: int) -> None:
        self.job = job
        self.id = f"{job['name']}-{number}"
        self.bundle, self.layers = (Path(job[name]) / self.id for name in ("bundles", "layers"))
        self.times: dict[str, float] = {}

    def prepare(self) -> None:
        """Makes the bundle: the spec, an empty rootfs, and the log that containerd would read."""
        spec = json.loads(Path(self.job["spec"]).read_text())
        spec["linux"]["cgroupsPath"] = f"/{self.job['namespace']}/{self.id}"
        for folder in (self.bundle / "rootfs", self.layers / "upper", self.layers / "work"):
            folder.mkdir(parents=True)
        (self.bundle / "config.json").write_text(json.dumps(spec))
        os.mkfifo(self.bundle / "log")

    def binary(self, action: str, *more: str) -> bytes:
        """Runs the shim's binary for an action; gives what it printed."""
        job = self.job
        flags = ["-namespace", job["namespace"], "-address", job["address"]]
        flags += ["-publish-binary", job["containerd"], "-id", self.id, *more]
        began = time.perf_counter()
        done = subprocess.run(
            [job["shim"], *flags, action],
            input=self.parameters() if action == "start" else b"",
            capture_output=True,
            timeout=LIMIT,
            env={**os.environ, "TTRPC_ADDRESS": f"{job['address']}.ttrpc"},
            cwd=self.bundle,
            check=False,
        )
        self.times[f"{action} binary"] = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(f"{job['shim']} {action}: {done.stdout!r} {done.stderr!r}")
        return done.stdout.strip()

    def parameters(self) -> bytes:
        """What containerd 2.3 and newer write on the standard input of `start`."""
        return bootstrap_v1_pb2.BootstrapParams(
            instance_id=self.id,
            namespace=self.job["namespace"],
            containerd_version="2.4.2",
            containerd_ttrpc_address=f"{self.job['address']}.ttrpc",
            containerd_grpc_address=self.job["address"],
            containerd_binary=self.job["containerd"],
        ).SerializeToString()

    async def step(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """Times one call."""
        began = time.perf_counter()
        answer = await asyncio.wait_for(call(), LIMIT)
        self.times[name] = time.perf_counter() - began
        return answer

    async def live(self) -> dict[str, float]:
        """The whole life, in containerd's order of calls; gives the times."""
        self.prepare()
        log = os.open(self.bundle / "log", os.O_RDWR | os.O_NONBLOCK)
        try:
            address, version = answer(self.binary("start"))
            client = await ttrpc.Client.connect(address.removeprefix("unix://"))
            await self.calls(TaskClient(client) if version < 3 else NewTaskClient(client))
            await client.close()
            self.binary("delete", "-bundle", str(self.bundle))
        finally:
            os.close(log)
            for folder in (self.bundle, self.layers):
                shutil.rmtree(folder, ignore_errors=True)
        return self.times

    async def calls(self, task: Any) -> None:
        """Create, Start, Kill, Wait, Delete, Shutdown; the messages of v2 and v3 are the same."""
        # The shim may still be starting: that is not Create's time.
        hello = task_v2_pb2.ConnectRequest(id=self.id)
        await self.step("first answer", lambda: task.connect(hello))
        # As the snapshotter of overlays has it for every image with layers of its own.
        layers = {"lowerdir": self.job["rootfs"]}
        layers |= {f"{name}dir": str(self.layers / name) for name in ("upper", "work")}
        options = [f"{name}={path}" for name, path in layers.items()]
        mount = types_pb2.Mount(type="overlay", source="overlay", options=options)
        order = task_v2_pb2.CreateTaskRequest(id=self.id, bundle=str(self.bundle), rootfs=[mount])
        await self.step("Create", lambda: task.create(order))
        waiting = asyncio.ensure_future(task.wait(task_v2_pb2.WaitRequest(id=self.id)))
        await asyncio.sleep(0)
        await self.step("Start", lambda: task.start(task_v2_pb2.StartRequest(id=self.id)))

        async def end() -> None:
            await task.kill(task_v2_pb2.KillRequest(id=self.id, signal=9))
            await waiting

        await self.step("Kill to Wait", end)
        await self.step("Delete", lambda: task.delete(task_v2_pb2.DeleteRequest(id=self.id)))
        try:
            await task.shutdown(task_v2_pb2.ShutdownRequest(id=self.id))
        except ttrpc.ClosedError:
            pass  # runc's shim may be gone before its answer; containerd allows it too


def answer(said: bytes) -> tuple[str, int]:
    """The address and version in what `start` printed: plain, JSON, or a BootstrapResult."""
    if said.startswith(b"unix:"):
        return said.decode(), 2
    if said.startswith(b"{"):
        body = json.loads(said)
        return str(body["address"]), int(body["version"])
    result = bootstrap_v1_pb2.BootstrapResult.FromString(said)
    return result.address, result.version


def main() -> None:
    """Writes {side: [{step: seconds}]}; the sides take turns, and a first round is left out."""
    job = json.load(sys.stdin)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in job["sides"]}
    for number in range(job["rounds"] + 1):
        for name, side in job["sides"].items():
            times = asyncio.run(Trial(side, number).live())
            if number:
                found[name].append(times)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
