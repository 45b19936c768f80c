"""Writes OCI image archives (image-spec 1.1) byte for byte, the broken ones too.

It needs no registry and no docker, and it checks nothing: what it is told is what it writes.
"""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TAR = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
WASM = "application/wasm"
WASM_CONFIG = "application/vnd.wasm.config.v0+json"
WASM_LAYERS = (
    WASM,
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.w3c.wasm.module.v1+wasm",
)
TITLE = "org.opencontainers.image.title"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, directory or link of a tar layer; `hard` makes a link to a path of the layer."""

    path: str
    data: bytes = b""
    mode: int = 0o755
    link: str = ""
    hard: bool = False
    directory: bool = False
    uid: int = 0


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's bytes under a media type; tar layers are listed in the config's diff_ids."""

    data: bytes
    media_type: str = TAR
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Image:
    """An image: its full name, layers and the config's `config` table."""

    name: str
    layers: tuple[Layer, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    os: str = "linux"
    architecture: str = ""
    artifact: bool = False
    labelled: bool = True


def tar_layer(entries: Sequence[Entry]) -> Layer:
    """An uncompressed tar layer with the same bytes each time."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.path)
            info.mode, info.uid, info.mtime = entry.mode, entry.uid, 0
            if entry.directory:
                info.type = tarfile.DIRTYPE
            elif entry.link:
                info.type = tarfile.LNKTYPE if entry.hard else tarfile.SYMTYPE
                info.linkname = entry.link
            else:
                info.size = len(entry.data)
            archive.addfile(info, io.BytesIO(entry.data))
    return Layer(sink.getvalue())


def wasm_layer(data: bytes, media_type: str = WASM, title: str = "") -> Layer:
    """A layer that is a module itself; `title` names it, as tools that push artifacts do."""
    return Layer(data, media_type, {TITLE: title} if title else {})


def digest(data: bytes) -> str:
    """The digest under which a blob is stored."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Archive:
    """An OCI layout in a tar file: images are added, then it is written."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._index: list[dict[str, Any]] = []

    def blob(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        """Stores bytes; gives their descriptor."""
        name = digest(data)
        self._blobs[name] = data
        return {"mediaType": media_type, "digest": name, "size": len(data), **more}

    def add(self, image: Image) -> str:
        """Adds an image; gives its manifest's digest."""
        layers = [
            self.blob(
                layer.data,
                layer.media_type,
                **({"annotations": dict(layer.annotations)} if layer.annotations else {}),
            )
            for layer in image.layers
        ]
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._config(image),
            "layers": layers,
        }
        described = self.blob(_json(manifest), MANIFEST)
        tag = image.name.rpartition(":")[2]
        described["annotations"] = {
            "io.containerd.image.name": image.name,
            "org.opencontainers.image.ref.name": tag,
        }
        self._index.append(described)
        return str(described["digest"])

    def _config(self, image: Image) -> dict[str, Any]:
        if image.artifact:
            body: dict[str, Any] = {
                "created": "1970-01-01T00:00:00Z",
                "architecture": "wasm",
                "os": "wasip1",
                "layerDigests": [digest(layer.data) for layer in image.layers],
            }
            return self.blob(_json(body), WASM_CONFIG)
        # The config's digest is the image's id to CRI: two images must not share one by accident.
        labels = {"dev.copepod.test.name": image.name} if image.labelled else {}
        tars = [digest(layer.data) for layer in image.layers if layer.media_type == TAR]
        body = {
            "created": "1970-01-01T00:00:00Z",
            "architecture": image.architecture or machine(),
            "os": image.os,
            "config": {**image.config, **({"Labels": labels} if labels else {})},
            "rootfs": {"type": "layers", "diff_ids": tars},
        }
        return self.blob(_json(body), CONFIG)

    def files(self) -> dict[str, bytes]:
        """The files of the layout, by their paths in it."""
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": self._index}
        blobs = {f"blobs/{name.replace(':', '/')}": data for name, data in self._blobs.items()}
        layout = _json({"imageLayoutVersion": "1.0.0"})
        return {"oci-layout": layout, "index.json": _json(index), **blobs}

    def write(self, path: Path) -> None:
        """Writes the layout as a tar archive."""
        with tarfile.open(path, "w") as archive:
            for name, data in self.files().items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))

    def write_folder(self, path: Path) -> None:
        """Writes the layout as a folder, for the registry."""
        for name, data in self.files().items():
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


def machine() -> str:
    """This machine's architecture in OCI's words (GOARCH)."""
    return MACHINES.get(platform.machine(), platform.machine())


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
