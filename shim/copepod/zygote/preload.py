"""The one list of what is imported before a shim is forked from the zygote.

Importing these starts no thread and opens no file that stays open; the tests hold them to it.
"""

from __future__ import annotations

import importlib

MODULES = (
    "copepod.serve",
    "copepod.spec",
    "copepod.container.spawn",
    "copepod.child.main",
    "copepod.container.cgroup",
    "copepod.engine.run",
    "copepod.image.resolve",
    "copepod.image.content",
    "copepod.net.netns",
    "copepod.task.console",
    "copepod.task.logger",
)


def everything() -> None:
    """Imports all of it."""
    for name in MODULES:
        importlib.import_module(name)
