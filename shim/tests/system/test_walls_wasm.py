"""Wasm behind the same walls: found as execve finds a program, run as pid 1, ended by signals."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from copepod import errors
from copepod.container import spawn
from copepod.engine import compile as engine_compile
from enginekit import harness, make
from fakes import walls
from fakes.walls import bind, cri, nothing_is_left, read  # noqa: F401

pytestmark = walls.needs

DEVICES = "/sys/fs/cgroup/devices"
Resolve = Callable[[spawn.Found], Awaitable[spawn.Module]]

HELLO = make.wat(
    """(module
      (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (data (i32.const 16) "hello\\n")
      (func $say
        (i32.store (i32.const 0) (i32.const 16))
        (i32.store (i32.const 4) (i32.const 6))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
      (func (export "_start") (call $say) (call $exit (i32.const 5)))
      (func (export "spin") (call $say) (loop (br 0))))"""
)


def resolving(asked: list[spawn.Found], layer: bytes = HELLO) -> Resolve:
    """Compiles what was found, as the image room does; a missing file is the image's `layer`."""

    async def resolve(found: spawn.Found) -> spawn.Module:
        asked.append(found)
        data = layer
        if found.fd >= 0:
            data = os.pread(found.fd, 1 << 20, 0)
            os.close(found.fd)
        return spawn.Module(harness.compiled(data), engine_compile.kind(data))

    return resolve


def spec(folder: Path, *args: str, **changes: Any) -> dict[str, Any]:
    """A container with the module at /mod/hello.wasm, which needs no x bit."""
    (folder / "hello.wasm").write_bytes(HELLO)
    wanted = cri(*args, **changes)
    wanted["mounts"].append(bind(folder, "/mod"))
    return wanted


@pytest.mark.parametrize(
    ("args", "changes"),
    [
        (["/mod/hello.wasm"], {}),
        (["hello.wasm"], {"process__env": ["PATH=/bin:/mod"]}),
        (["./hello.wasm"], {"process__cwd": "/mod"}),
        (["/mod/hello.wasm"], {"process__user": {"uid": 1000, "gid": 1000}}),
        (["/mod/hello.wasm"], {"process__capabilities": None, "root__readonly": True}),
    ],
)
def test_a_file_of_the_root(tmp_path: Path, args: list[str], changes: dict[str, Any]) -> None:
    tmp_path.chmod(0o755)
    asked: list[spawn.Found] = []
    found = walls.run(spec(tmp_path, *args, **changes), resolve=resolving(asked))
    assert found == walls.Result("hello\n", 5)
    assert [(one.kind, one.name) for one in asked] == [("wasm", args[0])]


def test_a_layer_of_the_image() -> None:
    asked: list[spawn.Found] = []
    for name in ("/", "", "/app.wasm"):
        assert walls.run(cri(name), resolve=resolving(asked)) == walls.Result("hello\n", 5)
    assert [(one.kind, one.name, one.fd) for one in asked] == [
        ("missing", "/", -1),
        ("missing", "", -1),
        ("missing", "/app.wasm", -1),
    ]


@pytest.mark.skipif(
    not Path(DEVICES).is_dir(), reason="version 2 puts all device rules in force at once"
)
@pytest.mark.parametrize("terminal", [False, True])
def test_no_device_is_opened_once_the_code_is_asked_for(tmp_path: Path, terminal: bool) -> None:
    """The shim writes the device rules then, and for a moment all are denied."""
    group = Path(tempfile.mkdtemp(dir=DEVICES, prefix=f"copepod-{os.getpid()}-"))
    good = resolving([])

    async def denying(found: spawn.Found) -> spawn.Module:
        (group / "devices.deny").write_text("a")
        return await good(found)

    async def scenario() -> None:
        bundle = walls.Bundle(spec(tmp_path, "/mod/hello.wasm"))
        tasks = os.open(group / "tasks", os.O_WRONLY | os.O_CLOEXEC)
        process = await spawn.create(bundle.order(terminal=terminal, cgroup_fds=[tasks]), denying)
        os.close(tasks)
        stdin = os.stat(f"/proc/{process.pid}/fd/0")
        assert (os.major(stdin.st_rdev), os.minor(stdin.st_rdev)) == (
            (136, 0) if terminal else (1, 3)
        )
        assert stdin.st_dev != os.stat("/dev/null").st_dev, "it is the container's own device"
        (group / "devices.allow").write_text("a")
        await process.start()
        if terminal:
            assert walls.read_all(process.console) == "hello\r\n"
            os.close(process.console)
        assert walls.ended(process) == 5
        bundle.close()

    try:
        asyncio.run(scenario())
    finally:
        group.rmdir()


def test_a_module_that_wants_what_is_not_there(tmp_path: Path) -> None:
    data = make.wat('(module (import "env" "magic" (func)) (func (export "_start")))')
    wanted = spec(tmp_path, "/mod/hello.wasm")
    (tmp_path / "hello.wasm").write_bytes(data)
    with pytest.raises(errors.InvalidArgument, match=r"imports env\.magic"):
        walls.run(wanted, resolve=resolving([]))


def test_a_torn_cache_entry_is_made_again_once(tmp_path: Path) -> None:
    asked: list[spawn.Found] = []
    good = resolving(asked)

    async def torn_at_first(found: spawn.Found) -> spawn.Module:
        if found.stale:
            return await good(found)
        os.close(found.fd)
        return spawn.Module(os.open("/dev/null", os.O_RDONLY), "core")

    found = walls.run(spec(tmp_path, "/mod/hello.wasm"), resolve=torn_at_first)
    assert found == walls.Result("hello\n", 5)
    assert [one.stale for one in asked] == [True]


async def spinning(bundle: walls.Bundle) -> tuple[spawn.Process, int]:
    """Starts a guest that runs for ever; gives it and its stdout once it has said hello."""
    reading, writing = os.pipe()
    process = await spawn.create(bundle.order((-1, writing, writing)), resolving([]))
    await process.start()
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], walls.TIMEOUT)
    assert ready
    assert os.read(reading, 100) == b"hello\n"
    return process, reading


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, 34, 64])
def test_a_signal_ends_it_at_once_with_128_and_the_number(tmp_path: Path, number: int) -> None:
    async def scenario() -> tuple[int, float]:
        bundle = walls.Bundle(spec(tmp_path, "/mod/hello.wasm#spin"))
        process, reading = await spinning(bundle)
        for harmless in (signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGCONT):
            process.kill(harmless)
        process.kill(signal.SIGTSTP)  # the kernel drops it: pid 1 of a namespace does not stop
        assert not select.select([process.pidfd], [], [], 0.05)[0]
        before = time.monotonic()
        process.kill(number)
        code = walls.ended(process)
        took = time.monotonic() - before
        os.close(reading)
        bundle.close()
        return code, took

    code, took = asyncio.run(scenario())
    assert code == 128 + number
    assert took < 2.0  # milliseconds on a quiet machine


def test_nothing_of_the_node_is_open_and_nobody_may_look(tmp_path: Path) -> None:
    async def scenario() -> None:
        bundle = walls.Bundle(spec(tmp_path, "/mod/hello.wasm#spin"))
        process, reading = await spinning(bundle)
        place = f"/proc/{process.pid}"
        links = [os.readlink(f"{place}/fd/{fd}") for fd in sorted(os.listdir(f"{place}/fd"))]
        # The engine's: the root for the guest, and the compiled code, which the guest can't name.
        files = {link for link in links if link.startswith("/") and not link.endswith(".cwasm")}
        assert files <= {"/", "/dev/null"}, links
        assert read(f"{place}/comm") == "hello.wasm\n"
        assert os.stat(f"{place}/environ").st_uid == 0  # not dumpable (proc(5))
        process.kill(signal.SIGKILL)
        assert walls.ended(process) == 137
        os.close(reading)
        bundle.close()

    asyncio.run(scenario())


def test_exec_of_wasm_in_a_native_container(tmp_path: Path) -> None:
    async def scenario() -> walls.Result:
        bundle = walls.Bundle(spec(tmp_path, "sleep", "1000"))
        order = bundle.order()
        init = await spawn.create(order, walls.no_module)
        await init.start()
        try:
            return await walls.joined(bundle, order, init, "/mod/hello.wasm", resolve=resolving([]))
        finally:
            init.kill(signal.SIGKILL)
            walls.ended(init)
            bundle.close()

    assert asyncio.run(scenario()) == walls.Result("hello\n", 5)


def opening(path: str) -> bytes:
    """A guest that opens a file of its root and exits with WASI's error number, 0 for none."""
    return make.wat(
        f"""(module
          (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1)
          (data (i32.const 16) "{path}")
          (func (export "_start")
            (call $exit (call $open (i32.const 3) (i32.const 1) (i32.const 16)
              (i32.const {len(path)}) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0)
              (i32.const 0)))))"""
    )


NOENT = 44
HIDDEN = ["proc/self/mem", "proc/1/mem", "proc/1/environ", "proc/2/mem", "proc/thread-self/mem"]


@pytest.mark.parametrize(
    ("path", "answer"), [*((name, NOENT) for name in HIDDEN), ("proc/stat", 0)]
)
def test_a_guest_cannot_reach_the_engine_that_holds_it(
    tmp_path: Path, path: str, answer: int
) -> None:
    wanted = spec(tmp_path, "/mod/hello.wasm")
    (tmp_path / "hello.wasm").write_bytes(opening(path))
    assert walls.run(wanted, resolve=resolving([])).code == answer


def test_nor_when_it_joins_a_native_container(tmp_path: Path) -> None:
    wanted = spec(tmp_path, "sleep", "1000")
    for name in HIDDEN:
        (tmp_path / name.replace("/", "-")).write_bytes(opening(name))

    async def scenario() -> None:
        bundle = walls.Bundle(wanted)
        order = bundle.order()
        init = await spawn.create(order, walls.no_module)
        await init.start()
        try:
            for name in HIDDEN:
                module = f"/mod/{name.replace('/', '-')}"
                found = await walls.joined(bundle, order, init, module, resolve=resolving([]))
                assert found.code == NOENT
            # Programs that are no guests keep their /proc.
            native = await walls.joined(bundle, order, init, "cat", "/proc/self/comm")
            assert native.out == "cat\n"
        finally:
            init.kill(signal.SIGKILL)
            walls.ended(init)
            bundle.close()

    asyncio.run(scenario())


def reading(path: str) -> bytes:
    """A guest that opens a file of its root and exits with how many bytes, up to 99, it could
    read; 100 and WASI's error number if it can't open it."""
    return make.wat(
        f"""(module
          (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_read"
            (func $read (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1)
          (data (i32.const 16) "{path}")
          (func (export "_start") (local $error i32)
            (local.set $error (call $open (i32.const 3) (i32.const 1) (i32.const 16)
              (i32.const {len(path)}) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0)
              (i32.const 0)))
            (if (local.get $error)
              (then (call $exit (i32.add (i32.const 100) (local.get $error)))))
            (i32.store (i32.const 4) (i32.const 200))
            (i32.store (i32.const 8) (i32.const 99))
            (drop (call $read (i32.load (i32.const 0)) (i32.const 4) (i32.const 1)
              (i32.const 12)))
            (call $exit (i32.load (i32.const 12)))))"""
    )


def test_what_is_masked_is_masked_for_a_guest_that_joins(tmp_path: Path) -> None:
    """It is shown another /proc than the container's, with the same holes closed."""
    masked = ["/proc/version", "/proc/cmdline", "/proc/sys", "/proc/fs"]
    wanted = spec(tmp_path, "sleep", "1000", linux__maskedPaths=masked)
    names = ["version", "cmdline", "sys/kernel/ostype", "fs/nowhere", "filesystems"]
    for name in names:
        (tmp_path / name.replace("/", "-")).write_bytes(reading(f"proc/{name}"))

    async def scenario() -> list[int]:
        bundle = walls.Bundle(wanted)
        order = bundle.order()
        init = await spawn.create(order, walls.no_module)
        await init.start()
        found = []
        try:
            for name in names:
                module = f"/mod/{name.replace('/', '-')}"
                done = await walls.joined(bundle, order, init, module, resolve=resolving([]))
                found.append(done.code)
        finally:
            init.kill(signal.SIGKILL)
            walls.ended(init)
            bundle.close()
        return found

    assert asyncio.run(scenario()) == [0, 0, 100 + NOENT, 100 + NOENT, 99]


def test_the_shims_environment_and_arguments_are_gone(tmp_path: Path) -> None:
    async def scenario() -> tuple[str, str]:
        bundle = walls.Bundle(spec(tmp_path, "/mod/hello.wasm#spin", "an", "argument"))
        process, reading = await spinning(bundle)
        found = (read(f"/proc/{process.pid}/environ"), read(f"/proc/{process.pid}/cmdline"))
        process.kill(signal.SIGTERM)
        walls.ended(process)
        os.close(reading)
        bundle.close()
        return found

    environ, cmdline = asyncio.run(scenario())
    assert environ.strip("\0") == ""
    assert cmdline.startswith("/mod/hello.wasm#spin\0an\0argument\0")


@pytest.mark.parametrize("nnp", [True, False])
def test_every_thread_is_under_the_seccomp_filter(tmp_path: Path, nnp: bool) -> None:
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}
    wanted = spec(
        tmp_path,
        "/mod/hello.wasm#spin",
        linux__seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]},
        process__noNewPrivileges=nnp,
    )

    async def scenario() -> list[str]:
        bundle = walls.Bundle(wanted)
        process, reading = await spinning(bundle)
        tasks = f"/proc/{process.pid}/task"
        found = [read(f"{tasks}/{tid}/status") for tid in os.listdir(tasks)]
        process.kill(signal.SIGTERM)
        assert walls.ended(process) == 143
        os.close(reading)
        bundle.close()
        return found

    found = asyncio.run(scenario())
    assert len(found) > 1
    assert all("Seccomp:\t2\n" in status for status in found)
