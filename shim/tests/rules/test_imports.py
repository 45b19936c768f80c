"""Importing any module of the shim changes nothing in the process."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ROOMS = [str(ROOT / name) for name in ("shim", "api", "api/ttrpc")]
MODULES = sorted(
    ".".join(path.relative_to(ROOT / "shim").with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "shim" / "copepod").rglob("*.py")
    if path.name != "__main__.py"
)
PROBE = """
import os, signal, sys, sysconfig
sys.path[:0] = {rooms}
sys.path.append({site!r})
def state():
    handlers = [signal.getsignal(n) for n in range(1, 32) if n not in (9, 19)]
    fds = sorted(os.listdir("/proc/self/fd"))
    return (len(os.listdir("/proc/self/task")), fds, handlers, dict(os.environ), os.umask(0o22))
state()
before = state()
__import__({module!r})
after = state()
assert before == after, (before, after)
heavy = {heavy} & set(sys.modules)
assert not heavy, heavy
"""


def heavy_for(module: str) -> set[str]:
    """What `module` must not load: each library has one room that knows it."""
    heavy = {"grpc", "wasmtime", "pyroute2", "jeepney", "rich", "multiprocessing", "sqlite3"}
    if module == "copepod.image.content":
        heavy.discard("grpc")
    return heavy


def run_alone(template: str, **words: object) -> None:
    """In an interpreter that has imported nothing."""
    code = template.format(rooms=ROOMS, site=sysconfig.get_path("purelib"), **words)
    done = subprocess.run(
        [sys.executable, "-ISBc", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", MODULES)
def test_import_has_no_side_effect(module: str) -> None:
    run_alone(PROBE, module=module, heavy=heavy_for(module))


LEAN = """
import sys
sys.path[:0] = {rooms}
sys.path.append({site!r})
import os
registered = []
os.register_at_fork = lambda **hooks: registered.append(hooks)
from copepod import entry
entry.lean_imports()
assert not registered, registered
assert os.register_at_fork.__module__ == "posix"
assert {{"threading", "logging"}} < set(sys.modules)
from copepod import serve, warm
warm.create()
heavy = {{"ssl", "asyncio.sslproto", "inspect", "pickle", "_hashlib",
         "google.protobuf.text_format"}} & set(sys.modules)
if sys.version_info >= (3, 14):
    heavy.discard("inspect")  # traceback wants it there, through dataclasses
assert not heavy, heavy
import asyncio, inspect
from google.protobuf.internal import python_message
from google.protobuf.timestamp_pb2 import Timestamp
assert inspect.signature(print)
assert hasattr(python_message, "GeneratedProtocolMessageType")
assert asyncio.coroutines.inspect.signature is inspect.signature
assert "seconds: 7" in str(Timestamp(seconds=7))
assert asyncio.selector_events.sslproto.SSLProtocol.__module__ == "asyncio.sslproto"
"""


def test_a_shim_leaves_out_what_others_import_in_vain() -> None:
    """And whoever needs it later has it whole."""
    run_alone(LEAN)
