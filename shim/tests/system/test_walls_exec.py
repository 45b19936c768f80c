"""Processes that join a running container, on a real kernel."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from copepod import errors
from copepod.container import spawn
from copepod.linux import caps
from fakes import walls
from fakes.walls import cri, nothing_is_left  # noqa: F401

pytestmark = walls.needs

Inside = Callable[..., Awaitable[walls.Result]]


def within(scenario: Callable[[Inside, spawn.Process], Awaitable[Any]], **changes: Any) -> Any:
    """Runs the scenario with a container that sleeps."""

    async def main() -> Any:
        bundle = walls.Bundle(cri("sleep", "1000", **changes))
        order = bundle.order()
        init = await spawn.create(order, walls.no_module)
        await init.start()

        async def inside(*args: str, **more: Any) -> walls.Result:
            return await walls.joined(bundle, order, init, *args, **more)

        try:
            return await scenario(inside, init)
        finally:
            init.kill(signal.SIGKILL)
            assert walls.ended(init) == 137
            bundle.close()

    return asyncio.run(main())


def test_it_runs_in_the_containers_namespaces_and_root() -> None:
    async def scenario(inside: Inside, init: spawn.Process) -> None:
        found = await inside("sh", "-c", "readlink /proc/self/ns/*; cat /proc/1/cmdline; exit 3")
        assert found.code == 3
        assert "sleep" in found.out
        seen = await inside("sh", "-c", "for i in /proc/self/ns/*; do readlink $i; done")
        for line in seen.out.split():
            kind = line.partition(":")[0]
            assert os.readlink(f"/proc/{init.pid}/ns/{kind}") == line

    within(scenario)


def test_identity_cwd_and_environment_are_its_own() -> None:
    async def scenario(inside: Inside, init: spawn.Process) -> None:
        names = ["CAP_KILL"]
        found = await inside(
            *("sh", "-c", "id -u; pwd; umask; echo $HOME $WORD; cat /proc/self/status"),
            user={"uid": 1000, "gid": 1000, "umask": 0o77},
            cwd="/tmp",
            env=["PATH=/bin", "WORD=here"],
            capabilities=dict.fromkeys(("bounding", "effective", "permitted"), names),
        )
        assert found.out.startswith("1000\n/tmp\n0077\n/home/app here\n")
        sets = dict(re.findall(r"^(\w+):\s*(.*)$", found.out, re.MULTILINE))
        assert sets["CapBnd"] == f"{caps.mask(names):016x}"
        assert sets["CapEff"] == "0" * 16
        assert sets["NoNewPrivs"] == "1"

    within(scenario)


def test_cpu_affinity_is_of_exec_alone() -> None:
    async def scenario(inside: Inside, init: spawn.Process) -> None:
        affinity = {"initial": "1", "final": "0"}
        found = await inside(
            "grep", "Cpus_allowed_list", "/proc/self/status", execCPUAffinity=affinity
        )
        assert found.out.split()[-1] == "0"
        with pytest.raises(errors.StepFailed, match="CPU affinity"):
            await inside("true", execCPUAffinity={"final": "4095"})

    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU leaves no choice")
    within(scenario)


def test_only_stdio_is_open_and_nothing_is_inherited() -> None:
    async def scenario(inside: Inside, init: spawn.Process) -> None:
        assert (await inside("ls", "/proc/self/fd")).out.split() == ["0", "1", "2", "3"]

    within(scenario)


@pytest.mark.parametrize(
    ("args", "changes", "kind", "words"),
    [
        (["nowhere"], {}, errors.NotFound, "nowhere in $PATH"),
        (["true"], {"cwd": "/nowhere"}, errors.StepFailed, "working directory /nowhere: No such"),
        (["true"], {"cwd": "/etc/passwd"}, errors.StepFailed, "Not a directory"),
        (["true"], {"cwd": "/proc/self/fd/3"}, errors.StepFailed, "/proc/self/fd/3"),
        (["text"], {}, errors.InvalidArgument, "exec format error"),
        (["no-loader"], {}, errors.NotFound, "the interpreter"),
    ],
)
def test_failures_are_one_sentence(
    args: list[str], changes: dict[str, Any], kind: type[errors.Error], words: str
) -> None:
    async def scenario(inside: Inside, init: spawn.Process) -> str:
        with pytest.raises(kind) as caught:
            await inside(*args, **changes)
        return str(caught.value)

    sentence = within(scenario)
    assert words in sentence
    assert "\n" not in sentence


def test_a_terminal() -> None:
    async def main() -> str:
        bundle = walls.Bundle(cri("sleep", "1000"))
        order = bundle.order()
        init = await spawn.create(order, walls.no_module)
        await init.start()
        try:
            wanted = walls.exec_order(
                bundle,
                order,
                init,
                ["sh", "-c", "tty; read x; echo $x"],
                (-1, -1, -1),
                terminal=True,
            )
            process = await spawn.exec_(wanted, walls.no_module)
            await process.start()
            os.write(process.console, b"word\n")
            out = walls.read_all(process.console)
            os.close(process.console)
            walls.ended(process)
        finally:
            init.kill(signal.SIGKILL)
            walls.ended(init)
            bundle.close()
        return out

    lines = asyncio.run(main()).replace("\r", "").splitlines()
    assert sorted(lines) == ["/dev/pts/0", "word", "word"]  # the echo comes when it comes


def test_a_container_that_has_ended() -> None:
    async def main() -> None:
        bundle = walls.Bundle(cri("true"))
        order = bundle.order()
        init = await spawn.create(order, walls.no_module)
        await init.start()
        os.waitid(os.P_PIDFD, init.pidfd, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222
        with pytest.raises(errors.StepFailed, match="has it ended"):
            await walls.joined(bundle, order, init, "true")
        walls.ended(init)
        bundle.close()

    asyncio.run(main())


def test_its_exit_is_ours_to_reap() -> None:
    """The process in between has gone, so the child of a child is the shim's own."""

    async def scenario(inside: Inside, init: spawn.Process) -> None:
        me = os.getpid()
        found = await inside("sh", "-c", "cat /proc/$$/status; exit 5")
        assert found.code == 5
        assert walls.read(f"/proc/{me}/task/{me}/children").split() == [str(init.pid)]

    within(scenario)


def test_a_request_that_is_given_up_at_any_moment_leaves_nothing() -> None:
    """The census, too: above all the process that one in between has made, and not yet told of."""

    async def scenario(inside: Inside, init: spawn.Process) -> None:
        for step in range(24):
            wanted = asyncio.ensure_future(inside("true"))
            await asyncio.sleep(step * 0.002)
            wanted.cancel()
            try:
                await wanted
            except asyncio.CancelledError:
                pass
        me = os.getpid()
        assert walls.read(f"/proc/{me}/task/{me}/children").split() == [str(init.pid)]

    within(scenario)
