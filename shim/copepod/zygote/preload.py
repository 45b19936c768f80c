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
    "copepod.container.cgroup_oom",
    "copepod.container.cgroup_systemd",
    "copepod.container.cgroup_v1_limits",
    "copepod.container.cgroup_v2",
    "copepod.container.devices",
    "jeepney",
    "copepod.engine.run",
    "copepod.image.resolve",
    "copepod.image.lookup",
    "copepod.image.content",
    "copepod.net.netns",
    "copepod.task.console",
    "copepod.task.logger",
)


def everything() -> None:
    """Imports all of it, maps the engine's library, and works out the names of its cache."""
    for name in MODULES:
        importlib.import_module(name)
    from copepod.engine import capi
    from copepod.engine.limits import Knobs

    capi.library()
    knobs = Knobs()
    for tier in knobs.tiers():
        knobs.profile().at(tier).key()
