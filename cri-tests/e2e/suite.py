"""Runs the rows one after another, each in a namespace of its own, and prints the table.

A row is a function over Kube: its docstring's first line is its name, what it returns is shown, and
AssertionError or RigError is its failure.
"""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from e2e import installing, manifests, running, starting, talking, workloads
from e2e.kit import Kube
from rig import images, leaks
from rig.cell import Cell
from rig.containerd import Containerd
from rig.kube import VERSION, Cluster
from rig.paths import CHECKOUT
from rig.shell import RigError

PACKAGING = CHECKOUT / "packaging" / "k8s" / "runtimeclass"
# Dead sandboxes wait for the kubelet's next collection, once in a minute.
COLLECTION = 100.0

RowFunction = Callable[[Kube], str]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a row."""

    name: str
    seen: str
    passed: bool
    seconds: float


def rows() -> list[RowFunction]:
    """All rows, in the order in which they run."""
    return [*starting.ROWS, *talking.ROWS, *running.ROWS, *workloads.ROWS, *installing.ROWS]


def title(function: RowFunction) -> str:
    """A row's name."""
    return (function.__doc__ or function.__name__).strip().splitlines()[0].rstrip(".")


def run_rows(cluster: Cluster, focus: str) -> Iterator[Result]:
    """Each row that matches, then what all of them left."""
    before = leaks.take(cluster.node)
    for number, function in enumerate(rows()):
        if re.search(focus, title(function)):
            space = f"{function.__name__.replace('_', '-')}-{number}"
            yield _attempt(title(function), partial(_row, cluster, space, function))

    def nothing_left() -> str:
        leaks.settled(cluster.node, before, COLLECTION)
        pods = list((cluster.cell.home / "var" / "lib" / "kubelet" / "pods").glob("*"))
        assert not pods, f"the kubelet still has {pods}"
        return "no process, mount, cgroup, network namespace, socket or file"

    yield _attempt("all is deleted and nothing is left", nothing_left)


def _row(cluster: Cluster, namespace: str, function: RowFunction) -> str:
    with Kube(cluster, namespace) as kube:
        return function(kube)


def _attempt(name: str, act: Callable[[], str]) -> Result:
    began = time.monotonic()
    try:
        seen, passed = act(), True
    except (RigError, AssertionError, LookupError) as error:
        text = str(error) if str(error) else repr(error)
        seen, passed = "\n".join(text.strip().splitlines()[-12:]), False
    return Result(name, seen, passed, time.monotonic() - began)


def main(wanted: str, focus: str, keep: Path | None) -> int:
    """Starts the cluster, runs the rows, prints the table and the totals; 1 when a row failed."""
    console = Console(width=max(Console().width, 140))
    results = []
    with ExitStack() as stack:
        cell = stack.enter_context(Cell())
        with console.status(f"getting Kubernetes {VERSION} and the images ready"):
            node = stack.enter_context(Containerd(cell, wanted))
            archive = images.archive(cell.home / "images.tar", manifests.catalogue())
            node.import_image(archive, namespace="k8s.io")
            archive.unlink()
            if keep:
                stack.callback(_keep, cell.home, keep)
            began = time.monotonic()
            cluster = stack.enter_context(Cluster(node))
        console.print(f"the node was ready after {time.monotonic() - began:.0f} s")
        console.print(cluster.kubectl("apply", "-k", PACKAGING).out.strip())
        for result in run_rows(cluster, focus):
            results.append(result)
            console.print(f"{_mark(result)} {escape(result.name)} ({result.seconds:.1f} s)")
    _show(console, results)
    passed = sum(result.passed for result in results)
    console.print(f"{passed} passed, {len(results) - passed} failed")
    return 0 if passed == len(results) else 1


def _mark(result: Result) -> str:
    return "[green]passed[/]" if result.passed else "[red]FAILED[/]"


def _show(console: Console, results: list[Result]) -> None:
    table = Table(title=f"Kubernetes {VERSION}, runtime class copepod", title_justify="left")
    for heading in ("what", "seen", "s", ""):
        table.add_column(heading, overflow="fold")
    for one in results:
        table.add_row(escape(one.name), escape(one.seen), f"{one.seconds:.1f}", _mark(one))
    console.print(table)


def _keep(home: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for log in home.glob("*.log"):
        shutil.copy(log, folder)
