"""containerd's own client, `ctr`, for what the tool asks of a running containerd.

It is there wherever containerd is, and speaks the version's own way to pull, import and run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from copepod import errors
from copepod.cli.node import detect
from copepod.cli.node.detect import K3S, MICROK8S, RKE2, Containerd
from copepod.cli.system import Result, System

KUBERNETES = "k8s.io"  # the namespace that the kubelet's images and pods live in


@dataclass(frozen=True, slots=True)
class Ctr:
    """`ctr` for one containerd and one namespace."""

    system: System
    node: Containerd
    program: tuple[str, ...]
    namespace: str

    def argv(self, *words: str) -> list[str]:
        """The whole command line for `words`."""
        return [*self.program, "-a", self.node.address, "-n", self.namespace, *words]

    def run(self, *words: str, timeout: float = 120.0) -> Result:
        """Runs it to its end."""
        return self.system.run(self.argv(*words), timeout=timeout)

    def must(self, what: str, *words: str, timeout: float = 120.0) -> Result:
        """As `run`; raises errors.Unavailable with ctr's own sentence when it fails."""
        answer = self.run(*words, timeout=timeout)
        if not answer.ok:
            raise errors.Unavailable(f"{what}: {_clean(answer.reason())}")
        return answer

    def import_archive(self, path: str, *, unpack: bool) -> None:
        """Imports an OCI archive. A wasm artifact has no layer to unpack."""
        words = ["images", "import"]
        if not unpack:
            # The transfer service wants a platform to unpack for; an artifact has none.
            words += ["--no-unpack", "--all-platforms"]
            # ctr says what it knows itself: it may be of another version than the containerd.
            known = self.system.run([*self.program, "images", "import", "--help"])
            words += ["--local"] if "--local" in known.out else []
        self.must("containerd did not take the image", *words, path)

    def entrypoint(self, image: str) -> list[str]:
        """What an image runs before the arguments: `ctr run` would put these in its place."""
        config = self._content(self.manifest(image)["config"]["digest"]).get("config") or {}
        return list(config.get("Entrypoint") or ())

    def manifest(self, image: str) -> Any:
        """An image's manifest, if there are several the one for this machine."""
        listed = self.must("containerd does not list its images", "images", "ls", f"name=={image}")
        digests = re.findall(r"sha256:[0-9a-f]{64}", listed.out)
        if not digests:
            raise errors.NotFound(f"containerd has no image {image}")
        doc = self._content(digests[0])
        if "manifests" in doc:
            doc = self._content(_for_host(doc["manifests"]))
        return doc

    def blob(self, digest: str) -> bytes:
        """The bytes that containerd has under a digest, which is checked (errors.DataLoss)."""
        with tempfile.TemporaryFile() as file:
            argv = self.argv("content", "get", digest)
            done = subprocess.run(argv, stdout=file, stderr=subprocess.PIPE, timeout=600)
            file.seek(0)
            data = file.read()
        if done.returncode:
            why = done.stderr.decode(errors="replace").strip()
            raise errors.Unavailable(f"containerd does not give {digest}: {_clean(why)}")
        if f"sha256:{sha256(data).hexdigest()}" != digest:
            raise errors.DataLoss(f"containerd has other bytes under {digest}: pull it again")
        return data

    def _content(self, digest: str) -> Any:
        answer = self.must(f"containerd does not give {digest}", "content", "get", digest)
        return json.loads(answer.out)


def _for_host(manifests: list[dict[str, Any]]) -> str:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "")
    for one in manifests:
        if (one.get("platform") or {}).get("architecture") == machine:
            return str(one["digest"])
    return str(manifests[0]["digest"])


def find(
    system: System, flavour: str | None, config: str | None, address: str | None, namespace: str
) -> Ctr:
    """The ctr that belongs to this node's containerd, or to the one that listens on `address`.

    Raises errors.NotFound without one.
    """
    if address:
        address = os.path.abspath(address)
        version = _version_at(system, address, namespace)
        node = Containerd(detect.PLAIN, version, "", "containerd", config or "", address)
        return Ctr(system, node, (_plain(system),), namespace)
    node = detect.find(system, flavour, config)
    own = os.path.join(os.path.dirname(node.binary), "ctr")
    if node.flavour in (K3S, RKE2, MICROK8S) and system.exists(own):
        return Ctr(system, node, (own,), namespace)
    return Ctr(system, node, (own if system.exists(own) else _plain(system),), namespace)


def _plain(system: System) -> str:
    found = system.which("ctr")
    if found is None:
        raise errors.NotFound("there is no `ctr` on PATH: it comes with containerd's package")
    return found


def _version_at(system: System, address: str, namespace: str) -> tuple[int, int, int]:
    answer = system.run([_plain(system), "-a", address, "-n", namespace, "version"], timeout=20)
    version = detect.parse_version(answer.out.partition("Server:")[2])
    if not answer.ok or version is None:
        raise errors.Unavailable(f"no containerd answers on {address}: {_clean(answer.reason())}")
    return version


def _clean(text: str) -> str:
    return text.removeprefix("ctr: ")
