"""Builds the guests that are components, with the tools of each language from its own registry.

Tools and guests lie in the cache. What this machine can't have is Absent, with the reason.
"""

import re
import shutil
import sys
from pathlib import Path

from rig import tools
from rig.guests import BUILD_TIMEOUT, SOURCES, built, clang_wasi
from rig.paths import cache_dir
from rig.shell import CommandFailed, RigError, run

HOME = tools.TOOLS / "components"
NODE = 20  # the oldest that jco runs on


class Absent(RigError):
    """A guest can't be built on this machine; the text says what is missing."""


def wasm_c() -> Path:
    """The C guest with wasi:sockets, a component of some 100 kB."""

    def build(source: Path, out: Path) -> None:
        core = out.with_name(f"{out.name}.core")
        names = ("guest.c", "reply.c", "sockets.c")
        try:
            # No `_start`: the guest exports wasi:cli/run itself.
            clang_wasi(core, *(source / one for one in names), flags=["-mexec-model=reactor"])
            _node("wrap", core, out)
        finally:
            core.unlink(missing_ok=True)

    return built("guest-c-component.wasm", SOURCES / "guest-c", build, HOME)


def wasm_py() -> Path:
    """The Python guest, a component of some 19 MB."""

    def build(source: Path, out: Path) -> None:
        work = out.with_name(f"{out.name}.work")
        shutil.copytree(source, work)
        try:
            _node("wit", work / "wit")
            program = "import componentize_py; componentize_py.script()"
            features = "--features=cli-exit-with-code"
            argv = [sys.executable, "-c", program, "-q", "-d", "wit", "-w", "command", features]
            run(
                ["nice", *argv, "componentize", "app", "-o", str(out)],
                timeout=BUILD_TIMEOUT,
                env={"PYTHONPATH": str(_componentize_py())},
                cwd=work,
            )
        finally:
            shutil.rmtree(work)

    return built("guest-py.wasm", SOURCES / "guest-py", build, HOME)


def wasm_js() -> Path:
    """The JavaScript guest, a component of some 15 MB."""

    def build(source: Path, out: Path) -> None:
        _node("js", source / "guest.js", out)

    return built("guest-js.wasm", SOURCES / "guest-js", build, HOME)


def _node(*words: str | Path) -> None:
    run(["nice", "node", _javascript() / "build.mjs", *words], timeout=BUILD_TIMEOUT)


def _javascript() -> Path:
    """jco and componentize-js, as the lock file names them."""
    if not shutil.which("npm"):
        raise Absent(f"it wants npm and Node.js {NODE} or newer, and there is no npm")
    said = run(["node", "--version"]).out.strip()
    match = re.match(r"v(\d+)", said)
    if not match or int(match.group(1)) < NODE:
        raise Absent(f"it wants Node.js {NODE} or newer, and there is {said}")

    def fetch(stage: Path) -> None:
        shutil.copytree(HOME, stage, dirs_exist_ok=True)
        argv = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        run(argv, timeout=BUILD_TIMEOUT, cwd=stage)

    return _fetched("components-js", fetch)


def _componentize_py() -> Path:
    def fetch(stage: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes"]
        wanted = HOME / "componentize-py.txt"
        run([*pip, "--target", stage, "-r", wanted], timeout=BUILD_TIMEOUT)

    return _fetched("components-py", fetch)


def _fetched(name: str, fetch: tools.Make) -> Path:
    home = cache_dir() / "tools" / f"{name}-{tools.digest(HOME)}"
    try:
        return tools.once(home, fetch)
    except CommandFailed as error:
        last = error.done.text.splitlines()[-1:]
        raise Absent(f"{' '.join(error.done.argv[:2])} failed: {' '.join(last)}") from None
