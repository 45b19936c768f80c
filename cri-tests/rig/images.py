"""The images that the tests run, by name: wasm in a rootfs, wasm as layers, native, and broken.

It decides what is in them and writes them to archives; importing is containerd's work.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rig import config, guests, oci
from rig.oci import Entry, Image
from rig.shell import run

HOST = "images.copepod.test"
C_ROOTFS = f"{HOST}/guest-c:rootfs"
C_LAYER = f"{HOST}/guest-c:layer"
C_ARTIFACT = f"{HOST}/guest-c:artifact"
GO_ROOTFS = f"{HOST}/guest-go:rootfs"
GO_LAYER = f"{HOST}/guest-go:layer"
BUSYBOX = f"{HOST}/busybox:1"
MODULE = "/guest.wasm"

PASSWD = """root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
"""
GROUP = "root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\n"


def media_name(media_type: str) -> str:
    """The image whose only layer has that media type."""
    return f"{HOST}/guest-c:layer-{oci.WASM_LAYERS.index(media_type)}"


def rootfs_wasm(name: str, module: bytes, **fields: Any) -> Image:
    """A module as a file of an ordinary layer: what every containerd can unpack."""
    entries = [
        Entry("tmp", directory=True, mode=0o1777),
        Entry("etc/passwd", PASSWD.encode(), 0o644),
        Entry("etc/group", GROUP.encode(), 0o644),
        Entry(MODULE[1:], module),
    ]
    layer = oci.tar_layer(entries)
    return Image(name, (layer,), {"Entrypoint": [MODULE], "WorkingDir": "/"} | fields)


def layer_wasm(name: str, module: bytes, media_type: str = oci.WASM) -> Image:
    """A module as a layer of its own in an OCI image that names the wasm platform."""
    layer = oci.wasm_layer(module, media_type, MODULE[1:])
    return Image(name, (layer,), {"Entrypoint": [MODULE]}, "wasip1", "wasm")


def artifact(name: str, module: bytes) -> Image:
    """CNCF's wasm OCI artifact: a config of its own kind, no entry point."""
    return Image(name, (oci.wasm_layer(module, title=MODULE[1:]),), artifact=True)


def good_wasm(*, layers: bool) -> list[Image]:
    """The C and Go guests in rootfs images and, with `layers`, in every kind of layer image."""
    c, go = guests.wasm_c().read_bytes(), guests.wasm_go().read_bytes()
    found = [rootfs_wasm(C_ROOTFS, c), rootfs_wasm(GO_ROOTFS, go)]
    if layers:
        found += [layer_wasm(C_LAYER, c), layer_wasm(GO_LAYER, go), artifact(C_ARTIFACT, c)]
        found += [layer_wasm(media_name(kind), c, kind) for kind in oci.WASM_LAYERS]
    return found


# What Debian's busybox is built without and the suites of CRI call.
SCRIPTS = {
    "pgrep": 'cd /proc; for p in [0-9]*; do grep -sqx "$1" $p/comm && echo $p; done',
    "ipcs": "cat /proc/sysvipc/shm",
}


def busybox(name: str = BUSYBOX, *, extra: Iterable[Entry] = (), **fields: Any) -> Image:
    """Debian's static busybox with a link for each of its applets, and a shell beside it.

    The links are hard ones: a mask on a symbolic link would hide the busybox behind it.
    """
    binary = guests.busybox()
    own = {"busybox", "sh", *SCRIPTS}
    applets = [word for word in run([binary, "--list"]).out.split() if word not in own]
    links = [Entry(f"bin/{word}", link="bin/busybox", hard=True) for word in applets]
    scripts = [
        Entry(f"bin/{word}", f"#!/bin/sh\n{text}\n".encode()) for word, text in SCRIPTS.items()
    ]
    entries = [
        *(Entry(path, directory=True) for path in ("bin", "dev", "etc", "proc", "sys", "root")),
        *(Entry(path, directory=True) for path in ("home", "usr", "usr/bin", "usr/sbin", "var")),
        *(Entry(path, directory=True, mode=0o1777) for path in ("tmp", "var/tmp", "var/run")),
        Entry("bin/busybox", binary.read_bytes()),
        *(Entry(path, file.read_bytes()) for path, file in guests.shell().items()),
        *links,
        *scripts,
        Entry("etc/passwd", PASSWD.encode(), 0o644),
        Entry("etc/group", GROUP.encode(), 0o644),
        *extra,
    ]
    base = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    return Image(name, (oci.tar_layer(entries),), {**base, "Cmd": ["sh"], **fields})


def pause(name: str = config.PAUSE) -> Image:
    """The pod's waiting image."""
    layer = oci.tar_layer([Entry("pause", guests.native("pause").read_bytes())])
    return Image(name, (layer,), {"Entrypoint": ["/pause"]})


def with_user(image: Image, name: str, user: str) -> Image:
    """The same image under another name with a USER."""
    return replace(image, name=name, config={**image.config, "User": user})


def archive(path: Path, images: Iterable[Image]) -> Path:
    """Writes the images to one archive; gives its path."""
    written = oci.Archive()
    for image in images:
        written.add(image)
    written.write(path)
    return path
