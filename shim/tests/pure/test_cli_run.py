"""`copepod run` and `copepod cache`: arguments, and the ports that reach a container."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from copepod import errors
from copepod.cli import cache, command
from copepod.cli.image import oci
from copepod.cli.run import command as run
from copepod.cli.run import ports


def parsed(*words: str) -> argparse.Namespace:
    return command.build().parse_args(["run", *words])


def test_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda _fd: True)
    monkeypatch.setenv("FROM_HERE", "1")
    args = parsed("-e", "A=b c", "-e", "FROM_HERE", "-v", f"{tmp_path}:/data:ro", "--rm", "-it",
                  "--memory", "64M", "-w", "/d", "--annotation", "copepod.dev/x=1",
                  "app.wasm", "--flag", "-p", "3")  # fmt: skip
    assert args.args == ["--flag", "-p", "3"]
    assert run.options(args) == [
        "--runtime", "io.containerd.copepod.v1", "--rm", "--tty", "--env", "A=b c",
        "--env", "FROM_HERE=1", "--mount",
        f"type=bind,src={tmp_path},dst=/data,options=rbind:ro",
        "--annotation", "copepod.dev/x=1", "--cwd", "/d", "--memory-limit", str(64 << 20),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("-v", "/tmp", "x"), "write SOURCE:/TARGET"),
        (("-v", "/tmp:rel", "x"), "write SOURCE:/TARGET"),
        (("-v", "/nonexistent:/a", "x"), "there is no /nonexistent"),
        (("--rm", "-d", "x"), "exclude each other"),
        (("-t", "x"), "-t: there is no terminal"),
        (("--memory", "lots", "x"), "is no size"),
        (("--cpus", "many", "x"), "--cpus many: write a number"),
        (("--cpus", "0", "x"), "--cpus 0: write a number"),
    ],
)
def test_refused_options(
    words: tuple[str, ...], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "isatty", lambda _fd: False)
    with pytest.raises(errors.InvalidArgument, match=sentence):
        run.options(parsed(*words))


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("8080:80", ports.Port("0.0.0.0", 8080, 80)),
        ("80", ports.Port("0.0.0.0", 80, 80)),
        ("127.0.0.1:1:65535/tcp", ports.Port("127.0.0.1", 1, 65535)),
        ("a", None), ("0:80", None), ("80:70000", None), ("::1:2:3", None), ("53:53/udp", None),
    ],
)  # fmt: skip
def test_ports(text: str, port: ports.Port | None) -> None:
    if port is None:
        with pytest.raises(errors.InvalidArgument, match="HOST:CONTAINER"):
            ports.Port.parse(text)
    else:
        assert ports.Port.parse(text) == port


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        number = sock.getsockname()[1]
        with pytest.raises(errors.Unavailable, match=f"127.0.0.1:{number}: .*in use"):
            ports.listen([ports.Port("127.0.0.1", number, 80)])


def test_a_connection_is_carried_both_ways_to_its_end() -> None:
    """Half a close passes through: the guest's answer still comes back."""

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.write_eof()
        writer.close()

    async def scenario() -> bytes:
        inner = await asyncio.start_server(shout, "127.0.0.1", 0)
        number = inner.sockets[0].getsockname()[1]
        outer = await asyncio.start_server(ports._carrier(number, set()), "127.0.0.1", 0)
        async with inner, outer:
            where = outer.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*where)
            writer.write(b"a" * 200_000)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            await writer.wait_closed()
            return answer

    assert asyncio.run(scenario()) == b"A" * 200_000


@pytest.mark.parametrize(
    ("text", "size"),
    [("1000", 1000), ("1K", 1024), ("5 MiB", 5 << 20), ("2g", 2 << 30), ("1TB", 1 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert cache.parse_size(text) == size


def test_names() -> None:
    assert run._qualified("nginx") == "docker.io/library/nginx"
    assert run._qualified("me/app") == "docker.io/me/app"
    assert run._qualified("localhost:5000/app") == "localhost:5000/app"
    assert run._stem("./My App_1.wasm") == "my-app-1"
    assert run._stem("r.example/team/app:2") == "app"


@pytest.mark.parametrize(
    "image", ["app.wasm", "./app", "/nonexistent/app", "../x.wasm", "a/b.wasm"]
)
def test_a_file_that_is_not_there_is_not_looked_for_in_a_registry(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.run(["run", image]) == 125
    assert capsys.readouterr().err == f"copepod: there is no file {image}\n"


@pytest.mark.parametrize("image", ["app", "a/b:1", "r.example/app.wasm", "localhost/app.wasm:1"])
def test_images_are_no_paths(image: str) -> None:
    assert not run._is_path(image)


def test_a_pid_that_was_never_written_is_not_waited_for(tmp_path: Path) -> None:
    """As ctr leaves the file on a full disk."""
    (tmp_path / "pid").write_text("")
    with subprocess.Popen(["true"]) as ctr:
        signal.alarm(30)  # the default action: it ends the test's process
        assert ports._pid(str(tmp_path / "pid"), ctr) == 0
        signal.alarm(0)


# What it imports it keeps; $blobs holds its content by digest.
CTR = """#!/bin/sh
case "$*" in
    *version*) echo "Server:"; echo "  Version:  2.1.0" ;;
    *"images ls -q") echo r.example/a:1; echo r.example/wasm:1 ;;
    *"images ls name==r.example/a:1") echo "r.example/a:1 type $image" ;;
    *"images ls name==r.example/wasm:1") echo "r.example/wasm:1 type $artifact" ;;
    *"content get"*) for digest; do :; done; cat "$blobs/$digest" ;;
    *"images import"*) for archive; do :; done; cp "$archive" "$blobs/imported" ;;
    *" made") echo "$*" >$blobs/run; while [ "$1" != --pid-file ]; do shift; done; echo 1 >"$2"
        exit 1 ;;
    *) echo "ctr: no such thing" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts such a ctr on PATH, with an ordinary image and an artifact."""
    modules = [oci.Module("a.wasm", b"\0asm1"), oci.Module("b.wasm", b"\0asm2")]
    image = oci.image(modules, oci.Settings(), ["linux/amd64"])
    artifact = oci.artifact(modules, oci.Settings())
    folder = tmp_path / "blobs"
    folder.mkdir()
    for made in (image, artifact):
        for blob in (*made.blobs, made.root):
            (folder / blob.digest).write_bytes(blob.data)
    text = CTR.replace("$image", image.root.digest).replace("$artifact", artifact.root.digest)
    (tmp_path / "ctr").write_text(text.replace("$blobs", str(folder)))
    (tmp_path / "ctr").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return folder


def test_an_artifact_is_run_as_an_ordinary_image(
    blobs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """ctr refuses the type of an artifact's config."""
    words = ["run", "--address", "/none", "--name", "made"]
    assert command.run([*words, "r.example/wasm:1"]) == 1
    made, name = oci.read_archive((blobs / "imported").read_bytes(), "imported")
    assert oci.wasm_in(made) == [("/a.wasm", b"\0asm1"), ("/b.wasm", b"\0asm2")]
    assert name == f"copepod.local/wasm:{made.root.digest[7:19]}"
    assert f" {name} made" in (blobs / "run").read_text()
    second = sha256(b"\0asm2").hexdigest()
    (blobs / f"sha256:{second}").write_bytes(b"other")
    assert command.run([*words, "r.example/wasm:1"]) == 125
    assert "containerd has other bytes under sha256:" in capfd.readouterr().err


@pytest.mark.usefixtures("blobs")
def test_a_container_that_ends_with_1_is_not_one_that_could_not_be_made() -> None:
    words = ["run", "--address", "/none", "--rm"]
    assert command.run([*words, "--name", "made", "r.example/a:1"]) == 1
    assert command.run([*words, "--name", "other", "r.example/a:1"]) == 125
    assert command.run([*words, "r.example/b:1"]) == 125
    assert command.run([*words, "--memory", "x", "r.example/a:1"]) == 125
