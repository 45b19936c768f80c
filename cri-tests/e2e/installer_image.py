"""The image of the node installer, made without a builder of images, and a node for it to work on.

The image is what packaging/k8s/node-installer/Containerfile says, but for the base: Debian's own
Python from a root in the cache. It brings no interpreter for nodes that have none.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packages import roots
from rig import debian, oci
from rig.cell import Cell
from rig.oci import Entry, Image, Layer
from rig.paths import CHECKOUT, cache_dir
from rig.shell import run

NAME = "copepod.dev/node-installer:0.1.0"
SUITE = "trixie"
BASE = ("python3", "coreutils", "dash", "util-linux")
NODE = ("python3", "containerd", "runc", "libseccomp2", "libstdc++6")
TIMEOUT = 300.0


def make(home: Path) -> Image:
    """Lays the tree for /opt out and packs all of it; `home` is a folder to work in."""
    arch = oci.machine()
    program = CHECKOUT / "packaging/build.py"
    words = ["nice", sys.executable, str(program), "--opt", f"--arch={arch}", f"--output={home}"]
    run([*words, f"--cache={cache_dir()}"], timeout=TIMEOUT)
    script = (CHECKOUT / "packaging/k8s/node-installer/installer.py").read_bytes()
    layers = (
        _layer(roots.ensure(SUITE, *BASE, arch=arch), home, "."),
        _layer(home / "stage" / f"opt-{arch}", home, "payload"),
        oci.tar_layer([Entry("installer.py", script), Entry("tmp", directory=True, mode=0o1777)]),
    )
    entry = ["/usr/bin/python3", "-ISB", "/installer.py"]
    env = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONUNBUFFERED=1"]
    return Image(NAME, layers, {"Entrypoint": entry, "Env": env})


def _layer(folder: Path, home: Path, top: str) -> Layer:
    path = home / "layer.tar"
    words = ["tar", "--sort=name", "--mtime=@0", f"--transform=s,^\\.,{top},S"]
    words += ["--exclude=./var/cache", "--exclude=./var/lib/apt", "--exclude=./usr/share/doc"]
    run([*words, "-C", folder, "-cf", path, "."], timeout=TIMEOUT)
    data = path.read_bytes()
    path.unlink()
    return Layer(data)


@contextmanager
def node_root(cell: Cell, name: str) -> Iterator[Path]:
    """A Debian with a containerd that is not running, below the cell's home; seen in the cell."""
    lower = roots.ensure(SUITE, *NODE, arch=oci.machine(), variant="minbase")
    debian.need_command("mount", "mount")
    top = cell.home / name
    root, upper, work = (top / part for part in ("root", "upper", "work"))
    for folder in (root, upper, work):
        folder.mkdir(parents=True)
    layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
    cell.call(["mount", "-t", "overlay", "-o", layers, "overlay", root])
    cell.call(["mount", "--rbind", "/dev", root / "dev"])
    cell.call(["mount", "--make-rslave", root / "dev"])
    try:
        yield root
    finally:
        cell.call(["umount", "--recursive", "--lazy", root])
        run(["rm", "-rf", top], timeout=60)
