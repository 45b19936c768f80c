"""OCI images as bytes: descriptors, manifests, layers, and the archive that holds them.

The same input gives the same bytes, whenever and wherever: no clock, no user, no host name.
It reads no registry and no containerd.

Sources: OCI image spec 1.1 (manifest, config, image-layout), CNCF TAG Runtime "Wasm OCI Artifact".
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from copepod import errors

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
WASM_CONFIG = "application/vnd.wasm.config.v0+json"
WASM_LAYER = "application/wasm"
REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"
TITLE = "org.opencontainers.image.title"

GZIP = b"\x1f\x8b"  # RFC 1952
# What the standard library raises for bytes that are not what they should be.
_BROKEN_TAR = (tarfile.TarError, zlib.error, EOFError, OSError)
_BROKEN_JSON = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)
EPOCH = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes with the media type under which others refer to them."""

    media_type: str
    data: bytes
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The name of the bytes."""
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    def descriptor(self) -> dict[str, Any]:
        """What refers to this blob (OCI descriptor)."""
        made: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": len(self.data),
        }
        if self.annotations:
            made["annotations"] = dict(sorted(self.annotations.items()))
        if self.platform:
            made["platform"] = dict(self.platform)
        return made


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest or an index, and all the blobs below it in the order in which they are sent."""

    root: Blob
    blobs: tuple[Blob, ...]
    manifests: tuple[Blob, ...] = ()  # those of an index


@dataclass(frozen=True, slots=True)
class Module:
    """One wasm file of an image: its name there, its bytes, and what the engine says of it."""

    name: str
    data: bytes
    component: bool = False
    wasi: str = "wasip1"  # wasip1 or wasip2, the `os` of the artifact's config
    imports: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """What an image says of the process in it (OCI image config)."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)


def document(value: object) -> bytes:
    """JSON as everything here writes it; errors.InvalidArgument for text that is not UTF-8."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        near = text[max(0, error.start - 20) : error.end + 20]
        raise errors.InvalidArgument(f"an image takes UTF-8 only, not {near!a}") from None


def artifact(modules: Sequence[Module], settings: Settings) -> Image:
    """The CNCF artifact: a wasm config, one application/wasm layer per module.

    The format has no place for entrypoint, env or labels; labels become manifest annotations.
    """
    layers = [Blob(WASM_LAYER, one.data, {TITLE: one.name}) for one in modules]
    first = modules[0]
    config: dict[str, Any] = {
        "created": EPOCH,
        "architecture": "wasm",
        "os": first.wasi,
        "layerDigests": [layer.digest for layer in layers],
    }
    if first.component:
        config["component"] = {"exports": list(first.exports), "imports": list(first.imports)}
    annotations = {**settings.labels, **settings.annotations}
    return _manifest(Blob(WASM_CONFIG, document(config)), layers, annotations)


def image(modules: Sequence[Module], settings: Settings, platforms: Sequence[str]) -> Image:
    """An ordinary image: one tar layer with the files, one manifest per platform.

    `platforms` are like "linux/amd64"; wasm runs on all of them, but containerd pulls only what
    names its own. Several give an index, whose manifests share the layer.
    """
    tar = layer_tar({one.name: one.data for one in modules})
    layer = Blob(LAYER, zlib.compress(tar, 9, wbits=31))
    diff = f"sha256:{hashlib.sha256(tar).hexdigest()}"
    made = [_for_platform(one, layer, diff, modules, settings) for one in platforms]
    if len(made) == 1:
        return made[0]
    manifests = tuple(
        Blob(one.root.media_type, one.root.data, {}, _platform(name))
        for one, name in zip(made, platforms, strict=True)
    )
    index: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [one.descriptor() for one in manifests],
    }
    if settings.annotations:
        index["annotations"] = dict(sorted(settings.annotations.items()))
    blobs = {blob.digest: blob for one in made for blob in one.blobs}
    return Image(Blob(INDEX, document(index)), tuple(blobs.values()), manifests)


def _for_platform(
    platform: str, layer: Blob, diff: str, modules: Sequence[Module], settings: Settings
) -> Image:
    process: dict[str, Any] = {
        "Entrypoint": list(settings.entrypoint) or [f"/{modules[0].name}"],
        "WorkingDir": settings.workdir,
    }
    optional = {
        "Cmd": list(settings.cmd),
        "Env": list(settings.env),
        "User": settings.user,
        "Labels": dict(sorted(settings.labels.items())),
    }
    process.update((key, value) for key, value in optional.items() if value)
    config = {
        "created": EPOCH,
        **_platform(platform),
        "config": process,
        "rootfs": {"type": "layers", "diff_ids": [diff]},
        "history": [{"created": EPOCH, "created_by": "copepod image build"}],
    }
    return _manifest(Blob(CONFIG, document(config)), [layer], settings.annotations)


def _platform(name: str) -> dict[str, str]:
    system, _, rest = name.partition("/")
    architecture, _, variant = rest.partition("/")
    if not system or not architecture:
        raise errors.InvalidArgument(f"platform {name!r} is not of the form linux/amd64")
    made = {"architecture": architecture, "os": system}
    return {**made, "variant": variant} if variant else made


def _manifest(config: Blob, layers: Sequence[Blob], annotations: Mapping[str, str]) -> Image:
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(),
        "layers": [layer.descriptor() for layer in layers],
    }
    if annotations:
        manifest["annotations"] = dict(sorted(annotations.items()))
    return Image(Blob(MANIFEST, document(manifest)), (*layers, config))


def layer_tar(files: Mapping[str, bytes]) -> bytes:
    """A tar with `files`, their directories before them; all root's, of the epoch."""
    folders = {
        "/".join(parts[:depth])
        for parts in (name.split("/") for name in files)
        for depth in range(1, len(parts))
    }
    entries = [(f"{name}/", b"", True) for name in sorted(folders)]
    entries += [(name, files[name], False) for name in sorted(files)]
    return _tar((name, data, 0o755, folder) for name, data, folder in entries)


def _tar(entries: Iterable[tuple[str, bytes, int, bool]]) -> bytes:
    out = io.BytesIO()
    # As POSIX has it: the plain format's bytes, and more where a name is longer than that takes.
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data, mode, folder in entries:
            info = tarfile.TarInfo(name)
            info.mode, info.size = mode, len(data)
            info.type = tarfile.DIRTYPE if folder else tarfile.REGTYPE
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def archive(made: Image, name: str) -> bytes:
    """An OCI layout in a tar, as `ctr images import`, skopeo and podman read it.

    `name` is a whole reference (registry/repository:tag); containerd takes it from its own
    annotation, the others the tag from the standard one.
    """
    tag = name.rpartition(":")[2] if ":" in name.rpartition("/")[2] else "latest"
    top = {**made.root.descriptor(), "annotations": {IMAGE_NAME: name, REF_NAME: tag}}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [top]}
    blobs = {one.digest: one.data for one in (*made.blobs, *made.manifests, made.root)}
    files = {f"blobs/sha256/{digest[7:]}": data for digest, data in blobs.items()}
    entries: list[tuple[str, bytes, int, bool]] = [
        ("oci-layout", document({"imageLayoutVersion": "1.0.0"}), 0o644, False),
        ("index.json", document(index), 0o644, False),
        ("blobs/", b"", 0o755, True),
        ("blobs/sha256/", b"", 0o755, True),
    ]
    entries += [(path, files[path], 0o644, False) for path in sorted(files)]
    return _tar(entries)


def read_archive(data: bytes, name: str) -> tuple[Image, str]:
    """The first image of an OCI archive and its name ("" without one); digests are checked."""
    try:
        with _opened(data) as tar:
            files = {
                member.name.removeprefix("./"): file.read()
                for member in tar
                if member.isreg() and (file := tar.extractfile(member))
            }
        top = json.loads(files["index.json"])["manifests"][0]
        root = _blob(files, top)
        below = json.loads(root.data)
        manifests = tuple(_blob(files, one) for one in below.get("manifests", ()))
        blobs: dict[str, Blob] = {}
        for manifest in manifests or (root,):
            doc = json.loads(manifest.data)
            for one in (*doc["layers"], doc["config"]):
                blob = _blob(files, one)
                blobs[blob.digest] = blob
    except (*_BROKEN_TAR, *_BROKEN_JSON) as error:
        raise errors.InvalidArgument(f"{name} is not an OCI image archive: {error}") from error
    return Image(root, tuple(blobs.values()), manifests), (top.get("annotations") or {}).get(
        IMAGE_NAME, ""
    )


def _opened(data: bytes) -> tarfile.TarFile:
    kind: Literal["r:gz", "r:"] = "r:gz" if data.startswith(GZIP) else "r:"
    return tarfile.open(fileobj=io.BytesIO(data), mode=kind)


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r} is not an object")
    return value


def _blob(files: Mapping[str, bytes], descriptor: Mapping[str, Any]) -> Blob:
    algorithm, _, value = str(descriptor["digest"]).partition(":")
    blob = Blob(
        str(descriptor["mediaType"]),
        files[f"blobs/{algorithm}/{value}"],
        _mapping(descriptor.get("annotations") or {}),
        _mapping(descriptor.get("platform") or {}),
    )
    if blob.digest != descriptor["digest"]:
        raise errors.DataLoss(f"blob {descriptor['digest']} of the archive has other bytes")
    return blob


def wasm_in(made: Image) -> list[tuple[str, bytes]]:
    """The wasm files of an image, by name: wasm layers, and files of tar layers."""
    found: dict[str, bytes] = {}
    for blob in made.blobs:
        if blob.data[:4] == b"\0asm":
            found[blob.annotations.get(TITLE) or blob.digest] = blob.data
        elif ".layer." in blob.media_type:
            found.update(_wasm_in_tar(blob))
    return sorted(found.items())


def _wasm_in_tar(blob: Blob) -> dict[str, bytes]:
    found = {}
    try:
        with _opened(blob.data) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if file is not None and file.read(4) == b"\0asm":
                    file.seek(0)
                    found[f"/{member.name}"] = file.read()
    except _BROKEN_TAR as error:
        raise errors.InvalidArgument(f"layer {blob.digest} can't be read: {error}") from error
    return found
