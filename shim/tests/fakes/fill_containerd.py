"""Puts an image with wasm layers and some containers into a real containerd, over gRPC.

Its own process, because a gRPC channel has threads and the code under test must not. Run as
`fill_containerd.py SOCKET NAMESPACE IMAGE TITLE=HEX...`: an index of one wasm manifest whose layers
have these titles and bytes; containers "c1" of that image, "docker" of none, "gone" of one that
does not exist. Says the version of containerd.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from hashlib import sha256

import grpc
from google.protobuf import any_pb2, empty_pb2

from copepod_api import containers_pb2, content_pb2, images_pb2, types_pb2
from copepod_api.content_grpc import ContentStub
from copepod_api.images_grpc import ImagesStub
from copepod_api.version_grpc import VersionStub

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"


class Filler:
    """Writes into one name space of one containerd."""

    def __init__(self, channel: grpc.Channel, namespace: str) -> None:
        self._channel = channel
        self._metadata = (("containerd-namespace", namespace),)

    def image(self, name: str, parts: dict[str, bytes]) -> None:
        """Makes the image."""
        layers = [self._write(data, "application/wasm", title) for title, data in parts.items()]
        config = self._write(b"{}", CONFIG)
        manifest = self._json({"mediaType": MANIFEST, "config": config, "layers": layers}, MANIFEST)
        manifest["platform"] = {"os": "wasip1", "architecture": "wasm"}
        index = self._json({"mediaType": INDEX, "manifests": [manifest]}, INDEX)
        target = types_pb2.Descriptor(
            media_type=INDEX, digest=str(index["digest"]), size=int(str(index["size"]))
        )
        ImagesStub(self._channel).create(
            images_pb2.CreateImageRequest(image=images_pb2.Image(name=name, target=target)),
            metadata=self._metadata,
            timeout=30,
        )

    def container(self, name: str, image: str) -> None:
        """Makes a container's record; a create request has the shape of a get's answer."""
        answer = containers_pb2.GetContainerResponse
        create = self._channel.unary_unary(
            "/containerd.services.containers.v1.Containers/Create",
            request_serializer=answer.SerializeToString,
            response_deserializer=answer.FromString,
        )
        container = containers_pb2.Container(
            id=name,
            image=image,
            runtime=containers_pb2.Container.Runtime(name="io.containerd.copepod.v1"),
            spec=any_pb2.Any(type_url="x", value=b"{}"),
        )
        create(answer(container=container), metadata=self._metadata, timeout=30)

    def _json(self, document: dict[str, object], media_type: str) -> dict[str, object]:
        return self._write(json.dumps(document).encode(), media_type)

    def _write(self, data: bytes, media_type: str, title: str = "") -> dict[str, object]:
        digest = f"sha256:{sha256(data).hexdigest()}"

        def requests() -> Iterator[content_pb2.WriteContentRequest]:
            yield content_pb2.WriteContentRequest(
                action=content_pb2.COMMIT,
                ref=digest,
                total=len(data),
                expected=digest,
                data=data,
                labels={"containerd.io/gc.root": "2026-01-01T00:00:00Z"},
            )

        write = ContentStub(self._channel).write
        for answer in write(requests(), metadata=self._metadata, timeout=30):
            if answer.digest != digest:
                raise ValueError(f"containerd stored {answer.digest} in place of {digest}")
        found: dict[str, object] = {"mediaType": media_type, "digest": digest, "size": len(data)}
        if title:
            found["annotations"] = {"org.opencontainers.image.title": title}
        return found


def main(socket: str, namespace: str, image: str, *layers: str) -> None:
    """Fills, and says the version."""
    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(f"unix:{socket}", options=options) as channel:
        filler = Filler(channel, namespace)
        parts = (layer.partition("=") for layer in layers)
        filler.image(image, {title: bytes.fromhex(data) for title, _, data in parts})
        for name, its in (("c1", image), ("docker", ""), ("gone", "registry.test/gone:1")):
            filler.container(name, its)
        print(VersionStub(channel).version(empty_pb2.Empty(), timeout=30).version)


if __name__ == "__main__":
    main(*sys.argv[1:])
