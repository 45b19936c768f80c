"""The first container of a node whose /run is empty, as after a boot."""

import pytest

from rig import images
from rig.cell import Cell
from rig.containerd import DEBIAN, Containerd
from rig.runs import Runner

pytestmark = pytest.mark.peer


def test_the_socket_directory_is_made_with_its_parents() -> None:
    with Cell() as cell, Containerd(cell, DEBIAN) as node:
        archive = images.archive(cell.home / "images.tar", images.good_wasm(layers=False))
        node.import_image(archive, namespace=cell.name)
        # k3s and others keep containerd's state elsewhere: there is no /run/containerd then.
        (cell.run_dir / "containerd").rmdir()
        runner = Runner(node, "copepod")
        # Detached and without output: ctr itself would make the directory for its FIFOs.
        runner.detach(images.C_ROOTFS, images.MODULE, "count", "20", name="first")
        assert runner.wait_running("first")
        assert (cell.run_dir / "containerd" / "s").stat().st_mode & 0o777 == 0o700


def test_a_container_with_little_memory_is_the_first_of_its_image() -> None:
    """It could not compile its module within its own limit."""
    with Cell() as cell, Containerd(cell, DEBIAN) as node:
        archive = images.archive(cell.home / "images.tar", images.good_wasm(layers=False))
        node.import_image(archive, namespace=cell.name)
        runner = Runner(node, "copepod")
        flags = ["--memory-limit", str(40 << 20)]
        done = runner.run(images.GO_ROOTFS, images.MODULE, "exit", "3", flags=flags)
        assert done.code == 3, done.err
