"""`copepod`, the command line tool of a node's administrator and of an image's author.

The shim never imports it, and it imports a command's room only when that command is called.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and gives the exit code; 2 is a mistake in the command line."""
    from copepod.cli import command

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A path is any bytes, and a terminal's locale any: what can't be shown is no failure.
        sys.stdout.reconfigure(errors="backslashreplace")
    return command.run(argv)
