"""The protoc plugin: names, what it writes, and that the result is typed and works."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.empty_pb2 import Empty

import ttrpc
from ttrpc import Client, Server, plugin
from ttrpc_demo import Run, settle

PROTO = """
syntax = "proto3";
package sample.v1;
import "google/protobuf/empty.proto";
import "other-types.proto";
message Number { int64 value = 1; message Inner { string text = 1; message Deep {} } }
service Calc {
  rpc Double(Number) returns (Number);
  rpc CloseIO(Number.Inner) returns (google.protobuf.Empty);
  rpc Import(Number.Inner.Deep) returns (sample.types.Other);
  rpc Count(Number) returns (stream Number);
  rpc Add(stream Number) returns (Number);
  rpc Chat(stream Number) returns (stream Number);
}
service Second { rpc Methods(Number) returns (Number); }
"""
OTHER = """
syntax = "proto3";
package sample.types;
message Other {}
"""


def protoc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs protoc with the plugin of this tree, whether or not it is installed."""
    script = folder / "protoc-gen-ttrpc-python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ttrpc.plugin\n')
    script.chmod(0o755)
    root = str(Path(ttrpc.__file__).parents[1])
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"--plugin={script}"]
    return subprocess.run(
        [*command, *arguments],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a package `made_by_test` of generated modules, importable."""
    folder = tmp_path_factory.mktemp("proto")
    (folder / "sample.proto").write_text(PROTO)
    (folder / "other-types.proto").write_text(OTHER)
    package = folder / "made_by_test"
    package.mkdir()
    (package / "__init__.py").touch()
    names = ["sample.proto", "other-types.proto"]
    done = protoc(
        folder,
        f"--python_out={package}",
        f"--pyi_out={package}",
        f"--ttrpc-python_out=package=made_by_test:{package}",
        *names,
    )
    assert done.returncode == 0, done.stderr
    # protoc's own Python output imports its neighbours from the top.
    for path in package.glob("sample_pb2.py*"):
        text = path.read_text().replace("import other_types_pb2", "from . import other_types_pb2")
        path.write_text(text)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.startswith("made_by_test")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Create", "create"),
        ("CloseIO", "close_io"),
        ("ResizePty", "resize_pty"),
        ("HTTPServer2Go", "http_server2_go"),
        ("Import", "import_"),
        ("Methods", "methods_"),
        ("already_snake", "already_snake"),
    ],
)
def test_names_of_methods(name: str, expected: str) -> None:
    assert plugin.snake_case(name) == expected


@pytest.mark.parametrize(
    ("path", "package", "expected"),
    [
        ("task_v2.proto", "api", "api.task_v2_pb2"),
        ("api/task.proto", "api", "api.task_pb2"),
        ("a/b-c.proto", "", "a.b_c_pb2"),
        ("a/b.proto", "api", "api.a.b_pb2"),
        ("google/protobuf/empty.proto", "api", "google.protobuf.empty_pb2"),
    ],
)
def test_names_of_modules(path: str, package: str, expected: str) -> None:
    assert plugin.module_of(path, package) == expected


def test_generated_code_is_strictly_typed(generated: Path) -> None:
    module = generated / "made_by_test" / "sample_ttrpc.py"
    mypy = pytest.importorskip("mypy.api", reason="mypy is not installed")
    out, err, code = mypy.run(["--strict", "--cache-dir", str(generated / ".cache"), str(module)])
    assert code == 0, out + err


def test_a_file_without_services_gets_no_module(generated: Path) -> None:
    assert not (generated / "made_by_test" / "other_types_ttrpc.py").exists()


def test_same_input_same_output(generated: Path, tmp_path: Path) -> None:
    done = protoc(generated, f"--ttrpc-python_out=package=made_by_test:{tmp_path}", "sample.proto")
    assert done.returncode == 0, done.stderr
    again = (tmp_path / "sample_ttrpc.py").read_text()
    assert again == (generated / "made_by_test" / "sample_ttrpc.py").read_text()


def test_unknown_parameter(generated: Path, tmp_path: Path) -> None:
    done = protoc(generated, f"--ttrpc-python_out=pakage=x:{tmp_path}", "sample.proto")
    assert done.returncode != 0
    assert "unknown parameter 'pakage'" in done.stderr


def test_modules_of_one_name_are_told_apart() -> None:
    request = CodeGeneratorRequest(file_to_generate=["s.proto"])
    for path, package in (("a/x.proto", "a"), ("b/x.proto", "b")):
        file = request.proto_file.add(name=path, package=package)
        file.message_type.add(name="M")
    file = request.proto_file.add(name="s.proto", package="s")
    service = file.service.add(name="S")
    service.method.add(name="Go", input_type=".a.M", output_type=".b.M")
    response = plugin.generate(request)
    text = response.file[0].content
    assert "from a import x_pb2 as a_x_pb2" in text
    assert "request: a_x_pb2.M" in text
    assert "-> b_x_pb2.M" in text


def test_a_type_that_protoc_did_not_send() -> None:
    request = CodeGeneratorRequest(file_to_generate=["s.proto"])
    file = request.proto_file.add(name="s.proto")
    file.service.add(name="S").method.add(name="Go", input_type=".no.M", output_type=".no.M")
    response = plugin.generate(request)
    assert ".no.M" in response.error
    assert isinstance(response, CodeGeneratorResponse)


def service(pb: Any, other: Any, made: Any) -> Any:
    """An implementation of the generated base class."""

    class Calc(made.CalcBase):  # type: ignore[misc]  # made a moment ago
        async def double(self, request: Any, ctx: ttrpc.Context) -> Any:
            return pb.Number(value=request.value * 2)

        async def close_io(self, request: Any, ctx: ttrpc.Context) -> Any:
            return Empty()

        async def import_(self, request: Any, ctx: ttrpc.Context) -> Any:
            return other.Other()

        async def count(self, request: Any, responses: Any, ctx: ttrpc.Context) -> None:
            for value in range(request.value):
                await responses.send(pb.Number(value=value))

        async def add(self, requests: Any, ctx: ttrpc.Context) -> Any:
            return pb.Number(value=sum([request.value async for request in requests]))

        async def chat(self, requests: Any, responses: Any, ctx: ttrpc.Context) -> None:
            async for request in requests:
                await responses.send(request)

    return Calc()


def test_generated_code_works(run: Run, generated: Path) -> None:
    pb: Any = importlib.import_module("made_by_test.sample_pb2")
    other: Any = importlib.import_module("made_by_test.other_types_pb2")
    made: Any = importlib.import_module("made_by_test.sample_ttrpc")

    async def main() -> None:
        with pytest.raises(TypeError, match="abstract"):
            made.SecondBase()
        server = Server([service(pb, other, made)])
        ours, theirs = socket.socketpair()
        await server.attach(ours)
        client = await Client.attach(theirs)
        calc = made.CalcClient(client)
        assert (await calc.double(pb.Number(value=21), timeout=5)).value == 42
        assert await calc.close_io(pb.Number.Inner(text="x")) == Empty()
        assert await calc.import_(pb.Number.Inner.Deep()) == other.Other()
        async with await calc.count(pb.Number(value=3)) as stream:
            assert [number.value async for number in stream] == [0, 1, 2]
        async with await calc.add() as stream:
            await stream.send(pb.Number(value=40))
            await stream.send(pb.Number(value=2))
            assert (await stream.result()).value == 42
        async with await calc.chat(metadata={"a": "b"}) as stream:
            await stream.send(pb.Number(value=1))
            assert (await stream.receive()).value == 1
        await client.close()
        assert await server.shutdown(5)
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())
