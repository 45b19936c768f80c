"""One private containerd for all tests here, and a count of what each test leaves behind.

RIG_CONTAINERD chooses the containerd (debian, 1.7.34, 2.4.2), RIG_RUNTIME the runtime: "runc" shows
what the tests themselves expect of any runtime.
"""

import os
import signal
from collections.abc import Iterator

import pytest

from rig import images, leaks
from rig.cell import Cell
from rig.containerd import DEBIAN, Containerd
from rig.cri import Pods
from rig.paths import SHIM
from rig.runs import Runner

RUNTIME = os.environ.get("RIG_RUNTIME", "copepod")


@pytest.fixture(scope="session", autouse=True)
def _end_on_sigterm() -> Iterator[None]:
    """So that a test run that is told to end takes its containerd with it."""
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.exit("SIGTERM", 143))
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def node() -> Iterator[Containerd]:
    """A containerd with all images, for `ctr run` and for CRI."""
    if RUNTIME == "copepod":
        assert SHIM.exists(), f"{SHIM} is missing: run make build"
    with Cell() as cell, Containerd(cell, os.environ.get("RIG_CONTAINERD", DEBIAN)) as started:
        layers = started.release.wasm_layers
        catalogue = [images.busybox(), images.pause(), *images.good_wasm(layers=layers)]
        archive = images.archive(cell.home / "images.tar", catalogue)
        for namespace in (cell.name, "k8s.io"):
            started.import_image(archive, namespace=namespace)
        yield started


@pytest.fixture(autouse=True)
def _nothing_left(node: Containerd) -> Iterator[None]:
    """Every test ends with the counts that it began with."""
    node.wait_cri()
    before = leaks.take(node)
    yield
    if not node.running:
        node.start()
    # A killed shim of runc leaves its socket file; ours must not.
    leaks.settled(node, before, ignore="sockets" if RUNTIME == "runc" else "")


@pytest.fixture
def runner(node: Containerd) -> Runner:
    """`ctr run` with the runtime under test."""
    return Runner(node, RUNTIME)


@pytest.fixture
def pods(node: Containerd) -> Pods:
    """Pods with the runtime under test as their handler."""
    return Pods(node, RUNTIME)
