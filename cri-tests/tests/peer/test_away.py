"""While containerd is away: the shim answers, a container that floods its output is held back, and
what ends meanwhile is found when containerd is back."""

import asyncio
import os
from pathlib import Path

import pytest

import ttrpc
from copepod_api import task_v2_pb2 as pb
from copepod_api.task_v2_ttrpc import TaskClient
from rig import images, procs
from rig.cri import Container, Pods
from rig.runs import Runner
from rig.shell import until, wait_exit

pytestmark = pytest.mark.peer

# containerd waits as long for an answer to State.
AT_ONCE = 2.0
FLOODS = {
    "native": (images.BUSYBOX, ["yes"]),
    "wasm": (images.C_ROOTFS, [images.MODULE, "flood", str(2_000_000_000)]),
}


def address(container: Container) -> str:
    """The socket of the container's shim, seen from outside of the cell."""
    state = container.node.settings.state / "io.containerd.runtime.v2.task/k8s.io"
    path = (state / container.id / "address").read_text().removeprefix("unix:///run/")
    return str(container.node.cell.run_dir / path)


def ticks(pid: int) -> int:
    """The processor time that a process has used (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


async def ask_and_kill(path: str, container: str, pid: int) -> None:
    """State, Pids and Kill, each answered at once; at last the exit."""
    client = await ttrpc.Client.connect(path)
    try:
        task = TaskClient(client)
        state = await task.state(pb.StateRequest(id=container), timeout=AT_ONCE)
        assert (state.status, state.pid) == (2, pid)
        listed = await task.pids(pb.PidsRequest(id=container), timeout=AT_ONCE)
        assert pid in {one.pid for one in listed.processes}
        await task.kill(pb.KillRequest(id=container, signal=9), timeout=AT_ONCE)
        ended = await task.wait(pb.WaitRequest(id=container), timeout=AT_ONCE)
        assert ended.exit_status == 137
    finally:
        await client.close()


@pytest.mark.parametrize("tty", [False, True], ids=["fifo", "terminal"])
@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_while_containerd_is_away(pods: Pods, runner: Runner, kind: str, tty: bool) -> None:
    if runner.runtime != "copepod":
        pytest.skip("runc's shim is spoken to in another dialect")
    image, words = FLOODS[kind]
    pod = pods.run(f"flood-{kind}-{tty}")
    container = pod.start("main", image, words[1:], command=words[:1], tty=tty)
    pid = container.pid
    shim = procs.parent(pid)
    log = container.node.home / "logs" / pod.name / "main.log"
    until("output", lambda: log.stat().st_size > 1 << 20)
    path = address(container)
    container.node.kill()
    os.truncate(log, 0)
    seen = [0, 0]

    def held_back() -> bool:
        before, seen[:] = list(seen), [ticks(pid), ticks(shim)]
        return before == seen

    until("container and shim to be idle", held_back, pause=0.5)
    asyncio.run(ask_and_kill(path, container.id, pid))
    assert wait_exit(pid, 5)
    container.node.start()
    container.node.wait_cri()
    assert container.wait_exited()["exitCode"] == 137
    pod.remove()


@pytest.mark.parametrize("kind", FLOODS)
def test_an_exit_while_containerd_is_away_is_not_forgotten(
    pods: Pods, runner: Runner, kind: str
) -> None:
    """A job that is done must not be done again because containerd was updated meanwhile."""
    if runner.runtime != "copepod":
        pytest.skip("containerd has runc's shim deleted then, and calls the exit code unknown")
    image, words = {
        "native": (images.BUSYBOX, ["sh", "-c", "read line; exit 7"]),
        "wasm": (images.C_ROOTFS, [images.MODULE, "echo"]),
    }[kind]
    pod = pods.run(f"job-{kind}")
    container = pod.start("main", image, words[1:], command=words[:1], stdin=True)
    pid = container.pid
    folder = container.node.settings.state / "io.containerd.grpc.v1.cri/containers" / container.id
    (stdin,) = map(str, folder.glob("io/*/*-stdin"))
    path = address(container)
    container.node.kill()

    async def end_input() -> None:
        client = await ttrpc.Client.connect(path)
        request = pb.CloseIORequest(id=container.id, stdin=True)
        await TaskClient(client).close_io(request, timeout=AT_ONCE)
        await client.close()

    fd = os.open(stdin, os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, b"done\n")
    asyncio.run(end_input())
    os.close(fd)
    assert wait_exit(pid, 10)
    container.node.start()
    container.node.wait_cri()
    assert container.wait_exited()["exitCode"] == {"native": 7, "wasm": 0}[kind]
    pod.remove()
