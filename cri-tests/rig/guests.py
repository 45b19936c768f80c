"""Builds the guests and the native programs from their sources under images/, into the cache.

It takes compilers from Debian, and nothing ready-made.
"""

import fcntl
import hashlib
import os
import re
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from rig import debian, tools
from rig.paths import CHECKOUT, CRI_TESTS, cache_dir
from rig.shell import RigError, run

SOURCES = CRI_TESTS / "images"
BUILD_TIMEOUT = 600.0


def wasm_c() -> Path:
    """The C guest, a WASI preview 1 module of some 40 kB."""
    return built("guest-c.wasm", SOURCES / "guest-c", _clang_wasi)


def wasm_go() -> Path:
    """The Go guest, a WASI preview 1 module of some 2.6 MB."""
    return built("guest-go.wasm", SOURCES / "guest-go", _go_wasi)


def wasm_http() -> Path:
    """The HTTP guest: a server written in Go, a WASI preview 1 module of some 9 MB."""
    return built("guest-http.wasm", SOURCES / "guest-http", _go_wasi)


def toolbox() -> Path:
    """The product's own tools, as the build has made them."""
    path = CHECKOUT / "build" / "guests" / "toolbox.wasm"
    if not path.exists():
        raise RigError(f"{path} is missing: run make toolbox")
    return path


def native(name: str) -> Path:
    """A static Linux program of images/native: pause, web or nonewprivs."""

    def build(source: Path, out: Path) -> None:
        debian.need("gcc", "libc6-dev")
        run(["gcc", "-O2", "-static", "-s", "-o", out, source], timeout=BUILD_TIMEOUT)

    return built(name, SOURCES / "native" / f"{name}.c", build)


def busybox() -> Path:
    """Debian's static busybox."""
    return _packaged("busybox-static", "busybox")


def shell() -> dict[str, Path]:
    """A busybox that looks a command up in PATH, and its libraries, by their paths in an image.

    Debian's static one runs its own applets instead, whatever lies at /bin/ls.
    """
    binary = _packaged("busybox", "busybox")
    libraries = re.findall(r"(/\S+) \(0x", run(["ldd", binary]).out)
    return {"bin/sh": binary} | {path.lstrip("/"): Path(path) for path in libraries}


def _packaged(package: str, program: str) -> Path:
    tree = debian.unpacked(package)
    for folder in ("bin", "usr/bin"):  # before and after Debian's merge of /bin into /usr
        if (tree / folder / program).is_file():
            return tree / folder / program
    raise RigError(f"there is no {program} in {tree}")


def built(name: str, source: Path, build: Callable[[Path, Path], None], *more: Path) -> Path:
    """What `build(source, out)` makes, from the cache unless `source` or `more` has changed."""
    files = sorted(path for top in (source, *more) for path in top.rglob("*") if path.is_file())
    files = files or [source]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    home = cache_dir() / "guests"
    home.mkdir(exist_ok=True)
    stem, dot, suffix = name.partition(".")
    out = home / f"{stem}-{digest.hexdigest()[:12]}{dot}{suffix}"
    with (home / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.is_file():
            stage = out.with_name(f".{out.name}.{os.getpid()}")
            build(source, stage)
            stage.rename(out)
    return out


def _clang_wasi(source: Path, out: Path) -> None:
    clang_wasi(out, *(source / name for name in ("guest.c", "reply.c", "preview1.c")))


def clang_wasi(out: Path, *sources: Path, flags: Sequence[str] = ()) -> None:
    """Compiles C to a module of preview 1."""
    debian.need("clang", "lld", "wasi-libc")
    match = re.search(r"clang version (\d+)", run(["clang", "--version"]).out)
    if not match:
        raise RigError("clang --version names no version")
    debian.need(f"libclang-rt-{match.group(1)}-dev-wasm32")
    argv = ["clang", "--target=wasm32-wasi", "--sysroot=/usr", "-O2", "-s", *flags, "-o"]
    run([*argv, out, *sources], timeout=BUILD_TIMEOUT)


def _go_wasi(source: Path, out: Path) -> None:
    work = out.with_name(f"{out.name}.src")
    shutil.copytree(source, work)
    env = {"GOOS": "wasip1", "GOARCH": "wasm", "GOFLAGS": "-buildvcs=false"}
    try:
        argv = ["nice", tools.go(), "build", "-trimpath", "-o", str(out), "."]
        run(argv, timeout=BUILD_TIMEOUT, env=env, cwd=work)
    finally:
        shutil.rmtree(work)


def precompiled() -> bytes:
    """What passes for precompiled code of an engine: an ELF file with wasmtime's mark.

    The mark is e_ident's OS/ABI byte, 200 (wasmtime's object format); a loader that let it in
    would run machine code that somebody else chose.
    """
    ident = b"\x7fELF" + bytes([2, 1, 1, 200]) + bytes(8)
    header = struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 0, 0, 64, 0, 0, 64, 0, 0)
    return ident + header + bytes(64)


def importing(module: str, name: str) -> bytes:
    """A core module that exports _start and imports one function that nobody provides.

    Built from the sections of the WebAssembly binary format: types, imports, functions, exports,
    code.
    """

    def vector(*items: bytes) -> bytes:
        return bytes([len(items)]) + b"".join(items)

    def section(number: int, body: bytes) -> bytes:
        return bytes([number, len(body)]) + body

    def text(value: str) -> bytes:
        return bytes([len(value)]) + value.encode()

    nothing_to_nothing = b"\x60\x00\x00"
    return b"".join(
        (
            b"\0asm\x01\x00\x00\x00",
            section(1, vector(nothing_to_nothing)),
            section(2, vector(text(module) + text(name) + b"\x00\x00")),
            section(3, vector(b"\x00")),
            section(7, vector(text("_start") + b"\x00\x01")),
            section(10, vector(b"\x04\x00\x10\x00\x0b")),
        )
    )
