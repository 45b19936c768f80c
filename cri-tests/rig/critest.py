"""Runs CRI's validation suite with runc and with our shim, and compares them spec by spec.

It skips nothing on our behalf: what runc passes here, ours must pass.
"""

import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

from rig import critest_images, tools
from rig.cell import Cell
from rig.containerd import Containerd, release
from rig.oci import Image
from rig.registry import Registry
from rig.shell import RigError

SUITE_TIMEOUT = 1500.0
HANDLERS = ("runc", "copepod")
# Each containerd with the suite of its time; 1.6 knows less of CRI than any suite that can be had.
SUITES = {"debian": "cri-tools-1.34", "1.7.34": "cri-tools-1.36", "2.4.2": "cri-tools-1.36"}
MARKS = {"passed": "[green]pass[/]", "failed": "[red]FAIL[/]", "skipped": "[dim]skip[/]"}


@dataclass(frozen=True, slots=True)
class Spec:
    """One spec's outcome: passed, failed or skipped, with the failure's first lines."""

    name: str
    outcome: str
    why: str = ""
    seconds: float = 0.0


def read_report(path: Path) -> dict[str, Spec]:
    """The specs of a JUnit report, by name; set-up and reporting nodes are left out."""
    found = {}
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = case.get("name", "")
        if not name.startswith("[It]"):
            continue
        name = re.sub(r"\s+", " ", name.removeprefix("[It]").removeprefix(" [k8s.io]")).strip()
        failure = next((node for tag in ("failure", "error") for node in case.iter(tag)), None)
        seconds = float(case.get("time", "0"))
        if failure is not None:
            why = failure.get("message") or (failure.text or "")
            found[name] = Spec(name, "failed", why.strip(), seconds)
        elif case.get("status") in ("skipped", "pending"):
            found[name] = Spec(name, "skipped", "", seconds)
        else:
            found[name] = Spec(name, "passed", "", seconds)
    return found


@dataclass(frozen=True, slots=True)
class Images:
    """What a run takes for images: those of its registry, and flags that name some of them."""

    catalogue: Callable[[], list[Image]] = critest_images.catalogue
    flags: Callable[[Path], list[str]] = lambda home: []


def run_suite(
    wanted: str,
    handler: str,
    *,
    focus: str = "",
    keep: Path | None = None,
    images: Images | None = None,
) -> dict[str, Spec]:
    """Runs the suite against a fresh containerd with one handler; gives the specs by name."""
    images = images or Images()
    with Cell() as cell, Containerd(cell, wanted) as node:
        folder = critest_images.layout(cell.home / "registry", images.catalogue())
        with Registry(cell, folder) as registry:
            registry.redirect(node.settings.certs, *critest_images.HOSTS)
            node.wait_cri()
            report = cell.home / "report.xml"
            argv = [*_argv(node, handler, report, focus), *images.flags(cell.home)]
            done = cell.call(argv, timeout=SUITE_TIMEOUT, check=False)
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{wanted}-{handler}.log").write_text(done.out + done.err)
                (keep / f"{wanted}-{handler}-containerd.log").write_bytes(node.log.read_bytes())
            if not report.exists():
                raise RigError(f"critest wrote no report: {done.text[-2000:]}")
            return read_report(report)


def _argv(node: Containerd, handler: str, report: Path, focus: str) -> list[str]:
    endpoint = f"unix://{node.settings.socket}"
    argv = [
        str(tools.ensure(SUITES[node.release.wanted]) / "critest"),
        f"-runtime-endpoint={endpoint}",
        f"-image-endpoint={endpoint}",
        f"-runtime-handler={handler}",
        f"-ginkgo.junit-report={report}",
        "-ginkgo.no-color",
    ]
    return [*argv, f"-ginkgo.focus={focus}"] if focus else argv


def compare(
    wanted: str, *, handlers: Sequence[str] = HANDLERS, focus: str = "", keep: Path | None = None
) -> tuple[dict[str, dict[str, Spec]], list[str]]:
    """Runs the handlers side by side; gives the results and the specs that only runc passes."""
    with ThreadPoolExecutor(len(handlers)) as pool:
        jobs = {
            handler: pool.submit(run_suite, wanted, handler, focus=focus, keep=keep)
            for handler in handlers
        }
        results = {handler: job.result() for handler, job in jobs.items()}
    passed = [
        {name for name, spec in results[handler].items() if spec.outcome == "passed"}
        for handler in handlers
    ]
    return results, sorted(passed[0] - passed[-1])


def show(
    console: Console, wanted: str, results: dict[str, dict[str, Spec]], worse: list[str]
) -> None:
    """Prints the two side by side, the reasons for what differs, and the totals."""
    table = Table(title=f"critest, containerd {wanted}", title_justify="left")
    table.add_column("spec")
    for handler in results:
        table.add_column(handler)
    for name in sorted({name for specs in results.values() for name in specs}):
        cells = [specs.get(name, Spec(name, "skipped")).outcome for specs in results.values()]
        if set(cells) != {"skipped"}:
            table.add_row(name, *(MARKS[cell] for cell in cells))
    console.print(table)
    for handler, specs in results.items():
        outcomes = [spec.outcome for spec in specs.values()]
        counts = ", ".join(f"{kind} {outcomes.count(kind)}" for kind in MARKS)
        console.print(f"with {handler}: {counts}")
        for spec in specs.values():
            if spec.outcome == "failed":
                console.print(
                    f"  [red]{spec.name}[/]: {spec.why.splitlines()[0] if spec.why else ''}"
                )
    if worse:
        console.print(f"[red]{len(worse)} specs pass with runc and not with ours[/]")


def prepare(versions: Sequence[str]) -> None:
    """Builds all that the runs need before the first one; RigError, one sentence, where a machine
    cannot."""
    try:
        for name in ("runc", "cri-tools-1.36", *(SUITES[wanted] for wanted in versions)):
            tools.ensure(name)
        for wanted in versions:
            release(wanted)
    except RigError as error:
        why = str(error).strip().splitlines()[-1].strip()
        raise RigError(
            "critest wants containerd, runc and CRI's suite, which this machine cannot build "
            f"(Go modules and Debian's packages are needed): {why}"
        ) from None


def main(versions: Sequence[str], handlers: Sequence[str], focus: str, keep: Path | None) -> int:
    """Runs and shows each version; 1 when runc passes anything that ours does not, which is what
    the last line calls failed."""
    console = Console(width=max(Console().width, 140))
    good = bad = 0
    prepare(versions)
    for wanted in versions:
        results, worse = compare(wanted, handlers=handlers, focus=focus, keep=keep)
        show(console, wanted, results, worse)
        good += sum(spec.outcome == "passed" for spec in results[handlers[-1]].values())
        bad += len(worse)
    console.print(f"{good} passed, {bad} failed", highlight=False)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(["2.4.2"], HANDLERS, "", None))
