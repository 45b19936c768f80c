"""The list of what is in a package, as CycloneDX 1.6 JSON.

It says only what it knows from the wheels' own metadata; the same input gives the same bytes.
"""

from __future__ import annotations

import email.parser
import json
import uuid
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bundle

_SPACE = uuid.UUID("4d7a1f0e-6f52-5d6c-9a3b-6c6f7065706f")
# What grpcio's wheel says in words; SPDX's names for the others are theirs.
_SPDX = {"3-Clause BSD License": "BSD-3-Clause", "Apache License 2.0": "Apache-2.0", "MIT": "MIT"}


def document(wheels: list[Path], version: str, arch: str, epoch: int, identity: str) -> bytes:
    """The SBOM of one package."""
    components = [_component(path) for path in sorted(wheels)]
    root = f"pkg:generic/copepod@{version}?arch={arch}"
    made = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SPACE, f'{version} {arch} {identity}')}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application", "bom-ref": root, "name": "copepod", "version": version,
                "purl": root, "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
        },
        "components": components,
        "dependencies": [{"ref": root, "dependsOn": [one["bom-ref"] for one in components]}],
    }  # fmt: skip
    return json.dumps(made, indent=1, ensure_ascii=False).encode() + b"\n"


def _component(path: Path) -> dict[str, Any]:
    wheel = next(one for one in bundle.locked() if one.file == path.name)
    with zipfile.ZipFile(path) as file:
        name = next(one for one in file.namelist() if one.endswith(".dist-info/METADATA"))
        meta = email.parser.HeaderParser().parsestr(file.read(name).decode())
    purl = f"pkg:pypi/{wheel.name.lower().replace('_', '-')}@{wheel.version}"
    made: dict[str, Any] = {
        "type": "library", "bom-ref": f"{purl}?file_name={path.name}", "name": meta["Name"],
        "version": wheel.version, "hashes": [{"alg": "SHA-256", "content": wheel.sha256}],
        "purl": f"{purl}?file_name={path.name}",
    }  # fmt: skip
    if expression := meta["License-Expression"]:
        made["licenses"] = [{"expression": expression}]
    elif licence := meta["License"]:
        made["licenses"] = [{"license": {"id": _SPDX[licence]}}]
    return made
