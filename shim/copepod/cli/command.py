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
    install = _add(node, "install", "node.command:install", "write the runtime into containerd's "
                   "configuration, check it, offer the restart")  # fmt: skip
    remove = _add(node, "uninstall", "node.command:uninstall", "put containerd's configuration "
                  "back as it was")  # fmt: skip
    status = _add(node, "status", "node.command:status", "tell what is configured")
    for parser in (install, remove, status):
        _which_containerd(parser)
    for parser in (install, remove):
        parser.add_argument("--yes", "-y", action="store_true", help="answer yes to all questions")
        parser.add_argument("--restart", action=argparse.BooleanOptionalAction, default=None,
                            help="restart containerd without asking, or don't")  # fmt: skip
    install.add_argument("--shim", metavar="PATH", help="the shim's absolute path, where "
                         "containerd's PATH does not lead to it")  # fmt: skip
    install.add_argument("--dry-run", action="store_true", help="show the change, write nothing")
    install.add_argument("--print", type=int, nargs="?", const=2, metavar="VERSION",
                         help="only print the table for a file of VERSION (2)")  # fmt: skip
    status.add_argument("--json", action="store_true", help="for programs")


def _which_containerd(parser: argparse.ArgumentParser) -> None:
    from copepod.cli.node.detect import FLAVOURS

    parser.add_argument("--containerd", choices=FLAVOURS, help="which one, where several are here")
    parser.add_argument("--config", metavar="FILE", help="containerd's root file, where it is "
                        "not the usual one")  # fmt: skip
