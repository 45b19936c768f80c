"""`copepod image build|push|inspect`: from arguments to bytes, and what is told about them.

It knows no format; those are in `oci` and `registry`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile

from copepod import errors
from copepod.cli import ctr, out
from copepod.cli.image import describe, files, oci
from copepod.cli.system import System


def build(args: argparse.Namespace, system: System) -> int:
    """Makes an image of wasm files: an archive, an image of containerd's, a push, or all three."""
    name = files.image_name(args.tag, args.files[0].rpartition("=")[2])
    modules = files.modules(system, args.files)
    made = _made(args, modules)
    if not (args.output or args.containerd_import or args.push):
        args.output = os.path.basename(modules[0].name).removesuffix(".wasm") + ".tar"
    if args.output:
        _write(system, args.output, oci.archive(made, name))
        out.ok(f"wrote {args.output}")
    if args.containerd_import:
        load(
            ctr.find(system, args.containerd, args.config, args.address, args.namespace),
            made,
            name,
            unpack=args.format == "image",
        )
        out.ok(f"containerd has {name} (namespace {args.namespace})")
    if args.push:
        _push(args, made, name)
    out.say(f"{name} {made.root.digest}")
    return 0


def _write(system: System, path: str, data: bytes) -> None:
    """Writes all of a file or leaves what was there; a pipe or a device just gets the bytes."""
    try:
        if os.path.isfile(path) or not os.path.exists(path):
            system.write(os.path.abspath(path), data)
        else:
            with open(path, "wb") as file:
                file.write(data)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), path) from None


def _made(args: argparse.Namespace, modules: list[oci.Module]) -> oci.Image:
    settings = oci.Settings(
        entrypoint=tuple(args.entrypoint or ()),
        cmd=tuple(args.cmd or ()),
        env=tuple(_pair(one) for one in args.env),
        labels=dict(_split(one) for one in args.label),
        workdir=args.workdir,
        user=args.user,
        annotations=dict(_split(one) for one in args.annotation),
    )
    if args.format == "image":
        return oci.image(modules, settings, args.platform or [files.host_platform()])
    ignored = [
        name
        for name, value in (
            ("--entrypoint", args.entrypoint),
            ("--cmd", args.cmd),
            ("--env", args.env),
            ("--user", args.user),
            ("--platform", args.platform),
        )
        if value
    ]
    if ignored:
        raise errors.InvalidArgument(
            f"a wasm artifact has no place for {', '.join(ignored)}: use --format image, or give "
            "them in the pod"
        )
    if len(modules) > 1:
        out.warn("other runtimes take only the first module of an artifact; Copepod takes them all")
    return oci.artifact(modules, settings)


def _pair(text: str) -> str:
    if "=" not in text:
        raise errors.InvalidArgument(f"{text!r} is not of the form NAME=VALUE")
    return text


def _split(text: str) -> tuple[str, str]:
    name, _, value = _pair(text).partition("=")
    return name, value


def load(client: ctr.Ctr, made: oci.Image, name: str, *, unpack: bool) -> None:
    """Puts an image into containerd. Raises errors.Unavailable when it doesn't want it."""
    if not unpack and not _takes_wasm_layers(client.node.version):
        raise errors.FailedPrecondition(
            f"{client.node.title} can't hold wasm layers (1.6.25, 1.7.7 and newer can): use "
            "--format image"
        )
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        try:
            file.write(oci.archive(made, name))
            file.flush()
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), file.name) from None
        client.import_archive(file.name, unpack=unpack)


def _takes_wasm_layers(version: tuple[int, int, int]) -> bool:
    floor = {(1, 6): 25, (1, 7): 7}
    return version >= (2, 0, 0) or version[2] >= floor.get(version[:2], 1 << 30)


def push(args: argparse.Namespace, system: System) -> int:
    """Sends an archive, or wasm files as an artifact, to a registry."""
    if args.archive.endswith(".wasm"):
        if not args.name:
            raise errors.InvalidArgument(f"{args.archive} says no name: give one after it")
        modules = files.modules(system, [args.archive])
        _push(args, oci.artifact(modules, oci.Settings()), files.image_name(args.name, ""))
        return 0
    with open(args.archive, "rb") as file:
        made, stored = oci.read_archive(file.read(), args.archive)
    name = args.name or stored
    if not name:
        raise errors.InvalidArgument(f"{args.archive} holds no name: give one after it")
    _push(args, made, files.image_name(name, ""))
    return 0


def _push(args: argparse.Namespace, made: oci.Image, name: str) -> None:
    from copepod.cli.image import progress, registry

    target = registry.Reference.parse(name)
    credentials = registry.credentials(target.host, args.username, args.password_stdin)
    client = registry.Client(target, credentials, plain_http=args.plain_http)
    with progress.bar(sum(len(one.data) for one in made.blobs), f"pushing {name}") as step:
        digest = client.push(made, step)
    out.ok(f"pushed {name}@{digest}")


def inspect(args: argparse.Namespace, system: System) -> int:
    """Tells what a wasm file or the modules of an image archive are; 1 if one can't run here."""
    found = [(name, len(data), describe.describe(data)) for name, data in _wasm_of(args.file)]
    if not found:
        raise errors.InvalidArgument(f"{args.file} holds no wasm")
    if args.json:
        print(json.dumps([_as_json(*one) for one in found], indent=2))
    else:
        for one in found:
            _tell(*one)
    return 1 if any(seen.problem for _, _, seen in found) else 0


def _wasm_of(path: str) -> list[tuple[str, bytes]]:
    with open(path, "rb") as file:
        data = file.read()
    if data[257:262] != b"ustar" and not data.startswith(oci.GZIP):  # tar(5)
        return [(path, data)]
    made, _ = oci.read_archive(data, path)
    return oci.wasm_in(made)


def _as_json(name: str, size: int, seen: describe.Description) -> dict[str, object]:
    return {
        "name": name,
        "size": size,
        "kind": seen.kind,
        "wasi": seen.wasi,
        "imports": list(seen.imports),
        "exports": list(seen.exports),
        "runs_here": not seen.problem,
        "problem": seen.problem,
    }


def _tell(name: str, size: int, seen: describe.Description) -> None:
    kind = "core module" if seen.kind == "core" else "component"
    out.say(f"{name}: {kind}, WASI {seen.wasi}, {size} bytes")
    for title, names in (("imports", seen.imports), ("exports", seen.exports)):
        out.say(f"  {title}:{'' if names else ' nothing'}")
        for one in names:
            out.say(f"    {one}")
    if seen.problem:
        out.fail("this node can't run it", seen.problem)
    else:
        out.ok("this node can run it")
