"""What the tests of this package share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from ttrpc_demo import Run

TEST_SECONDS = 30


@pytest.fixture
def run() -> Run:
    """Runs a test's coroutine, bounded, and fails on whatever asyncio would only have logged."""

    def runner(work: Coroutine[Any, Any, None]) -> None:
        problems: list[dict[str, Any]] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, what: problems.append(what))
            async with asyncio.timeout(TEST_SECONDS):
                await work
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks were left behind: {left}"

        asyncio.run(main())
        assert problems == []

    return runner


@pytest.fixture(autouse=True)
def _no_fd_is_left() -> Iterator[None]:
    """Every test closes what it opened."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before
