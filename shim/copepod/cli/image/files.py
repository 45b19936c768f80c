"""The wasm files that a command line names: read, described, given their names in an image.

It makes no image.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence

from copepod import errors
from copepod.cli.image import describe, oci
from copepod.cli.system import System

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def modules(system: System, words: Sequence[str]) -> list[oci.Module]:
    """`FILE` or `NAME=FILE`, several of them; NAME is the path in the image.

    Raises errors.InvalidArgument for a file that isn't wasm, with the file's name.
    """
    made: list[oci.Module] = []
    for word in words:
        name, equals, path = word.rpartition("=")
        if not equals:
            name = os.path.basename(path)
        name = name.strip("/")
        data = _read(path)
        try:
            seen = describe.describe(data)
        except errors.InvalidArgument as error:
            raise errors.InvalidArgument(f"{path}: {error}") from None
        if any(one.name == name for one in made):
            raise errors.InvalidArgument(f"two files would be called /{name}: use NAME=FILE")
        if not name or any(part in ("", ".", "..") for part in name.split("/")):
            raise errors.InvalidArgument(f"{word}: {name!r} is no path in an image")
        made.append(
            oci.Module(name, data, seen.kind == "component", seen.os, seen.imports, seen.exports)
        )
    return made


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise errors.InvalidArgument(f"{path}: {error.strerror}") from None


def host_platform() -> str:
    """This machine as images name it."""
    machine = platform.machine()
    return f"linux/{_ARCHITECTURES.get(machine, machine)}"


def image_name(wanted: str | None, first: str) -> str:
    """A whole reference: the one wanted, with a tag, else one made of the file's name."""
    if wanted is None:
        stem = os.path.basename(first).removesuffix(".wasm").lower()
        wanted = "copepod.local/" + "".join(one if one.isalnum() else "-" for one in stem)
    host, slash, _ = wanted.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        raise errors.InvalidArgument(
            f"{wanted!r} names no registry: write registry.example/name:tag, or "
            "docker.io/library/name:tag"
        )
    last = wanted.rpartition("/")[2]
    return wanted if ":" in last or "@" in last else f"{wanted}:latest"
