#!/usr/bin/env python3
"""Builds the toolbox, build/guests/toolbox.wasm, out of shim/guests/toolbox.

It takes a Go of 1.21 or newer that is there, and modules with the sums in go.sum; nothing is
built again that is up to date.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = Path(__file__).parent / "toolbox"
TARGET = ROOT / "build/guests/toolbox.wasm"
OLDEST = (1, 21)  # the first with GOOS=wasip1
TIMEOUT = 1800

# The shell's pipes are the kernel's, which wasm can't ask for: in one process Go's own do.
SHELL = "mvdan.cc/sh/v3"
CHANGED = "interp/runner.go"
BEFORE = "pr, pw, err := os.Pipe()"
AFTER = "pr, pw := io.Pipe()\n\t\t\tvar err error"


class Absent(Exception):
    """The toolbox can't be built here; the text says why."""


def main() -> int:
    """`--optional`: a machine that can't build it is told so, and that is all."""
    optional = sys.argv[1:] == ["--optional"]
    try:
        build(TARGET)
    except Absent as error:
        print(f"toolbox: not built: {error}", file=sys.stderr)
        return 0 if optional else 1
    return 0


def build(target: Path) -> None:
    """Makes `target`; raises Absent."""
    go = find_go()
    stamp = target.with_suffix(".stamp")
    digest = sources_digest()
    if target.exists() and stamp.exists() and stamp.read_text() == digest:
        return
    work = target.parent / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    staged = work / "toolbox.wasm"
    flags = ["-trimpath", "-buildvcs=false", "-mod=mod", "-ldflags=-s -w -buildid="]
    run(go, "build", *flags, f"-modfile={patched(go, work)}", "-o", str(staged), ".")
    collect_licenses(go, target.parent / "licenses")
    staged.replace(target)
    shutil.rmtree(work)
    stamp.write_text(digest)


def find_go() -> str:
    """The go command; raises Absent with what is wanted."""
    found = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    wanted = ".".join(map(str, OLDEST))
    if found is None:
        raise Absent(f"it wants Go {wanted} or newer, and there is no go command")
    said = run(found, "env", "GOVERSION")
    version = re.match(r"go(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < OLDEST:
        raise Absent(f"it wants Go {wanted} or newer, and {found} is {said.strip()}")
    return found


def sources_digest() -> str:
    """A name for all that goes into the build but the compiler."""
    total = hashlib.sha256()
    for path in sorted([*SOURCES.iterdir(), Path(__file__)]):
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def patched(go: str, work: Path) -> Path:
    """Copies the shell's module with its one change; gives a go.mod that takes the copy."""
    run(go, "mod", "download")
    folder = Path(run(go, "list", "-m", "-f", "{{.Dir}}", SHELL).strip())
    copy = work / "sh"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    for one in (copy, *copy.rglob("*/")):
        one.chmod(0o755)  # the module cache is read-only
    text = (copy / CHANGED).read_text()
    if text.count(BEFORE) != 1:
        raise Absent(f"{SHELL} has changed: {CHANGED} no longer has one {BEFORE!r}")
    (copy / CHANGED).write_text(text.replace(BEFORE, AFTER))
    shutil.copyfile(SOURCES / "go.sum", work / "go.sum")
    table = work / "go.mod"
    # Relative, since the program records it: the same bytes wherever the checkout lies.
    place = os.path.relpath(copy, SOURCES)
    table.write_text(f"{(SOURCES / 'go.mod').read_text()}\nreplace {SHELL} => {place}\n")
    return table


def collect_licenses(go: str, folder: Path) -> None:
    """Puts the licence of Go and of each module that is in the program beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    homes = {"go": run(go, "env", "GOROOT").strip()}
    listed = run(go, "list", "-deps", "-f", "{{with .Module}}{{.Path}} {{.Dir}}{{end}}", ".")
    for line in filter(None, listed.splitlines()):
        name, _, home = line.partition(" ")
        if Path(home) != SOURCES:
            homes[name.replace("/", "-")] = home
    for name, home in homes.items():
        shutil.copyfile(Path(home) / "LICENSE", folder / f"{name}.LICENSE")


def run(*argv: str) -> str:
    """Runs the go command for wasm; raises Absent with the last line that it said."""
    env = {**os.environ, "GOOS": "wasip1", "GOARCH": "wasm", "CGO_ENABLED": "0"}
    try:
        done = subprocess.run(
            ["nice", *argv], cwd=SOURCES, env=env, text=True, capture_output=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise Absent(f"{' '.join(argv[:2])} took longer than {TIMEOUT} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Absent(f"{' '.join(argv[:2])}: {lines[-1]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
