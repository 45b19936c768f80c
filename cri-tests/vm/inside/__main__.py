"""`python -m vm.inside LINE`: runs the checks and reports each on the serial line.

It stops at the first vital check that fails; the unit that runs it then powers the node off.
"""

from __future__ import annotations

import importlib
import re
import select
import sys
from pathlib import Path

from vm.inside.report import CHECKS, Line

# In this order.
MODULES = ("machine", "package", "pods", "apparmor", "zygote", "suites", "upgrade")
STAY = 1800.0  # seconds that a node waits for somebody who looks around


def words() -> dict[str, str]:
    """What the kernel's command line says to us: `copepod.only=REGEX`, `copepod.stay`."""
    found = {}
    for word in Path("/proc/cmdline").read_text().split():
        name, _, value = word.partition("=")
        if name.startswith("copepod."):
            found[name.removeprefix("copepod.")] = value
    return found


def main(path: str) -> None:
    """Runs every check that was not left out."""
    asked = words()
    for name in MODULES:
        importlib.import_module(f"vm.inside.{name}")
    with open(path, "w", encoding="utf-8") as stream:
        line = Line(stream)
        up = Path("/proc/uptime").read_text().split()[0]
        line.send(note=f"up for {up} s")
        for one in CHECKS:
            wanted = one.vital or re.search(asked.get("only", ""), one.body.__module__ + one.title)
            if wanted and not line.run(one) and one.vital:
                line.send(note=f"without {one.title!r} the rest makes no sense")
                break
        if "stay" in asked:
            line.send(note="stays up")
            select.select([], [], [], STAY)
        line.send(done=True)


if __name__ == "__main__":
    main(sys.argv[1])
