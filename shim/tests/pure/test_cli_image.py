"""Images made here: the same bytes each time, read back whole, accepted by a registry."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.server
import json
import os
import re
import resource
import tarfile
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copepod import errors
from copepod.cli import command
from copepod.cli.doctor.ours import probe_module
from copepod.cli.image import describe, files, oci, registry

WASM = probe_module()
MODULE = oci.Module("app.wasm", WASM)
SETTINGS = oci.Settings(env=("A=1",), labels={"z": "1", "a": "2"}, cmd=("x",), user="7")


def test_an_image_is_what_its_bytes_are() -> None:
    made = oci.image([MODULE], SETTINGS, ["linux/amd64"])
    manifest = json.loads(made.root.data)
    layer, config = made.blobs
    assert manifest["layers"] == [layer.descriptor()]
    assert manifest["config"] == config.descriptor()
    doc = json.loads(config.data)
    assert (doc["os"], doc["architecture"]) == ("linux", "amd64")
    process = {"Entrypoint": ["/app.wasm"], "WorkingDir": "/", "Cmd": ["x"], "Env": ["A=1"]}
    assert doc["config"] == {**process, "User": "7", "Labels": {"a": "2", "z": "1"}}
    with tarfile.open(fileobj=BytesIO(layer.data)) as tar:
        (member,) = tar.getmembers()
        assert (member.name, member.mode, member.mtime, member.uid) == ("app.wasm", 0o755, 0, 0)
    assert oci.wasm_in(made) == [("/app.wasm", WASM)]


def test_the_bytes_are_known() -> None:
    """A change of a single byte changes every digest that users have pinned."""
    made = oci.image([oci.Module("d/a.wasm", b"\0asm")], oci.Settings(), ["linux/arm64/v8"])
    tar = oci.layer_tar({"d/a.wasm": b"\0asm"})
    assert hashlib.sha256(tar).hexdigest()[:16] == "feb11c97630b1af0"
    config = json.loads(made.blobs[1].data)
    assert config["variant"] == "v8"
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(tar).hexdigest()}"]


def test_an_index_shares_the_layer() -> None:
    made = oci.image([MODULE], SETTINGS, ["linux/amd64", "linux/arm64"])
    index = json.loads(made.root.data)
    assert [one["platform"]["architecture"] for one in index["manifests"]] == ["amd64", "arm64"]
    assert len(made.blobs) == 3
    assert oci.wasm_in(made) == [("/app.wasm", WASM)]


def test_an_artifact_is_cncf_s() -> None:
    component = oci.Module("c.wasm", WASM, True, "wasip2", ("wasi:cli/a",), ("wasi:cli/run",))
    made = oci.artifact([component], oci.Settings(labels={"a": "b"}))
    manifest = json.loads(made.root.data)
    assert manifest["config"]["mediaType"] == "application/vnd.wasm.config.v0+json"
    assert [one["mediaType"] for one in manifest["layers"]] == ["application/wasm"]
    assert manifest["annotations"] == {"a": "b"}
    config = json.loads(made.blobs[1].data)
    assert config["architecture"] == "wasm"
    assert config["os"] == "wasip2"
    assert config["layerDigests"] == [made.blobs[0].digest]
    assert config["component"] == {"exports": ["wasi:cli/run"], "imports": ["wasi:cli/a"]}


@settings(deadline=None)  # images are compressed: how long that takes is the machine's
@given(
    names=st.lists(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}\.wasm", fullmatch=True),
                   min_size=1, max_size=4, unique=True),
    data=st.binary(max_size=200),
    platforms=st.lists(st.sampled_from(["linux/amd64", "linux/arm64", "linux/arm/v7"]),
                       min_size=1, max_size=3, unique=True),
)  # fmt: skip
def test_archives_come_back(names: list[str], data: bytes, platforms: list[str]) -> None:
    modules = [oci.Module(name, WASM + data) for name in names]
    for made in (
        oci.image(modules, oci.Settings(), platforms), oci.artifact(modules, oci.Settings())
    ):  # fmt: skip
        packed = oci.archive(made, "r.example/n:1")
        assert packed == oci.archive(made, "r.example/n:1")
        back, name = oci.read_archive(packed, "file")
        assert name == "r.example/n:1"
        assert back.root.digest == made.root.digest
        assert {one.digest for one in back.blobs} == {one.digest for one in made.blobs}
        assert [one.digest for one in back.manifests] == [one.digest for one in made.manifests]


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_are_an_archive_or_refused(data: bytes) -> None:
    with pytest.raises(errors.InvalidArgument):
        oci.read_archive(data, "file")


def test_a_changed_blob_is_noticed() -> None:
    packed = oci.archive(oci.artifact([MODULE], oci.Settings()), "r.example/n:1")
    with pytest.raises(errors.DataLoss, match="has other bytes"):
        oci.read_archive(packed.replace(b"copepod is well", b"copepod is ill!"), "file")


def test_the_engine_describes() -> None:
    seen = describe.describe(WASM)
    assert (seen.kind, seen.wasi, seen.problem) == ("core", "preview 1", "")
    assert seen.exports == ("memory memory", "_start func")
    assert "wasi_snapshot_preview1.fd_write func" in seen.imports
    foreign = WASM.replace(b"wasi_snapshot_preview1", b"wasi_snapshot_preview7")
    assert "wasi_snapshot_preview7.fd_write" in describe.describe(foreign).problem
    for data, sentence in ((b"", "empty"), (b"\x7fELF123", "native code"), (WASM[:40], "truncat"),
                           (WASM[:-1] + b"\xff" * 4, "invalid|truncat")):  # fmt: skip
        with pytest.raises(errors.InvalidArgument, match=sentence):
            describe.describe(data)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "My App.wasm").write_bytes(WASM)
    wasm = str(tmp_path / "My App.wasm")
    output = str(tmp_path / "o.tar")
    assert command.run(["image", "build", f"bin/a.wasm={wasm}", "-o", output, "-e", "A=1"]) == 0
    assert "copepod.local/my-app:latest sha256:" in capsys.readouterr().out
    assert command.run(["image", "inspect", output]) == 0
    shown = capsys.readouterr().out
    assert "/bin/a.wasm: core module, WASI preview 1" in shown
    assert "this node can run it" in shown
    assert command.run(["image", "inspect", "--json", wasm]) == 0
    assert json.loads(capsys.readouterr().out)[0]["runs_here"] is True
    for words, sentence in (
        (["build", wasm, "--format", "artifact", "-e", "A=1"], "no place for --env"),
        (["build", wasm, wasm], "two files would be called"),
        (["build", f"../x={wasm}"], "no path in an image"),
        (["build", wasm, "-t", "short"], "names no registry"),
        (["build", __file__], "the file is not wasm"),
        (["build", wasm, "--platform", "amd64"], "not of the form linux/amd64"),
        (["build", wasm, "-e", "A"], "not of the form NAME=VALUE"),
        (["inspect", str(tmp_path / "none")], "No such file"),
    ):
        assert command.run(["image", *words]) == 1
        assert sentence in capsys.readouterr().err


def test_names() -> None:
    assert files.image_name("r.example/n", "") == "r.example/n:latest"
    assert files.image_name("localhost:5000/n:2", "") == "localhost:5000/n:2"
    parsed = registry.Reference.parse("docker.io/library/n:1")
    assert parsed == registry.Reference("registry-1.docker.io", "library/n", "1")
    with pytest.raises(errors.InvalidArgument):
        registry.Reference.parse("r.example/n@sha256:00")


class Registry(http.server.ThreadingHTTPServer):
    """Enough of a registry: tokens, uploads at a place of its own, checked digests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.user = "nobody:secret"
        self.requests: list[str] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Registry

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _handle(self) -> None:
        self.server.requests.append(f"{self.command} {self.path.partition('?')[0]}")
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        sent = self.headers.get("Authorization", "")
        if self.path.startswith("/token"):
            wanted = "Basic " + base64.b64encode(self.server.user.encode()).decode()
            scope = parse_qs(urlsplit(self.path).query)["scope"][0]
            if sent != wanted or scope != "repository:team/app:pull,push":
                self._answer(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"who?"}]}')
            else:
                self._answer(200, b'{"token":"t0ken"}')
        elif sent != "Bearer t0ken":
            realm = f'Bearer realm="http://{self.server.host}/token",service="test"'
            self._answer(401, WWW_Authenticate=realm)
        else:
            self._serve(data)

    def _serve(self, data: bytes) -> None:
        path, _, query = self.path.partition("?")
        name = path.rpartition("/")[2]
        if self.command == "HEAD":
            self._answer(200 if name in self.server.blobs else 404)
        elif self.command == "POST":
            self._answer(202, Location="/v2/team/app/blobs/uploads/1?state=abc")
        elif "/manifests/" in path:
            self.server.manifests[name] = data
            self._answer(201)
        else:
            wanted = parse_qs(query)
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            if wanted != {"state": ["abc"], "digest": [digest]}:
                self._answer(400, b"digest differs")
                return
            self.server.blobs[digest] = data
            self._answer(201)

    do_GET = do_HEAD = do_POST = do_PUT = _handle


@pytest.fixture
def server() -> Iterator[Registry]:
    made = Registry()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def client(server: Registry, user: str = "nobody", password: str = "secret") -> registry.Client:
    target = registry.Reference.parse(f"{server.host}/team/app:1")
    return registry.Client(target, registry.Credentials(user, password), plain_http=True)


def test_pushed_once_and_not_again(server: Registry) -> None:
    made = oci.image([MODULE], SETTINGS, ["linux/amd64", "linux/arm64"])
    sent: list[int] = []
    assert client(server).push(made, sent.append) == made.root.digest
    assert sum(sent) == sum(len(one.data) for one in made.blobs)
    assert server.manifests["1"] == made.root.data
    assert server.blobs == {one.digest: one.data for one in made.blobs}
    server.requests.clear()
    client(server).push(made, sent.append)
    assert not [one for one in server.requests if one.startswith("POST")]


def test_a_refusal_is_told(server: Registry) -> None:
    made = oci.artifact([MODULE], oci.Settings())
    with pytest.raises(errors.PermissionDenied, match=r"401 who\?; it was asked as mallory"):
        client(server, "mallory").push(made, lambda _: None)
    port = server.server_address[1]
    dead = registry.Reference("127.0.0.1:1", "n", "1")
    with pytest.raises(errors.Unavailable, match="can't be reached"):
        registry.Client(dead, registry.Credentials(), plain_http=True).push(made, lambda _: None)
    tls = registry.Reference(f"127.0.0.1:{port}", "n", "1")
    with pytest.raises(errors.Unavailable, match="--plain-http"):
        registry.Client(tls, registry.Credentials()).push(made, lambda _: None)


def test_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert registry.credentials("r.example", None, False) == registry.Credentials()
    auth = base64.b64encode(b"me:pa:ss").decode()
    config = {"auths": {"r.example": {"auth": auth}}, "credHelpers": {"h.example": "test"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert registry.credentials("r.example", None, False) == registry.Credentials("me", "pa:ss")
    helper = tmp_path / "docker-credential-test"
    helper.write_text(
        '#!/bin/sh\nread host; echo "{\\"Username\\":\\"u\\",\\"Secret\\":\\"$host\\"}"\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert registry.credentials("h.example", None, False) == registry.Credentials("u", "h.example")
    with pytest.raises(errors.InvalidArgument, match="arguments are public"):
        registry.credentials("r.example", "me", False)


def packed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """An archive whose index.json holds something else."""
    whole = oci.archive(oci.artifact([MODULE], oci.Settings()), "r.example/n:1")
    with tarfile.open(fileobj=BytesIO(whole)) as tar:
        found = {one.name: tar.extractfile(one) for one in tar if one.isreg()}
        data = {name: file.read() for name, file in found.items() if file}
    changed = change(json.loads(data["index.json"]))
    data["index.json"] = oci.document(changed)
    return oci.layer_tar(data)


def annotated(index: dict[str, Any], value: object) -> dict[str, Any]:
    index["manifests"][0]["annotations"] = value
    return index


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(oci.layer_tar({"index.json": os.urandom(5000)}))[:3000],
        b"\x1f\x8b\x08\x00" + os.urandom(300),
        packed(lambda index: [index]),
        packed(lambda index: index["manifests"]),
        packed(lambda index: {"manifests": ["x"]}),
        packed(lambda index: {"manifests": index}),
        packed(lambda index: annotated(index, ["a"])),
        packed(lambda index: annotated(index, "a")),
        oci.layer_tar({"index.json": b"[" * 100_000}),
    ],
)
def test_broken_archives_are_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgument, match="broken is not an OCI image archive: "):
        oci.read_archive(data, "broken")
    (tmp_path / "x.tar").write_bytes(data)
    assert command.run(["image", "inspect", str(tmp_path / "x.tar")]) == 1


def test_a_layer_that_is_no_gzip_is_refused() -> None:
    layer = oci.Blob(oci.LAYER, gzip.compress(oci.layer_tar({"a.wasm": os.urandom(5000)}))[:3000])
    made = oci.Image(layer, (layer,))
    with pytest.raises(errors.InvalidArgument, match="can't be read"):
        oci.wasm_in(made)


def test_a_compressed_archive_is_one(tmp_path: Path) -> None:
    made = oci.archive(oci.image([MODULE], SETTINGS, ["linux/amd64"]), "r.example/n:1")
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(made))
    assert command.run(["image", "inspect", str(tmp_path / "a.tar.gz")]) == 0


def test_long_names_and_names_that_are_no_text() -> None:
    long = "x" * 120 + ".wasm"
    made = oci.image([oci.Module(long, WASM)], oci.Settings(), ["linux/amd64"])
    assert oci.wasm_in(made) == [(f"/{long}", WASM)]
    for wanted in (oci.Settings(env=("A=\udcff",)), oci.Settings(entrypoint=("/\udcff",))):
        with pytest.raises(errors.InvalidArgument, match=r"UTF-8 only, not .*\\udcff"):
            oci.image([MODULE], wanted, ["linux/amd64"])


def test_an_archive_is_written_whole_or_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.wasm").write_bytes(WASM)
    old = tmp_path / "old.tar"
    old.write_bytes(b"old")
    words = ["image", "build", str(tmp_path / "a.wasm"), "-o"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))  # setrlimit(2): as if the disk ended
    try:
        codes = [command.run([*words, str(one)]) for one in (old, tmp_path / "new.tar")]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert codes == [1, 1]
    assert sorted(os.listdir(tmp_path)) == ["a.wasm", "old.tar"]
    assert old.read_bytes() == b"old"
    assert command.run([*words, "/dev/full"]) == 1
    said = capsys.readouterr().err
    assert f"copepod: File too large '{old}'\n" in said
    assert said.endswith("copepod: No space left on device '/dev/full'\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["localhost:99999/a:1"], "an address at localhost:99999 is none: Port out of range"),
        (["localhost:abc/a:1"], "an address at localhost:abc is none: Port could not be"),
        (["[::1:5/a:1"], "an address at \\[::1:5 is none: "),
        (["localhost:1/\u00e4:1"], "an address at localhost:1 is none: "),
        ([], "app.wasm says no name: give one after it"),
        (["localhost:1/a:1", "--password-stdin"], "--password-stdin needs --username"),
    ],
)
def test_what_cannot_be_pushed(
    words: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "app.wasm").write_bytes(WASM)
    assert command.run(["image", "push", str(tmp_path / "app.wasm"), *words, "--plain-http"]) == 1
    said = capsys.readouterr().err
    assert re.search(sentence, said), said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "config",
    [
        "[]", "3", '{"auths": {"r.example": 3}}', '{"credHelpers": "x"}',
        '{"auths": {"r.example": {"auth": 3}}}', '{"auths": {"r.example": {"auth": "a"}}}',
        '{"auths": {"r.example": {"auth": "//79"}}}',
    ],
)  # fmt: skip
def test_a_docker_config_that_is_not_dockers(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(errors.InvalidArgument, match=r"config\.json is not as Docker writes it: "):
        registry.credentials("r.example", None, False)


CTR = """#!/bin/sh
case "$*" in
    *version*) echo "Server:"; echo "  Version:  2.1.0" ;;
    *--help*) echo "   --no-unpack   Skip unpacking"; $local ;;
    *) echo "$*" >>$log ;;
esac
"""


@pytest.mark.parametrize("local", [True, False])
def test_ctr_gets_the_flags_that_it_knows(
    local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the one on PATH, whatever the containerd at --address is."""
    log = tmp_path / "log"
    said = 'echo "   --local   Run locally"' if local else "true"
    (tmp_path / "ctr").write_text(CTR.replace("$local", said).replace("$log", str(log)))
    (tmp_path / "ctr").chmod(0o755)
    (tmp_path / "a.wasm").write_bytes(WASM)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    words = ["image", "build", str(tmp_path / "a.wasm"), "--import", "--format", "artifact"]
    assert command.run([*words, "--address", "/none"]) == 0
    flags = "--no-unpack --all-platforms --local" if local else "--no-unpack --all-platforms"
    assert f" images import {flags} /" in log.read_text()
