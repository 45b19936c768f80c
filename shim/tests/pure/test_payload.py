"""Which bytes run: the look-up of a program in a root, and what the bytes are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from copepod import errors
from copepod.child import payload

pytestmark = pytest.mark.pure

WASM = b"\0asm\1\0\0\0"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "bin").mkdir()
    (tmp_path / "opt/deep").mkdir(parents=True)
    for name, data, mode in (
        ("bin/elf", b"\x7fELF...", 0o755),
        ("bin/script", b"#! /bin/sh -e\n", 0o755),
        ("bin/sh", b"\x7fELF...", 0o755),
        ("bin/plain", b"\x7fELF...", 0o644),
        ("bin/words", b"hello", 0o755),
        ("opt/app.wasm", WASM, 0o600),
        ("opt/odd#name.wasm", WASM, 0o600),
        ("opt/plain", WASM, 0o600),
        ("etc/passwd", b"root:x:0:0::/root:\nbad\nu:x:9:9::/home/u:/bin/sh\nv:x:8:8:::\n", 0o644),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(mode)
    (tmp_path / "bin/link").symlink_to("/opt/app.wasm")
    (tmp_path / "bin/up").symlink_to("../../../../../opt/app.wasm")
    (tmp_path / "bin/loop").symlink_to("loop")
    fd = os.open(tmp_path, os.O_PATH)
    yield fd
    os.close(fd)


def find(root: int, name: str, path: str = "/bin:/opt", cwd: str = "/") -> payload.Payload:
    found = payload.find(root, [name, "arg"], [f"PATH={path}"], cwd)
    if found.fd >= 0:
        os.close(found.fd)
    return found


@pytest.mark.parametrize(
    ("name", "kind", "path", "entry"),
    [
        ("/bin/elf", "native", "/bin/elf", ""),
        ("elf", "native", "/bin/elf", ""),
        ("script", "native", "/bin/script", ""),
        ("app.wasm", "wasm", "/opt/app.wasm", ""),
        ("/opt/app.wasm#run", "wasm", "/opt/app.wasm", "run"),
        ("app.wasm#run", "wasm", "/opt/app.wasm", "run"),
        ("/opt/odd#name.wasm", "wasm", "/opt/odd#name.wasm", ""),
        ("link", "wasm", "/bin/link", ""),
        ("up", "wasm", "/bin/up", ""),
        ("plain", "wasm", "/opt/plain", ""),  # the first one in PATH can't run, so it is passed
        ("nowhere", "missing", "", ""),
        ("/nowhere#f", "missing", "", "f"),
        ("/", "missing", "", ""),
        ("", "missing", "", ""),
    ],
)
def test_names(root: int, name: str, kind: str, path: str, entry: str) -> None:
    found = find(root, name)
    assert (found.kind, found.path, found.entry) == (kind, path, entry)
    assert found.name == (name if not entry else name.partition("#")[0])


def test_relative_names_and_path_entries_start_at_the_cwd(root: int) -> None:
    assert find(root, "./app.wasm", cwd="/opt").path == "/opt/./app.wasm"
    assert find(root, "deep/../app.wasm", cwd="/opt").kind == "wasm"
    assert find(root, "app.wasm", path=":/nowhere", cwd="/opt").kind == "wasm"


def test_the_last_path_counts_and_without_one_the_usual(root: int) -> None:
    found = payload.find(root, ["elf"], ["PATH=/nowhere", "PATH=/bin"], "/")
    assert found.kind == "native"
    assert payload.find(root, ["elf"], [], "/").path == "/bin/elf"


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("/bin/plain", errors.PermissionDenied, "neither wasm nor executable"),
        ("words", errors.InvalidArgument, "neither wasm nor ELF"),
        ("/bin", errors.PermissionDenied, "is a directory"),
        ("loop", errors.InvalidArgument, "chain of links"),
    ],
)
def test_files_that_cannot_run(root: int, name: str, kind: type[errors.Error], words: str) -> None:
    with pytest.raises(kind, match=words):
        find(root, name)


def test_the_loader_that_a_file_names(root: int, tmp_path: Path) -> None:
    (tmp_path / "bin/sh").touch()
    assert find(root, "script").needs == "/bin/sh"
    (tmp_path / "bin/sh").unlink()
    with pytest.raises(errors.NotFound, match="not /bin/sh, the interpreter"):
        find(root, "script")
    for name in (sys.executable, "/bin/sh"):
        own = os.open(os.path.realpath(name), os.O_RDONLY)
        loader = payload._elf_interpreter(own)
        os.close(own)
        assert not loader or os.path.exists(loader)


# The table of program headers past any offset that pread(2) takes, negative and not.
FAR = [bytes(16) + at.to_bytes(8, "little") + bytes(15) + b"\1" + bytes(8)
       for at in (1 << 63, (1 << 63) - 1)]  # fmt: skip


@given(st.binary(max_size=200))
@example(FAR[0])
@example(FAR[1])
def test_any_elf_is_read_or_passed(data: bytes) -> None:
    fd = os.memfd_create("elf")
    for start in (b"\x7fELF\2\1\1".ljust(16, b"\0"), b"\x7fELF\1\1", b"#!"):
        os.ftruncate(fd, 0)
        os.pwrite(fd, start + data, 0)
        assert isinstance(payload._elf_interpreter(fd), str)
        assert isinstance(payload._script_interpreter(fd), str)
    os.close(fd)


def test_no_arguments(root: int) -> None:
    with pytest.raises(errors.InvalidArgument, match="no program to run"):
        payload.find(root, [], [], "/")


def test_a_miss_says_where_it_was_looked_for(root: int) -> None:
    assert find(root, "x").searched == "x in $PATH (/bin:/opt)"
    assert find(root, "/x").searched == "the file /x"


def test_home(root: int) -> None:
    assert [payload.home(root, uid) for uid in (0, 9, 8, 7)] == ["/root", "/home/u", "/", "/"]
