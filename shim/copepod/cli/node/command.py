"""`copepod node install|uninstall|status`: what is asked and what is told.

It holds no rule of containerd's configuration.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict

from copepod import errors
from copepod.cli import out
from copepod.cli.node import apply, check, detect, plan, restart, runtime, tomltext
from copepod.cli.node.detect import Containerd
from copepod.cli.system import System

NOT_CONFIGURED = 3


def install(args: argparse.Namespace, system: System) -> int:
    """Writes the runtime into containerd's configuration and offers the restart."""
    if args.print:
        version = args.print
        print(runtime.to_toml(version, {runtime.NAME: runtime.settings(args.shim)}))
        return 0
    _require_root(system)
    node = _find(args, system)
    shim = _shim(args, system, node)
    made = plan.make(system, node, shim)
    if made.by_hand:
        out.ok(f"{made.by_hand} already declares the runtime {runtime.NAME}, written by hand")
    elif made.empty:
        out.ok(f"{made.target} already declares the runtime {runtime.NAME}")
    elif args.dry_run:
        _show(made)
        return 0
    else:
        apply.install(system, node, made)
        for change in made.changes:
            out.ok(f"{'changed' if change.before is not None else 'wrote'} {change.path}")
        out.say("containerd's own `config dump` shows the runtime, and nothing else changed")
    code = _offer_restart(args, system, node, made.target)
    out.say(
        "next: `kubectl apply` a RuntimeClass named copepod with handler copepod "
        "(`copepod node status` and `copepod doctor` look at this node)"
    )
    return code


def uninstall(args: argparse.Namespace, system: System) -> int:
    """Takes the runtime out again and offers the restart."""
    _require_root(system)
    node = _find(args, system)
    changed = apply.uninstall(system, node, _target(system, node))
    if not changed:
        out.ok("nothing of Copepod in containerd's configuration")
        return 0
    for path in changed:
        out.ok(f"{'restored' if system.exists(path) else 'removed'} {path}")
    return _offer_restart(args, system, node, changed[0])


def status(args: argparse.Namespace, system: System) -> int:
    """Tells what is configured; 0 configured and loaded, 3 not configured, 1 not yet loaded."""
    node = _find(args, system, quiet=args.json)
    state = look(system, node)
    if args.json:
        print(json.dumps({**asdict(node), **state}, indent=2))
    else:
        out.say(f"{node.title}, {'process ' + str(node.pid) if node.pid else 'not running'}")
        out.say(f"configuration {node.config}, socket {node.address}")
        if not state["configured"]:
            out.fail(f"the runtime {runtime.NAME} is not configured", "run `copepod node install`")
        elif state["pending"]:
            out.warn(f"configured in {state['file']}, but containerd has not been restarted since")
        else:
            out.ok(f"the runtime {runtime.NAME} is configured in {state['file']}")
    if not state["configured"]:
        return NOT_CONFIGURED
    return 1 if state["pending"] else 0


def look(system: System, node: Containerd) -> dict[str, object]:
    """The state of the configuration: keys configured, file, by_us, pending, cri_disabled."""
    dumped = check.dump(system, node, node.config)
    target = _target(system, node)
    data = system.read(target)
    by_us = bool(data and tomltext.find_block(tomltext.decode(data, target)))
    loaded = runtime.is_ours(runtime.runtimes(dumped).get(runtime.NAME))
    changed = max((_mtime(system, name) for name in {target, node.config}), default=0.0)
    return {
        "configured": loaded or by_us,
        "file": target if by_us else node.config,
        "by_us": by_us,
        "pending": bool(node.pid) and changed > node.started,
        "cri_disabled": check.cri_disabled(dumped),
    }


def _mtime(system: System, name: str) -> float:
    try:
        return os.stat(system.path(name)).st_mtime
    except FileNotFoundError:
        return 0.0


def _target(system: System, node: Containerd) -> str:
    """The file that holds our block: the record's, else the first likely one that has it."""
    files, _ = apply.read_record(system)
    likely = [one.path for one in files if not one.imports]
    folder = os.path.dirname(node.config)
    likely += [plan.template_path(node)] if node.flavour != detect.PLAIN else []
    likely += [node.config, *system.glob(f"{folder}/*/copepod.toml")]
    for path in likely:
        if tomltext.BEGIN.encode() in (system.read(path) or b""):
            return path
    return node.config


def _find(args: argparse.Namespace, system: System, quiet: bool = False) -> Containerd:
    node = detect.find(system, args.containerd, args.config)
    if not quiet:
        for note in node.notes:
            out.warn(note)
    return node


def _shim(args: argparse.Namespace, system: System, node: Containerd) -> str | None:
    """The shim's path for the configuration, None where containerd finds it by name.

    containerd looks along its own PATH, then beside its own binary.
    """
    if args.shim:
        if not os.path.isabs(args.shim) or not system.exists(args.shim):
            raise errors.InvalidArgument(f"--shim {args.shim}: no such absolute path")
        return str(args.shim)
    daemon = node.path or os.environ.get("PATH", "")
    where = f"{daemon}:{os.path.dirname(node.binary)}"
    if system.which(runtime.SHIM, where):
        return None
    if found := system.which(runtime.SHIM):
        return os.path.abspath(found)
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), runtime.SHIM)
    if system.exists(beside):
        return beside
    raise errors.NotFound(
        f"{runtime.SHIM} is on neither containerd's PATH nor yours; name it with --shim /path"
    )


def _require_root(system: System) -> None:
    if system.euid() != 0:
        raise errors.PermissionDenied("containerd's configuration is root's: run this as root")


def _show(made: plan.Plan) -> None:
    import difflib

    for change in made.changes:
        old = (change.before or b"").decode().splitlines(keepends=True)
        new = (change.after or b"").decode().splitlines(keepends=True)
        name = change.path
        sys.stdout.writelines(
            difflib.unified_diff(old, new, name if change.before is not None else "/dev/null", name)
        )


def _offer_restart(args: argparse.Namespace, system: System, node: Containerd, target: str) -> int:
    """Restarts containerd when that is needed and somebody says yes."""
    newest = max(_mtime(system, target), _mtime(system, node.config))
    if not node.pid:
        out.say("containerd is not running: it reads the configuration when it starts")
        return 0
    if newest and newest <= node.started:
        return 0
    argv = restart.command(system, node)
    if argv is None:
        out.warn(
            f"containerd has to be restarted (process {node.pid}), and no service manager here "
            "knows it: restart it as it was started"
        )
        return 0
    line = " ".join(argv)
    if args.restart is False:
        out.say(f"containerd reads the change at its next start: `{line}`")
        return 0
    if not (args.restart or args.yes) and not out.ask(
        f"Restart containerd now (`{line}`)? Running containers go on", args.restart
    ):
        out.say(f"not restarted; when it suits you: `{line}`")
        return 0
    restart.restart(system, node, argv)
    out.ok(f"`{line}`: containerd is back")
    return 0
