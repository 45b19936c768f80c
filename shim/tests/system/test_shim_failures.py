"""What goes wrong in a shim's life, or with it: said in a sentence, and nothing is left."""

from __future__ import annotations

import asyncio
import glob
import json
import os
import select
import signal
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import ttrpc
from copepod import answers, config, spec
from copepod.child import idmap
from copepod.container import cgroup_mounts, cgroup_tree, container, record
from copepod.engine import limits
from copepod.log import Log
from copepod.task import cleanup
from copepod_api import task_v2_pb2 as pb
from fakes import shimhost, walls
from fakes.walls import cri

pytestmark = walls.needs
IDLE = ("sleep", "1000")
LIMIT = 60.0
NODE = container.Node(config.Config(), limits.node({}), "", Log(fd=-1))
# Leaves a process in the container's cgroup, $1, and fails.
STRAY = """#!/bin/sh
sleep 1000 <&- >&- 2>&- &
echo $! > $1/cgroup.procs
echo no such thing
exit 1
"""


def scenario(
    body: Callable[[shimhost.Shim], Awaitable[None]], settings: str = "", **changes: Any
) -> None:
    """Runs `body` with a shim of its own, and with a limit."""

    async def bounded() -> None:
        async with asyncio.timeout(LIMIT), shimhost.Shim(cri(*IDLE, **changes), settings) as shim:
            await body(shim)

    asyncio.run(bounded())


def groups(name: str) -> list[str]:
    """The cgroups of that path, in any hierarchy."""
    return glob.glob(f"/sys/fs/cgroup{name}") + glob.glob(f"/sys/fs/cgroup/*{name}")


@pytest.mark.parametrize(
    ("text", "said"),
    [("nativ = 1", "unknown key nativ"), ("[guest]\nnope = 1", "no such key"), ("=", "not TOML")],
)
def test_a_wrong_configuration_is_told_at_create(tmp_path: Path, text: str, said: str) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text(text)

    async def body(shim: shimhost.Shim) -> None:
        with pytest.raises(ttrpc.Error, match=f"config.toml.*{said}"):
            await shim.create()

    scenario(body, str(settings))


def test_a_create_that_fails_at_its_last_step_leaves_nothing(tmp_path: Path) -> None:
    """A disk that is full by then; the process is there already."""
    # What is in its way is made when the record has been written for the first times.
    obstacle = tmp_path / "obstacle"
    obstacle.write_text("#!/bin/sh\nexec mkdir copepod.state.new\n")
    obstacle.chmod(0o755)
    given = cri(*IDLE)
    namespaces = [*given["linux"]["namespaces"], {"type": "time"}]

    async def body(shim: shimhost.Shim) -> None:
        path = f"{shim.bundle.path}/copepod.state.new"
        obstacle.write_text(f"#!/bin/sh\nexec mkdir {path}\n")
        with pytest.raises(ttrpc.Error, match="Is a directory"):
            await shim.create()
        os.rmdir(path)
        assert answers.STATE_FILE not in os.listdir(shim.bundle.path)
        assert walls.read(f"/proc/{shim.pid}/task/{shim.pid}/children") == ""
        assert groups(shim.bundle.spec["linux"]["cgroupsPath"]) == []

    hooks = {"createRuntime": [{"path": str(obstacle)}]}
    scenario(body, linux__namespaces=namespaces, hooks=hooks)


def test_a_failed_create_ends_what_is_in_its_cgroup_and_says_what_failed(tmp_path: Path) -> None:
    hook = tmp_path / "stray"
    hook.write_text(STRAY)
    hook.chmod(0o755)
    folder = f"{_points()[0]}/copepod-{os.getpid()}-box"

    async def body(shim: shimhost.Shim) -> None:
        with pytest.raises(ttrpc.Error, match="no such thing"):
            await shim.create()
        assert groups(shim.bundle.spec["linux"]["cgroupsPath"]) == []

    hooks = {"createRuntime": [{"path": str(hook), "args": ["stray", folder]}]}
    scenario(body, hooks=hooks)


def _points() -> list[str]:
    """Where the cgroup hierarchies are mounted."""
    host = cgroup_mounts.host()
    points = {one.point for one in host.v1.values()} or {host.unified.point}  # type: ignore[union-attr]
    return sorted(points)


def test_a_stranger_knows_of_cgroups_before_there_are_any(tmp_path: Path) -> None:
    """A shim may be killed while it makes them."""
    text = json.dumps(cri(*IDLE, linux__cgroupsPath=f"/copepod-{os.getpid()}-early"))
    loaded = spec.parse(text.encode())
    kept = record.Record(str(tmp_path / "missing"))

    async def body() -> None:
        async with AsyncExitStack() as undo:
            with pytest.raises(FileNotFoundError):
                await container._make_cgroup(NODE, loaded, kept, "early", undo)
            assert groups(loaded.linux.cgroups_path) == []

    asyncio.run(body())


def test_delete_removes_cgroups_that_were_being_made(tmp_path: Path) -> None:
    top = f"{_points()[0]}/copepod-{os.getpid()}"
    mine, others, never = f"{top}-mine", f"{top}-others", f"{top}-never"
    for path in (mine, others):
        os.mkdir(path)
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        Path(f"{others}/cgroup.procs").write_text(str(stranger.pid))
        kept = record.Record(str(tmp_path))
        kept.wanted = (mine, others, never)
        kept.write()
        cleanup.delete(str(tmp_path), "box", "ns")
        assert not os.path.exists(mine)
        assert stranger.poll() is None
        stranger.kill()
    assert cgroup_tree.remove_paths([others]) == []
    assert os.listdir(tmp_path) == []


def test_the_maker_of_a_user_namespace_ends_with_its_parent() -> None:
    """A container's process may be killed at any moment of its making."""
    maps = idmap.Maps("0 100000 65536", "0 100000 65536", False)
    for _ in range(5):
        pid = os.fork()
        if pid == 0:
            try:
                signal.alarm(int(LIMIT))
                while True:
                    os.close(idmap.user_namespace(maps))
            finally:
                os._exit(1)
        children = ""
        while not children:
            children = walls.read(f"/proc/{pid}/task/{pid}/children")
        try:
            child = os.pidfd_open(int(children.split()[0]))
        except ProcessLookupError:
            child = -1
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if child >= 0:
            over = select.select([child], [], [], 10)[0]
            if not over:
                signal.pidfd_send_signal(child, signal.SIGKILL)
            os.close(child)
            assert over, "it waits for ever"


def test_a_container_whose_bundle_was_cleaned_up_by_a_stranger_may_come_again() -> None:
    """containerd found the shim too slow and ran `delete`; then somebody uses the name again."""

    async def body(shim: shimhost.Shim) -> None:
        for _ in range(2):
            await shim.create()
            await shim._call("delete")
            waited = await shim.task.wait(pb.WaitRequest(id="box"), timeout=shimhost.AT_ONCE)
            assert waited.exit_status == 137
            assert answers.STATE_FILE not in os.listdir(shim.bundle.path)
            assert groups(shim.bundle.spec["linux"]["cgroupsPath"]) == []
        await shim.delete()

    scenario(body)


def test_a_start_after_shutdown_meets_no_shim_that_ends() -> None:
    async def body(shim: shimhost.Shim) -> None:
        path = walls.read(f"{shim.bundle.path}/address").removeprefix("unix://")
        await shim.task.shutdown(pb.ShutdownRequest(id="box"), timeout=shimhost.AT_ONCE)
        assert not os.access(path, os.F_OK)

    async def bounded() -> None:
        shim = shimhost.Shim(cri(*IDLE))
        async with asyncio.timeout(LIMIT):
            await shim.__aenter__()
            await body(shim)
            assert await shimhost.ended(shim._pidfd, shimhost.TIMEOUT)
            await shim.__aexit__(AssertionError, AssertionError(), None)

    asyncio.run(bounded())
