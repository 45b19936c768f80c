"""The shim process: builds its objects by hand, runs the loop, ends in order.

The only place that wires rooms together. One thread for life; it opens no gRPC channel and
compiles nothing (a process that did could not fork safely any more).
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from typing import TYPE_CHECKING

import ttrpc.client
import ttrpc.server
from copepod import config, errors, warm
from copepod.container import container
from copepod.engine import limits
from copepod.log import Log
from copepod.spec import RootfsMount
from copepod.task.events import Publisher
from copepod.task.service import TaskService

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from copepod.task.io import Stdio
    from copepod_api import task_v2_pb2 as pb

TASK_V3 = "containerd.task.v3.Task"
FLUSH_TIMEOUT = 5.0
DRAIN_TIMEOUT = 2.0


class Runtime:
    """Makes containers out of Create requests. Fulfils `task.service.Runtime`.

    Where the node's configuration is wrong it says so at each Create: who asks for a container
    reads that, and nobody reads why a shim has ended.
    """

    def __init__(
        self,
        node: container.Node | errors.Error,
        namespace: str,
        expect: Callable[[], None],
    ) -> None:
        """`expect` is called when a container is almost made."""
        self._node, self._namespace, self._expect = node, namespace, expect

    async def create(self, request: pb.CreateTaskRequest, stdio: Stdio) -> container.Container:
        """See `container.create`."""
        if isinstance(self._node, errors.Error):
            raise self._node.with_traceback(None)
        wanted = container.Wanted(
            id=request.id,
            namespace=self._namespace,
            bundle=request.bundle,
            rootfs=tuple(
                RootfsMount(m.type, m.source, m.target, tuple(m.options)) for m in request.rootfs
            ),
            terminal=request.terminal,
        )
        return await container.create(self._node, wanted, stdio.child, self._expect)


class _Version3:
    """The same methods under the name of task v3, whose messages are the same bytes."""

    SERVICE = TASK_V3

    def __init__(self, service: TaskService) -> None:
        self.methods = service.methods


def serve(listener: int, given: Mapping[str, str]) -> None:
    """Serves on the listening socket until containerd's Shutdown finds no task left."""
    log = Log(debug=bool(given["debug"])).bind(runtime="copepod", shim=given["id"])
    sock = socket.socket(fileno=listener)
    # Ends at Shutdown alone: who stops the node stops containers through containerd.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # What is imported by now is never garbage; forks share it as long as nobody writes to it.
    gc.collect()
    gc.freeze()
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(
            lambda _, context: log.error(
                "unexpected", error=context.get("exception") or context.get("message")
            )
        )
        runner.run(_serve(sock, given, log))


async def _serve(sock: socket.socket, given: Mapping[str, str], log: Log) -> None:
    node = _node(given, log)
    warm.create()
    if not isinstance(node, errors.Error):
        warm.shim(node.config)
    publisher = Publisher(
        given["ttrpc_address"], given["namespace"], ttrpc.client.Client.connect, log
    )
    sender = asyncio.create_task(publisher.run())
    over = asyncio.Event()

    def empty() -> None:
        # Before Shutdown is answered: a start that comes after it must not find this shim.
        _unlink(given["socket"])
        over.set()

    tasks = TaskService(
        Runtime(node, given["namespace"], publisher.expect),
        publisher.publish,
        empty,
        given["namespace"],
        log,
    )

    def status_of(error: BaseException) -> tuple[int, str]:
        code, message = errors.to_status(error)
        if code == errors.INTERNAL:
            log.error(message, trace=_trace(error))
        else:
            log.debug("answered with an error", code=code, error=message)
        return code, message

    server = ttrpc.server.Server(
        [tasks, _Version3(tasks)],
        authorize=ttrpc.same_user,
        error_mapper=status_of,
    )
    await server.serve_unix(sock)
    await over.wait()
    # The answer to Shutdown goes out first, then the events.
    await server.shutdown(DRAIN_TIMEOUT)
    await publisher.flush(FLUSH_TIMEOUT)
    sender.cancel()


def _node(given: Mapping[str, str], log: Log) -> container.Node | errors.Error:
    try:
        settings = config.load(given["config"])
        return container.Node(settings, limits.node(settings.guest), given["address"], log)
    except errors.Error as error:
        log.error(str(error))
        return error


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _trace(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))
