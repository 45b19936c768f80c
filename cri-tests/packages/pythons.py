"""Our package out of the deb, imported and tested by each CPython that it supports.

A CPython is taken from the machine, else from a Debian that has it.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from packages import inside, made, roots
from rig import debian
from rig.paths import CHECKOUT, cache_dir
from rig.shell import Done, RigError, run

MINORS = (11, 12, 13, 14)
# Debians whose own python3 that is.
SUITES = {11: "bookworm", 13: "trixie", 14: "forky"}
# What the tests import besides our package and its wheels. Of wasmtime the package has the library
# only; its Python half assembles modules for the tests.
TESTS = ("pytest", "pluggy", "iniconfig", "packaging", "Pygments", "hypothesis",
         "sortedcontainers", "wasmtime")  # fmt: skip
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64", "manylinux_2_17_x86_64", "any")
IMPORT = """
import importlib, pkgutil, platform, sys
import copepod, copepod_api, ttrpc, grpc, google.protobuf.message, jeepney, pyroute2, rich
count = 0
for one in pkgutil.walk_packages(copepod.__path__, "copepod."):
    if not one.name.endswith("__main__"):
        importlib.import_module(one.name)
        count += 1
print(platform.python_version(), count, copepod.__file__)
"""
# The reason of the one test that a root without a compiler leaves to the machine's own CPythons.
FOREIGN = "no clang: it assembles for every machine"
TIMEOUT = 600.0


def rows(tree: Callable[[], Path], work: Path) -> list[tuple[str, Callable[[], str]]]:
    """One for each CPython."""
    title = "CPython 3.{}: every module is imported, the pure tests pass"
    return [(title.format(minor), partial(check, minor, tree, work)) for minor in MINORS]


def check(minor: int, tree: Callable[[], Path], work: Path) -> str:
    """Imports all of the package's tree, then runs the tests that need no root."""
    private = made.private(tree())
    site = _site(minor)
    # What Python writes lies in `work`; the tests read the checkout and the tree.
    env = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": f"{private}:{site}"}
    native = _native(minor, env)
    call = native or _foreign(minor, env, (CHECKOUT, site, work))
    if not call:
        raise RigError(
            f"no CPython 3.{minor} on PATH or of pyenv, and no Debian's own: install one"
        )
    said = call(["-c", IMPORT])
    assert said.code == 0, said.text
    version, modules, place = said.out.split()
    assert place.startswith(f"{private}/"), place
    words = ["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--rootdir", CHECKOUT]
    words += ["-c", CHECKOUT / "pyproject.toml", "-o", f"pythonpath={CHECKOUT}/shim/tests"]
    words += ["--basetemp=/tmp/pytest-copepod", CHECKOUT / "shim/tests/pure"]
    done = call([str(word) for word in words])
    tail = "\n".join(done.text.splitlines()[-25:])
    assert done.code == 0, tail
    assert re.search(r"\b[1-9][0-9]* passed", tail), tail
    skipped = [one for one in done.out.splitlines() if one.startswith("SKIPPED")]
    assert not skipped or (not native and all(FOREIGN in one for one in skipped)), skipped
    return f"{version}, {modules} modules; {done.out.strip().splitlines()[-1]}"


Call = Callable[[list[str]], Done]


def _native(minor: int, env: dict[str, str]) -> Call | None:
    """The machine's own, or one of pyenv."""
    folder = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = [Path(f"/usr/bin/python3.{minor}"), Path(f"/usr/local/bin/python3.{minor}")]
    found += sorted(folder.glob(f"3.{minor}.*/bin/python3"))
    for program in found:
        if program.exists():
            debian.need("clang")
            return lambda words: run(
                ["nice", program, *words], env=env, timeout=TIMEOUT, check=False, cwd=Path("/")
            )
    return None


def _foreign(minor: int, env: dict[str, str], shared: tuple[Path, ...]) -> Call | None:
    """Debian's, in a root of its own."""
    if minor not in SUITES or not debian.release():
        return None
    packages = (f"python3.{minor}", "libseccomp2", "libstdc++6", "git", "coreutils", "dash", "sed")
    root = roots.ensure(SUITES[minor], *packages, variant="minbase")
    argv = [f"/usr/bin/python3.{minor}"]
    return lambda words: inside.call(root, [*argv, *words], shared=shared, env=env, timeout=TIMEOUT)


def _site(minor: int) -> Path:
    """The tests' own packages in the versions of requirements.lock, for that CPython."""
    lock = (CHECKOUT / "requirements.lock").read_text()
    pins = [f"{name}=={_pin(lock, name)}" for name in TESTS]
    home = (
        cache_dir()
        / "test-site"
        / f"3.{minor}-{hashlib.sha256(repr(pins).encode()).hexdigest()[:12]}"
    )
    if not home.is_dir():
        stage = home.with_name(f".{home.name}.{os.getpid()}")
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary=:all:"]
        pip += ["--implementation=cp", f"--python-version=3{minor}", f"--target={stage}"]
        run([*pip, *(f"--platform={one}" for one in PLATFORMS), *pins], timeout=TIMEOUT)
        stage.rename(home)
    return home


def _pin(lock: str, name: str) -> str:
    found = re.search(rf"^{name}==(\S+)", lock, re.MULTILINE | re.IGNORECASE)
    assert found, f"requirements.lock has no {name}"
    return found[1]
