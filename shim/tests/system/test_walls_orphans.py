"""A container in the node's pid namespace: whom its processes leave behind is not the shim's."""

from __future__ import annotations

import asyncio
import json

from copepod_api import task_v2_pb2 as pb
from fakes import shimhost, walls
from fakes.walls import cri

pytestmark = walls.needs

LIMIT = 90.0
# Each round leaves a process whose parent has ended, and which ends soon itself.
BREEDER = "while :; do (sleep 0.02 &); (sleep 1000 &); sleep 0.01; done"
KINDS = ("ipc", "uts", "mount", "network", "cgroup")


def children(pid: int) -> list[str]:
    """The children of a process, each with the letter of its state."""
    found = []
    for child in walls.read(f"/proc/{pid}/task/{pid}/children").split():
        name, state = walls.read(f"/proc/{child}/stat").split("(", 1)[1].rsplit(")", 1)
        found.append(f"{child} {name} {state.split()[0]}")
    return found


def test_orphans_of_a_container_are_not_adopted_while_an_exec_is_made() -> None:
    """Nobody would wait for them: they would be zombies as long as the pod lives."""
    spec = cri("sh", "-c", BREEDER, linux__namespaces=[{"type": kind} for kind in KINDS])

    async def body(shim: shimhost.Shim) -> None:
        pid = await shim.create()
        process = json.dumps({**spec["process"], "args": ["true"]}).encode()
        for _ in range(30):
            await shim.exec(process)
            waited = pb.WaitRequest(id="box", exec_id="more")
            assert (await shim.task.wait(waited, timeout=shimhost.TIMEOUT)).exit_status == 0
            await shim.delete("more")
        mine = children(shim.pid)
        assert [line.split()[0] for line in mine] == [str(pid)], mine
        assert await shim.kill() == 137
        await shim.delete()
        assert children(shim.pid) == []

    async def bounded() -> None:
        async with asyncio.timeout(LIMIT), shimhost.Shim(spec) as shim:
            await body(shim)

    asyncio.run(bounded())
