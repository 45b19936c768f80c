"""Go's own tests of its standard library, built for preview 1: under Copepod's engine room and
under the plain wasmtime package. Prints a table and every test whose outcome differs.

    python -m enginekit.go_std os io/fs time strings net/http
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from copepod.engine.limits import Knobs
from enginekit.harness import Outcome, child, compiled, guest

PACKAGES = ("os", "io/fs", "time", "strings", "net/http")
FLAGS = ("-test.v", "-test.short", "-test.timeout=600s")
LIMIT = 700.0
Results = dict[str, str]


def build(package: str, root: Path, folder: Path) -> Path:
    """Compiles the tests of a package to wasm."""
    target = folder / f"{package.replace('/', '_')}.wasm"
    env = os.environ | {"GOOS": "wasip1", "GOARCH": "wasm"}
    command = ["go", "test", "-c", "-o", str(target), "."]
    subprocess.run(command, cwd=root / "src" / package, env=env, check=True, timeout=900)
    return target


def environment(root: Path) -> dict[str, str]:
    return {"HOME": "/root", "TMPDIR": "/tmp", "GOROOT": str(root), "PATH": f"{root}/bin"}


def ours(module: Path, root: Path, cwd: Path) -> Outcome:
    """Runs it as a container process would."""
    knobs = Knobs(compiler="winch")
    os.close(compiled(module.read_bytes(), knobs.profile().at("winch")))
    env = [f"{name}={value}" for name, value in environment(root).items()]
    return guest(module, *FLAGS, tier="winch", knobs=knobs, cwd=str(cwd), env=env, limit=LIMIT)


def plain(module: Path, root: Path, cwd: Path) -> Outcome:
    """Runs it with nothing but the wasmtime package."""

    def work() -> int:
        import wasmtime

        engine = wasmtime.Engine()  # the package knows Cranelift only
        store, linker = wasmtime.Store(engine), wasmtime.Linker(engine)
        linker.define_wasi()
        wasi = wasmtime.WasiConfig()
        wasi.argv = ["/guest.wasm", *FLAGS]
        wasi.env = list((environment(root) | {"PWD": str(cwd)}).items())
        for stream in (wasi.inherit_stdin, wasi.inherit_stdout, wasi.inherit_stderr):
            stream()
        wasi.preopen_dir("/", "/")
        store.set_wasi(wasi)
        instance = linker.instantiate(store, wasmtime.Module.from_file(engine, str(module)))
        try:
            instance.exports(store)["_start"](store)
        except wasmtime.ExitTrap as end:
            return int(end.code)
        return 0

    return child(work, limit=LIMIT)


def results(outcome: Outcome) -> Results:
    """Test -> PASS, FAIL or SKIP; a run that doesn't end well counts as a test too."""
    text = outcome.out.decode(errors="replace")
    found = {name: word for word, name in re.findall(r"^ *--- (\w+): (\S+)", text, re.M)}
    return found | {"(the run)": "PASS" if outcome.code == 0 else f"exit code {outcome.code}"}


def main(packages: tuple[str, ...]) -> int:
    """Prints the table; 1 if there is a difference or a failure."""
    answer = subprocess.run(["go", "env", "GOROOT"], capture_output=True, text=True, check=True)
    root, bad = Path(answer.stdout.strip()), 0
    print(f"{'package':12} {'pass':>6} {'skip':>6} {'fail':>6} {'differ':>7} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for package in packages:
            module, cwd = build(package, root, Path(folder)), root / "src" / package
            begun = time.monotonic()
            here = results(ours(module, root, cwd))
            took = time.monotonic() - begun
            there = results(plain(module, root, cwd))
            count = {word: list(here.values()).count(word) for word in ("PASS", "SKIP", "FAIL")}
            differ = sorted(
                name for name in here.keys() | there.keys() if here.get(name) != there.get(name)
            )
            print(
                f"{package:12} {count['PASS']:6} {count['SKIP']:6} {count['FAIL']:6} "
                f"{len(differ):7} {took:8.1f}",
                flush=True,
            )
            for name in differ:
                print(f"  {name}: {here.get(name)}, with the package alone {there.get(name)}")
            bad += len(differ) + len(here) - count["PASS"] - count["SKIP"]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:]) or PACKAGES))
