"""`python -m rig demo|matrix|guests|critest|...`, as root: what is missing is installed or built.

It says in one line what is wrong when it cannot go on.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from rig.containerd import DEBIAN, VERSIONS
from rig.paths import SHIM
from rig.shell import RigError

RUNTIMES = ("copepod", "runc")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rig", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, default: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text)
        sub.add_argument("--containerd", default=default, help=f"of {', '.join(VERSIONS)}")
        sub.add_argument("--zygote", action="store_true", help="start our fork server too")
        sub.add_argument("--runtime", choices=RUNTIMES, default="copepod")
        return sub

    command("demo", "a wasm pod on one screen", DEBIAN)
    command("matrix", "images and exit codes on each containerd", ",".join(VERSIONS))
    critest = command("critest", "CRI's validation suite, beside runc", "2.4.2")
    critest.add_argument("--focus", default="", help="a regular expression of spec names")
    critest.add_argument("--keep", type=Path, help="where the logs go")
    critest.add_argument("--wasm", action="store_true", help="with wasm images for ours")
    e2e = command("e2e", "what users do with wasm pods, in a real Kubernetes", "2.4.2")
    e2e.add_argument("--focus", default="", help="a regular expression of row names")
    e2e.add_argument("--keep", type=Path, help="where the logs go")
    guests = command("guests", "each guest and each feature, and what compiling costs", "2.4.2")
    what = "of guests, once, cold, tiers, limits, std: a regular expression"
    guests.add_argument("--focus", default="", help=what)
    bench = command("bench", "ours and runc in turn", "2.4.2")
    bench.add_argument("--rounds", type=int, default=15)
    bench.add_argument("--focus", default="", help="of runs, execs, shims, pods, memory: a regex")
    soak = command("soak", "hundreds of lives in random order, with kill -9", "2.4.2")
    soak.add_argument("--cycles", type=int, default=500)
    soak.add_argument("--seed", type=int, default=0, help="of the random order; 0 picks one")
    return parser


def main() -> int:
    """Runs one command; gives its exit code."""
    options = _parser().parse_args()
    if options.zygote:
        os.environ["RIG_ZYGOTE"] = "1"
    if os.geteuid() != 0:
        raise RigError("this needs root: namespaces, mounts and cgroups are made")
    if options.runtime == "copepod" and not SHIM.exists():
        raise RigError(f"{SHIM} is missing: run make build")
    versions = options.containerd.split(",")
    unknown = [version for version in versions if version not in VERSIONS]
    if unknown:
        raise RigError(f"no containerd {unknown[0]}: there are {', '.join(VERSIONS)}")
    # Each command imports what it needs: a missing package is then an error of that command only.
    if options.command == "demo":
        from rig import demo

        return demo.main(versions[0], options.runtime)
    if options.command == "matrix":
        from rig import matrix

        return matrix.main(versions, options.runtime)
    if options.command == "e2e":
        from e2e import suite

        return suite.main(versions[0], options.focus, options.keep)
    if options.command == "guests":
        from rig import guests_table

        return guests_table.main(versions[0], options.runtime, options.focus)
    if options.command == "bench":
        from rig import bench

        return bench.main(versions[0], options.rounds, (options.runtime, "runc"), options.focus)
    if options.command == "soak":
        from rig import soak

        seed = options.seed or int.from_bytes(os.urandom(3), "big")
        return soak.main(versions[0], options.cycles, seed)
    if options.wasm:
        from rig import critest_wasm

        return critest_wasm.main(versions[0], options.focus, options.keep)
    from rig import critest

    handlers = ["runc", options.runtime] if options.runtime != "runc" else ["runc"]
    return critest.main(versions, handlers, options.focus, options.keep)


if __name__ == "__main__":
    # So that what is open is closed: a cell is namespaces, mounts and a containerd.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except RigError as error:
        sys.exit(f"rig: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
