"""The task service against containers without walls: states, order of events, stdio, codes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from google.protobuf.message import Message

import ttrpc
from copepod import errors
from copepod.log import Log
from copepod.task.service import TaskService
from copepod_api import task_v2_pb2 as pb
from fakes.container import FakeContainer

pytestmark = pytest.mark.pure
CTX = ttrpc.Context("", "", ttrpc.Peer(0, 0, 0), {}, None)
TIMEOUT = 20.0


class Bench:
    """A service, what it published, and the containers it is going to get."""

    def __init__(self, patience: float) -> None:
        self.events: list[tuple[str, Message]] = []
        self.container = FakeContainer
        self.made: list[FakeContainer] = []
        self.is_empty = False
        self.failure: Exception | None = None
        self.service = TaskService(
            self,  # type: ignore[arg-type]  # a fake without protobuf statistics
            lambda topic, event: self.events.append((topic, event)),
            self._empty,
            "ns",
            Log(fd=-1),
            patience,
        )
        self.emptied = asyncio.Event()

    def _empty(self) -> None:
        self.is_empty = True
        self.emptied.set()

    async def create(self, request: pb.CreateTaskRequest, stdio: object) -> FakeContainer:
        """The Runtime's one method."""
        if self.failure is not None:
            raise self.failure
        self.made.append(self.container())
        return self.made[-1]

    @property
    def topics(self) -> list[str]:
        """The topics in order, short."""
        return [topic.removeprefix("/tasks/") for topic, _ in self.events]

    async def made_and_started(self, name: str = "c") -> int:
        """Creates and starts; gives the pid."""
        await self.service.create(pb.CreateTaskRequest(id=name, bundle="/b"), CTX)
        return (await self.service.start(pb.StartRequest(id=name), CTX)).pid

    async def end(self, name: str = "c") -> None:
        """Kills, waits for and deletes."""
        await self.service.kill(pb.KillRequest(id=name, signal=9), CTX)
        await self.service.wait(pb.WaitRequest(id=name), CTX)
        await self.service.delete(pb.DeleteRequest(id=name), CTX)


def run(body: Callable[[Bench], Awaitable[None]], patience: float = 1000.0) -> Bench:
    """Runs `body` in a loop of its own, and checks that no fd is left open."""

    async def bounded() -> Bench:
        bench = Bench(patience)
        async with asyncio.timeout(TIMEOUT):
            await body(bench)
        return bench

    before = len(os.listdir("/proc/self/fd"))
    bench = asyncio.run(bounded())
    assert len(os.listdir("/proc/self/fd")) == before
    return bench


def test_a_life_is_told_in_order() -> None:
    async def body(bench: Bench) -> None:
        pid = await bench.made_and_started()
        waiting = asyncio.ensure_future(bench.service.wait(pb.WaitRequest(id="c"), CTX))
        await bench.service.kill(pb.KillRequest(id="c", signal=15), CTX)
        answer = await waiting
        assert answer.exit_status == 143
        assert answer.exited_at.seconds > 0
        state = await bench.service.state(pb.StateRequest(id="c"), CTX)
        assert (state.pid, state.status, state.exit_status) == (pid, 3, 143)
        deleted = await bench.service.delete(pb.DeleteRequest(id="c"), CTX)
        assert (deleted.pid, deleted.exit_status) == (pid, 143)
        with pytest.raises(errors.NotFound):
            await bench.service.delete(pb.DeleteRequest(id="c"), CTX)

    bench = run(body)
    assert bench.topics == ["create", "start", "exit", "delete"]
    assert bench.made[0].calls == ["exit 143", "delete"]


def test_wait_blocks_before_start_and_connect_names_the_pid() -> None:
    async def body(bench: Bench) -> None:
        created = await bench.service.create(pb.CreateTaskRequest(id="c"), CTX)
        waiting = asyncio.ensure_future(bench.service.wait(pb.WaitRequest(id="c"), CTX))
        connected = await bench.service.connect(pb.ConnectRequest(id="c"), CTX)
        assert connected.task_pid == created.pid
        assert connected.shim_pid == os.getpid()
        assert not waiting.done()
        assert (await bench.service.connect(pb.ConnectRequest(id="x"), CTX)).task_pid == 0
        await bench.service.kill(pb.KillRequest(id="c", signal=9), CTX)
        assert (await waiting).exit_status == 137
        await bench.service.delete(pb.DeleteRequest(id="c"), CTX)

    assert run(body).topics == ["create", "exit", "delete"]


def test_a_created_container_may_be_deleted() -> None:
    async def body(bench: Bench) -> None:
        await bench.service.create(pb.CreateTaskRequest(id="c"), CTX)
        assert (await bench.service.delete(pb.DeleteRequest(id="c"), CTX)).exit_status == 137

    assert run(body).topics == ["create", "exit", "delete"]


def test_unknown_ids_are_not_found() -> None:
    async def body(bench: Bench) -> None:
        service = bench.service
        calls = [
            service.start(pb.StartRequest(id="x"), CTX),
            service.state(pb.StateRequest(id="x"), CTX),
            service.kill(pb.KillRequest(id="x", signal=9), CTX),
            service.wait(pb.WaitRequest(id="x"), CTX),
            service.delete(pb.DeleteRequest(id="x"), CTX),
            service.pids(pb.PidsRequest(id="x"), CTX),
            service.stats(pb.StatsRequest(id="x"), CTX),
            service.exec(pb.ExecProcessRequest(id="x", exec_id="e"), CTX),
            service.pause(pb.PauseRequest(id="x"), CTX),
            service.update(pb.UpdateTaskRequest(id="x"), CTX),
        ]
        for call in calls:
            with pytest.raises(errors.NotFound):
                await call

    run(body)


def test_states_refuse_what_cannot_be() -> None:
    async def body(bench: Bench) -> None:
        service = bench.service
        await bench.made_and_started()
        with pytest.raises(errors.AlreadyExists):
            await service.create(pb.CreateTaskRequest(id="c"), CTX)
        with pytest.raises(errors.FailedPrecondition):
            await service.start(pb.StartRequest(id="c"), CTX)
        with pytest.raises(errors.FailedPrecondition):
            await service.delete(pb.DeleteRequest(id="c"), CTX)
        with pytest.raises(errors.FailedPrecondition):
            await service.resume(pb.ResumeRequest(id="c"), CTX)
        with pytest.raises(errors.Unimplemented):
            await service.checkpoint(pb.CheckpointTaskRequest(id="c"), CTX)
        with pytest.raises(errors.Unimplemented):
            await service.create(pb.CreateTaskRequest(id="d", checkpoint="/x"), CTX)
        await bench.end()
        with pytest.raises(errors.NotFound):
            await service.kill(pb.KillRequest(id="c", signal=9), CTX)

    run(body)


def test_a_failed_create_leaves_the_name_free() -> None:
    async def body(bench: Bench) -> None:
        bench.failure = errors.InvalidArgument("no module")
        with pytest.raises(errors.InvalidArgument):
            await bench.service.create(pb.CreateTaskRequest(id="c"), CTX)
        await bench.service.shutdown(pb.ShutdownRequest(id="c"), CTX)
        assert bench.is_empty
        bench.failure = None
        await bench.made_and_started()
        await bench.end()

    assert run(body).topics == ["create", "start", "exit", "delete"]


def test_a_failed_start_leaves_the_container_created() -> None:
    async def body(bench: Bench) -> None:
        bench.container = lambda: FakeContainer(fail=True)  # type: ignore[assignment,misc]
        await bench.service.create(pb.CreateTaskRequest(id="c"), CTX)
        with pytest.raises(errors.StepFailed):
            await bench.service.start(pb.StartRequest(id="c"), CTX)
        assert (await bench.service.state(pb.StateRequest(id="c"), CTX)).status == 1
        await bench.service.delete(pb.DeleteRequest(id="c"), CTX)

    assert "start" not in run(body).topics


def test_exec_comes_and_goes_within_its_container() -> None:
    async def body(bench: Bench) -> None:
        service = bench.service
        await bench.made_and_started()
        await service.exec(pb.ExecProcessRequest(id="c", exec_id="e", stdin=""), CTX)
        with pytest.raises(errors.AlreadyExists):
            await service.exec(pb.ExecProcessRequest(id="c", exec_id="e"), CTX)
        state = await service.state(pb.StateRequest(id="c", exec_id="e"), CTX)
        assert (state.status, state.pid, state.exec_id) == (1, 0, "e")
        with pytest.raises(errors.FailedPrecondition):
            await service.kill(pb.KillRequest(id="c", exec_id="e", signal=9), CTX)
        bench.made[0].exec_argv = ("/bin/sh", "-c", "exit 7")
        started = await service.start(pb.StartRequest(id="c", exec_id="e"), CTX)
        pids = await service.pids(pb.PidsRequest(id="c"), CTX)
        assert started.pid in {p.pid for p in pids.processes}
        waited = await service.wait(pb.WaitRequest(id="c", exec_id="e"), CTX)
        assert waited.exit_status == 7
        deleted = await service.delete(pb.DeleteRequest(id="c", exec_id="e"), CTX)
        assert deleted.exit_status == 7
        with pytest.raises(errors.NotFound):
            await service.state(pb.StateRequest(id="c", exec_id="e"), CTX)
        await bench.end()

    expected = "create start exec-added exec-started exit exit delete"
    assert run(body).topics == expected.split()


def test_execs_end_before_init_and_a_bad_one_lets_its_waiters_go() -> None:
    async def body(bench: Bench) -> None:
        service = bench.service
        await bench.made_and_started()
        await service.exec(pb.ExecProcessRequest(id="c", exec_id="e"), CTX)
        await service.start(pb.StartRequest(id="c", exec_id="e"), CTX)
        bad = pb.ExecProcessRequest(id="c", exec_id="bad")
        bad.spec.value = b"bad"
        await service.exec(bad, CTX)
        waiting = asyncio.ensure_future(service.wait(pb.WaitRequest(id="c", exec_id="bad"), CTX))
        with pytest.raises(errors.InvalidArgument):
            await service.start(pb.StartRequest(id="c", exec_id="bad"), CTX)
        assert (await waiting).exit_status == 255
        await bench.end()

    bench = run(body)
    exits = [event.id for topic, event in bench.events if topic == "/tasks/exit"]  # type: ignore[attr-defined]
    assert exits == ["e", "c"]


async def slow_start(bench: Bench) -> asyncio.Future[pb.StartResponse]:
    """A Start of exec "e" that is still at work, as while a tool is compiled."""
    request = pb.ExecProcessRequest(id="c", exec_id="e")
    request.spec.value = b"slow"
    await bench.service.exec(request, CTX)
    starting = bench.service.start(pb.StartRequest(id="c", exec_id="e"), CTX)
    started = asyncio.ensure_future(starting)
    await bench.made[0].slow_one_is_made.wait()
    return started


def test_a_start_that_is_given_up_runs_nothing_later() -> None:
    """A probe whose time is over: its Start is no longer waited for, and then comes Delete."""

    async def body(bench: Bench) -> None:
        service = bench.service
        await bench.made_and_started()
        started = await slow_start(bench)
        started.cancel()  # containerd's deadline
        with pytest.raises(errors.FailedPrecondition):
            await service.kill(pb.KillRequest(id="c", exec_id="e", signal=9), CTX)
        waiting = asyncio.ensure_future(service.wait(pb.WaitRequest(id="c", exec_id="e"), CTX))
        await service.delete(pb.DeleteRequest(id="c", exec_id="e"), CTX)
        bench.made[0].gate.set()
        await waiting
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(bench.made[0].handles) == 1
        await bench.end()

    assert run(body).topics == ["create", "start", "exec-added", "exit", "delete"]


def test_a_start_at_work_ends_with_its_container() -> None:
    async def body(bench: Bench) -> None:
        service = bench.service
        await bench.made_and_started()
        started = await slow_start(bench)
        bench.made[0].init.kill(9)
        with pytest.raises(errors.FailedPrecondition):
            await started
        await service.wait(pb.WaitRequest(id="c"), CTX)
        assert (await service.state(pb.StateRequest(id="c", exec_id="e"), CTX)).status == 3
        await service.delete(pb.DeleteRequest(id="c"), CTX)

    assert run(body).topics == ["create", "start", "exec-added", "exit", "delete"]


def test_an_exec_that_failed_to_start_is_gone_with_its_delete() -> None:
    async def body(bench: Bench) -> None:
        service = bench.service
        await bench.made_and_started()
        request = pb.ExecProcessRequest(id="c", exec_id="e")
        request.spec.value = b"not started"
        await service.exec(request, CTX)
        with pytest.raises(errors.StepFailed):
            await service.start(pb.StartRequest(id="c", exec_id="e"), CTX)
        answer = await service.delete(pb.DeleteRequest(id="c", exec_id="e"), CTX)
        assert answer.exit_status == 137
        await bench.end()

    run(body)


def test_a_container_that_is_killed_while_it_is_being_frozen_is_thawed() -> None:
    async def body(bench: Bench) -> None:
        service = bench.service
        await bench.made_and_started()
        box = bench.made[0]
        box.frozen.clear()
        # Whoever a fake signals dies at once; this one outlives it, as a frozen process does.
        box.init.kill = lambda signum: None  # type: ignore[method-assign]
        pausing = asyncio.ensure_future(service.pause(pb.PauseRequest(id="c"), CTX))
        await box.freezing.wait()
        await service.kill(pb.KillRequest(id="c", signal=9), CTX)
        box.frozen.set()
        await pausing
        await box.resumed.wait()
        del box.init.kill
        await bench.end()

    run(body)


def test_a_container_that_containerd_has_forgotten_is_freed(tmp_path: Path) -> None:
    """`delete` was run while the shim lived: the container is killed, its bundle removed."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()

    async def body(bench: Bench) -> None:
        await bench.service.create(pb.CreateTaskRequest(id="c", bundle=str(bundle)), CTX)
        await bench.service.start(pb.StartRequest(id="c"), CTX)
        bench.made[0].init.kill(9)
        await bench.service.wait(pb.WaitRequest(id="c"), CTX)
        assert (await bench.service.state(pb.StateRequest(id="c"), CTX)).status == 3
        bundle.rmdir()
        await bench.emptied.wait()
        with pytest.raises(errors.NotFound):
            await bench.service.state(pb.StateRequest(id="c"), CTX)

    assert run(body, patience=0.01).topics == ["create", "start", "exit", "delete"]


def test_the_name_of_a_forgotten_container_can_be_used_again(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        for _ in range(2):
            await bench.service.create(pb.CreateTaskRequest(id="c", bundle=str(tmp_path)), CTX)
            await bench.service.start(pb.StartRequest(id="c"), CTX)
            bench.made[-1].init.kill(9)
            await bench.service.wait(pb.WaitRequest(id="c"), CTX)
        await bench.service.delete(pb.DeleteRequest(id="c"), CTX)

    assert run(body).topics == ["create", "start", "exit", "delete"] * 2


def test_oom_is_told_before_the_exit() -> None:
    async def body(bench: Bench) -> None:
        await bench.made_and_started()
        bench.made[0].oom_at_exit = True
        await bench.end()

    assert run(body).topics == ["create", "start", "oom", "exit", "delete"]


def test_pause_resume_update() -> None:
    async def body(bench: Bench) -> None:
        service = bench.service
        await bench.made_and_started()
        await service.pause(pb.PauseRequest(id="c"), CTX)
        assert (await service.state(pb.StateRequest(id="c"), CTX)).status == 4
        with pytest.raises(errors.FailedPrecondition):
            await service.exec(pb.ExecProcessRequest(id="c", exec_id="e"), CTX)
        await service.resume(pb.ResumeRequest(id="c"), CTX)
        update = pb.UpdateTaskRequest(id="c")
        update.resources.value = b"{}"
        await service.update(update, CTX)
        await bench.end()

    bench = run(body)
    assert bench.made[0].calls[:3] == ["pause", "resume", "update {}"]
    assert bench.topics[2:4] == ["paused", "resumed"]


def test_state_echoes_stdio_and_fifos_end_with_the_process(tmp_path: Path) -> None:
    paths = {name: str(tmp_path / name) for name in ("stdin", "stdout", "stderr")}
    for path in paths.values():
        os.mkfifo(path)

    async def body(bench: Bench) -> None:
        await bench.service.create(pb.CreateTaskRequest(id="c", bundle="/b", **paths), CTX)  # type: ignore[arg-type]
        state = await bench.service.state(pb.StateRequest(id="c"), CTX)
        assert {name: getattr(state, name) for name in paths} == paths
        reader = os.open(paths["stdout"], os.O_RDONLY | os.O_NONBLOCK)
        try:
            await bench.service.start(pb.StartRequest(id="c"), CTX)
            # While it runs the shim holds ends of its own: no writer yet, yet no end of file.
            await bench.service.close_io(pb.CloseIORequest(id="c", stdin=True), CTX)
            await bench.end()
            assert os.read(reader, 1) == b""
        finally:
            os.close(reader)

    run(body)


@pytest.mark.parametrize("stdout", ["ftp://x/y", "relative", "/does/not/exist"])
def test_bad_stdio_is_refused(stdout: str) -> None:
    async def body(bench: Bench) -> None:
        with pytest.raises((errors.InvalidArgument, FileNotFoundError)):
            await bench.service.create(pb.CreateTaskRequest(id="c", stdout=stdout), CTX)
        await bench.service.shutdown(pb.ShutdownRequest(id="c"), CTX)
        assert bench.is_empty

    run(body)


def test_file_stdio_is_appended_to(tmp_path: Path) -> None:
    target = tmp_path / "a" / "log"

    async def body(bench: Bench) -> None:
        request = pb.CreateTaskRequest(id="c", stdout=f"file://{target}")
        await bench.service.create(request, CTX)
        await bench.service.delete(pb.DeleteRequest(id="c"), CTX)

    run(body)
    assert target.exists()
