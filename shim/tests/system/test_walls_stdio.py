"""Containers whose output nobody takes, or that take no input: the shim goes on, and so do kills.

One that is stuck would be taken for dead by containerd, and its pod with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import select
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from copepod_api import task_v2_pb2 as pb
from fakes import shimhost, walls
from fakes.walls import cri

pytestmark = walls.needs

LINE = "x" * 63
FLOOD = ("sh", "-c", f"while :; do echo {LINE}; done")
IDLE = ("sleep", "1000")
LIMIT = 90.0
STDIO = ("fifo", "terminal", "binary", "file", "terminal-binary", "terminal-file")
# A log program that is ready at once and never reads.
DEAF = """#!/bin/sh
echo $$ > {pid}
exec 5>&-
exec sleep 1000
"""


def scenario(spec: dict[str, Any], body: Callable[[shimhost.Shim], Awaitable[None]]) -> None:
    """Runs `body` with a shim of its own, and with a limit."""

    async def bounded() -> None:
        async with asyncio.timeout(LIMIT), shimhost.Shim(spec) as shim:
            await body(shim)

    asyncio.run(bounded())


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def stdio(kind: str, home: Path) -> dict[str, Any]:
    """What Create or Exec is given: FIFOs that exist, a log program that doesn't read, a file."""
    terminal = kind.startswith("terminal")
    given: dict[str, Any] = {"terminal": terminal}
    stdin = home / "stdin"
    os.mkfifo(stdin)
    given["stdin"] = str(stdin)
    if kind.endswith("binary"):
        program = home / "deaf"
        program.write_text(DEAF.format(pid=home / "deaf.pid"))
        program.chmod(0o755)
        given["stdout"] = f"binary://{program}"
    elif kind.endswith("file"):
        given["stdout"] = f"file://{home}/small/log"
    else:
        os.mkfifo(home / "stdout")
        given["stdout"] = str(home / "stdout")
    if not terminal:
        given["stderr"] = given["stdout"]
    return given


async def stays_idle(shim: shimhost.Shim, pid: int, exec_id: str) -> None:
    """A second in which the process goes on, held back, and nobody turns in circles."""
    before = [shimhost.cpu_seconds(one) for one in (shim.pid, pid)]
    with pytest.raises(Exception, match="deadline"):
        await shim.task.wait(pb.WaitRequest(id="box", exec_id=exec_id), timeout=1)
    used = [shimhost.cpu_seconds(one) for one in (shim.pid, pid)]
    for was, is_now in zip(before, used, strict=True):
        assert is_now - was < 0.5


async def settles(shim: shimhost.Shim, pid: int, exec_id: str) -> None:
    """The pipes on the way are full after a while, and that is where it stays."""
    for _ in range(10):
        try:
            await stays_idle(shim, pid, exec_id)
        except AssertionError:
            continue
        return
    await stays_idle(shim, pid, exec_id)


async def begin(
    shim: shimhost.Shim, args: tuple[str, ...], exec_id: str, given: dict[str, Any]
) -> int:
    """Starts `args` as the container's first process, or in one that sleeps; gives the pid."""
    if not exec_id:
        return await shim.create(**given)
    await shim.create()
    process = {**shim.bundle.spec["process"], "args": list(args), "terminal": given["terminal"]}
    return await shim.exec(json.dumps(process).encode(), **given)


def spec_for(args: tuple[str, ...], exec_id: str, kind: str) -> dict[str, Any]:
    terminal = kind.startswith("terminal") and not exec_id
    return cri(*(IDLE if exec_id else args), process__terminal=terminal)


async def finish(shim: shimhost.Shim, exec_id: str) -> None:
    """Kills and deletes all that there is."""
    for one in dict.fromkeys((exec_id, "")):
        assert await shim.kill(one) == 137
        assert (await shim.state(one)).status == 3
        await shim.delete(one)


@pytest.mark.parametrize("exec_id", ["", "more"], ids=["init", "exec"])
@pytest.mark.parametrize("kind", STDIO)
def test_output_that_nobody_takes(tmp_path: Path, small: Path, kind: str, exec_id: str) -> None:
    async def body(shim: shimhost.Shim) -> None:
        before = shim.descriptors()
        pid = await begin(shim, FLOOD, exec_id, stdio(kind, tmp_path))
        await settles(shim, pid, exec_id)
        assert (await shim.state(exec_id)).status == 2
        assert pid in await shim.pids()
        await finish(shim, exec_id)
        assert shim.descriptors() == before
        if kind.endswith("binary"):
            with pytest.raises(ProcessLookupError):
                os.kill(int((tmp_path / "deaf.pid").read_text()), 0)

    scenario(spec_for(FLOOD, exec_id, kind), body)


@pytest.mark.parametrize("exec_id", ["", "more"], ids=["init", "exec"])
@pytest.mark.parametrize("kind", ["fifo", "terminal"])
def test_input_that_nobody_reads(tmp_path: Path, kind: str, exec_id: str) -> None:
    async def body(shim: shimhost.Shim) -> None:
        before = shim.descriptors()
        given = stdio(kind, tmp_path)
        pid = await begin(shim, IDLE, exec_id, given)
        client = os.open(given["stdin"], os.O_WRONLY | os.O_NONBLOCK)
        try:
            fill(client)
            await settles(shim, pid, exec_id)
            assert (await shim.state(exec_id)).status == 2
            assert pid in await shim.pids()
            resize = pb.ResizePtyRequest(id="box", exec_id=exec_id, width=80, height=24)
            await shim.task.resize_pty(resize, timeout=shimhost.AT_ONCE)
            close = pb.CloseIORequest(id="box", exec_id=exec_id, stdin=True)
            await shim.task.close_io(close, timeout=shimhost.AT_ONCE)
            assert await shim.kill(exec_id) == 137
            # Nobody holds the other end any more: a client that waits to write is let go.
            with pytest.raises(BrokenPipeError):
                os.write(client, b"y")
        finally:
            os.close(client)
        await shim.delete(exec_id)
        if exec_id:
            await finish(shim, "")
        assert shim.descriptors() == before

    scenario(spec_for(IDLE, exec_id, kind), body)


def fill(fd: int) -> None:
    """Writes lines until none is taken for a while, as a client that sends a file does."""
    data = f"{LINE}\n".encode() * 64
    while True:
        try:
            os.write(fd, data)
        except BlockingIOError:
            if not writable(fd):
                return


def writable(fd: int) -> bool:
    return bool(select.select([], [fd], [], 0.5)[1])


def test_a_flood_on_a_terminal_that_is_read(tmp_path: Path) -> None:
    """Every byte passes through the shim here, and still it answers."""

    async def body(shim: shimhost.Shim) -> None:
        given = stdio("terminal", tmp_path)
        reader = os.open(given["stdout"], os.O_RDONLY | os.O_NONBLOCK)
        loop = asyncio.get_running_loop()
        taken = 0
        enough = asyncio.Event()

        def take() -> None:
            nonlocal taken
            taken += len(os.read(reader, 65536))
            if taken > 4 << 20:
                enough.set()

        loop.add_reader(reader, take)
        try:
            pid = await shim.create(**given)
            while not enough.is_set():
                assert (await shim.state()).status == 2
                assert pid in await shim.pids()
            assert await shim.kill() == 137
        finally:
            loop.remove_reader(reader)
            os.close(reader)
        await shim.delete()

    scenario(spec_for(FLOOD, "", "terminal"), body)


def test_the_last_output_of_a_terminal_waits_for_its_reader(tmp_path: Path) -> None:
    """As when containerd is away: the exit is told at once, the output is there when it is back."""
    args = ("sh", "-c", f"i=0; while [ $i -lt 1500 ]; do echo {LINE}; i=$((i + 1)); done; echo end")

    async def body(shim: shimhost.Shim) -> None:
        given = stdio("terminal", tmp_path)
        pid = await shim.create(**given)
        reader = os.open(given["stdout"], os.O_RDONLY | os.O_NONBLOCK)
        try:
            # More than the FIFO takes: the rest is in the terminal and in the shim.
            await settles(shim, pid, "")
            assert await shim.kill() == 137
            out = await read_to_end(reader)
        finally:
            os.close(reader)
        assert len(out) > 65536 + 4096
        assert set(out.splitlines()[:-1]) == {LINE}
        await shim.delete()

    scenario(spec_for(args, "", "terminal"), body)


async def read_to_end(fd: int) -> str:
    loop = asyncio.get_running_loop()
    chunks: list[bytes] = []
    over = asyncio.Event()

    def take() -> None:
        chunk = os.read(fd, 65536)
        chunks.append(chunk)
        if not chunk:
            over.set()

    loop.add_reader(fd, take)
    try:
        await asyncio.wait_for(over.wait(), walls.TIMEOUT)
    finally:
        loop.remove_reader(fd)
    return b"".join(chunks).decode()


def test_a_terminals_file_that_takes_a_part_is_full(tmp_path: Path) -> None:
    from copepod.task.console import Console

    master, slave = os.openpty()
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def body() -> None:
        console = Console(master, -1, fd)
        os.write(slave, b"twenty characters, so")
        await asyncio.wait_for(console.end(), LIMIT)
        console.close()

    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        asyncio.run(body())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        os.close(slave)
        os.close(fd)
    assert (tmp_path / "log").read_bytes() == b"twenty cha"


@pytest.mark.parametrize("exec_id", ["", "more"], ids=["init", "exec"])
def test_a_log_file_is_out_of_the_containers_reach(tmp_path: Path, exec_id: str) -> None:
    """It gets no hold of the node's file: it would make a program of it that runs as root, or
    unwrite what it has said."""
    log = tmp_path / "log"
    script = "echo one; chmod 4777 /proc/self/fd/1; echo x > /proc/self/fd/1; echo two >&2; true"
    given = {"stdout": f"file://{log}", "stderr": f"file://{log}"}

    async def body(shim: shimhost.Shim) -> None:
        before = shim.descriptors()
        await begin(shim, ("sh", "-c", script), exec_id, {"terminal": False, **given})
        await shim.task.wait(pb.WaitRequest(id="box", exec_id=exec_id), timeout=LIMIT)
        await shim.delete(exec_id)
        assert log.stat().st_mode & 0o7777 == 0o644
        assert log.stat().st_uid == 0
        assert log.read_text() == "one\nx\ntwo\n"
        if exec_id:
            await finish(shim, "")
        assert shim.descriptors() == before

    scenario(spec_for(("sh", "-c", script), exec_id, "file"), body)


def test_a_log_file_that_is_a_fifo_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")

    async def body(shim: shimhost.Shim) -> None:
        with pytest.raises(Exception, match="No such device"):
            await shim.create(stdout=f"file://{tmp_path}/log")
        request = pb.ConnectRequest(id="box")
        assert (await shim.task.connect(request, timeout=shimhost.AT_ONCE)).task_pid == 0

    scenario(cri(*IDLE), body)


def test_a_log_program_that_never_says_that_it_is_ready(tmp_path: Path) -> None:
    program = tmp_path / "slow"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)

    async def body(shim: shimhost.Shim) -> None:
        before = shim.descriptors()
        creating = asyncio.ensure_future(shim.create(stdout=f"binary://{program}"))
        request = pb.ConnectRequest(id="box")
        while not creating.done():
            await shim.task.connect(request, timeout=shimhost.AT_ONCE)
            await asyncio.wait([creating], timeout=0.5)
        with pytest.raises(Exception, match="is not ready after 10 s"):
            await creating
        assert shim.descriptors() == before

    scenario(cri(*IDLE), body)
