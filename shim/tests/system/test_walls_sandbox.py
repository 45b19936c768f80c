"""A pod on a real kernel: the process that waits, containers that join it, terminals, hooks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from copepod import errors
from copepod.child import pause
from copepod.container import hooks, spawn
from fakes import walls
from fakes.walls import cri, nothing_is_left  # noqa: F401

pytestmark = walls.needs

SHARED = ("network", "ipc", "uts", "pid")


async def sandbox(spec: dict[str, Any] | None = None) -> spawn.Process:
    bundle = walls.Bundle(spec or cri("/pause"))
    process = await spawn.create(bundle.order(sandbox=True), walls.no_module)
    await process.start()
    bundle.close()
    return process


def in_pod(process: spawn.Process, *args: str, **changes: Any) -> dict[str, Any]:
    spec = cri(*args, **changes)
    for one in spec["linux"]["namespaces"]:
        if one["type"] in SHARED:
            name = {"network": "net"}.get(one["type"], one["type"])
            one["path"] = f"/proc/{process.pid}/ns/{name}"
    del spec["hostname"]
    return spec


def test_the_sandbox_waits_and_ends_at_sigterm() -> None:
    async def scenario() -> None:
        process = await sandbox()
        assert process.kind == "sandbox"
        walls.until(lambda: walls.read(f"/proc/{process.pid}/comm") == "copepod-pause\n")
        assert sorted(os.listdir(f"/proc/{process.pid}/fd")) == ["0", "1", "2"]
        assert {os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in "012"} == {"/dev/null"}
        process.kill(signal.SIGTERM)
        assert walls.ended(process) == 0

    asyncio.run(scenario())


def test_signals_that_a_sandbox_does_not_know_do_not_end_it() -> None:
    async def scenario() -> None:
        process = await sandbox()
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH, 34):
            process.kill(number)
        process.kill(signal.SIGINT)
        assert walls.ended(process) == 0

    asyncio.run(scenario())


def test_without_its_program_the_sandbox_waits_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pause, "open_image", lambda: -1)

    async def scenario() -> None:
        process = await sandbox()
        walls.until(lambda: walls.read(f"/proc/{process.pid}/comm") == "copepod-pause\n")
        process.kill(signal.SIGTERM)
        assert walls.ended(process) == 0

    asyncio.run(scenario())


def denying(*names: str) -> dict[str, Any]:
    rule = {"names": list(names), "action": "SCMP_ACT_ERRNO"}
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}


@pytest.mark.parametrize("nnp", [True, False])
def test_the_sandbox_is_under_its_seccomp_filter(nnp: bool) -> None:
    async def scenario() -> str:
        profile = denying("mkdir", "mkdirat")
        process = await sandbox(cri("/pause", linux__seccomp=profile, process__noNewPrivileges=nnp))
        status = walls.read(f"/proc/{process.pid}/status")
        process.kill(signal.SIGTERM)
        assert walls.ended(process) == 0
        return status

    assert "\nSeccomp:\t2\n" in asyncio.run(scenario())


def test_a_sandbox_that_may_not_wait_for_signals_sleeps() -> None:
    """No loop without end on a profile that was written for another program."""
    pause_, ppoll = 34, 73  # the last is arm64's, which has no pause(2)
    last = {"x86_64": pause_, "aarch64": ppoll}[os.uname().machine]

    async def scenario() -> None:
        process = await sandbox(cri("/pause", linux__seccomp=denying("rt_sigtimedwait", "wait4")))
        walls.until(lambda: walls.read(f"/proc/{process.pid}/syscall").startswith(f"{last} "))
        process.kill(signal.SIGTERM)
        process.kill(signal.SIGKILL)
        assert walls.ended(process) == 137

    asyncio.run(scenario())


def test_the_sandbox_needs_next_to_no_memory() -> None:
    async def scenario() -> int:
        process = await sandbox()
        text = walls.read(f"/proc/{process.pid}/smaps_rollup")
        process.kill(signal.SIGTERM)
        walls.ended(process)
        return int(text.partition("Pss:")[2].split()[0])

    assert asyncio.run(scenario()) < 100  # kilobytes


def test_containers_join_the_namespaces_of_the_sandbox() -> None:
    async def scenario() -> walls.Result:
        process = await sandbox()
        try:
            return await walls.run_async(
                in_pod(
                    process, "sh", "-c", "hostname; cat /proc/1/comm; echo $$; ls -l /proc/1/exe"
                )
            )
        finally:
            process.kill(signal.SIGKILL)
            assert walls.ended(process) == 137

    found = asyncio.run(scenario())
    lines = found.out.splitlines()
    assert lines[:2] == ["box", "copepod-pause"]
    assert int(lines[2]) > 1
    assert "cannot read link: Permission denied" in lines[3]  # nobody in the pod looks into it


def test_orphans_of_a_shared_pid_namespace_are_reaped() -> None:
    async def scenario() -> tuple[str, str]:
        process = await sandbox()
        try:
            # The inner shell ends first: its child is an orphan, whose parent is pid 1 then.
            text = (
                "sh -c 'sleep 0.01 & echo orphan'; "
                "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.02; "
                "ps -o ppid,stat,comm | grep -q Z || break; done; ps -o ppid,stat,comm"
            )
            found = await walls.run_async(in_pod(process, "sh", "-c", text))
            return found.out, walls.read(f"/proc/{process.pid}/status")
        finally:
            process.kill(signal.SIGTERM)
            walls.ended(process)

    out, status = asyncio.run(scenario())
    assert "orphan" in out
    assert " Z " not in out
    assert "State:\tS" in status


def test_a_container_of_a_sandbox_that_has_gone() -> None:
    async def scenario() -> dict[str, Any]:
        process = await sandbox()
        spec = in_pod(process, "true")
        process.kill(signal.SIGKILL)
        walls.ended(process)
        return spec

    with pytest.raises(errors.StepFailed, match="No such file or directory") as caught:
        walls.run(asyncio.run(scenario()))
    assert "namespace /proc/" in str(caught.value)


def test_a_terminal_of_the_containers_own() -> None:
    async def scenario() -> str:
        text = "tty; stty size; stat -c %u:%g:%a /dev/pts/0 /dev/console; cat /dev/console"
        bundle = walls.Bundle(
            cri(
                *("sh", "-c", text),
                process__terminal=True,
                process__consoleSize={"height": 33, "width": 99},
                process__user={"uid": 1000, "gid": 1000},
            )
        )
        process = await spawn.create(bundle.order(terminal=True), walls.no_module)
        assert stat.S_ISCHR(os.fstat(process.console).st_mode)
        await process.start()
        os.write(process.console, b"typed\n\x04")
        out = walls.read_all(process.console)
        os.close(process.console)
        assert walls.ended(process) == 0
        bundle.close()
        return out

    out = asyncio.run(scenario()).replace("\r\n", "\n")
    assert out.count("typed\n") == 2  # the echo, whenever it comes, and cat of /dev/console
    assert out.replace("typed\n", "") == "/dev/pts/0\n33 99\n" + "1000:5:620\n" * 2


def test_hangup_reaches_the_terminals_session() -> None:
    async def scenario() -> int:
        bundle = walls.Bundle(cri("sleep", "1000", process__terminal=True))
        # pid 1 has SIGHUP's default action, which the kernel drops, so a shell with a handler.
        bundle.spec["process"]["args"] = ["sh", "-c", "trap 'exit 9' HUP; echo up; read x; read x"]
        bundle.write()
        process = await spawn.create(bundle.order(terminal=True), walls.no_module)
        await process.start()
        assert os.read(process.console, 100).startswith(b"up")
        os.close(process.console)
        bundle.close()
        return walls.ended(process)

    assert asyncio.run(scenario()) in (1, 9)


def test_hooks_run_where_and_when_the_spec_says(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()

    def hook(name: str, text: str) -> dict[str, Any]:
        command = f"echo {name} $({text}) >> {log}; cat > {tmp_path}/{name}.json"
        return {"path": "/bin/sh", "args": ["sh", "-c", command], "env": ["PATH=/bin:/usr/bin"]}

    def inside(name: str) -> dict[str, Any]:
        return {"path": "/bin/sh", "args": ["sh", "-c", f"echo {name} > /hooked; cat > /state"]}

    spec = cri("sh", "-c", "cat /hooked /state")
    spec["hooks"] = {
        "prestart": [hook("prestart", "echo")],
        "createRuntime": [hook("createRuntime", "hostname")],
        "createContainer": [hook("createContainer", "hostname")],
        "startContainer": [inside("startContainer")],
        "poststop": [hook("poststop", "echo")],
    }
    bundle = walls.Bundle(spec)
    order = bundle.order()
    found = walls.run(spec)
    word, _, text = found.out.partition("\n")
    state = json.loads(text)
    # The start has been called, and the pid is what this namespace has (runtime.md, "State").
    assert (word, state["status"], state["pid"]) == ("startContainer", "created", 1)
    assert asyncio.run(hooks.poststop(order.spec, "box", bundle.path)) == []
    bundle.close()
    assert log.read_text().splitlines() == [
        "prestart",
        f"createRuntime {os.uname().nodename}",
        "createContainer box",
        "poststop",
    ]
    states = {
        name: json.loads((tmp_path / f"{name}.json").read_text())
        for name in ("createRuntime", "createContainer")
    }
    assert {state["status"] for state in states.values()} == {"creating"}
    assert states["createRuntime"]["pid"] > 1
    assert states["createContainer"]["pid"] == 1
    assert '"status": "stopped"' in (tmp_path / "poststop.json").read_text()


@pytest.mark.parametrize("nnp", [True, False])
def test_a_hook_inside_is_behind_all_walls(nnp: bool) -> None:
    """It runs what the image has: under the filter, and with the container's environment."""
    spec = cri(
        *("cat", "/found"),
        linux__seccomp=denying("mkdir", "mkdirat"),
        process__noNewPrivileges=nnp,
    )
    text = "mkdir /x 2>/dev/null || echo $HOSTNAME > /found; grep Seccomp: /proc/self/status"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"{text} >> /found"]}
    spec["hooks"] = {"startContainer": [hook]}
    assert walls.run(spec).out == "pod\nSeccomp:\t2\n"


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_a_hook_that_fails_ends_the_container(kind: str) -> None:
    spec = cri("true")
    spec["hooks"] = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", "echo no luck >&2; exit 3"]}],
    }
    with pytest.raises(errors.FailedPrecondition) as caught:
        walls.run(spec)
    assert str(caught.value) == f"{kind} hook /bin/sh: exit status 3: no luck"


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer"])
def test_a_hook_that_hangs_is_killed(kind: str) -> None:
    spec = cri("true")
    spec["hooks"] = {kind: [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]}
    with pytest.raises(errors.FailedPrecondition, match="not done after 1 s"):
        walls.run(spec)
