"""From args[0] to compiled code: a real compiler, real forks, and a containerd of real gRPC."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copepod import errors
from copepod.config import Config
from copepod.container import orders
from copepod.container.resolver import Resolver
from copepod.engine import artifact
from copepod.engine.limits import Knobs
from copepod.engine.profile import Profile
from copepod.image import (
    builder,
    content,
    digests,
    layers,
    locks,
    lookup,
    resolve,
    sealed,
    worker,
)
from copepod.image.cache import Cache
from copepod.linux import cgroup

pytestmark = pytest.mark.system

ROOT = pathlib.Path(__file__).parents[3]
FAKE = ROOT / "shim" / "tests" / "fakes" / "containerd.py"
T = TypeVar("T")

# (module (func (export "_start")))
EMPTY = bytes.fromhex("0061736d01000000 010401600000 03020100 070a01065f737461727400000a040102000b")
COMPONENT = bytes.fromhex("0061736d0d000100")
IMAGE = "registry.test/app:1"


def leb(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def large(functions: int, salt: int = 0) -> bytes:
    """A module of many functions that takes seconds to compile."""
    # local.get 0, then: i32.const k, i32.add, i32.const 3, i32.mul, a hundred times, drop
    step = bytes([0x41, salt & 63, 0x6A, 0x41, 3, 0x6C])
    body = bytes([1, 1, 0x7F, 0x20, 0]) + step * 100 + bytes([0x1A, 0x0B])
    code = leb(functions) + (leb(len(body)) + body) * functions
    kinds = leb(functions) + bytes(functions)
    return (
        bytes.fromhex("0061736d01000000 010401600000")
        + b"\x03" + leb(len(kinds)) + kinds
        + bytes.fromhex("070a01065f73746172740000")
        + b"\x0a" + leb(len(code)) + code
    )  # fmt: skip


@dataclass(frozen=True)
class Found:
    kind: str = "missing"
    name: str = "/"
    digest: str = ""
    fd: int = -1
    searched: str = "the file /app"
    stale: bool = False


class Node:
    """A node's folders, and a containerd whose state a test writes."""

    def __init__(self, folder: pathlib.Path, socket: pathlib.Path) -> None:
        self.folder, self.socket = folder, socket
        self.config = Config(cache_dir=str(folder / "cache"))
        self.cache = Cache(self.config.cache_dir)
        self.blobs = folder / "root/io.containerd.content.v1.content/blobs/sha256"
        self.blobs.mkdir(parents=True)
        self.state: dict[str, Any] = {
            "namespace": "k8s.io",
            "containers": {"c1": IMAGE},
            "images": {},
            "blobs": str(self.blobs),
        }

    def blob(self, data: bytes, media_type: str, title: str = "", **more: Any) -> dict[str, Any]:
        digest = sha256(data).hexdigest()
        (self.blobs / digest).write_bytes(data)
        found: dict[str, Any] = {
            "mediaType": media_type,
            "digest": f"sha256:{digest}",
            "size": len(data),
        }
        if title:
            found["annotations"] = {"org.opencontainers.image.title": title}
        return found | more

    def image(self, *parts: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Makes an image of these layers the container's, and gives its manifest's descriptor."""
        media_type = "application/vnd.oci.image.manifest.v1+json"
        config = self.blob(b"{}", "application/vnd.oci.image.config.v1+json")
        document = {"mediaType": media_type, "config": config, "layers": parts}
        return self.name(self.blob(json.dumps(document).encode(), media_type, **more))

    def name(self, target: dict[str, Any]) -> dict[str, Any]:
        self.state["images"][IMAGE] = {
            "media_type": target["mediaType"],
            "digest": target["digest"],
            "size": target["size"],
        }
        self.write()
        return target

    def write(self, **more: Any) -> None:
        self.state |= more
        (self.folder / "state.json").write_text(json.dumps(self.state))

    def wanted(self) -> dict[str, Any]:
        return {
            "container_id": "c1",
            "namespace": "k8s.io",
            "grpc_address": str(self.socket),
            "containerd_root": str(self.folder / "root"),
            "config": self.config,
            "cgroup_fds": [],
        }

    async def module(self, found: Found, **more: Any) -> resolve.Module:
        return await resolve.module(found, **self.wanted() | more)

    def file(self, data: bytes, name: str = "/app.wasm", digest: str = "") -> Found:
        path = self.folder / "file"
        path.write_bytes(data)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return Found("wasm", name, digest or sha256(data).hexdigest(), fd)

    def settings(self, seconds: float = 60) -> worker.Settings:
        tiers = ("cranelift", "winch")
        return worker.Settings(self.cache, Profile(), tiers, 1 << 30, seconds, [])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    folder = tmp_path_factory.mktemp("containerd")
    socket, state = folder / "sock", folder / "node" / "state.json"
    state.parent.mkdir()
    env = os.environ | {"PYTHONPATH": str(ROOT / "api")}
    with subprocess.Popen(
        [sys.executable, str(FAKE), str(socket), str(state)], stdout=subprocess.PIPE, env=env
    ) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 30)[0], "the fake did not start"
        assert process.stdout.readline() == b"ready\n"
        yield socket, state
        process.terminate()
        assert process.wait(30) == 0


@pytest.fixture
def node(tmp_path: pathlib.Path, server: tuple[pathlib.Path, pathlib.Path]) -> Iterator[Node]:
    socket, state = server
    made = Node(tmp_path, socket)
    state.unlink(missing_ok=True)
    state.symlink_to(tmp_path / "state.json")
    sealed.forget()  # what an earlier module's tests had opened
    before = (fds(), children(), len(os.listdir("/proc/self/task")))
    yield made
    sealed.forget()
    assert (fds(), children(), len(os.listdir("/proc/self/task"))) == before


def fds() -> set[str]:
    names = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:
            continue  # the folder's own
    return names


def children() -> set[int]:
    own = os.getpid()
    return {int(pid) for pid in pathlib.Path(f"/proc/self/task/{own}/children").read_text().split()}


def run(work: Awaitable[T]) -> T:
    """Runs to the end of all that goes on in the background, bounded."""

    async def whole() -> T:
        async with asyncio.timeout(120):
            try:
                return await work
            finally:
                await background()

    return asyncio.run(whole())


async def background() -> None:
    while left := [task for task in asyncio.all_tasks() if task.get_name() == "resolver"]:
        await asyncio.gather(*left)


def check(made: resolve.Module, data: bytes, tier: str = "winch", kind: str = "core") -> None:
    trailer = artifact.read(made.fd)
    assert trailer is not None
    assert (trailer.kind, trailer.tier, trailer.source) == (kind, tier, sha256(data).digest())
    assert made.kind == kind
    os.close(made.fd)


@pytest.fixture
def no_fork(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes every further fork an error."""

    def forbid() -> None:
        monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))

    return forbid


# Files of the root file system


def test_a_file_is_compiled_once_and_better_the_second_time(
    node: Node, no_fork: Callable[[], None]
) -> None:
    check(run(node.module(node.file(EMPTY))), EMPTY)
    no_fork()
    check(run(node.module(node.file(EMPTY, "/other"))), EMPTY, "cranelift")


def test_a_file_is_read_for_its_digest_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    path = node.folder / "app.wasm"
    monkeypatch.setattr(digests, "_SETTLED", -(10**12))  # the file is new

    def file(data: bytes = b"") -> Found:
        if data:
            path.write_bytes(data)
            os.utime(path, (7, 7))  # as an archive's reader does
        return Found("wasm", "/app.wasm", "", os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    check(run(node.module(file(EMPTY))), EMPTY)
    with monkeypatch.context() as patch:
        patch.setattr(builder.Child, "fork", None)  # nobody is asked any more
        check(run(node.module(file())), EMPTY, "cranelift")
    check(run(node.module(replace(file(), stale=True))), EMPTY)
    other = EMPTY + b"\0\1\0"  # a custom section without a name
    check(run(node.module(file(other))), other)


def test_nobody_can_write_to_the_code_through_its_descriptor(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even root, who may in a container open what another process has open."""

    def taken() -> str:
        made = run(node.module(node.file(EMPTY)))
        link = os.readlink(f"/proc/self/fd/{made.fd}")
        with pytest.raises(OSError, match="Read-only file system"):
            os.open(f"/proc/self/fd/{made.fd}", os.O_RDWR)
        check(made, EMPTY, tiers.pop(0))
        return link

    tiers = ["winch", "cranelift", "winch", "winch"]
    assert not taken().startswith(node.cache.root)
    assert not taken().startswith(node.cache.root)
    os.rename(node.cache.root, node.folder / "old")
    assert not taken().startswith(str(node.folder))
    folder, real = pathlib.Path(node.cache.root), sealed.seal

    def pruned(root: str, fd: int) -> int:
        os.unlink(os.readlink(f"/proc/self/fd/{fd}"))
        os.rename(folder, node.folder / "older")  # at once: the child still writes better code
        return real(root, fd)

    monkeypatch.setattr(sealed, "seal", pruned)
    shutil.rmtree(folder)
    assert taken().endswith("(deleted)")


def test_what_joins_a_container_tells_nothing_to_others(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file may lie on a file system that the container made, and shows as another's file."""
    monkeypatch.setattr(digests, "_SETTLED", -(10**12))  # the file is new
    path = node.folder / "app.wasm"
    path.write_bytes(EMPTY)
    os.utime(path, (7, 7))  # as an archive's reader does
    asked: list[str] = []
    whole = digests.recall

    def recall(root: str, fd: int, owner: str = "") -> str:
        found = whole(root, fd, owner)
        asked.append(f"{owner}:{bool(found)}")
        return found

    monkeypatch.setattr(digests, "recall", recall)
    wanted = SimpleNamespace(id="c1", namespace="k8s.io", bundle=str(node.folder))

    def started(*, joins: bool) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        found = orders.Found("wasm", "/app.wasm", "", fd, "", rootfs_layers=True)
        made = Resolver(node.config, str(node.socket), wanted, Knobs(), [], joins=joins)
        os.close(run(made(found)).fd)

    for joins in (True, True, False, False, True):
        started(joins=joins)
    assert asked == [
        "k8s.io/c1:False", "k8s.io/c1:True", ":False", ":True", "k8s.io/c1:True"
    ]  # fmt: skip


def test_better_code_that_is_missing_is_made_at_the_next_hit(node: Node) -> None:
    check(run(node.module(node.file(EMPTY))), EMPTY)
    node.cache.discard(Profile(tier="cranelift").key(), sha256(EMPTY).hexdigest())
    check(run(node.module(node.file(EMPTY))), EMPTY)
    check(run(node.module(node.file(EMPTY))), EMPTY, "cranelift")


@pytest.mark.parametrize("layer", [True, False])
@pytest.mark.parametrize("compiler", ["winch", "cranelift"])
def test_one_compiler_alone(node: Node, compiler: str, layer: bool) -> None:
    node.image(node.blob(EMPTY, "application/wasm"))
    knobs = Knobs(compiler=compiler, fuel=5)
    for _ in range(2):
        found = Found() if layer else node.file(EMPTY)
        check(run(node.module(found, knobs=knobs)), EMPTY, compiler)
    assert [entry.key for entry in node.cache.ls()] == [knobs.profile().at(compiler).key()]


@pytest.mark.parametrize("layer", [True, False])
def test_code_that_is_of_no_use_is_made_again(node: Node, layer: bool) -> None:
    node.image(node.blob(EMPTY, "application/wasm"))
    for stale, tier in ((False, "winch"), (False, "cranelift"), (True, "winch")):
        found = Found() if layer else node.file(EMPTY)
        check(run(node.module(replace(found, stale=stale))), EMPTY, tier)


def test_a_component(node: Node) -> None:
    made = run(node.module(node.file(COMPONENT)))
    trailer = artifact.read(made.fd)
    assert trailer is not None
    check(made, COMPONENT, trailer.tier, "component")


def test_an_entry_is_named_after_a_hash(node: Node) -> None:
    made = run(node.module(node.file(EMPTY, "/app.wasm#run")))
    assert made.entry == "run"
    os.close(made.fd)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the file is empty"),
        (EMPTY[:20], "truncated"),
        (b"\x7fELF" + bytes(60), "precompiled code is never taken from an image"),
        (b"(module)", "WebAssembly in text format"),
        (b"#!/bin/sh", "not wasm"),
        (EMPTY[:-1] + b"\x00", "invalid"),
    ],
)
def test_what_is_no_wasm_is_refused(node: Node, data: bytes, said: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        run(node.module(node.file(data)))
    assert str(caught.value).startswith("the file '/app.wasm': ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_changed_is_refused(node: Node) -> None:
    with pytest.raises(errors.DataLoss, match=r"^the file '/app\.wasm' is not what its digest"):
        run(node.module(node.file(EMPTY, digest="0" * 64)))


def test_a_file_that_is_too_large_is_refused(node: Node) -> None:
    node.config = Config(cache_dir=node.config.cache_dir, module_max_bytes=10)
    with pytest.raises(errors.ResourceExhausted, match="more than the 10 that this node compiles"):
        run(node.module(node.file(EMPTY)))


def test_without_a_cache_the_code_is_in_memory(node: Node) -> None:
    pathlib.Path(node.config.cache_dir).write_text("not a folder")
    made = run(node.module(node.file(EMPTY)))
    assert "memfd" in os.readlink(f"/proc/self/fd/{made.fd}")
    check(made, EMPTY)


# Layers


@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize("media_type", sorted(layers.WASM_MEDIA_TYPES))
def test_a_layer_from_disk_or_through_containerd(node: Node, media_type: str, root: bool) -> None:
    node.image(node.blob(EMPTY, media_type))
    more = {} if root else {"containerd_root": ""}
    check(run(node.module(Found(), **more)), EMPTY)


def test_a_cached_layer_is_improved_once(node: Node) -> None:
    node.image(node.blob(EMPTY, "application/wasm"))
    check(run(node.module(Found())), EMPTY)
    check(run(node.module(Found())), EMPTY, "cranelift")
    node.cache.discard(Profile(tier="cranelift").key(), sha256(EMPTY).hexdigest())
    check(run(node.module(Found())), EMPTY)
    check(run(node.module(Found())), EMPTY, "cranelift")


def test_a_look_up_that_starts_before_the_name_is_known(node: Node) -> None:
    node.image(
        node.blob(EMPTY, "application/wasm", "a.wasm"),
        node.blob(COMPONENT, "application/wasm", "b.wasm"),
    )

    async def early(found: Found) -> resolve.Module:
        started = resolve.start(**node.wanted())
        return await node.module(found, started=started)

    check(run(early(Found(name="a.wasm"))), EMPTY)
    check(run(early(node.file(EMPTY))), EMPTY, "cranelift")
    node.write(images={})
    with pytest.raises(errors.FailedPrecondition, match=f"does not know image {IMAGE}"):
        run(early(Found()))

    async def dropped() -> None:
        await resolve.start(**node.wanted()).drop()

    run(dropped())


def test_a_large_blob_through_containerd(node: Node) -> None:
    data = EMPTY + b"\x00" + leb(5 << 20) + b"\x01x" + bytes((5 << 20) - 2)
    node.image(node.blob(data, "application/wasm"))
    check(run(node.module(Found(), containerd_root="")), data)


def test_a_layer_by_title(node: Node) -> None:
    second = large(1)
    node.image(
        node.blob(EMPTY, "application/wasm", "a.wasm"),
        node.blob(second, "application/wasm", "b.wasm"),
    )
    check(run(node.module(Found(name="/b.wasm"))), second)
    with pytest.raises(errors.InvalidArgument, match=r"'a\.wasm', 'b\.wasm'"):
        run(node.module(Found(name="/c.wasm")))


def test_an_index_is_followed(node: Node) -> None:
    target = node.image(
        node.blob(EMPTY, "application/wasm"), platform={"os": "wasi", "architecture": "wasm"}
    )
    other = target | {"platform": {"os": "windows", "architecture": "amd64"}}
    media_type = "application/vnd.oci.image.index.v1+json"
    both = {"mediaType": media_type, "manifests": [other, target]}
    node.name(node.blob(json.dumps(both).encode(), media_type))
    check(run(node.module(Found())), EMPTY)
    only = {"mediaType": media_type, "manifests": [other]}
    node.name(node.blob(json.dumps(only).encode(), media_type))
    with pytest.raises(errors.InvalidArgument, match="its index lists windows/amd64"):
        run(node.module(Found()))


def test_an_image_without_wasm(node: Node) -> None:
    node.image(node.blob(b"x", "application/vnd.oci.image.layer.v1.tar"))
    with pytest.raises(errors.InvalidArgument) as caught:
        run(node.module(Found(name="/app.wasm", searched="the file /app.wasm")))
    assert str(caught.value) == (
        "there is nothing to run: the file /app.wasm does not exist, and image"
        f" {IMAGE} has no wasm layer (its layers are: application/vnd.oci.image.layer.v1.tar)"
    )


@pytest.mark.parametrize("root", [True, False])
def test_a_damaged_layer(node: Node, root: bool) -> None:
    layer = node.blob(EMPTY, "application/wasm", "a.wasm")
    node.image(layer)
    (node.blobs / layer["digest"][7:]).write_bytes(EMPTY + b"\0")
    more = {} if root else {"containerd_root": ""}
    with pytest.raises(errors.DataLoss, match=r"^layer 'a\.wasm' of image .* damaged"):
        run(node.module(Found(), **more))


@pytest.mark.parametrize("root", [True, False])
def test_a_damaged_manifest(node: Node, root: bool) -> None:
    target = node.image(node.blob(EMPTY, "application/wasm"))
    (node.blobs / target["digest"][7:]).write_bytes(b"{}")
    more = {} if root else {"containerd_root": ""}
    with pytest.raises(errors.DataLoss, match="remove the image and pull it again"):
        run(node.module(Found(), **more))


@pytest.mark.parametrize("root", [True, False])
def test_a_layer_that_is_too_large(node: Node, root: bool) -> None:
    node.image(node.blob(EMPTY, "application/wasm"))
    node.config = Config(cache_dir=node.config.cache_dir, module_max_bytes=10)
    more = {} if root else {"containerd_root": ""}
    with pytest.raises(errors.ResourceExhausted, match="larger than the 10 bytes"):
        run(node.module(Found(), **more))


def test_a_layer_that_is_gone(node: Node) -> None:
    layer = node.blob(EMPTY, "application/wasm", "a.wasm")
    node.image(layer)
    (node.blobs / layer["digest"][7:]).unlink()
    with pytest.raises(errors.FailedPrecondition, match=r"does not know layer 'a\.wasm' of image"):
        run(node.module(Found()))


def test_records_that_are_missing(node: Node) -> None:
    node.write(containers={})
    with pytest.raises(errors.FailedPrecondition, match="does not know container c1"):
        run(node.module(Found()))
    node.write(containers={"c1": ""})
    with pytest.raises(errors.FailedPrecondition, match="names no image"):
        run(node.module(Found()))
    node.write(containers={"c1": IMAGE})
    with pytest.raises(errors.FailedPrecondition, match=f"does not know image {IMAGE}"):
        run(node.module(Found()))
    with pytest.raises(errors.Unavailable, match="FAILED_PRECONDITION"):
        run(node.module(Found(), namespace="moby"))


def test_a_containerd_that_does_not_answer(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content.Containerd.__init__, "__defaults__", (0.2,))
    node.write(delay=5)
    with pytest.raises(errors.Unavailable, match=r"did not tell about container c1 within 0\.2 s"):
        run(node.module(Found()))
    node.write(delay=0)


def test_a_containerd_that_is_not_there(node: Node) -> None:
    with pytest.raises(errors.Unavailable, match="can't tell about container c1: UNAVAILABLE: "):
        run(node.module(Found(), grpc_address=str(node.folder / "none")))


def test_a_socket_that_nobody_listens_to(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content.Containerd.__init__, "__defaults__", (0.2,))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(node.folder / "silent"))
        silent.listen()
        with pytest.raises(errors.Unavailable, match="container c1"):
            run(node.module(Found(), grpc_address=str(node.folder / "silent")))


# The child


def test_many_at_once_compile_once(node: Node) -> None:
    data = large(300)
    node.image(node.blob(data, "application/wasm"))

    async def all_at_once() -> list[resolve.Module]:
        files = [node.file(data) for _ in range(6)]
        return await asyncio.gather(
            *(node.module(found) for found in files), *(node.module(Found()) for _ in range(6))
        )

    made = run(all_at_once())
    assert len({os.fstat(module.fd).st_ino for module in made}) <= 2  # the quick one, the good one
    for module in made:
        os.close(module.fd)
    assert len(node.cache.ls()) == 2


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.text(), st.booleans())
def test_what_the_shim_says_is_heard(name: str, searched: str, stale: bool) -> None:
    searched = searched.replace("\0", "")
    said = lookup.Heard(name, searched, stale)
    assert lookup.Heard.unpack(said.pack()) == said
    long = lookup.Heard(name, searched * 10_000, stale)
    assert len(long.pack()) <= worker.MESSAGE_MAX
    assert lookup.Heard.unpack(long.pack()).name == name


def test_cancelling_kills_the_child(node: Node) -> None:
    before = children()

    async def cancelled() -> None:
        task = asyncio.create_task(node.module(node.file(large(60_000))))
        await asyncio.sleep(0)  # up to its first wait, which is for the child's answer
        assert children() > before
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert children() == before

    run(cancelled())


def test_a_compiler_that_takes_too_long(node: Node) -> None:
    node.config = Config(cache_dir=node.config.cache_dir, compile_timeout_seconds=1)
    with pytest.raises(errors.ResourceExhausted, match="longer than the 1 s"):
        run(node.module(node.file(large(60_000))))


@pytest.mark.parametrize(
    ("work", "kind", "said"),
    [
        (lambda wire: os.abort(), errors.Internal, "crashed with SIGABRT while compiling the"),
        (
            lambda wire: os.kill(os.getpid(), signal.SIGKILL),
            errors.ResourceExhausted,
            "most likely at the container's memory limit",
        ),
        (lambda wire: None, errors.Internal, "ended without an answer"),
        (lambda wire: 1 / 0, errors.Internal, "unexpected ZeroDivisionError"),
        (lambda wire: sys.exit(3), errors.Internal, "unexpected SystemExit"),
    ],
)
def test_a_child_that_ends_badly(
    node: Node, work: Callable[[Any], None], kind: type[errors.Error], said: str
) -> None:
    async def forked(message: bytes) -> tuple[int, str]:
        return await builder.Child.fork(work, node.settings()).code("the file 'x'", message)

    for message in (b"", b"heard by nobody"):
        with pytest.raises(kind, match=said):
            run(forked(message))


def test_the_loop_ends_before_the_better_code_is_made(node: Node) -> None:
    found = node.file(large(20_000))
    source = worker.Source(found.fd, found.digest, "the file 'x'")
    bench = node.settings()

    async def at_once() -> None:
        builder.Child.fork(
            lambda wire: worker.improve(bench, source, worker.read(bench, source)),
            bench,
            [found.fd],
        ).leave()

    asyncio.run(at_once())
    os.close(found.fd)


def test_the_child_has_nothing_of_the_shim(node: Node) -> None:
    keeper, other = os.pipe()

    def look(wire: Any) -> None:
        names = [name for name in os.listdir("/proc/self/fd") if int(name) > 2]
        kept = {int(name) for name in names if os.path.exists(f"/proc/self/fd/{name}")}
        state = {
            "fds": kept == {wire.fileno(), other},
            "usr1": signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL,
            "score": pathlib.Path("/proc/self/oom_score_adj").read_text().strip(),
            "name": pathlib.Path("/proc/self/comm").read_text().strip(),
        }
        raise errors.InvalidArgument(json.dumps(state))

    async def forked() -> tuple[int, str]:
        return await builder.Child.fork(look, node.settings(), [other]).code("x")

    old = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with pytest.raises(errors.InvalidArgument) as caught:
            run(forked())
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert json.loads(str(caught.value)) == {
        "fds": True, "usr1": True, "score": "1000", "name": "copepod-compile"
    }  # fmt: skip
    os.close(keeper)
    os.close(other)


# Memory


@pytest.fixture
def group() -> Iterator[pathlib.Path]:
    """A cgroup of our own that can limit memory, of either version."""
    made = memory_root() / f"copepod-test-{os.getpid()}"
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    if not limit_file(made).exists():
        made.rmdir()
        pytest.skip("the memory controller is not enabled for child groups here")
    yield made
    made.rmdir()


def memory_root() -> pathlib.Path:
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup" and "memory" in options.split(","):
            return pathlib.Path(left.split()[4])
    return pathlib.Path("/sys/fs/cgroup")


def limit_file(group: pathlib.Path) -> pathlib.Path:
    old = group / "memory.limit_in_bytes"
    return old if old.exists() else group / "memory.max"


def enter_by(group: pathlib.Path) -> int:
    """What a container's group is entered by, in the hierarchy that has the memory controller."""
    if (group / "tasks").exists():
        return os.open(group / "tasks", os.O_WRONLY | os.O_CLOEXEC)
    return cgroup.open_group(str(group))


def test_a_limit_that_is_too_small_for_the_compiler(node: Node, group: pathlib.Path) -> None:
    """The node lends the memory, up to a bound; the container's is not touched for it."""
    limit_file(group).write_text(str(20 << 20))
    procs = enter_by(group)
    data = large(9_000)  # wants far more than the free heap of this process, which its forks have
    node.image(node.blob(data, "application/wasm"))
    small = Config(
        cache_dir=node.config.cache_dir, toolbox_path="/x", compile_node_memory_bytes=4 << 20
    )
    for layer in (True, False):
        found = Found() if layer else node.file(data)
        with pytest.raises(errors.ResourceExhausted, match="4 MiB that this node gives"):
            run(node.module(found, cgroup_fds=[procs], config=small))
    for layer, tier in ((True, "winch"), (False, "cranelift")):
        found = Found() if layer else node.file(data)
        check(run(node.module(found, cgroup_fds=[procs])), data, tier)
    peak = next(
        group / name
        for name in ("memory.max_usage_in_bytes", "memory.peak")
        if (group / name).exists()
    )
    assert int(peak.read_text()) < 8 << 20, "nobody compiled in there"
    os.close(procs)


def test_on_the_nodes_account_no_start_waits_for_better_code(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = node.folder / "gate"

    def improve(*_args: object) -> None:
        with gate.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the test lets go

    monkeypatch.setattr(worker, "fits", lambda *_: False)
    monkeypatch.setattr(worker, "improve", improve)
    node.config = Config(cache_dir=node.config.cache_dir, compile_timeout_seconds=20)

    async def both() -> None:
        for data in (EMPTY, large(1)):
            check(await node.module(node.file(data)), data)
        held.close()
        await background()

    with gate.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        run(both())


def test_one_at_a_time_on_the_nodes_account(node: Node) -> None:
    bench = worker.outside(node.settings())
    assert not os.path.exists(bench.cache.root)
    turns = [worker._turn(bench, name, wait=False) for name in ("a", "a", "b")]
    assert [turn >= 0 for turn in turns] == [True, False, True]
    for turn in (turns[0], turns[2]):
        os.close(turn)
    bench.cache.root = "/dev/null/none"
    assert worker._turn(bench, "a", wait=True) == locks.NOWHERE


def test_a_compiler_that_is_killed_in_the_container(
    node: Node, group: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "fits", lambda *_: True)  # it seemed enough
    limit_file(group).write_text(str(20 << 20))
    procs = enter_by(group)
    with pytest.raises(errors.ResourceExhausted, match="most likely at the container's memory"):
        run(node.module(node.file(large(3_000)), cgroup_fds=[procs]))
    os.close(procs)


def test_better_code_is_not_tried_without_room(node: Node, group: pathlib.Path) -> None:
    procs = enter_by(group)
    for limit, tier in ((48 << 20, "winch"), (512 << 20, "cranelift")):
        limit_file(group).write_text(str(limit))
        for seen in ("winch", tier):
            check(run(node.module(node.file(EMPTY), cgroup_fds=[procs])), EMPTY, seen)
    os.close(procs)


def test_a_cgroup_that_cannot_be_joined(node: Node) -> None:
    nothing = os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
    with pytest.raises(errors.Internal, match="can't join the container's cgroup: No space left"):
        run(node.module(node.file(EMPTY), cgroup_fds=[nothing]))
    os.close(nothing)
