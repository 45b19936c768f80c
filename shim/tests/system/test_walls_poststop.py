"""Hooks that clear up run once, however a container ends: also when it never came to be, and when
its shim is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import ttrpc
from fakes import shimhost, walls
from fakes.walls import cri, nothing_is_left  # noqa: F401

pytestmark = walls.needs

LIMIT = 60.0


class Gone(Exception):
    """Has the shim killed, and its program called to delete what it left."""


def counting(log: Path) -> dict[str, Any]:
    """A hook that writes down the status that it was told."""
    command = f'sed \'s/.*"status": "\\([a-z]*\\)".*/\\1/\' >> {log}; echo >> {log}'
    return {"path": "/bin/sh", "args": ["sh", "-c", command], "env": ["PATH=/bin:/usr/bin"]}


def hooked(log: Path, **more: Any) -> dict[str, Any]:
    spec = cri("sleep", "1000")
    spec["hooks"] = {"poststop": [counting(log)], **more}
    return spec


def test_after_a_create_that_failed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    spec = hooked(log, createRuntime=[{"path": "/bin/false"}])

    async def scenario() -> None:
        async with asyncio.timeout(LIMIT), shimhost.Shim(spec) as shim:
            with pytest.raises(ttrpc.Error, match="createRuntime hook /bin/false"):
                await shim.create()
            assert log.read_text().split() == ["stopped"]

    asyncio.run(scenario())


def test_after_an_ordinary_end(tmp_path: Path) -> None:
    log = tmp_path / "log"

    async def scenario() -> None:
        async with asyncio.timeout(LIMIT), shimhost.Shim(hooked(log)) as shim:
            await shim.create()
            await shim.kill()
            assert not log.exists()
            await shim.delete()
            assert log.read_text().split() == ["stopped"]

    asyncio.run(scenario())


def test_after_the_shim_has_gone(tmp_path: Path) -> None:
    log = tmp_path / "log"

    async def scenario() -> None:
        async with asyncio.timeout(LIMIT), shimhost.Shim(hooked(log)) as shim:
            await shim.create()
            raise Gone

    with pytest.raises(Gone):
        asyncio.run(scenario())
    assert log.read_text().split() == ["stopped"]
