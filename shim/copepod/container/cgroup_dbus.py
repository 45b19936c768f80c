"""A conversation with systemd's manager over D-Bus, in the shim's own loop: calls, and job ends.

It starts no thread or task, waits for nothing longer than it is told, and keeps no connection: a
container's unit is started once and stopped once.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from copepod.errors import Error, InvalidArgument, NotFound, Unavailable

# systemd's own socket first, as systemctl does for root: it is there without a bus, and there is
# nobody to greet and nothing to subscribe to. Then the bus. (path, whether it is a bus)
SOCKETS = (("/run/systemd/private", False), ("/run/dbus/system_bus_socket", True))

Property = tuple[str, tuple[str, Any]]  # name, (D-Bus signature, value)

_NAME, _PATH = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_RULE = f"type='signal',interface='{_MANAGER}',member='JobRemoved'"


class UnitExists(Error):
    """A unit of that name is loaded."""


class Manager:
    """systemd's manager object. Use as `async with await Manager.connect(timeout) as manager`."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        from jeepney.low_level import Parser

        self._socket, self._timeout = connection, timeout
        self._parser, self._serial = Parser(), 0
        self._removed: dict[str, str] = {}  # job path to result

    @classmethod
    async def connect(
        cls, timeout: float, sockets: tuple[tuple[str, bool], ...] | None = None
    ) -> Manager:
        """Connects as root; `timeout` seconds bound this and every call. Unavailable if neither."""
        problems = []
        for path, is_bus in sockets or SOCKETS:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            connection.setblocking(False)
            manager = cls(connection, timeout)
            try:
                async with asyncio.timeout(timeout):
                    await manager._greet(path, is_bus)
                return manager
            except (OSError, ValueError) as error:  # TimeoutError is an OSError
                connection.close()
                problems.append(f"{path}: {str(error) or 'no answer'}")
            except BaseException:
                connection.close()
                raise
        raise Unavailable(f"systemd can't be reached ({'; '.join(problems)})")

    async def __aenter__(self) -> Manager:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    async def _greet(self, path: str, is_bus: bool) -> None:
        from jeepney.auth import BEGIN, Authenticator

        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, path)
        authenticator = Authenticator()
        # All in one go: systemd's side overlooks a message that comes in one piece with BEGIN
        # and waits for more, so BEGIN must have been read before the first one is sent.
        await loop.sock_sendall(self._socket, (authenticator.data_to_send() or b"") + BEGIN)
        while not authenticator.authenticated:
            line, end, rest = (await self._receive()).partition(b"\n")
            authenticator.feed(line + end)
            # On its private socket systemd tells of every change from then on.
            self._parser.add_data(rest)
        if not is_bus:
            return
        bus = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
        await self._call(bus, "Hello")
        await self._call(bus, "AddMatch", "s", (_RULE,))
        await self._call((_NAME, _PATH, _MANAGER), "Subscribe")

    async def _receive(self) -> bytes:
        data = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
        if not data:
            raise ConnectionResetError("the connection was closed")
        return data

    async def call(self, method: str, signature: str = "", body: tuple[Any, ...] = ()) -> Any:
        """Calls the manager; gives the answer's body. Errors by their D-Bus names."""
        return await self._bounded((_NAME, _PATH, _MANAGER), method, signature, body)

    async def version(self) -> int:
        """systemd's version, 0 when it says none that can be read."""
        target = (_NAME, _PATH, "org.freedesktop.DBus.Properties")
        answer = await self._bounded(target, "Get", "ss", (_MANAGER, "Version"))
        return parse_version(str(answer[0][1]))

    async def _bounded(
        self, target: tuple[str, str, str], method: str, signature: str, body: tuple[Any, ...]
    ) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._call(target, method, signature, body)
        except OSError as error:  # TimeoutError is one
            why = "did not answer" if isinstance(error, TimeoutError) else f"is gone: {error}"
            raise Unavailable(f"systemd {why} ({method})") from None

    async def _call(
        self,
        target: tuple[str, str, str],
        method: str,
        signature: str = "",
        body: tuple[Any, ...] = (),
    ) -> Any:
        from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call

        name, path, interface = target
        address = DBusAddress(path, bus_name=name, interface=interface)
        message = new_method_call(address, method, signature or None, body)
        self._serial += 1
        serial = self._serial
        data = message.serialise(serial=serial)
        await asyncio.get_running_loop().sock_sendall(self._socket, data)
        while True:
            answer = await self._next()
            if answer.header.fields.get(HeaderFields.reply_serial) != serial:
                continue
            if answer.header.message_type is MessageType.error:
                raise _error(answer.header.fields[HeaderFields.error_name], method, answer.body)
            return answer.body

    async def _next(self) -> Any:
        """The next message; a JobRemoved among them is remembered, whatever was waited for."""
        from jeepney import HeaderFields

        while (message := self._parser.get_next_message()) is None:
            self._parser.add_data(await self._receive())
        if message.header.fields.get(HeaderFields.member) == "JobRemoved":
            _, job, _, result = message.body
            self._removed[job] = result
        return message

    async def job(self, method: str, signature: str, body: tuple[Any, ...]) -> str:
        """Calls a method that answers with a job, and waits for its end: "done" is good."""
        (path,) = await self.call(method, signature, body)
        try:
            async with asyncio.timeout(self._timeout):
                while path not in self._removed:
                    await self._next()
        except TimeoutError:
            raise Unavailable(
                f"systemd did not finish {method} of {body[0]} within {self._timeout:g} s"
            ) from None
        except OSError as error:
            raise Unavailable(f"systemd is gone: {error}") from None
        return self._removed.pop(path)


def parse_version(text: str) -> int:
    """The number in "252.39-1~deb12u1", "v255" and the like."""
    digits = ""
    for letter in text.lstrip('"v'):
        if not letter.isdecimal():
            break
        digits += letter
    return int(digits or 0)


def _error(name: str, method: str, body: tuple[Any, ...]) -> Error:
    text = f"systemd refuses {method}: {body[0] if body else name}"
    if name.endswith(".UnitExists"):
        return UnitExists(text)
    if name.endswith((".NoSuchUnit", ".ServiceUnknown")):
        return NotFound(text)
    if name.endswith((".InvalidArgs", ".PropertyReadOnly")):
        return InvalidArgument(text)
    return Unavailable(text)
