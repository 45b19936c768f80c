"""Which bytes of an image run: manifests and indexes as plain data, and the choice of a layer.

It reads no file and asks nobody; JSON that is not an image manifest is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from copepod import errors
from copepod.values import dataclass

# Everybody's name for "this layer is one wasm file" (CNCF's wasm artifact, runwasi, wasm-to-oci
# and the older Spin, W3C's registration). The kind of module is told by its bytes, not by these.
WASM_MEDIA_TYPES = frozenset(
    {
        "application/wasm",
        "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
        "application/vnd.wasm.content.layer.v1+wasm",
        "application/vnd.w3c.wasm.module.v1+wasm",
    }
)
_INDEX_TYPES = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)
_TITLE = "org.opencontainers.image.title"  # OCI image spec, annotations.md
_WASM_OS = ("wasip2", "wasip1", "wasi")  # CNCF's wasm artifact says wasip1 or wasip2, buildx wasi
_WASM_ARCH = frozenset({"wasm", "wasm32"})
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)

# The machine's name (uname -m) in Go's words: what containerd pulls by.
_GOARCH = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "riscv64": "riscv64",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "loongarch64": "loong64",
}


@dataclass(frozen=True, slots=True)
class Blob:
    """A descriptor (OCI image spec, descriptor.md): `digest` is "sha256:" and 64 digits."""

    media_type: str
    digest: str
    size: int
    title: str = ""
    platform: tuple[str, str] | None = None  # (os, architecture), of a manifest in an index

    @property
    def hex(self) -> str:
        """The digest's digits: the blob's file name in the content store."""
        return self.digest.removeprefix("sha256:")

    @property
    def is_wasm(self) -> bool:
        """Whether the media type says that this is one wasm file."""
        return self.media_type in WASM_MEDIA_TYPES


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image's parts: its config and its layers, in the manifest's order."""

    config: Blob | None
    layers: tuple[Blob, ...]

    @property
    def wasm(self) -> tuple[Blob, ...]:
        """The layers that are wasm files."""
        return tuple(layer for layer in self.layers if layer.is_wasm)


@dataclass(frozen=True, slots=True)
class Index:
    """Manifests for several platforms under one name."""

    manifests: tuple[Blob, ...]


def parse(data: bytes, where: str) -> Manifest | Index:
    """Gives the manifest or index in `data`; `where` names it in errors (InvalidArgument).

    An index is told by its mediaType or, without one, by having "manifests" and no "layers":
    OCI image spec, manifest.md and image-index.md make the field optional.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise errors.InvalidArgument(f"{where} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise errors.InvalidArgument(f"{where} is not an image manifest: it is not a JSON object")
    media_type = _text(document.get("mediaType"))
    if media_type in _INDEX_TYPES or (not media_type and "layers" not in document):
        if "manifests" not in document:
            raise errors.InvalidArgument(
                f"{where} is not an image manifest: it has neither layers nor manifests"
            )
        return Index(_blobs(document, "manifests", where))
    config = document.get("config")
    return Manifest(
        None if config is None else blob(config, f"{where}: config"),
        _blobs(document, "layers", where),
    )


def blob(document: Any, where: str) -> Blob:
    """Gives a descriptor from its JSON object, checked: the digest becomes a file name."""
    if not isinstance(document, dict):
        raise errors.InvalidArgument(f"{where} is not a descriptor: it is not a JSON object")
    size, annotations = document.get("size"), document.get("annotations")
    title = annotations.get(_TITLE) if isinstance(annotations, dict) else ""
    if not isinstance(size, int) or isinstance(size, bool):
        raise errors.InvalidArgument(f"{where} has no size")
    found = Blob(
        _text(document.get("mediaType")),
        _text(document.get("digest")),
        size,
        _text(title),
        _platform(document.get("platform")),
    )
    return checked(found, where)


def checked(found: Blob, where: str) -> Blob:
    """Gives `found` back if its digest and size can be true; InvalidArgument else."""
    if not _DIGEST.fullmatch(found.digest):
        raise errors.InvalidArgument(
            f"{where} has the digest {found.digest[:80]!r}, but only sha256 is known here"
        )
    if found.size < 0:
        raise errors.InvalidArgument(f"{where} has a negative size")
    return found


def _blobs(document: dict[str, Any], field: str, where: str) -> tuple[Blob, ...]:
    found = document.get(field)
    if not isinstance(found, list):
        raise errors.InvalidArgument(f"{where} is not an image manifest: {field} is not a list")
    return tuple(blob(item, f"{where}: {field}[{n}]") for n, item in enumerate(found))


def _platform(document: Any) -> tuple[str, str] | None:
    if not isinstance(document, dict):
        return None
    os_name, architecture = _text(document.get("os")), _text(document.get("architecture"))
    return (os_name, architecture) if os_name and architecture else None


def _text(value: Any) -> str:
    """Gives a string that can stand in a sentence; "" for everything else."""
    return value if isinstance(value, str) and value.isprintable() and len(value) < 1024 else ""


def choose_manifest(index: Index, machine: str, image: str) -> Blob:
    """Gives the manifest for this machine (uname -m), else one for wasm; InvalidArgument else.

    containerd itself wants an entry for the host, so that one is what the node has pulled.
    """
    wanted = [("linux", _GOARCH.get(machine, machine))]
    wanted += [(name, arch) for name in _WASM_OS for arch in sorted(_WASM_ARCH)]
    for platform in wanted:
        for manifest in index.manifests:
            if manifest.platform == platform:
                return manifest
    named = [manifest for manifest in index.manifests if manifest.platform is not None]
    if len(index.manifests) == 1 and not named:
        return index.manifests[0]
    has = ", ".join("/".join(m.platform) for m in named if m.platform) or "no platform"
    raise errors.InvalidArgument(
        f"image {image} has nothing for {'/'.join(wanted[0])} or wasi/wasm: its index lists {has}"
    )


def choose_layer(manifest: Manifest, name: str, image: str, searched: str) -> Blob:
    """Gives the wasm layer that args[0], `name`, means; InvalidArgument says what there is.

    `searched` says what there was none of in the root file system ("the file /app.wasm").

    By title first. Without a match the only wasm layer is meant: always when `name` is "" or
    "/", and whatever it is when nothing but wasm is in the image; where there are file system
    layers too, a mistyped path must not run something else.
    """
    wasm = manifest.wasm
    if not wasm:
        raise errors.InvalidArgument(_nothing(manifest, name, image, searched))
    for same in (_same_path, _same_file):
        matches = [layer for layer in wasm if layer.title and same(layer.title, name)]
        if len(matches) == 1:
            return matches[0]
    if len(wasm) == 1 and (not name.strip("/") or len(manifest.layers) == 1):
        return wasm[0]
    if len({layer.digest for layer in wasm}) == 1 and len(manifest.layers) == len(wasm):
        return wasm[0]
    also = _not_there(name, searched)
    raise errors.InvalidArgument(
        f"args[0] {name!r} names none of the wasm layers of image {image}"
        f" ({_listed(wasm, _called)}){also and ', and ' + also}: set the container's command to one"
        " of these titles"
    )


def _nothing(manifest: Manifest, name: str, image: str, searched: str) -> str:
    types = _listed(manifest.layers, lambda layer: layer.media_type or "no media type")
    also = _not_there(name, searched)
    return (
        f"there is nothing to run: {also and also + ', and '}image {image} has no wasm layer"
        f" (its layers are: {types})"
    )


def _not_there(name: str, searched: str) -> str:
    """Says what was looked for in the root file system, "" if nothing was."""
    return f"{searched} does not exist" if searched and name.strip("/") else ""


def _listed(layers: Sequence[Blob], say: Callable[[Blob], str]) -> str:
    """Gives the first few in words: the sentence ends up in `kubectl describe pod`."""
    if not layers:
        return "none"
    said = list(dict.fromkeys(say(layer) for layer in layers))
    return ", ".join(said[:8]) + (f" and {len(said) - 8} more" if len(said) > 8 else "")


def _called(layer: Blob) -> str:
    return repr(layer.title) if layer.title else f"{layer.digest[:19]}... without a title"


def _same_path(title: str, name: str) -> bool:
    return _plain(title) == _plain(name)


def _same_file(title: str, name: str) -> bool:
    """Titles are often a build machine's paths: their last part is what a user would write."""
    last = _plain(title).rpartition("/")[2]
    return bool(last) and last == _plain(name).rpartition("/")[2]


def _plain(path: str) -> str:
    return path.strip("/").removeprefix("./").lstrip("/")
