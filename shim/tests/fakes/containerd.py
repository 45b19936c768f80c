"""A containerd that knows what a JSON file tells it: containers, images and blobs, over real gRPC.

Its own process, because a gRPC server has threads and the code under test must not. Run as
`containerd.py SOCKET STATE.json`; the file is read at every call, so that a test can change it.

State: {"namespace": str, "containers": {id: image name}, "images": {name: {media_type, digest,
size}}, "blobs": folder, "delay": seconds before each answer, "lie": {digest: hex of other bytes}}
"""

from __future__ import annotations

import json
import pathlib
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

from copepod_api import containers_pb2, content_pb2, images_pb2, types_pb2

CHUNK = 1 << 20


class Fake:
    """Answers from the state file; a call without the right name space fails as containerd's do."""

    def __init__(self, path: str) -> None:
        self._path = pathlib.Path(path)
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ends every delay."""
        self._stop.set()

    def _state(self, context: grpc.ServicerContext) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self._path.read_text())
        self._stop.wait(state.get("delay", 0))
        given = dict(context.invocation_metadata()).get("containerd-namespace")
        if given != state["namespace"]:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"namespace {given!r} is not it")
        return state

    def container(
        self, request: containers_pb2.GetContainerRequest, context: grpc.ServicerContext
    ) -> containers_pb2.GetContainerResponse:
        """Containers/Get."""
        image = self._state(context)["containers"].get(request.id)
        if image is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f'container "{request.id}": not found')
        return containers_pb2.GetContainerResponse(
            container=containers_pb2.Container(id=request.id, image=image)
        )

    def image(
        self, request: images_pb2.GetImageRequest, context: grpc.ServicerContext
    ) -> images_pb2.GetImageResponse:
        """Images/Get."""
        target = self._state(context)["images"].get(request.name)
        if target is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f'image "{request.name}": not found')
        return images_pb2.GetImageResponse(
            image=images_pb2.Image(name=request.name, target=types_pb2.Descriptor(**target))
        )

    def read(
        self, request: content_pb2.ReadContentRequest, context: grpc.ServicerContext
    ) -> Iterator[content_pb2.ReadContentResponse]:
        """Content/Read, in pieces."""
        state = self._state(context)
        path = pathlib.Path(state["blobs"], request.digest.removeprefix("sha256:"))
        if not path.exists():
            context.abort(grpc.StatusCode.NOT_FOUND, f"content {request.digest}: not found")
        data = path.read_bytes()
        lie = state.get("lie", {}).get(request.digest)
        if lie is not None:
            data = bytes.fromhex(lie)
        for offset in range(0, len(data), CHUNK):
            yield content_pb2.ReadContentResponse(offset=offset, data=data[offset : offset + CHUNK])


def serve(socket: str, state: str) -> None:
    """Serves until SIGTERM; says "ready" when it listens."""
    fake = Fake(state)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    for service, method, handler in (
        (
            "containers",
            "Containers/Get",
            _unary(fake.container, containers_pb2.GetContainerRequest),
        ),
        ("images", "Images/Get", _unary(fake.image, images_pb2.GetImageRequest)),
        (
            "content",
            "Content/Read",
            grpc.unary_stream_rpc_method_handler(
                fake.read,
                content_pb2.ReadContentRequest.FromString,
                content_pb2.ReadContentResponse.SerializeToString,
            ),
        ),
    ):
        name, _, call = method.partition("/")
        server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    f"containerd.services.{service}.v1.{name}", {call: handler}
                )
            ]
        )
    if not server.add_insecure_port(f"unix:{socket}"):
        raise OSError(f"no listening on {socket}")
    server.start()
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM})
    fake.stop()
    server.stop(0).wait()


def _unary(function: Any, request: Any) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(
        function, request.FromString, lambda message: message.SerializeToString()
    )


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    serve(*sys.argv[1:])
