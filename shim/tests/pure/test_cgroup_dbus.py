"""The way to systemd's manager, at whose other end somebody answers in pieces, or too much."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
from jeepney import DBusAddress, new_method_return, new_signal
from jeepney.low_level import Message, Parser

from copepod.container.cgroup_dbus import Manager
from copepod.errors import Unavailable

pytestmark = pytest.mark.pure
TIMEOUT = 30.0
OK = b"OK 0123456789abcdef0123456789abcdef\r\n"
SCOPE = DBusAddress(
    "/org/freedesktop/systemd1/unit/a_2escope", interface="org.freedesktop.DBus.Properties"
)
NEWS = new_signal(SCOPE, "PropertiesChanged", "s", ("org.freedesktop.systemd1.Scope",))


async def asked(folder: Path, pieces: list[bytes]) -> str:
    """Gives the version that a manager says whose greeting comes in these pieces."""
    path, over = str(folder / "private"), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serials, parser = itertools.count(100), Parser()
        await reader.readuntil(b"BEGIN\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        message: Message | None = None
        while message is None:
            data = await reader.read(4096)
            if not data:
                break
            parser.add_data(data)
            message = parser.get_next_message()
        if message is not None:
            writer.write(NEWS.serialise(serial=next(serials)))
            answer = new_method_return(message, "v", (("s", "252.1"),))
            writer.write(answer.serialise(serial=next(serials)))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        over.set()

    server = await asyncio.start_unix_server(serve, path)
    async with server, asyncio.timeout(TIMEOUT):
        try:
            async with await Manager.connect(TIMEOUT, ((path, False),)) as manager:
                return str(await manager.version())
        finally:
            await over.wait()


@pytest.mark.parametrize(
    "pieces",
    [
        [OK],
        [OK + NEWS.serialise(serial=7)],
        [OK[:-1], b"\n" + NEWS.serialise(serial=7)],
        [OK[:5], OK[5:] + NEWS.serialise(serial=7)[:20], NEWS.serialise(serial=7)[20:]],
    ],
    ids=["alone", "with news", "in the middle of its end", "in pieces"],
)
def test_a_greeting_and_what_comes_with_it(tmp_path: Path, pieces: list[bytes]) -> None:
    assert asyncio.run(asked(tmp_path, pieces)) == "252"


def test_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="REJECTED"):
        asyncio.run(asked(tmp_path, [b"REJECTED EXTERNAL\r\n"]))
