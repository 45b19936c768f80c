"""`python -m packages`, as root: builds the four packages and looks at them.

The last line is `N passed, N failed`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from packages import arm64, lint, made, minimal, pythons
from rig.paths import CHECKOUT
from rig.shell import RigError

Row = tuple[str, Callable[[], str]]


def main() -> int:
    """Runs the rows; 1 when one failed."""
    parser = argparse.ArgumentParser(prog="packages", description=__doc__)
    parser.add_argument("--output", type=Path, default=CHECKOUT / "build/packages")
    parser.add_argument("--only", default="", help="a regular expression of rows")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="cpd-packages-", dir="/var/tmp"))
    failed = passed = 0
    try:
        for path in made.build(options.output):
            print(f"  {path.name}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
        for title, act in rows(options.output, work):
            if not re.search(options.only, title):
                continue
            began = time.monotonic()
            try:
                text, good = act(), True
            except (RigError, AssertionError, OSError) as error:
                text, good = str(error) or repr(error), False
            passed, failed = passed + good, failed + (not good)
            mark = "passed" if good else "FAILED"
            print(f"{mark}  {title}: {text} ({time.monotonic() - began:.1f} s)", flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def rows(packages: Path, work: Path) -> list[Row]:
    """What is looked at, in this order."""
    trees = {arch: partial(made.unpacked, packages, arch, work) for arch in ("amd64", "arm64")}
    return [
        ("the deb for amd64 is small enough", partial(made.size, packages, trees["amd64"])),
        ("lintian finds nothing", partial(lint.debs, packages)),
        ("rpmlint finds nothing", partial(lint.rpms, packages)),
        (
            "they ask for what their libraries are linked with",
            partial(lint.needs, packages, trees["amd64"]),
        ),
        *pythons.rows(trees["amd64"], work),
        ("arm64: its libraries are arm64's", partial(arm64.libraries, trees["arm64"])),
        (
            "arm64: the shim's -info, and a guest, emulated",
            partial(arm64.runs, trees["arm64"], work),
        ),
        ("from a minimal Debian to a wasm pod", partial(minimal.check, packages, work)),
        ("built again, elsewhere, they have the same bytes", partial(made.again, packages, work)),
    ]


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("packages: this needs root: programs run in roots of other Debians")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except RigError as error:
        sys.exit(f"packages: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
