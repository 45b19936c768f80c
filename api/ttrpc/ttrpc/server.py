"""The asyncio server: listens, lets peers in, and stops in order.

Each connection is run by accepted.py; the services are whatever it is given.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Iterable, Mapping

from .accepted import ServerShell
from .errors import ClosedError, Code, Error
from .service import DEFAULT_LIMITS, Limits, Method, Peer, Service

ErrorMapper = Callable[[BaseException], tuple[int, str] | Error]
"""Makes a status of an exception that a handler raised and that is no ttrpc.Error."""

_ABORT_WAIT = 5.0


class Server:
    """Serves services on listening unix sockets and on accepted connections.

    `authorize(peer)` is asked once per connection; False closes it, None lets everybody in whom
    the socket's mode lets in. `error_mapper` makes a status of what handlers raise (ttrpc.Error
    is taken as it is); it is also the place to log. Handlers are cancelled when their deadline
    passes or their connection is lost: work that must be finished belongs into a task of its own.
    """

    def __init__(
        self,
        services: Iterable[Service] = (),
        *,
        authorize: Callable[[Peer], bool] | None = None,
        error_mapper: ErrorMapper | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.routes: dict[str, Mapping[str, Method]] = {}
        self.authorize = authorize
        self.limits = limits
        self.closing = False
        self.shells: set[ServerShell] = set()
        self._error_mapper = error_mapper
        self._listeners: list[asyncio.AbstractServer] = []
        self._over: asyncio.Event = asyncio.Event()
        for service in services:
            self.add(service)

    def add(self, service: Service) -> None:
        """Serves one more service; ValueError if one of that name is there."""
        if service.SERVICE in self.routes:
            raise ValueError(f"service {service.SERVICE} is served already")
        self.routes[service.SERVICE] = service.methods()

    async def serve_unix(self, sock: socket.socket) -> None:
        """Begins to accept on a bound unix socket, and returns at once.

        The socket is closed at shutdown; its path is left to the caller.
        """
        loop = asyncio.get_running_loop()
        if sys.version_info >= (3, 13):
            listener = await loop.create_unix_server(
                lambda: ServerShell(self), sock=sock, cleanup_socket=False
            )
        else:
            listener = await loop.create_unix_server(lambda: ServerShell(self), sock=sock)
        self._listeners.append(listener)
        if self.closing:
            listener.close()

    async def attach(self, sock: socket.socket) -> None:
        """Serves one connected stream socket, which the server owns from then on."""
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: ServerShell(self), sock)

    async def shutdown(self, timeout: float | None = None) -> bool:
        """Stops: no new connections, idle ones closed, the others when their calls are answered.

        After `timeout` seconds (None: never) what is left is cancelled and closed. Gives True if
        every call came to its own end. Calling it again, with a shorter time too, is fine.
        """
        self.closing = True
        for listener in self._listeners:
            listener.close()
        for shell in list(self.shells):
            shell.finish()
        self._check_over()
        try:
            async with asyncio.timeout(timeout):
                await self._over.wait()
        except TimeoutError:
            for shell in list(self.shells):
                shell.abort()
            async with asyncio.timeout(_ABORT_WAIT):
                await self._over.wait()
            return False
        return True

    async def wait_closed(self) -> None:
        """Waits until a shutdown has come to its end."""
        await self._over.wait()

    def lost(self, shell: ServerShell) -> None:
        """A connection tells that it is gone."""
        self.shells.discard(shell)
        self._check_over()

    def status_of(self, error: Exception) -> Error:
        """Gives the status that answers a call whose handler raised `error`."""
        if isinstance(error, Error) and not isinstance(error, ClosedError):
            return error
        if self._error_mapper is not None:
            try:
                mapped = self._error_mapper(error)
                return mapped if isinstance(mapped, Error) else Error(*mapped)
            except Exception as second:
                text = f"the error mapper failed with {second!r} for {error!r}"
                return Error(Code.INTERNAL, text)
        if isinstance(error, TimeoutError):
            return Error(Code.DEADLINE_EXCEEDED, str(error) or "the time for the call is over")
        return Error(Code.UNKNOWN, f"{type(error).__name__}: {error}")

    def _check_over(self) -> None:
        if self.closing and not self.shells:
            self._over.set()
