"""Layers out of a real containerd: every one that is on PATH or that cri-tests has built."""

from __future__ import annotations

import asyncio
import os
import pathlib
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pytest

from copepod import errors
from copepod.config import Config
from copepod.engine import artifact
from copepod.image import resolve

pytestmark = [pytest.mark.system, pytest.mark.peer]

ROOT = pathlib.Path(__file__).parents[3]
NAMESPACE = "copepod-test"
# (module (func (export "_start"))), and the same with a custom section
ONE = bytes.fromhex("0061736d0100000001040160000003020100070a01065f737461727400000a040102000b")
TWO = ONE + bytes([0, 2, 1, 120])
CONFIG = """version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",
  "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
[grpc]
address = "{folder}/sock"
"""


def binaries() -> list[str]:
    """Every containerd program that can be tried."""
    built = pathlib.Path.home().glob(".cache/copepod/tools/containerd-*/containerd")
    found = [shutil.which("containerd"), *sorted(str(path) for path in built)]
    return [path for path in found if path]


NONE: Any = pytest.param("", marks=pytest.mark.skip(reason="there is no containerd to try"))


@pytest.fixture(
    scope="module",
    params=binaries() or [NONE],
    ids=lambda path: pathlib.Path(path).parent.name,
)
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[pathlib.Path]:
    """Runs a private containerd with an image; gives its folder, with "sock" and "root" in it."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "config.toml").write_text(CONFIG.format(folder=folder))
    command = [request.param, "-c", str(folder / "config.toml")]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        seen, until = b"", time.monotonic() + 60
        while b"successfully booted" not in seen:
            assert select.select([process.stderr], [], [], until - time.monotonic())[0], seen
            data = os.read(process.stderr.fileno(), 65536)
            assert data, seen
            seen += data
        fill(folder / "sock")
        yield folder
        process.terminate()
        process.communicate(timeout=60)


def fill(socket: pathlib.Path) -> None:
    filler = ROOT / "shim/tests/fakes/fill_containerd.py"
    layers = [f"one.wasm={ONE.hex()}", f"two.wasm={TWO.hex()}"]
    done = subprocess.run(
        [sys.executable, str(filler), str(socket), NAMESPACE, "registry.test/app:1", *layers],
        env=os.environ | {"PYTHONPATH": str(ROOT / "api")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.lstrip("v")[0] in "12"


@dataclass(frozen=True)
class Found:
    name: str
    kind: str = "missing"
    digest: str = ""
    fd: int = -1
    searched: str = "the file /two.wasm"
    stale: bool = False


def module(node: pathlib.Path, cache: pathlib.Path, container: str, **more: Any) -> resolve.Module:
    wanted: dict[str, Any] = {
        "container_id": container,
        "namespace": NAMESPACE,
        "grpc_address": str(node / "sock"),
        "containerd_root": str(node / "root"),
        "config": Config(cache_dir=str(cache)),
        "cgroup_fds": [],
    }

    async def bounded() -> resolve.Module:
        async with asyncio.timeout(60):
            return await resolve.module(Found("/two.wasm"), **wanted | more)

    return asyncio.run(bounded())


@pytest.mark.parametrize("from_disk", [True, False])
def test_a_layer_is_found_and_compiled(
    node: pathlib.Path, tmp_path: pathlib.Path, from_disk: bool
) -> None:
    more = {} if from_disk else {"containerd_root": ""}
    made = module(node, tmp_path, "c1", **more)
    trailer = artifact.read(made.fd)
    os.close(made.fd)
    assert trailer is not None
    assert trailer.source == sha256(TWO).digest()


def test_the_store_is_where_it_is_looked_for(node: pathlib.Path) -> None:
    blobs = node / "root/io.containerd.content.v1.content/blobs/sha256"
    assert (blobs / sha256(TWO).hexdigest()).read_bytes() == TWO


@pytest.mark.parametrize(
    ("container", "said"),
    [
        ("none", "does not know container none"),
        ("docker", "container docker names no image"),
        ("gone", "does not know image registry.test/gone:1"),
    ],
)
def test_what_is_missing_is_said(
    node: pathlib.Path, tmp_path: pathlib.Path, container: str, said: str
) -> None:
    with pytest.raises(errors.FailedPrecondition, match=said):
        module(node, tmp_path, container)
