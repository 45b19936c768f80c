"""Layers out of a real containerd: every one that is on PATH or that cri-tests has built."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest
from google.protobuf import any_pb2
from grpclib.client import Channel, UnaryUnaryMethod

from copepod import errors
from copepod.image import layers, resolve
from copepod.image.content import Containerd
from copepod_api import containers_pb2, content_pb2, images_pb2, types_pb2
from copepod_api.content_grpc import ContentStub
from copepod_api.images_grpc import ImagesStub
from copepod_api.version_grpc import VersionStub

pytestmark = [pytest.mark.system, pytest.mark.peer]

NAMESPACE = {"containerd-namespace": "copepod-test"}
IMAGE = "registry.test/app:1"
WASM = bytes.fromhex("0061736d01000000")
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = """version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",
  "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
[grpc]
address = "{folder}/sock"
"""


def binaries() -> list[str]:
    """Every containerd program that can be tried, newest last."""
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
    """Runs a private containerd; gives its folder, with "sock" and "root" in it."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "config.toml").write_text(CONFIG.format(folder=folder))
    command = [request.param, "-c", str(folder / "config.toml")]
    with (
        open(folder / "log", "wb") as log,
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=log) as process,
    ):
        assert process.stderr is not None
        seen, until = b"", time.monotonic() + 60
        while b"successfully booted" not in seen:
            assert select.select([process.stderr], [], [], until - time.monotonic())[0], seen
            data = os.read(process.stderr.fileno(), 65536)
            assert data, seen
            seen += data
        asyncio.run(fill(str(folder / "sock")))
        yield folder
        process.terminate()
        process.communicate(timeout=60)


async def fill(socket: str) -> None:
    """Makes an image of an index, a manifest and two wasm layers, and a container of it."""
    channel = Channel(path=socket)
    one, two = WASM, WASM + bytes([0, 2, 1, 120])
    parts = [
        await write(channel, one, "application/wasm", "one.wasm"),
        await write(channel, two, "application/wasm", "two.wasm"),
    ]
    config = await write(channel, b"{}", "application/vnd.oci.image.config.v1+json")
    document = {"mediaType": MANIFEST, "config": config, "layers": parts}
    manifest = await write(channel, json.dumps(document).encode(), MANIFEST)
    manifest["platform"] = {"os": "wasip1", "architecture": "wasm"}
    index = {"mediaType": INDEX, "manifests": [manifest]}
    target = await write(channel, json.dumps(index).encode(), INDEX)
    image = images_pb2.Image(
        name=IMAGE,
        target=types_pb2.Descriptor(
            media_type=INDEX, digest=str(target["digest"]), size=int(str(target["size"]))
        ),
    )
    await ImagesStub(channel).Create(
        images_pb2.CreateImageRequest(image=image), metadata=NAMESPACE, timeout=30
    )
    # CreateContainerRequest and its response have the shape of GetContainerResponse.
    create = UnaryUnaryMethod(
        channel,
        "/containerd.services.containers.v1.Containers/Create",
        containers_pb2.GetContainerResponse,
        containers_pb2.GetContainerResponse,
    )
    for name, image_name in (("c1", IMAGE), ("docker", ""), ("gone", "registry.test/gone:1")):
        container = containers_pb2.Container(
            id=name,
            image=image_name,
            runtime=containers_pb2.Container.Runtime(name="io.containerd.copepod.v1"),
            spec=any_pb2.Any(type_url="x", value=b"{}"),
        )
        await create(
            containers_pb2.GetContainerResponse(container=container),
            metadata=NAMESPACE,
            timeout=30,
        )
    channel.close()


async def write(
    channel: Channel, data: bytes, media_type: str, title: str = ""
) -> dict[str, object]:
    digest = f"sha256:{sha256(data).hexdigest()}"
    request = content_pb2.WriteContentRequest(
        action=content_pb2.COMMIT,
        ref=digest,
        total=len(data),
        expected=digest,
        data=data,
        labels={"containerd.io/gc.root": "2026-01-01T00:00:00Z"},
    )
    async with ContentStub(channel).Write.open(metadata=NAMESPACE, timeout=30) as stream:
        await stream.send_message(request, end=True)
        answer = await stream.recv_message()
    assert answer is not None
    assert answer.digest == digest
    annotations = {"org.opencontainers.image.title": title} if title else {}
    return {
        "mediaType": media_type,
        "digest": digest,
        "size": len(data),
        "annotations": annotations,
    }


@pytest.mark.parametrize("from_disk", [True, False])
def test_a_layer_is_found_and_read(node: pathlib.Path, from_disk: bool) -> None:
    async def find() -> bytes:
        root = str(node / "root") if from_disk else ""
        async with Containerd(str(node / "sock"), "copepod-test", root) as containerd:
            image = await containerd.image_name("c1")
            assert image == IMAGE
            layer = await resolve.choose(containerd, image, "/two.wasm", "/")
            fd = await containerd.open(layer, 1 << 20, "the layer")
            assert ("memfd" in os.readlink(f"/proc/self/fd/{fd}")) is not from_disk
            data = os.pread(fd, 1 << 20, 0)
            os.close(fd)
            return data

    assert asyncio.run(find()) == WASM + bytes([0, 2, 1, 120])


@pytest.mark.parametrize(
    ("container", "said"),
    [
        ("none", "does not know container none"),
        ("docker", "container docker names no image"),
        ("gone", "does not know image registry.test/gone:1"),
    ],
)
def test_what_is_missing_is_said(node: pathlib.Path, container: str, said: str) -> None:
    async def find() -> layers.Blob:
        async with Containerd(str(node / "sock"), "copepod-test", "") as containerd:
            return await containerd.target(await containerd.image_name(container))

    with pytest.raises(errors.FailedPrecondition, match=said):
        asyncio.run(find())


def test_it_is_a_containerd(node: pathlib.Path) -> None:
    async def ask() -> str:
        from google.protobuf import empty_pb2

        channel = Channel(path=str(node / "sock"))
        answer = await VersionStub(channel).Version(empty_pb2.Empty(), timeout=30)
        channel.close()
        return answer.version

    assert asyncio.run(ask()).lstrip("v")[0] in "12"
