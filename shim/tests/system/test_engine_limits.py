"""Limits met for real: memory, tables, instances, fuel, time, stack, proposals."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from copepod.engine import compile
from copepod.engine.limits import MIB, Knobs
from copepod.engine.profile import Profile
from enginekit import make
from enginekit.harness import child, compiled, guest

pytestmark = pytest.mark.system
TIERS = pytest.mark.parametrize("tier", ["cranelift", "winch"])
FOREVER = '(module (func (export "_start") (loop $l (br $l))))'
COMPONENT_FOREVER = "(loop $l (br $l)) (i32.const 0)"


def grows(pages: int) -> bytes:
    return make.wat(f"""(module (memory 1) (func (export "grow") (result i32)
      (i32.eq (memory.grow (i32.const {pages})) (i32.const -1))))""")


@TIERS
def test_growing_past_the_memory_limit_fails_in_the_guest(tier: str) -> None:
    knobs = Knobs(memory=MIB)
    assert guest(grows(15), entry="grow", knobs=knobs, tier=tier).code == 0
    assert guest(grows(16), entry="grow", knobs=knobs, tier=tier).code == 1
    outcome = guest(make.c("probe"), "grow", knobs=Knobs(memory=64 * MIB), tier=tier)
    assert outcome.code == 0
    assert outcome.out.startswith(b"grown 48 MiB, then ")


def test_a_go_program_at_its_limit_says_so_itself() -> None:
    outcome = guest(make.go("probe"), "fill", knobs=Knobs(memory=64 * MIB))
    assert outcome.code == 2
    assert b"out of memory" in outcome.err


@pytest.mark.parametrize(
    ("body", "knobs", "message"),
    [
        ("(memory 32)", Knobs(memory=MIB), b"memory minimum size"),
        ("(table 100 funcref)", Knobs(table_elements=99), b"table minimum size"),
        ("(table 1 funcref) (table 1 funcref)", Knobs(tables=1), b"table count too high"),
        ("", Knobs(instances=0), b"instance count too high"),
    ],
)
def test_a_module_that_starts_above_a_limit_ends_with_its_name(
    body: str, knobs: Knobs, message: bytes
) -> None:
    module = make.wat(f'(module {body} (func (export "_start")))')
    assert guest(module).code == 0
    outcome = guest(module, knobs=knobs)
    assert outcome.code == 134
    assert message in outcome.err, outcome.err


@TIERS
def test_time_is_up(tier: str) -> None:
    for module in (make.wat(FOREVER), make.text("hello", how=COMPONENT_FOREVER)):
        begun = time.monotonic()
        outcome = guest(module, knobs=Knobs(time_limit=0.3), tier=tier)
        assert time.monotonic() - begun < 10
        assert outcome.code == 134
        first = outcome.err.splitlines()[0]
        assert first == b"copepod: the guest was ended: it ran for its time limit of 0.3 s"
    assert guest(make.c("probe"), "exit", "3", knobs=Knobs(time_limit=60), tier=tier).code == 3


# Waits for the clock, some twelve days.
WAITS = """(module
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "\\00\\00\\00\\00\\00\\00\\00\\00\\01")
  (data (i32.const 24) "\\00\\00\\c0\\b6\\60\\d6\\03")
  (func (export "_start")
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"""


@TIERS
@pytest.mark.parametrize("listen", [(), (("127.0.0.1", 0),)])
def test_time_is_up_for_a_guest_that_waits(tier: str, listen: tuple[tuple[str, int], ...]) -> None:
    """For the clock, in the engine and in the function of ours that is in its place."""
    knobs = Knobs(time_limit=0.2, listen=listen)
    outcome = guest(make.wat(WAITS), knobs=knobs, tier=tier, limit=20)
    assert outcome.code == 134
    assert outcome.err == (
        b"copepod: the guest was ended: it ran for its time limit of 0.2 s, and was waiting then\n"
    )


@TIERS
def test_fuel_is_used_up(tier: str) -> None:
    for module in (make.wat(FOREVER), make.text("hello", how=COMPONENT_FOREVER)):
        outcome = guest(module, knobs=Knobs(fuel=100_000), tier=tier)
        assert outcome.code == 134
        first = outcome.err.splitlines()[0]
        assert first == b"copepod: the guest was ended: it used up its fuel of 100000"
    assert guest(make.c("probe"), "exit", "3", knobs=Knobs(fuel=10**9), tier=tier).code == 3


DEEP = """(module
  (func $f (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (i32.add (i32.const 1) (call $f (i32.sub (local.get 0) (i32.const 1)))))
      (else (i32.const 0))))
  (func (export "_start") (drop (call $f (i32.const 600000)))))"""


@TIERS
def test_a_larger_stack_takes_deeper_calls(tier: str) -> None:
    module = make.wat(DEEP)
    assert guest(module, knobs=Knobs(stack=MIB), tier=tier).code == 134
    outcome = guest(module, knobs=Knobs(stack=8 * MIB), tier=tier)
    assert outcome.code == 134  # 600000 frames take more
    assert b"call stack exhausted" in outcome.err
    assert guest(module, knobs=Knobs(stack=64 * MIB), tier=tier).code == 0


def test_the_containers_own_limit_of_the_stack() -> None:
    def limited(soft: int, hard: int) -> Callable[[], None]:
        return lambda: resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))

    module = make.wat(DEEP.replace("600000", "1000"))
    kib = 1 << 10
    assert guest(module, before=limited(512 * kib, resource.RLIM_INFINITY)).code == 0
    assert guest(module, before=limited(512 * kib, 2 * MIB)).code == 0
    outcome = guest(module, before=limited(512 * kib, 1024 * kib))
    assert outcome.code == 200
    assert b"RLIMIT_STACK of 1048576 bytes is too small" in outcome.err
    knobs = Knobs(stack=64 * kib)
    assert guest(module, knobs=knobs, before=limited(512 * kib, 1200 * kib)).code == 0


@TIERS
def test_what_was_written_before_the_end_is_not_lost(tier: str) -> None:
    """Also half a line: the engine's own buffer is emptied at each call."""
    body = """(module
      (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 0) "\\08\\00\\00\\00\\04\\00\\00\\00half")
      (func (export "_start")
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64))) $end))"""
    for end in ("(unreachable)", "(loop $l (br $l))"):
        module = make.wat(body.replace("$end", end))
        outcome = guest(module, knobs=Knobs(time_limit=0.3), tier=tier)
        assert (outcome.code, outcome.out) == (134, b"half")


def test_nothing_is_imported_once_the_root_is_the_containers(tmp_path: Path) -> None:
    """Each way through the room, in a root that holds nothing: neither Python nor the engine."""

    def leave() -> None:
        os.chroot(tmp_path)
        os.chdir("/")

    probe, port = make.c("probe"), 0
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    for args, knobs, code in (
        (("exit", "255"), Knobs(), 255),
        (("open", "/x", "w"), Knobs(), 0),
        (("divide",), Knobs(coredump="/core"), 134),
        (("exit", "3"), Knobs(fuel=10**9, memory=64 * MIB, stack=32 * MIB), 3),
        (("spin",), Knobs(time_limit=0.2), 134),
        (("exit", "4"), Knobs(listen=(("127.0.0.1", port), ("::1", port))), 4),
        ((), Knobs(preopens=()), 0),
    ):
        outcome = guest(probe, *args, knobs=knobs, before=leave)
        assert outcome.code == code, outcome
        assert b"could not be" not in outcome.err
    assert sorted(os.listdir(tmp_path)) == ["core", "x"]
    refused = guest(
        make.wat('(module (import "a" "b" (func)) (func (export "_start")))'), before=leave
    )
    assert b"the module imports a.b (function)" in refused.err
    assert guest(make.text("sockets"), before=leave).code == 0
    assert guest(make.text("exit"), before=leave).code == 42
    assert b"it exports nothing" in guest(make.wat("(component)"), before=leave).err


def test_shared_memory_which_no_limit_would_reach_is_refused() -> None:
    module = make.wat('(module (memory 1 1 shared) (func (export "_start")))')
    outcome = guest(module)
    assert outcome.code == 134
    assert b"shared memory support is disabled" in outcome.err


@pytest.mark.parametrize(
    ("feature", "body"),
    [
        ("exceptions", "(tag $t) (func (throw $t))"),
        ("gc", "(type (struct (field i32)))"),
        (
            "function-references",
            "(type $f (func)) (func (param (ref $f)) (call_ref $f (local.get 0)))",
        ),
        ("memory64", "(memory i64 1)"),
        ("multi-memory", "(memory 1) (memory 1)"),
        (
            "relaxed-simd",
            "(func (param v128 v128) (drop (i8x16.relaxed_swizzle (local.get 0) (local.get 1))))",
        ),
        ("simd", "(func (param v128))"),
        ("tail-call", "(func $f (return_call $f))"),
        ("threads", "(memory 1) (func (drop (i32.atomic.load (i32.const 0))))"),
    ],
)
def test_proposals_are_on_and_can_be_switched_off(feature: str, body: str) -> None:
    module = make.wat(f'(module {body} (func (export "_start")))')
    assert guest(module).code == 0
    with pytest.raises(AssertionError, match="could not be compiled"):
        guest(module, knobs=Knobs(disabled=(feature,)))


def test_core_dump(tmp_path: Path) -> None:
    path = tmp_path / "core"
    knobs = Knobs(coredump=str(path))
    assert guest(make.c("probe"), "exit", "3", knobs=knobs).code == 3
    assert not path.exists()
    outcome = guest(make.c("probe"), "divide", knobs=knobs)
    assert outcome.code == 134
    assert f"copepod: core dump in {path}\n".encode() in outcome.err
    os.close(compiled(path.read_bytes()))  # a dump is a valid module
    assert b"divide\0" in path.read_bytes()  # the argument, in the guest's memory
    outcome = guest(make.c("probe"), "divide", knobs=Knobs(coredump="/does/not/exist"))
    assert outcome.code == 134
    assert b"no core dump in /does/not/exist: No such file or directory" in outcome.err
    outcome = guest(make.text("exit"), knobs=knobs)
    assert outcome.err.startswith(b"InvalidArgument: a component can't be dumped")


@pytest.mark.parametrize("kind", ["core", "component"])
def test_profiles_lie_in_the_containers_root(tmp_path: Path, kind: str) -> None:
    """Named after the process, whose functions perf then finds; nothing lies on the node."""
    module = make.c("probe").read_bytes() if kind == "core" else make.text("exit")
    args, code = (("exit", "42"), 42) if kind == "core" else ((), 42)
    (tmp_path / "tmp").mkdir()
    before = {path.name for path in [*Path("/tmp").glob("perf-*"), *Path().glob("jit-*")]}

    def leave() -> None:
        os.chroot(tmp_path)
        os.chdir("/")

    for profiling in ("perfmap", "jitdump"):
        outcome = guest(module, *args, knobs=Knobs(profiling=profiling), before=leave)
        assert outcome == (code, b"", b"")
    (names,) = (tmp_path / "tmp").glob("perf-*.map")
    (dump,) = tmp_path.glob("jit-*.dump")
    assert b"__original_main" in names.read_bytes() or kind == "component"
    assert dump.read_bytes()[:4] == b"DTiJ"
    after = {path.name for path in [*Path("/tmp").glob("perf-*"), *Path().glob("jit-*")]}
    assert after == before


@pytest.mark.parametrize("profiling", ["perfmap", "jitdump"])
def test_a_profile_that_cannot_be_written_is_refused(tmp_path: Path, profiling: str) -> None:
    def leave() -> None:
        os.chroot(tmp_path)
        os.chdir("/")
        os.setresuid(65534, 65534, 65534)

    tmp_path.chmod(0o755)
    outcome = guest(make.c("probe"), knobs=Knobs(profiling=profiling), before=leave)
    assert outcome.code == 200
    assert outcome.err.startswith(b"InvalidArgument: copepod.dev/profiling: /")
    assert b"can't be written in the container: " in outcome.err


@pytest.mark.parametrize(
    "body",
    [
        "(tag $t) (func (throw $t))",
        "(type $s (struct (field i32))) (func (drop (struct.new $s (i32.const 1))))",
        "(type $f (func)) (func (param (ref $f)) (call_ref $f (local.get 0)))",
        "(func $f (return_call $f))",
        "(memory 1) (func (drop (i32.atomic.load (i32.const 0))))",
        "(table 1 externref) (func (param externref) (table.set (i32.const 0) (local.get 0)))",
    ],
)
def test_what_winch_cannot_take_is_an_error_not_a_death(body: str) -> None:
    """So that the resolver can turn to Cranelift in the same process."""
    module = make.wat(f"(module {body})")

    def work(tier: str) -> Callable[[], int]:
        def inside() -> int:
            fd = os.memfd_create("code")
            compile.compile_to(module, fd, Profile(tier=tier, parallel=False), bytes(32))
            return 0

        return inside

    outcome = child(work("winch"))
    assert outcome.code == 200
    assert outcome.err.startswith(b"InvalidArgument: the wasm module is invalid: failed to ")
    assert child(work("cranelift")).code == 0


@pytest.mark.parametrize(
    ("memory", "seconds", "ends"),
    [
        (2 << 30, 1000, {0}),
        (16 << 20, 1000, {-signal.SIGABRT}),
        (2 << 30, 1, {-signal.SIGXCPU}),
    ],
)
def test_compiling_is_bounded(memory: int, seconds: int, ends: set[int]) -> None:
    """Past a bound the compiling process dies, which is what its parent sees."""
    data = make.go("probe").read_bytes()

    def work() -> int:
        compile.bound(memory, seconds)
        for _ in range(10 if seconds == 1 else 1):
            compile.compile_to(data, os.memfd_create("code"), Profile(), bytes(32))
        return 0

    assert child(work).code in ends


def test_stepping_back() -> None:
    def work() -> int:
        compile.step_back()
        idle = os.sched_getscheduler(0) == os.SCHED_IDLE
        return 0 if idle and os.getpriority(os.PRIO_PROCESS, 0) == 19 else 1

    assert child(work).code == 0
