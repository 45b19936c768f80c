"""`python -m vm`, as root: the rpm in a root of its own, the deb in a node under qemu.

The last line is `N passed, N failed`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from rig.paths import CHECKOUT
from rig.shell import RigError
from vm import payload, qemu, root, rpm

LIMIT = 3600.0  # seconds for everything in the node


def main() -> int:
    """Runs both halves; 1 when something failed."""
    options = _options()
    home = options.keep or Path(tempfile.mkdtemp(prefix="copepod-vm-", dir="/var/tmp"))
    home.mkdir(parents=True, exist_ok=True)
    results: list[bool] = []
    try:
        disk = root.ensure()
        if not options.skip_rpm:
            package = home / "copepod.rpm"
            payload.build("rpm", CHECKOUT, package)
            for title, passed, text in rpm.check(package, disk.tree, home):
                results.append(_show(title, passed, text))
        image = home / "payload.ext4"
        if not image.exists():
            payload.make(home, image)
        results += _boot(disk, image, home, options)
    finally:
        if not options.keep:
            shutil.rmtree(home, ignore_errors=True)
    failed = results.count(False)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vm", description=__doc__)
    parser.add_argument("--keep", type=Path, help="a directory for logs and disks; it stays")
    parser.add_argument("--only", default="", help="a regular expression of checks in the node")
    parser.add_argument("--skip-rpm", action="store_true")
    parser.add_argument("--kvm", action="store_true", help="let the processor run the node")
    parser.add_argument(
        "--shell", action="store_true", help="a root shell on KEEP/shell; the node stays up"
    )
    return parser.parse_args()


def _boot(disk: root.Disk, image: Path, home: Path, options: argparse.Namespace) -> list[bool]:
    """Boots the node and prints what it reports; gives how each check went."""
    words = [f"copepod.only={options.only}"] if options.only else []
    node = qemu.Node(disk, image, home, kvm=options.kvm, shell=options.shell, words=tuple(words))
    results = []
    began = time.monotonic()
    for report in qemu.boot(node, LIMIT):
        if "check" in report:
            text = f"{report['seconds']:.1f} s {report['text']}"
            results.append(_show(report["check"], report["passed"], text))
        elif "note" in report:
            print(f"  ({time.monotonic() - began:.0f} s) {report['note']}", flush=True)
    return results


def _show(title: str, passed: bool, text: str) -> bool:
    mark = "passed" if passed else "FAILED"
    shown = text.strip() if not passed else " ".join(text.split())[:160]
    print(f"{mark}  {title}" + (f": {shown}" if shown else ""), flush=True)
    return passed


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("vm: this needs root: a Debian is unpacked, and rpm changes its root")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except RigError as error:
        sys.exit(f"vm: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
