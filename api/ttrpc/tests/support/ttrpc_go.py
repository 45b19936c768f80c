"""Builds and runs the Go program of cri-tests/ttrpc-go, and the same service in Python."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import BytesValue, Int64Value, StringValue

import ttrpc
from ttrpc import Context, Method, Receiver, Sender

SOURCE = Path(__file__).parents[4] / "cri-tests" / "ttrpc-go"
SERVICE = "interop.Test"


def program() -> Path:
    """Gives the built program; it is built once for each state of its source."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("there is no go to build containerd's own ttrpc with")
    digest = hashlib.sha256()
    for path in [*sorted(SOURCE.glob("*.go")), SOURCE / "go.mod", SOURCE / "go.sum"]:
        digest.update(path.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "copepod"
    built = cache / f"ttrpc-go-{digest.hexdigest()[:16]}"
    if not built.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = built.with_name(f"{built.name}.{os.getpid()}")
        command = [go, "build", "-buildvcs=false", "-trimpath", "-o", str(fresh), "."]
        subprocess.run(command, cwd=SOURCE, check=True, timeout=600)
        fresh.rename(built)
    return built


@contextlib.asynccontextmanager
async def go(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs the program; it is killed if it is not gone at the end."""
    process = await asyncio.create_subprocess_exec(
        str(program()), *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


class Interop:
    """The service of the Go program, in Python."""

    SERVICE = SERVICE

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.cancelled = 0

    def methods(self) -> Mapping[str, Method]:
        data, number, text = BytesValue.FromString, Int64Value.FromString, StringValue.FromString
        return {
            "Echo": Method(self.echo, data),
            "Fail": Method(self.fail, number),
            "Metadata": Method(self.metadata, text),
            "Deadline": Method(self.deadline, text),
            "Big": Method(self.big, number),
            "Wait": Method(self.wait, text),
            "Release": Method(self.release, text),
            "Block": Method(self.block, text),
            "Count": Method(self.count, number, server_streaming=True),
            "Sum": Method(self.sum, number, client_streaming=True),
            "Chat": Method(self.chat, text, client_streaming=True, server_streaming=True),
        }

    async def echo(self, request: BytesValue, ctx: Context) -> BytesValue:
        return request

    async def fail(self, request: Int64Value, ctx: Context) -> BytesValue:
        if request.value == 0:
            return BytesValue()
        detail = AnyMessage()
        detail.Pack(StringValue(value="why"))
        raise ttrpc.Error(
            request.value, f"failed with {request.value}", [(detail.type_url, detail.value)]
        )

    async def metadata(self, request: StringValue, ctx: Context) -> StringValue:
        parts = sorted(f"{key}={','.join(values)}" for key, values in ctx.metadata.items())
        return StringValue(value=";".join(parts))

    async def deadline(self, request: StringValue, ctx: Context) -> Int64Value:
        if ctx.deadline is None:
            return Int64Value(value=-1)
        left = ctx.deadline - asyncio.get_running_loop().time()
        return Int64Value(value=int(left * 1000))

    async def big(self, request: Int64Value, ctx: Context) -> BytesValue:
        return BytesValue(value=bytes(request.value))

    async def wait(self, request: StringValue, ctx: Context) -> StringValue:
        await self.released.wait()
        return request

    async def release(self, request: StringValue, ctx: Context) -> StringValue:
        self.released.set()
        return request

    async def block(self, request: StringValue, ctx: Context) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled += 1

    async def count(self, request: Int64Value, responses: Sender[Int64Value], ctx: Context) -> None:
        for number in range(abs(request.value)):
            await responses.send(Int64Value(value=number))
        if request.value < 0:
            raise ttrpc.Error(ttrpc.Code.DATA_LOSS, "in the middle")

    async def sum(self, requests: Receiver[Int64Value], ctx: Context) -> Int64Value:
        return Int64Value(value=sum([request.value async for request in requests]))

    async def chat(
        self, requests: Receiver[StringValue], responses: Sender[StringValue], ctx: Context
    ) -> None:
        async for request in requests:
            await responses.send(StringValue(value=request.value.upper()))
