"""`copepod doctor`: runs the checks in order, prints their findings, ends with 1 for a failure.

The list of checks is here, and nothing else of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict

from copepod import config, errors
from copepod.cli import out
from copepod.cli.doctor import kernel, node, ours
from copepod.cli.doctor.context import Check, Context, Finding
from copepod.cli.node import check, detect
from copepod.cli.system import System

CHECKS: tuple[Check, ...] = (
    kernel.python,
    kernel.features,
    kernel.cgroups,
    node.containerd,
    node.configuration,
    node.shim,
    node.cni,
    ours.zygote,
    ours.cache,
    ours.engine,
    ours.container,
)


def doctor(args: argparse.Namespace, system: System) -> int:
    """Looks at everything; 0 when nothing failed, warnings or not."""
    context, findings = look(system, args.containerd, args.config)
    checks = [one for one in CHECKS if args.container or one is not ours.container]
    for one in checks:
        for finding in _run(one, context):
            findings.append(finding)
            if not args.json:
                out.line(finding.kind, f"{finding.check}: {finding.text}", finding.advice)
    failed = sum(finding.kind == "fail" for finding in findings)
    if args.json:
        print(json.dumps([asdict(one) for one in findings], indent=2))
    else:
        warned = sum(finding.kind == "warn" for finding in findings)
        out.say(f"{len(findings)} lines, {warned} warnings, {failed} failures")
    return 1 if failed else 0


def look(system: System, flavour: str | None, root: str | None) -> tuple[Context, list[Finding]]:
    """Finds containerd and its configuration once, for all checks."""
    findings = []
    try:
        text = system.read(config.PATH)
        settings = config.parse(text.decode(errors="replace")) if text else config.Config()
    except errors.Error as error:
        settings = config.Config()
        findings.append(Finding("fail", "settings", str(error), "repair it: no shim starts"))
    context = Context(system, settings)
    try:
        context.node = detect.find(system, flavour, root)
    except errors.Error as error:
        context.missing = str(error)
        return context, findings
    try:
        context.dump = check.dump(system, context.node, context.node.config)
    except errors.Error as error:
        context.dump_error = str(error)
    return context, findings


def _run(one: Check, context: Context) -> Iterator[Finding]:
    """A check that fails to look is a finding too: the others still say what they see."""
    try:
        yield from one(context)
    except (OSError, errors.Error) as error:
        name = getattr(one, "__name__", "check")
        yield Finding("warn", name, f"could not be looked at: {error}", "run this as root")
