"""The command line's grammar, and the one place where a failure becomes a sentence and a code.

The handlers are named by strings and imported when they are called.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from copepod import __version__, errors
from copepod.cli import out
from copepod.cli.system import System

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

Handler = Callable[[argparse.Namespace, System], int]


def run(argv: Sequence[str] | None = None, system: System | None = None) -> int:
    """Parses, calls, and turns an error into one line on standard error.

    Exit codes: 0 done, 1 failed, 2 wrong command line; a command may have more of its own.
    """
    parser = build()
    try:
        args = parser.parse_args(argv)
    except SystemExit as end:  # argparse has already said why
        return end.code if isinstance(end.code, int) else 2
    module, _, name = args.handler.partition(":")
    handler: Handler = getattr(importlib.import_module(module), name)
    try:
        return handler(args, system or System())
    except errors.Error as error:
        out.error(str(error))
    except KeyboardInterrupt:
        out.error("interrupted")
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone: there is nobody to tell
        return 141
    except OSError as error:
        out.error(errors.to_status(error)[1])
    return 1


def build() -> argparse.ArgumentParser:
    """The whole grammar."""
    parser = argparse.ArgumentParser(
        "copepod", description="WebAssembly containers on this node's containerd"
    )
    parser.add_argument("--version", action="version", version=f"copepod {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _node(commands)
    _doctor(commands)
    _image(commands)
    _cache(commands)
    _run(commands)
    return parser


def _add(commands: Commands, name: str, handler: str, about: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=about, description=about[0].upper() + about[1:])
    parser.set_defaults(handler=f"copepod.cli.{handler}")
    return parser


def _group(commands: Commands, name: str, about: str) -> Commands:
    parser = commands.add_parser(name, help=about, description=about[0].upper() + about[1:])
    return parser.add_subparsers(required=True, metavar="COMMAND")


def _node(commands: Commands) -> None:
    node = _group(commands, "node", "tell this node's containerd about Copepod")
    install = _add(
        node,
        "install",
        "node.command:install",
        "write the runtime into containerd's configuration, check it, offer the restart",
    )
    remove = _add(
        node, "uninstall", "node.command:uninstall", "put containerd's configuration back as it was"
    )
    status = _add(node, "status", "node.command:status", "tell what is configured")
    for parser in (install, remove, status):
        _which_containerd(parser)
    for parser in (install, remove):
        parser.add_argument("--yes", "-y", action="store_true", help="answer yes to all questions")
        parser.add_argument(
            "--restart",
            action=argparse.BooleanOptionalAction,
            default=None,
            help="restart containerd without asking, or don't",
        )
    install.add_argument(
        "--shim",
        metavar="PATH",
        help="the shim's absolute path, where containerd's PATH does not lead to it",
    )
    install.add_argument("--dry-run", action="store_true", help="show the change, write nothing")
    install.add_argument(
        "--print",
        type=int,
        nargs="?",
        const=2,
        metavar="VERSION",
        help="only print the table for a file of VERSION (2)",
    )
    status.add_argument("--json", action="store_true", help="for programs")


def _which_containerd(parser: argparse.ArgumentParser) -> None:
    from copepod.cli.node.detect import FLAVOURS

    parser.add_argument("--containerd", choices=FLAVOURS, help="which one, where several are here")
    parser.add_argument(
        "--config", metavar="FILE", help="containerd's root file, where it is not the usual one"
    )


def _doctor(commands: Commands) -> None:
    doctor = _add(
        commands, "doctor", "doctor.command:doctor", "look at this node and say what to do"
    )
    _which_containerd(doctor)
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.add_argument(
        "--container",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run a real container, too (the default)",
    )


def _client(parser: argparse.ArgumentParser, namespace: str) -> None:
    _which_containerd(parser)
    parser.add_argument("--address", metavar="SOCKET", help="containerd's socket")
    parser.add_argument(
        "--namespace", "-n", default=namespace, help=f"containerd's namespace ({namespace})"
    )


def _image(commands: Commands) -> None:
    image = _group(commands, "image", "make, send and look at images that hold WebAssembly")
    build = _build(image)
    push = _add(image, "push", "image.command:push", "send an archive or a .wasm to a registry")
    push.add_argument("archive", metavar="FILE", help="an OCI archive, or a .wasm (as artifact)")
    push.add_argument("name", nargs="?", metavar="NAME:TAG", help="where to; the archive knows")
    for parser in (build, push):
        parser.add_argument("--plain-http", action="store_true", help="the registry has no TLS")
        parser.add_argument("--username", help="instead of what `docker login` keeps")
        parser.add_argument("--password-stdin", action="store_true", help="read it from stdin")
    inspect = _add(
        image,
        "inspect",
        "image.command:inspect",
        "tell kind, imports, exports, WASI, and whether this node can run it",
    )
    inspect.add_argument("file", metavar="FILE", help="a .wasm or an OCI archive")
    inspect.add_argument("--json", action="store_true", help="for programs")


def _build(image: Commands) -> argparse.ArgumentParser:
    build = _add(image, "build", "image.command:build", "make an image of .wasm files")
    build.add_argument("files", nargs="+", metavar="[NAME=]FILE", help="NAME is its path there")
    build.add_argument("--tag", "-t", metavar="NAME:TAG", help="the image's whole name")
    build.add_argument(
        "--format",
        choices=("image", "artifact"),
        default="image",
        help="an ordinary image, which every containerd can pull, or the CNCF "
        "wasm artifact (containerd 1.6.25, 1.7.7 and newer)",
    )
    build.add_argument("--output", "-o", metavar="FILE", help="write an OCI archive")
    build.add_argument(
        "--import",
        dest="containerd_import",
        action="store_true",
        help="put it into this node's containerd",
    )
    build.add_argument("--push", action="store_true", help="send it to its registry")
    build.add_argument(
        "--platform",
        action="append",
        metavar="OS/ARCH",
        help="of an ordinary image; several make an index (this machine's)",
    )
    build.add_argument("--entrypoint", action="append", metavar="WORD", help="in order, one each")
    build.add_argument("--cmd", action="append", metavar="WORD", help="default arguments")
    for name, about in (
        ("--env", "environment"),
        ("--label", "label"),
        ("--annotation", "annotation of the manifest"),
    ):
        short = ["-e"] if name == "--env" else []
        build.add_argument(
            name, *short, action="append", default=[], metavar="NAME=VALUE", help=about
        )
    build.add_argument("--workdir", "-w", default="/", help="working directory")
    build.add_argument("--user", "-u", default="", help="numeric: there is no /etc/passwd")
    _client(build, "k8s.io")
    return build


def _cache(commands: Commands) -> None:
    cache = _group(commands, "cache", "look at the compiled modules of this node")
    ls = _add(cache, "ls", "cache:ls", "list them")
    ls.add_argument("--json", action="store_true", help="for programs")
    prune = _add(cache, "prune", "cache:prune", "drop those used longest ago")
    prune.add_argument("--size", metavar="SIZE", help="leave that much (500M)")
    prune.add_argument("--all", action="store_true", help="leave nothing")
    verify = _add(cache, "verify", "cache:verify", "compare each with its checksum")
    verify.add_argument("--remove", action="store_true", help="remove the damaged ones")


def _run(commands: Commands) -> None:
    run = _add(commands, "run", "run.command:run", "run a .wasm or an image as a container here")
    run.add_argument("--env", "-e", action="append", default=[], metavar="NAME[=VALUE]")
    run.add_argument("--volume", "-v", action="append", default=[], metavar="SOURCE:/TARGET[:ro]")
    run.add_argument(
        "--publish",
        "-p",
        action="append",
        default=[],
        metavar="[ADDRESS:]HOST:CONTAINER",
        help="carry a TCP port in",
    )
    run.add_argument("--rm", action="store_true", help="remove the container when it ends")
    run.add_argument("--detach", "-d", action="store_true", help="don't wait; print its name")
    run.add_argument("--interactive", "-i", action="store_true", help="stdin is always passed on")
    run.add_argument("--tty", "-t", action="store_true", help="give it a terminal")
    run.add_argument("--name", help="the container's name")
    run.add_argument(
        "--net",
        choices=("none", "host"),
        default="none",
        help="a network of its own with loopback only, or the node's",
    )
    run.add_argument("--read-only", action="store_true", help="a read-only root")
    run.add_argument("--workdir", "-w", help="working directory")
    run.add_argument("--memory", metavar="SIZE", help="limit (64M)")
    run.add_argument("--cpus", metavar="NUMBER", help="limit (0.5)")
    run.add_argument("--annotation", action="append", default=[], metavar="copepod.dev/KEY=VALUE")
    _client(run, "default")
    run.add_argument("image", metavar="FILE.wasm|IMAGE")
    run.add_argument("args", nargs=argparse.REMAINDER, metavar="...", help="the guest's arguments")
