"""What a wasm file is and whether this node's engine can run it, as one JSON line.

It is a program of its own: the engine ends the process when it panics, and a file is whatever its
author made of it. No code of the guest runs.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from typing import Any

from copepod import errors

_SECONDS = 120
_MEMORY = 4 << 30
_WASI_02 = re.compile(r"@(0\.\d+)\.\d+")
_KINDS = ("func", "global", "table", "memory", "tag")


@dataclass(frozen=True, slots=True)
class Description:
    """`kind` is "core" or "component"; `problem` says why this node can't run it, or is ""."""

    kind: str
    wasi: str
    imports: tuple[str, ...]
    exports: tuple[str, ...]
    problem: str = ""

    @property
    def os(self) -> str:
        """The `os` that the CNCF artifact gives to such a module."""
        return "wasip2" if self.kind == "component" else "wasip1"


def describe(data: bytes) -> Description:
    """Asks the engine in a process of its own.

    Raises errors.InvalidArgument for bytes that are no wasm, errors.Internal when the engine
    dies of them.
    """
    import subprocess

    from copepod.cli.system import python_argv

    done = subprocess.run(
        python_argv("copepod.cli.image.describe"), input=data, capture_output=True, check=False
    )
    if done.returncode:
        raise errors.Internal(
            "the wasm engine gave up on this file: "
            f"{done.stderr.decode(errors='replace').strip()[-300:] or done.returncode}"
        )
    answer = json.loads(done.stdout)
    if "refused" in answer:
        raise errors.InvalidArgument(answer["refused"])
    return Description(
        answer["kind"],
        answer["wasi"],
        tuple(answer["imports"]),
        tuple(answer["exports"]),
        answer["problem"],
    )


def main() -> None:
    """Reads a wasm file from standard input; ends the process."""
    try:
        answer = _look(sys.stdin.buffer.read())
    except errors.InvalidArgument as error:
        answer = {"refused": str(error)}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # the engine's threads are of no more use


def _look(data: bytes) -> dict[str, Any]:
    from copepod.engine import capi, compile, objects, run
    from copepod.engine.limits import Knobs
    from copepod.engine.profile import Profile

    kind = compile.kind(data)
    profile = Profile(tier="winch")
    compile.bound(_MEMORY, _SECONDS)
    try:
        engine = profile.engine()
        module = objects.Module.compile(engine, data, len(data), kind)
    except capi.EngineError:
        profile = Profile()  # Winch does not take every module
        engine = profile.engine()
        try:
            module = objects.Module.compile(engine, data, len(data), kind)
        except capi.EngineError as error:
            raise errors.InvalidArgument(f"the file is invalid: {compile.brief(error)}") from None
    if kind == "core":
        imports = [f"{one.module}.{one.name} {_KINDS[one.kind]}" for one in module.imports()]
        exports = [f"{one.name} {_KINDS[one.kind]}" for one in module.exports()]
    else:
        imports = module.component_names(engine, "import")
        exports = module.component_names(engine, "export")
    problem = ""
    try:
        options = run.Options(["main"], knobs=Knobs(preopens=()))
        run.link(run.Loaded(engine, module, profile), options)
    except errors.Error as error:
        problem = str(error)
    return {
        "kind": kind,
        "wasi": _wasi(kind, imports, exports),
        "imports": imports,
        "exports": exports,
        "problem": problem,
    }


def _wasi(kind: str, imports: list[str], exports: list[str]) -> str:
    """The WASI that a module was built for, by the names it uses."""
    if kind == "core":
        modules = {name.partition(".")[0] for name in imports}
        if "wasi_snapshot_preview1" in modules:
            return "preview 1"
        return "preview 0" if "wasi_unstable" in modules else "none"
    versions = {match[1] for name in (*imports, *exports) if (match := _WASI_02.search(name))}
    return ", ".join(sorted(versions)) or "none"


if __name__ == "__main__":
    main()
