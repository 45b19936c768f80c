"""What is imported before a shim is forked from the zygote: all that shims may ever need.

Importing these starts no thread and opens no file that stays open; the tests hold them to it.
"""

from __future__ import annotations

import importlib

from copepod import entry, warm

# What `copepod.warm` leaves to those shims that come to need it.
MODULES = (
    "copepod.serve",
    "copepod.container.cgroup_systemd",
    "copepod.container.cgroup_v1",
    "copepod.container.cgroup_v2",
    "copepod.container.hooks",
    "jeepney",
    "copepod.image.lookup",
    "copepod.image.content",
    "copepod.task.console",
    "copepod.task.logger",
)


def everything() -> None:
    """Imports all of it, and makes ready for a container."""
    entry.lean_imports()
    for name in MODULES:
        importlib.import_module(name)
    warm.create()
