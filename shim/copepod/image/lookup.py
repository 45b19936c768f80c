"""What runs in the resolver child when the module is not in the root file system: the look-up.

It asks containerd what the container's image is made of, waits to hear what args[0] was, and then
answers from the cache or compiles. It reads images, it changes none.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from copepod import errors
from copepod.image import layers, worker
from copepod.values import dataclass

if TYPE_CHECKING:
    from copepod.image.content import Containerd


@dataclass(frozen=True, slots=True)
class Question:
    """Which container's image: `address` is containerd's gRPC socket, `root` its data directory."""

    container_id: str
    namespace: str
    address: str
    root: str


@dataclass(frozen=True, slots=True)
class Heard:
    """What the shim says when it knows it: args[0], where that is not, and whether the code that
    it was given before is of no use."""

    name: str
    searched: str
    stale: bool

    def pack(self) -> bytes:
        """Gives the message, at most worker.MESSAGE_MAX bytes."""
        text = f"{int(self.stale)}{self.name}\0{self.searched}"
        return text.encode(errors="replace")[: worker.MESSAGE_MAX]

    @classmethod
    def unpack(cls, message: bytes) -> Heard:
        """Gives what `pack` packed."""
        name, _, searched = message.decode(errors="replace").partition("\0")
        return cls(name[1:], searched, name.startswith("1"))


def look_up(question: Question, settings: worker.Settings, wire: socket.socket) -> None:
    """Finds the layer and hands its code to the shim.

    The image is asked for at once; the name comes through the wire, perhaps later: a child may
    be started before it is known.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what matters is in the errors that it raises
    from copepod.image.content import Containerd

    containerd = Containerd(question.address, question.namespace, question.root)
    image = containerd.image_name(question.container_id)
    manifest = manifest_of(containerd, image)
    message = wire.recv(worker.MESSAGE_MAX)
    if not message:
        return
    heard = Heard.unpack(message)
    layer = layers.choose_layer(manifest, heard.name, image, heard.searched)
    called = f"layer {layer.title!r}" if layer.title else f"layer {layer.digest}"
    what = f"{called} of image {image}"
    code = worker.cached(settings, layer.hex, stale=heard.stale)
    if code is not None:
        worker.answer(wire, code)
        if code.best:
            return
    source = worker.Source(containerd.open(layer, settings.limit, what), layer.hex, what)
    containerd.close()
    size = os.fstat(source.fd).st_size
    if code is None:
        worker.build(worker.placed(settings, size), source, wire)
    elif worker.has_room(settings, size):
        settings = worker.placed(settings, size)
        worker.improve(settings, source, worker.read(settings, source))


def manifest_of(containerd: Containerd, image: str) -> layers.Manifest:
    """Gives the manifest that an image's name means on this machine, if need be out of an index."""
    what = f"the manifest of image {image}"
    found = layers.parse(containerd.document(containerd.target(image), what), what)
    if isinstance(found, layers.Index):
        chosen = layers.choose_manifest(found, os.uname().machine, image)
        found = layers.parse(containerd.document(chosen, what), what)
    if isinstance(found, layers.Index):
        raise errors.InvalidArgument(f"image {image} is an index in an index, which nobody makes")
    return found
