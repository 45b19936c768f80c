"""Builds the guests of the tests with real compilers, once for each source and compiler flags.

Artefacts lie in ${XDG_CACHE_HOME:-~/.cache}/copepod/test-guests; a test without the compiler is
skipped with the name of what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

HERE = Path(__file__).parent
_GO = ("go", "build", "-trimpath", "-o")
# Not optimised: clang would run a wasm-opt that it finds, and that drops the names.
_CLANG = ("clang", "--target=wasm32-wasi", "--sysroot=/usr", "-O0", "-o")


def go(name: str) -> Path:
    """A Go source of this folder, for preview 1."""
    return _built(HERE / f"{name}.go", _GO, {"GOOS": "wasip1", "GOARCH": "wasm"})


def c(name: str, *flags: str) -> Path:
    """A C source of this folder, for preview 1 with wasi-libc."""
    return _built(HERE / f"{name}.c", (*_CLANG[:-1], *flags, "-o"), {})


def wat(text: str) -> bytes:
    """A module or component in text format, as a binary."""
    wasmtime = pytest.importorskip("wasmtime")
    binary: bytes = bytes(wasmtime.wat2wasm(text))
    return binary


def text(name: str, **replaced: str) -> bytes:
    """A text source of this folder, with each `$key` replaced, as a binary."""
    source = (HERE / f"{name}.wat").read_text()
    for key, value in replaced.items():
        source = source.replace(f"${key}", value)
    return wat(source)


def _built(source: Path, command: tuple[str, ...], env: dict[str, str]) -> Path:
    if not shutil.which(command[0]):
        pytest.skip(f"no {command[0]} here: apt-get install clang lld wasi-libc golang")
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    stamp = sha256(source.read_bytes() + repr(command).encode()).hexdigest()[:16]
    target = root / "copepod" / "test-guests" / f"{source.stem}-{stamp}.wasm"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = target.with_suffix(f".{os.getpid()}")
        subprocess.run(
            [*command, str(staged), str(source)], check=True, env=os.environ | env, timeout=300
        )
        staged.rename(target)
    return target
