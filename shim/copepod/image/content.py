"""containerd's knowledge of a container's image: its name, what the name means, and the blobs.

It changes nothing in containerd and takes no bytes on trust: a blob is checked against its digest
here or, when it is only opened, by whoever reads it. The only module that knows grpc, whose channel
starts threads: it is for the resolver child alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from copepod import errors
from copepod.image import layers
from copepod_api import containers_pb2, content_pb2, images_pb2
from copepod_api.containers_grpc import ContainersStub
from copepod_api.content_grpc import ContentStub
from copepod_api.images_grpc import ImagesStub

DEADLINE = 10.0  # seconds for one answer; kubelet allows two minutes for the whole request
DOCUMENT_MAX = 4 << 20  # OCI distribution spec: what registries must accept as a manifest
_STORE = "io.containerd.content.v1.content/blobs/sha256"
_MESSAGE_MAX = 16 << 20  # containerd's own bound (defaults.DefaultMaxRecvMsgSize)
# Nothing of what makes a channel to a far server slow or talkative is of use on a local socket.
_OPTIONS = (
    ("grpc.default_authority", "localhost"),  # else the socket's path, which Go servers refuse
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.enable_channelz", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", _MESSAGE_MAX),
)


class Containerd:
    """Asks one containerd, in one of its name spaces, over one channel.

    `address` is its gRPC socket, `root` the directory of its persistent data ("" if unknown: then
    every blob comes over gRPC), `deadline` what one answer may take, in seconds.
    """

    def __init__(self, address: str, namespace: str, root: str, deadline: float = DEADLINE) -> None:
        self._address = address.removeprefix("unix://")
        self._metadata = (("containerd-namespace", namespace),)
        self._root = root
        self._deadline = deadline
        self._channel = grpc.insecure_channel(f"unix:{self._address}", options=_OPTIONS)

    def close(self) -> None:
        """Closes the channel; its threads end a little later."""
        self._channel.close()

    def image_name(self, container_id: str) -> str:
        """Gives the image's name in the container's record.

        FailedPrecondition if there is no record or no name in it.
        """
        request = containers_pb2.GetContainerRequest(id=container_id)
        with self._explained(f"container {container_id}"):
            answer = ContainersStub(self._channel).get(
                request, timeout=self._deadline, metadata=self._metadata
            )
        if not answer.container.image:
            raise errors.FailedPrecondition(
                f"containerd's record of container {container_id} names no image (Docker leaves it"
                " empty), so its wasm layers can't be found: put the wasm file into the root file"
                " system"
            )
        return answer.container.image

    def target(self, image: str) -> layers.Blob:
        """Gives the manifest or index that the name means; FailedPrecondition if it is gone."""
        request = images_pb2.GetImageRequest(name=image)
        with self._explained(f"image {image}"):
            answer = ImagesStub(self._channel).get(
                request, timeout=self._deadline, metadata=self._metadata
            )
        target = answer.image.target
        found = layers.Blob(target.media_type, target.digest, target.size)
        return layers.checked(found, f"image {image}")

    def document(self, blob: layers.Blob, what: str) -> bytes:
        """Gives a small blob whole, its digest checked (DataLoss); `what` names it in errors."""
        fd = self.open(blob, DOCUMENT_MAX, what)
        try:
            data = os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)
        from hashlib import sha256

        if sha256(data).hexdigest() != blob.hex:
            raise errors.DataLoss(
                f"{what} in containerd's content store is not what {blob.digest} stands for:"
                " remove the image and pull it again"
            )
        return data

    def open(self, blob: layers.Blob, limit: int, what: str) -> int:
        """Gives a descriptor of the blob's bytes, at most `limit` of them, digest not yet checked.

        From containerd's store on disk where that can be read, else copied over gRPC into a
        memfd. ResourceExhausted if it is larger, FailedPrecondition if it is gone.
        """
        _refuse_large(blob.size, limit, what)
        fd = self._open_stored(blob)
        if fd is None:
            fd = self._fetch(blob, limit, what)
        try:
            _refuse_large(os.fstat(fd).st_size, limit, what)
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

    def _fetch(self, blob: layers.Blob, limit: int, what: str) -> int:
        request = content_pb2.ReadContentRequest(digest=blob.digest)
        fd = os.memfd_create(f"blob-{blob.hex[:12]}", os.MFD_CLOEXEC)
        try:
            written = 0
            with self._explained(what):
                # No deadline for a whole blob: how long it takes depends on its size.
                for message in ContentStub(self._channel).read(request, metadata=self._metadata):
                    written += len(message.data)
                    _refuse_large(written, limit, what)
                    data = message.data
                    while data:
                        data = data[os.write(fd, data) :]
        except BaseException:
            os.close(fd)
            raise
        return fd

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turns everything that can happen to a call into one sentence and the right code."""
        try:
            yield
        except grpc.RpcError as error:
            code, said = error.code(), " ".join((error.details() or "").split())
            if code is grpc.StatusCode.NOT_FOUND:
                raise errors.FailedPrecondition(
                    f"containerd does not know {what} (any more): was it removed meanwhile?"
                ) from None
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise errors.Unavailable(
                    f"containerd at {self._address} did not tell about {what} within"
                    f" {self._deadline:g} s"
                ) from None
            raise errors.Unavailable(
                f"containerd at {self._address} can't tell about {what}: {code.name}: {said}"
            ) from None


def _refuse_large(size: int, limit: int, what: str) -> None:
    if size > limit:
        raise errors.ResourceExhausted(
            f"{what} is larger than the {limit} bytes that are allowed ({size} or more)"
        )
