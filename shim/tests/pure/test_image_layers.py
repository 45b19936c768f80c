"""Manifests and indexes of every shape, and which layer args[0] means."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copepod import errors
from copepod.image import layers

pytestmark = pytest.mark.pure

HEX = "0123456789abcdef" * 4
OTHER = "f" * 64
WASM = "application/wasm"
TAR = "application/vnd.oci.image.layer.v1.tar+gzip"


def descriptor(
    media_type: str = WASM, digest: str = f"sha256:{HEX}", title: str = "", **more: Any
) -> dict[str, Any]:
    found: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": 7} | more
    if title:
        found["annotations"] = {"org.opencontainers.image.title": title}
    return found


def manifest(*parts: dict[str, Any], **more: Any) -> bytes:
    config = descriptor("application/vnd.oci.image.config.v1+json")
    return json.dumps({"schemaVersion": 2, "config": config, "layers": parts} | more).encode()


def index(*parts: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": parts} | more).encode()


def parsed(data: bytes) -> layers.Manifest:
    found = layers.parse(data, "the manifest")
    assert isinstance(found, layers.Manifest)
    return found


def indexed(data: bytes) -> layers.Index:
    found = layers.parse(data, "the index")
    assert isinstance(found, layers.Index)
    return found


def on(*platform: str) -> dict[str, Any]:
    return descriptor(
        "application/vnd.oci.image.manifest.v1+json",
        platform={"os": platform[0], "architecture": platform[1]},
    )


def choose(found: layers.Manifest, name: str) -> layers.Blob:
    return layers.choose_layer(found, name, "docker.io/x:1", "the file /c.wasm")


@pytest.mark.parametrize("media_type", sorted(layers.WASM_MEDIA_TYPES))
@pytest.mark.parametrize("name", ["", "/", "/app.wasm", "whatever", "./x"])
def test_the_only_layer_is_meant(media_type: str, name: str) -> None:
    found = parsed(manifest(descriptor(media_type)))
    assert choose(found, name) == layers.Blob(media_type, f"sha256:{HEX}", 7)


@pytest.mark.parametrize("name", ["b.wasm", "/b.wasm", "./b.wasm", "/usr/b.wasm"])
@pytest.mark.parametrize("title", ["b.wasm", "target/release/b.wasm", "./b.wasm", "/b.wasm"])
def test_a_layer_by_its_title(name: str, title: str) -> None:
    found = parsed(
        manifest(
            descriptor(TAR),
            descriptor(title="a.wasm"),
            descriptor(digest=f"sha256:{OTHER}", title=title),
        )
    )
    assert choose(found, name).hex == OTHER


def test_a_whole_path_beats_its_last_part() -> None:
    found = parsed(
        manifest(
            descriptor(title="one/app.wasm"),
            descriptor(digest=f"sha256:{OTHER}", title="two/app.wasm"),
        )
    )
    assert choose(found, "/two/app.wasm").hex == OTHER
    with pytest.raises(errors.InvalidArgument, match=r"'one/app\.wasm', 'two/app\.wasm'"):
        choose(found, "app.wasm")


def test_several_layers_and_no_match_lists_the_titles() -> None:
    found = parsed(manifest(descriptor(title="a.wasm"), descriptor(digest=f"sha256:{OTHER}")))
    with pytest.raises(errors.InvalidArgument) as caught:
        choose(found, "/c.wasm")
    assert str(caught.value) == (
        "args[0] '/c.wasm' names none of the wasm layers of image docker.io/x:1 ('a.wasm',"
        " sha256:ffffffffffff... without a title), and the file /c.wasm does not exist: set the"
        " container's command to one of these titles"
    )


def test_beside_a_file_system_a_wrong_path_is_an_error() -> None:
    found = parsed(manifest(descriptor(TAR), descriptor(title="a.wasm")))
    assert choose(found, "/").title == "a.wasm"
    with pytest.raises(errors.InvalidArgument, match="names none of the wasm layers"):
        choose(found, "/bin/sh")


def test_no_wasm_layer_says_what_there_is() -> None:
    found = parsed(manifest(descriptor(TAR), descriptor(TAR), descriptor("text/plain")))
    with pytest.raises(errors.InvalidArgument) as caught:
        choose(found, "/app.wasm")
    assert str(caught.value) == (
        "there is nothing to run: the file /c.wasm does not exist, and image"
        f" docker.io/x:1 has no wasm layer (its layers are: {TAR}, text/plain)"
    )
    with pytest.raises(errors.InvalidArgument, match="its layers are: none"):
        choose(parsed(manifest()), "/app.wasm")


def test_the_host_comes_before_wasm() -> None:
    host = on("linux", "arm64")
    found = indexed(index(on("linux", "amd64"), on("wasip1", "wasm"), host))
    assert layers.choose_manifest(found, "aarch64", "x").platform == ("linux", "arm64")
    assert layers.choose_manifest(found, "riscv64", "x").platform == ("wasip1", "wasm")
    one = indexed(index(descriptor("application/vnd.oci.image.manifest.v1+json")))
    assert layers.choose_manifest(one, "x86_64", "x") == one.manifests[0]


def test_an_index_without_a_match_lists_its_platforms() -> None:
    found = indexed(index(on("windows", "amd64"), on("linux", "arm64")))
    with pytest.raises(errors.InvalidArgument) as caught:
        layers.choose_manifest(found, "x86_64", "docker.io/x:1")
    assert str(caught.value) == (
        "image docker.io/x:1 has nothing for linux/amd64 or wasi/wasm: its index lists"
        " windows/amd64, linux/arm64"
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "it is not a JSON object"),
        (b"{}", "neither layers nor manifests"),
        (b'{"layers": {}}', "layers is not a list"),
        (b'{"layers": [1]}', "not a descriptor"),
        (b'{"layers": [], "config": 3}', "config is not a descriptor"),
        (manifest(descriptor(digest="sha512:00")), "only sha256 is known"),
        (manifest(descriptor(digest="sha256:../../../etc/passwd")), "only sha256 is known"),
        (manifest(descriptor(digest=f"sha256:{HEX}\n")), "only sha256 is known"),
        (manifest(descriptor(size=-1)), "negative size"),
        (manifest(descriptor(size=True)), "has no size"),
        (manifest(descriptor(size="7")), "has no size"),
    ],
)
def test_what_is_no_manifest_is_refused_by_name(data: bytes, said: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        layers.parse(data, "the manifest of image x")
    assert str(caught.value).startswith("the manifest of image x")
    assert said in str(caught.value)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
near = st.fixed_dictionaries(
    {},
    optional={
        "mediaType": st.sampled_from([WASM, TAR, "", 3]) | anything,
        "digest": st.sampled_from([f"sha256:{HEX}", "sha256:", None]) | anything,
        "size": st.integers() | anything,
        "annotations": st.dictionaries(st.just("org.opencontainers.image.title"), anything)
        | anything,
        "platform": st.fixed_dictionaries({"os": anything, "architecture": anything}) | anything,
    },
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "mediaType": st.sampled_from(["application/vnd.oci.image.index.v1+json", ""])
            | anything,
            "layers": st.lists(near) | anything,
            "manifests": st.lists(near) | anything,
            "config": near | anything,
        },
    )
    | anything,
    st.text(max_size=20),
)
def test_any_json_is_a_choice_or_one_sentence(document: Any, name: str) -> None:
    said = refused(lambda: chosen(json.dumps(document).encode(), name))
    assert said.isprintable()


@given(st.binary())
def test_any_bytes_are_refused_or_parsed(data: bytes) -> None:
    said = refused(lambda: layers.parse(data, "the manifest"))
    assert not said or said.startswith("the manifest ")


def chosen(data: bytes, name: str) -> None:
    found = layers.parse(data, "the manifest")
    if isinstance(found, layers.Index):
        assert layers.choose_manifest(found, "x86_64", "x") in found.manifests
    else:
        assert choose(found, name) in found.wasm


def refused(call: Callable[[], object]) -> str:
    """Gives the sentence with which `call` refuses, "" if it doesn't."""
    try:
        call()
    except errors.InvalidArgument as error:
        return str(error)
    return ""
