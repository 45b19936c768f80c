"""From `copepod run`'s arguments to `ctr run`'s, the image put in place before, tidied up after.

It knows nothing of wasm beyond telling a file from an image's name.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import signal
import subprocess
import tempfile

from copepod import errors
from copepod.cli import ctr, out
from copepod.cli.cache import parse_size
from copepod.cli.image import command, files, oci
from copepod.cli.node import runtime
from copepod.cli.run import ports
from copepod.cli.system import System
from copepod.image import layers

NOT_STARTED = 125  # as other tools of this kind have it
_CPUS = re.compile(r"\d{1,6}(\.\d{1,6})?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,75}")  # containerd's identifiers


def run(args: argparse.Namespace, system: System) -> int:
    """Runs a wasm file or an image as a container; gives the container's exit code.

    125 is ours: the container could not be made or started.
    """
    try:
        return _whole(args, system)
    except errors.Error as error:
        out.error(str(error))
    except OSError as error:
        out.error(errors.to_status(error)[1])
    return NOT_STARTED


def _whole(args: argparse.Namespace, system: System) -> int:
    options(args)  # what is wrong with them is said before anything is done
    if _is_path(args.image) and not os.path.isfile(args.image):
        raise errors.NotFound(f"there is no file {args.image}")
    client = ctr.find(system, args.containerd, args.config, args.address, args.namespace)
    if os.path.isfile(args.image):
        image, made_here = _load(client, args.image, system), True
    else:
        image, made_here = files.image_name(_qualified(args.image), ""), False
        _pull(client, image)
        ordinary = _ordinary(client, image)
        if ordinary:
            image, made_here = ordinary, True
    name = args.name or f"{_stem(args.image)}-{secrets.token_hex(3)}"
    if not _NAME.fullmatch(name):
        raise errors.InvalidArgument(f"{name!r} can't be a container's name")
    published = [ports.Port.parse(one) for one in args.publish]
    if published and args.net == "host":
        raise errors.InvalidArgument("-p is of no use with --net host: the ports are the node's")
    try:
        return _run(client, args, image, name, published)
    finally:
        if made_here and args.rm:
            client.run("images", "rm", image)


def _load(client: ctr.Ctr, path: str, system: System) -> str:
    modules = files.modules(system, [path])
    made = oci.image(modules, oci.Settings(), [files.host_platform()])
    image = f"copepod.local/{_stem(path)}:{made.root.digest[7:19]}"
    command.load(client, made, image, unpack=True)
    return image


def _ordinary(client: ctr.Ctr, image: str) -> str:
    """Makes an ordinary image of a wasm artifact, whose config `ctr run` does not take; gives its
    name, "" where there is nothing to be done."""
    manifest = client.manifest(image)
    if manifest["config"].get("mediaType") != oci.WASM_CONFIG:
        return ""
    modules: dict[str, oci.Module] = {}
    for number, layer in enumerate(manifest["layers"]):
        if layer.get("mediaType") in layers.WASM_MEDIA_TYPES:
            title = (layer.get("annotations") or {}).get(oci.TITLE) or ""
            name = os.path.basename(title.rstrip("/"))
            if name in ("", ".", "..") or name in modules:
                name = f"{number}.wasm"
            modules[name] = oci.Module(name, client.blob(layer["digest"]))
    if not modules:
        raise errors.InvalidArgument(f"{image} has no wasm layer: there is nothing to run")
    made = oci.image(list(modules.values()), oci.Settings(), [files.host_platform()])
    ordinary = f"copepod.local/{_stem(image)}:{made.root.digest[7:19]}"
    command.load(client, made, ordinary, unpack=True)
    return ordinary


def _stem(image: str) -> str:
    last = image.rstrip("/").rpartition("/")[2].partition("@")[0].partition(":")[0]
    return re.sub(r"[^a-z0-9]+", "-", last.removesuffix(".wasm").lower()).strip("-") or "wasm"


def _is_path(image: str) -> bool:
    """Whether it can only be meant as a file's path; a registry would be asked for it in vain."""
    host, slash, _ = image.partition("/")
    registry = slash and _is_host(host)
    return image.startswith(("/", "./", "../")) or (image.endswith(".wasm") and not registry)


def _is_host(word: str) -> bool:
    return "." in word.strip(".") or ":" in word or word == "localhost"


def _qualified(image: str) -> str:
    """docker.io/library/ before a bare name, as everybody expects."""
    host, slash, _ = image.partition("/")
    if not slash:
        return f"docker.io/library/{image}"
    return image if _is_host(host) else f"docker.io/{image}"


def _pull(client: ctr.Ctr, image: str) -> None:
    known = client.must("containerd does not list its images", "images", "ls", "-q").out
    if image not in known.split():
        out.say(f"pulling {image}")
        client.must(f"{image} can't be pulled", "images", "pull", image, timeout=1800)


def _run(
    client: ctr.Ctr, args: argparse.Namespace, image: str, name: str, published: list[ports.Port]
) -> int:
    listeners = ports.listen(published)
    with tempfile.TemporaryDirectory(prefix="copepod-run-") as folder:
        pid_file = f"{folder}/pid"
        command_line = [*client.entrypoint(image), *args.args] if args.args else []
        words = [*options(args), "--pid-file", pid_file, image, name, *command_line]
        child = subprocess.Popen(client.argv("run", *words))
        for sock in listeners:
            sock.set_inheritable(False)
        # ctr passes the terminal's signals on to the container: they aren't for us.
        previous = {
            one: signal.signal(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGQUIT)
        }
        try:
            if listeners:
                ports.serve(listeners, published, pid_file, child, detached=args.detach)
            code = child.wait()
            if code and not os.path.exists(pid_file):
                code = NOT_STARTED  # ctr's own 1, which could be the container's
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    if args.detach and code == 0:
        out.say(name)
    return 128 - code if code < 0 else code


def options(args: argparse.Namespace) -> list[str]:
    """The flags of `ctr run` that say what the arguments say."""
    words = ["--runtime", runtime.TYPE]
    if args.tty and not any(map(os.isatty, (0, 1, 2))):
        raise errors.InvalidArgument("-t: there is no terminal here to give to the container")
    if args.detach and args.rm:
        raise errors.InvalidArgument("--rm and --detach exclude each other")
    words += [
        f"--{name}"
        for name in ("rm", "detach", "tty", "read-only")
        if getattr(args, name.replace("-", "_"))
    ]
    if args.net == "host":
        words.append("--net-host")
    for one in args.env:
        words += ["--env", one if "=" in one else f"{one}={os.environ.get(one, '')}"]
    for one in args.volume:
        words += ["--mount", _mount(one)]
    for one in args.annotation:
        words += ["--annotation", one]
    if args.workdir:
        words += ["--cwd", args.workdir]
    if args.memory:
        words += ["--memory-limit", str(parse_size(args.memory))]
    if args.cpus:
        if not _CPUS.fullmatch(args.cpus) or not float(args.cpus):
            raise errors.InvalidArgument(f"--cpus {args.cpus}: write a number such as 0.5")
        words += ["--cpus", args.cpus]
    return words


def _mount(text: str) -> str:
    source, colon, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not colon or not target.startswith("/") or mode not in ("", "ro", "rw"):
        raise errors.InvalidArgument(f"-v {text}: write SOURCE:/TARGET or SOURCE:/TARGET:ro")
    path = os.path.abspath(source)
    if not os.path.exists(path):
        raise errors.InvalidArgument(f"-v {text}: there is no {path}")
    if "," in path + target:
        raise errors.InvalidArgument(f"-v {text}: ctr takes no path with a comma")
    return f"type=bind,src={path},dst={target},options=rbind:{mode or 'rw'}"
