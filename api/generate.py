"""Makes api/copepod_api from api/protos: messages and their types, ttrpc stubs, gRPC stubs.

It leaves nothing there that does not come from a .proto file of ours; `--check` writes nothing and
fails when what is committed differs. Needs grpcio-tools (protoc) and grpclib (its plugin).
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

API = pathlib.Path(__file__).resolve().parent
PROTOS = API / "protos"
PACKAGE = "copepod_api"
PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_ttrpc.py", "*_grpc.py")

# Files whose services a shim or containerd offers over ttrpc, and over gRPC.
TTRPC = ("events_service", "sandbox_v1", "task_v2", "task_v3")
GRPC = ("containers", "content", "images", "introspection", "leases", "version")


def main() -> int:
    """Regenerates, or with --check compares; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check = parser.parse_args().check
    made = generate()
    stale = differences(made, API / PACKAGE)
    for name in stale:
        path = API / PACKAGE / name
        if check:
            print(f"{path} is not what {PROTOS} gives: run `make proto`", file=sys.stderr)
        elif name in made:
            path.write_bytes(made[name])
        else:
            path.unlink()
    return 1 if check and stale else 0


def generate() -> dict[str, bytes]:
    """Gives the generated files by name; CalledProcessError when protoc refuses, in its words."""
    with tempfile.TemporaryDirectory() as folder:
        every = sorted(path.stem for path in (PROTOS / PACKAGE).glob("*.proto"))
        _protoc(every, [f"--python_out={folder}", f"--pyi_out={folder}"])
        _protoc(TTRPC, _plugin(folder, "ttrpc-python", "ttrpc.plugin"))
        _protoc(GRPC, _plugin(folder, "grpclib_python", "grpclib.plugin.main"))
        return {path.name: path.read_bytes() for path in pathlib.Path(folder, PACKAGE).iterdir()}


def differences(made: dict[str, bytes], folder: pathlib.Path) -> list[str]:
    """Gives the names of files that `folder` lacks, has otherwise, or should no longer have."""
    found = {path.name: path.read_bytes() for glob in PATTERNS for path in folder.glob(glob)}
    return sorted(name for name in made.keys() | found.keys() if made.get(name) != found.get(name))


def _protoc(files: tuple[str, ...] | list[str], outputs: list[str]) -> None:
    names = [f"{PACKAGE}/{name}.proto" for name in files]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *outputs, *names]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(API / "ttrpc")})


def _plugin(folder: str, name: str, module: str) -> list[str]:
    """Gives protoc's flags for a plugin, which has to be a program: one line of shell."""
    program = pathlib.Path(folder, f"protoc-gen-{name}")
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c 'import {module} as m; m.main()'\n")
    program.chmod(0o700)
    return [f"--plugin={program}", f"--{name}_out={folder}"]


if __name__ == "__main__":
    sys.exit(main())
