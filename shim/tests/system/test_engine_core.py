"""Core modules run for real: arguments, stdio, files, exit codes, traps, refusals."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from copepod.engine import run
from copepod.engine.limits import Knobs, Preopen
from copepod.engine.profile import Profile
from enginekit import make
from enginekit.harness import compiled, guest

pytestmark = pytest.mark.system
TIERS = ("cranelift", "winch")


def wat(body: str) -> bytes:
    return make.wat(f"(module {body})")


EXIT = """
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
"""


@pytest.mark.parametrize("tier", TIERS)
def test_go(tier: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("file")
    words = ("args", "env", "cwd", "cat=in", "write=out", "stdin", "ls=.", "stderr=oh", "bare=end")
    outcome = guest(
        make.go("probe"),
        *words,
        stdin=b"from stdin",
        env=["A=1", "B=x=y", "PWD=/elsewhere"],
        cwd=str(tmp_path),
        tier=tier,
    )
    assert outcome.out.decode().splitlines() == [
        "args /guest.wasm|" + "|".join(words),
        f"env A=1|B=x=y|PWD={tmp_path}",
        f"cwd {tmp_path} <nil>",
        'cat "file" <nil>',
        "write <nil>",
        'stdin "from stdin" <nil>',
        "ls in out <nil>",
        "end",
    ]
    assert (outcome.code, outcome.err) == (0, b"oh")
    assert (tmp_path / "out").read_text() == "written\n"


@pytest.mark.parametrize("tier", TIERS)
def test_c(tier: str) -> None:
    outcome = guest(make.c("probe"), tier=tier)
    assert outcome == (0, b"hello from C, no newline at the end", b"")


@pytest.mark.parametrize("code", [0, 1, 3, 125, 126, 127, 134, 137, 255])
def test_exit_codes(code: int) -> None:
    assert guest(make.c("probe"), "exit", str(code)).code == code


@pytest.mark.parametrize("ahead", TIERS)
@pytest.mark.parametrize("tier", TIERS)
def test_what_is_made_before_the_code_is_used_or_given_back(tier: str, ahead: str) -> None:
    assert guest(make.c("probe"), "exit", "7", tier=tier, ahead=ahead).code == 7


@pytest.mark.parametrize(("given", "code"), [(256, 0), (257, 1), (0xFFFFFFFF, 255)])
def test_eight_bits_of_an_exit_code_count(given: int, code: int) -> None:
    module = wat(f'{EXIT} (func (export "_start") (call $exit (i32.const {given})))')
    assert guest(module) == (code, b"", b"")


def test_go_exit_and_panic() -> None:
    assert guest(make.go("probe"), "exit=255").code == 255
    outcome = guest(make.go("probe"), "panic=oh no")
    assert outcome.code == 2
    assert b"panic: oh no" in outcome.err


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    ("word", "message"),
    [("trap", "wasm `unreachable` instruction"), ("divide", "integer divide by zero")],
)
def test_traps_end_with_134_and_a_backtrace(tier: str, word: str, message: str) -> None:
    outcome = guest(make.c("probe"), word, tier=tier)
    text = outcome.err.decode()
    assert outcome.code == 134
    assert text.startswith("copepod: the guest trapped: ")
    assert message in text
    names = [line.split()[-1] for line in text.splitlines()[2:]]
    assert names[0] in ("divide", "main", "__main_argc_argv")
    assert "_start" in names


def test_stack_overflow_is_a_trap() -> None:
    outcome = guest(make.c("probe"), "deep")
    assert outcome.code == 134
    assert b"stack" in outcome.err or b"out of bounds" in outcome.err, outcome.err
    outcome = guest(wat('(func $f (export "_start") (call $f))'))
    assert outcome.code == 134
    assert b"call stack exhausted" in outcome.err
    assert len(outcome.err) < 10_000


def test_a_larger_stack_takes_deeper_calls() -> None:
    body = """(func $f (param i32) (result i32)
        (if (result i32) (local.get 0)
          (then (i32.add (i32.const 1) (call $f (i32.sub (local.get 0) (i32.const 1)))))
          (else (i32.const 0))))
      (func (export "_start") (drop (call $f (i32.const 500000))))"""
    assert guest(wat(body), knobs=Knobs(stack=256 << 10)).code == 134


def test_memory_that_does_not_grow_is_the_guests_to_handle() -> None:
    body = f"""{EXIT} (func (export "_start")
        (call $exit (i32.eq (memory.grow (i32.const 70000)) (i32.const -1))))"""
    assert guest(wat(body)) == (1, b"", b"")


def test_much_output_arrives_whole() -> None:
    outcome = guest(make.go("probe"), "big=3000000")
    assert (outcome.code, outcome.out) == (0, b"x" * 3_000_000)


def test_closed_stdio_is_not_the_end() -> None:
    outcome = guest(make.go("probe"), "bare=x", "exit=4", before=lambda: os.closerange(0, 3))
    assert outcome.code == 4


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            '(import "env" "abort" (func)) (import "env" "m" (memory 1)) (func (export "_start"))',
            "the module imports env.abort (function), env.m (memory), which Copepod does not",
        ),
        (
            '(import "wasi_snapshot_preview1" "fd_read" (func)) (func (export "_start"))',
            "an import of the module does not fit: incompatible import type",
        ),
        ("", "exports no function '_start', so there is nothing to run; it exports no function"),
        (
            '(func (export "run")) (func (export "stop"))',
            "it is a library, not a command; name one to call as path#name; it exports run, stop",
        ),
        ('(func (export "_start") (param i32))', "can't be an entry"),
        ('(func (export "_start") (result i64) (i64.const 1))', "can't be an entry"),
        ('(global (export "_start") i32 (i32.const 1))', "exports no function '_start'"),
    ],
)
def test_refused_at_link(body: str, sentence: str) -> None:
    outcome = guest(wat(body))
    assert outcome.code == 200, outcome
    assert outcome.err.decode().startswith("InvalidArgument: ")
    assert sentence in outcome.err.decode()


def test_an_entry_of_ones_own() -> None:
    body = f"""{EXIT} (global $g (mut i32) (i32.const 1))
      (func (export "_initialize") (global.set $g (i32.const 42)))
      (func (export "answer") (result i32) (global.get $g))
      (func (export "nothing"))"""
    assert guest(wat(body), entry="answer") == (42, b"", b"")
    assert guest(wat(body), entry="nothing") == (0, b"", b"")
    outcome = guest(wat(body), entry="question")
    assert b"no function 'question' to start with; it exports _initialize, answer" in outcome.err


@pytest.mark.parametrize("text", ["a\0b", "\udcff"])
def test_text_that_would_arrive_changed_is_refused(text: str) -> None:
    module = wat('(func (export "_start"))')
    for outcome in (guest(module, text), guest(module, env=[f"A={text}"])):
        assert outcome.code == 200
        assert b"NUL byte" in outcome.err or b"not valid UTF-8" in outcome.err


def test_preopens(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("data")
    probe = make.c("probe")
    for writable, answer in ((True, b"\n"), (False, b"Operation not permitted\n")):
        folder = Preopen(str(tmp_path), "/data", writable)
        assert guest(probe, "open", "/data/f", knobs=Knobs(preopens=(folder,))).out == b"data\n"
        outcome = guest(probe, "open", "/data/new", "w", knobs=Knobs(preopens=(folder,)))
        assert outcome.out == answer
        assert guest(probe, "open", "/etc/passwd", knobs=Knobs(preopens=(folder,))).out != b""
    outcome = guest(probe, knobs=Knobs(preopens=(Preopen("/does/not/exist", "/x"),)))
    assert b"/does/not/exist can't be given to the guest: No such file" in outcome.err


def test_torn_and_foreign_files_are_unusable(tmp_path: Path) -> None:
    data = wat('(func (export "_start"))')
    fd = compiled(data)
    whole = os.pread(fd, 1 << 20, 0)
    os.close(fd)
    for content, profile in (
        (whole[:-1], Profile()),
        (whole[: len(whole) // 2], Profile()),
        (b"", Profile()),
        (whole[:-256] + b"x" + whole[-256:], Profile()),
        (whole, Profile(fuel=True)),
    ):
        path = tmp_path / "entry"
        path.write_bytes(content)
        fd = os.open(path, os.O_RDONLY)
        with pytest.raises(run.Unusable, match="compiled"):
            run.load(fd, "core", profile)
        os.close(fd)
    fd = compiled(data)
    with pytest.raises(run.Unusable, match="not a component's"):
        run.load(fd, "component", Profile())
    os.close(fd)


def test_the_guest_does_not_see_our_environment() -> None:
    outcome = guest(
        make.go("probe"), "env", before=lambda: os.environ.update(SECRET="1", RUST_BACKTRACE="1")
    )
    assert outcome.out == b"env PWD=/\n"
