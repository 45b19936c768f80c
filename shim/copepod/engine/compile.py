"""From wasm bytes to native code: told apart, refused with one sentence, compiled, written.

Runs in the resolver child and nowhere else: it starts threads, and the engine ends the process
when it panics. It refuses everything that is not a wasm binary, native code before all.
"""

from __future__ import annotations

import os
import re
import resource
from typing import TYPE_CHECKING

from copepod import errors

if TYPE_CHECKING:
    from copepod.engine.profile import Profile

_CORE, _COMPONENT = b"\1\0\0\0", b"\x0d\0\1\0"
_IMPORTS_OF_COMPONENT = 10  # section id, component-model Binary.md
_EXPORTS_OF_COMPONENT = 11
_TOO_NEW = re.compile(rb"wasi:[a-z-]+/[a-z-]+@(0\.[3-9]\.[0-9]+|[1-9][0-9.]*)[a-z0-9.-]*")
_MESSAGE_LIMIT = 300


def kind(data: bytes) -> str:
    """Gives "core" or "component"; errors.InvalidArgument, one sentence, for anything else."""
    if not data:
        raise errors.InvalidArgument("the file is empty, not a wasm module")
    if not data.startswith(b"\0asm"):
        raise errors.InvalidArgument(_not_wasm(data))
    if len(data) < 8:
        raise errors.InvalidArgument(f"the wasm module is truncated: it is {len(data)} bytes long")
    version = data[4:8]
    if version not in (_CORE, _COMPONENT):
        raise errors.InvalidArgument(
            f"wasm of the unknown version {version.hex(' ')}: known are core modules (1) and "
            "components (0x1000d)"
        )
    sections = _sections(data)
    if version == _CORE:
        return "core"
    for number, start, end in sections:
        if number in (_IMPORTS_OF_COMPONENT, _EXPORTS_OF_COMPONENT):
            found = _TOO_NEW.search(data, start, end)
            if found:
                raise errors.InvalidArgument(
                    f"the component wants {found.group().decode()}: this engine serves WASI 0.2, "
                    "not yet newer ones; build it for wasm32-wasip2"
                )
    return "component"


def _not_wasm(data: bytes) -> str:
    if data.startswith(b"\x7fELF"):
        return (
            "the file is native code (ELF), perhaps a precompiled module: precompiled code is "
            "never taken from an image; put the .wasm itself there"
        )
    head = data[:4096].lstrip()
    if head.startswith((b"(module", b"(component", b"(;", b";;")):
        return (
            "the file is WebAssembly in text format: convert it to a binary, for instance with "
            "wasm-tools parse"
        )
    return f"the file is not wasm: it starts with {data[:4].hex(' ')}, not with 00 61 73 6d"


def _sections(data: bytes) -> list[tuple[int, int, int]]:
    """The top-level sections, (id, start, end); refuses a file that ends inside of one."""
    at, found = 8, []
    while at < len(data):
        number = data[at]
        size, start = _leb(data, at + 1)
        if start + size > len(data):
            raise errors.InvalidArgument(
                f"the wasm module is truncated: the section at byte {at} wants {size} bytes, "
                f"{max(len(data) - start, 0)} are there"
            )
        found.append((number, start, start + size))
        at = start + size
    return found


def _leb(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 of 32 bits and the place behind it."""
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            raise errors.InvalidArgument(f"the wasm module is truncated at byte {at}")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise errors.InvalidArgument(f"the wasm module is invalid: no section length at byte {at - 5}")


def compile_to(data: bytes, fd: int, profile: Profile, source: bytes) -> None:
    """Compiles `data` and writes code and trailer to `fd`, an empty file.

    `source` is the raw SHA-256 of `data`. Raises errors.InvalidArgument for a module that the
    engine refuses, OSError when the file can't be written. Winch can't take every module: a
    caller that wants code in any case tries `profile.at("cranelift")` next.
    """
    from copepod.engine import artifact, capi, objects

    what = kind(data)
    engine = profile.engine()
    try:
        module = objects.Module.compile(engine, data, len(data), what)
    except capi.EngineError as error:
        raise errors.InvalidArgument(f"the {_noun(what)} is invalid: {brief(error)}") from None
    with module.serialized() as code:
        artifact.append(fd, code, kind=what, tier=profile.tier, source=source, key=profile.key())
    module.close()
    engine.close()


def _noun(what: str) -> str:
    return "wasm module" if what == "core" else "component"


def brief(error: Exception) -> str:
    """An engine's message on one line: its causes joined, its numbering gone, cut if long."""
    lines = [re.sub(r"^\s*(\d+:\s*)?", "", line) for line in str(error).splitlines()]
    text = ": ".join(line for line in lines if line and line != "Caused by:")
    return text if len(text) <= _MESSAGE_LIMIT else text[: _MESSAGE_LIMIT - 1] + "…"


def bound(memory: int, seconds: int) -> None:
    """Bounds what compiling may take from here on, in this process.

    `memory` is in bytes of private memory on top of what there is now, `seconds` is CPU time of
    all threads. Past the first the engine's allocator aborts, past the second the kernel kills
    (setrlimit(2)): the caller sees a dead child.
    """
    from copepod.engine import capi

    capi.library()  # its data is not the module's
    with open("/proc/self/statm") as file:
        mapped = int(file.read().split()[5]) * resource.getpagesize()
    # Not RLIMIT_AS: that counts the 64 MiB which malloc reserves for each thread, used or not.
    _lower(resource.RLIMIT_DATA, mapped + memory)
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + seconds)


def _lower(which: int, value: int) -> None:
    soft, hard = resource.getrlimit(which)
    known = [limit for limit in (soft, hard, value) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(which, (min(known), hard))


def step_back() -> None:
    """Makes this process, and all it starts, run only when nobody else wants the CPU or disk.

    Sources: sched(7) for SCHED_IDLE, ioprio_set(2) follows the nice value for the disk.
    """
    os.nice(19)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
