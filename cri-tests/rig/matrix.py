"""The table of containerd versions: wasm images and exit codes, then bad input, with one runtime.

It passes a row only on what `ctr` printed and returned and on nothing being left behind.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rig import bad_input, images, leaks, oci, peers
from rig.cell import Cell
from rig.containerd import Containerd
from rig.runs import Runner
from rig.shell import Done, RigError


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    version: str
    case: str
    wanted: str
    got: str
    passed: bool


Attempt = Callable[[], tuple[str, bool]]
# title, exit code, the guest's words, the signal that ends it, what it must print
CODES: tuple[tuple[str, int, tuple[str, ...], str, str], ...] = (
    ("exit 0", 0, ("hello",), "", "hello from"),
    ("exit 3", 3, ("exit", "3"), "", ""),
    ("trap", 134, ("trap",), "", "unreachable"),
    ("SIGKILL", 137, ("count", "20"), "SIGKILL", "line 0"),
    ("SIGTERM", 143, ("count", "20"), "SIGTERM", "line 0"),
)


def outcome(runner: Runner, verb: str, *rest: str, image: str, signal: str = "") -> Done:
    """Runs a guest to its end, by itself or by a signal that is sent once it prints."""
    name = runner.new_name()
    image, args = runner.guest(verb, *rest, image=image)
    with runner.start(image, *args, name=name) as running:
        if signal:
            running.expect("line 1")
            runner.kill(name, signal)
        return running.wait(60)


def exit_codes(runner: Runner, kinds: Sequence[tuple[str, str]]) -> Iterator[Row]:
    """A row for each kind of image and each way to end."""
    for kind, image in kinds:
        for title, code, words, signal, text in CODES:
            # A trap is wasm's, and Go's compiler emits none that a program can ask for.
            if title == "trap" and (runner.runtime != "copepod" or image == images.GO_ROOTFS):
                continue
            attempt = _ending(runner, image, code, words, signal, text)
            yield _guarded(runner, f"{kind}, {title}", f"{code}", attempt)


def _ending(
    runner: Runner, image: str, code: int, words: tuple[str, ...], signal: str, text: str
) -> Attempt:
    def attempt() -> tuple[str, bool]:
        done = outcome(runner, *words, image=image, signal=signal)
        said = _first(done, text) if done.code == code else _sentence(done)
        return f"{done.code} {said}", done.code == code and text in done.text

    return attempt


def media_types(runner: Runner) -> Iterator[Row]:
    """Each of the media types under which wasm travels."""
    for kind in oci.WASM_LAYERS:
        attempt = _ending(runner, images.media_name(kind), 3, ("exit", "3"), "", "")
        yield _guarded(runner, kind, "3", attempt)


def bad_inputs(runner: Runner) -> Iterator[Row]:
    """A row for each bad request: it fails, says so, and leaves nothing."""
    for bad in bad_input.CASES:
        release = runner.node.release
        if (release.wasm_layers or not bad.layers) and release.numbers >= bad.since:
            wanted = f"an error with {bad.says[0]!r}"
            yield _guarded(runner, bad.name, wanted, _refused(runner, bad))


def _refused(runner: Runner, bad: bad_input.Bad) -> Attempt:
    def attempt() -> tuple[str, bool]:
        done = bad.ask(runner)
        said = _sentence(done)
        clear = any(word.lower() in said.lower() for word in bad.says)
        return said, done.code != 0 and clear and "Traceback" not in done.text

    return attempt


def strangers(runner: Runner) -> Iterator[Row]:
    """Garbage on the shim's socket, and a peer that is not root."""

    def garbage() -> tuple[str, bool]:
        return _with_shim(runner, peers.throw_garbage)

    def stranger() -> tuple[str, bool]:
        said, alive = _with_shim(runner, lambda path: peers.ask_as_nobody(runner, path))
        return said, alive and said == "closed"

    yield _guarded(runner, "garbage on the ttrpc socket", "goes on", garbage)
    yield _guarded(runner, "a peer that is not root", "closed", stranger)


def _with_shim(runner: Runner, act: Callable[[Path], str]) -> tuple[str, bool]:
    """Does something to the socket of a running container; gives what it says, and whether the
    container still answers and ends as it should."""
    name = runner.new_name()
    image, args = runner.guest("count", "20")
    with runner.start(image, *args, name=name) as running:
        running.expect("line 1")
        said = act(peers.shim_socket(runner, name))
        listed = peers.answers(runner, name).out
        runner.kill(name, "SIGTERM")
        done = running.wait(60)
    return said, len(listed.splitlines()) > 1 and done.code == 143


def _guarded(runner: Runner, case: str, wanted: str, attempt: Attempt) -> Row:
    """Runs one attempt and looks whether it left anything."""
    version = runner.node.release.version
    before = leaks.take(runner.node)
    try:
        got, passed = attempt()
        leaks.settled(runner.node, before)
    except (RigError, AssertionError, OSError) as error:
        lines = str(error).strip().splitlines()
        # A command's failure begins with its argv, a leak with its heading: the end says more.
        return Row(version, case, wanted, "\n".join(lines[-8:]), False)
    return Row(version, case, wanted, got, passed)


def _sentence(done: Done) -> str:
    """What a user reads of a failed run: the last line of ctr's errors, without its name."""
    lines = [line for line in done.err.splitlines() if not line.startswith("time=")]
    return lines[-1].removeprefix("ctr: ") if lines else ""


def _first(done: Done, text: str) -> str:
    return next((line.strip() for line in done.text.splitlines() if text and text in line), "")


def run_version(wanted: str, runtime: str) -> Iterator[Row]:
    """All rows of one containerd."""
    with Cell() as cell, Containerd(cell, wanted) as node:
        layers = node.release.wasm_layers
        runner = Runner(node, runtime)
        catalogue = [images.busybox(), *images.good_wasm(layers=layers)]
        catalogue += bad_input.catalogue(layers=layers)
        archive = images.archive(cell.home / "images.tar", catalogue)
        node.import_image(archive, namespace=runner.namespace)
        kinds = [("rootfs image", images.C_ROOTFS)]
        if runtime == "copepod":
            kinds.append(("rootfs image, Go", images.GO_ROOTFS))
            if layers:
                kinds.append(("layer image", images.C_LAYER))
        yield from exit_codes(runner, kinds)
        if runtime == "copepod":
            if layers:
                yield from media_types(runner)
            yield from bad_inputs(runner)
        yield from strangers(runner)


def main(versions: Sequence[str], runtime: str) -> int:
    """Prints the table and the totals; 1 when a row failed."""
    console = Console(width=max(Console().width, 160))
    rows = []
    for wanted in versions:
        table = Table(title=f"containerd {wanted}, {runtime}", title_justify="left")
        for heading in ("case", "wanted", "got", ""):
            table.add_column(heading, overflow="fold")
        for row in run_version(wanted, runtime):
            rows.append(row)
            mark = "[green]passed[/]" if row.passed else "[red]FAILED[/]"
            table.add_row(row.case, row.wanted, row.got.replace("[", r"\["), mark)
            table.title = f"containerd {row.version}, {runtime}"
        console.print(table)
    passed = sum(row.passed for row in rows)
    console.print(f"{passed} passed, {len(rows) - passed} failed")
    return 0 if passed == len(rows) else 1
