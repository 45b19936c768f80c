"""What a core module may import: WASI preview 1, with an exit of ours.

It needs an engine and no module, so it can be made before there is one.
"""

from __future__ import annotations

from copepod.engine import objects
from copepod.engine.guest import ExitCode
from copepod.engine.preview1 import MODULE


class Imports:
    """A linker with all names defined, and the exit code that the guest will give."""

    def __init__(self, engine: objects.Engine) -> None:
        self.linker, self.exit_code = objects.Linker(engine), ExitCode()
        self.linker.define_wasi()
        self.linker.define(MODULE, "proc_exit", "i", "", self.exit_code.proc_exit)
