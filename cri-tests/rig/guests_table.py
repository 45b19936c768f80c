"""Guests x features: each guest as a file of an image and as a wasm layer, in a pod through CRI.

A feature counts only by what the guest printed, by its exit code, or by what a peer of it saw. What
a guest can't do by its nature, and a guest that can't be built here, is shown with the reason.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rig import compiling, components, go_std, guests, images, leaks
from rig.cell import Cell
from rig.components import Absent
from rig.containerd import Containerd
from rig.cri import Container, Pod, Pods
from rig.oci import Image
from rig.piped import Piped
from rig.shell import RigError

PORT = "8080"
PEER = "peer.test"
GREETING = "from the pod"
END = 30.0
NO_CONNECT = "WASI preview 1 makes no connections"
NO_LOOKUP = "WASI preview 1 looks up no names"
NO_HTTP = "wasi:http is of components"
OWN_HTTP = "this guest imports no wasi:http"
LISTEN = {"copepod.dev/listen.listen": PORT}
# A peer of the guest's server: connects, sends one request, prints the answer.
CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as peer:
    peer.sendall(b"GET /from-the-host HTTP/1.0\\r\\n\\r\\n")
    while data := peer.recv(4096):
        sys.stdout.write(data.decode())
        if b"from-the-host" in data:
            break
"""


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest: what it says of itself, how it is built, and which features it lacks, and why."""

    title: str
    language: str
    build: Callable[[], Path]
    lacks: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    server: Callable[[], Path] | None = None


PREVIEW_1 = {"connect": NO_CONNECT, "look-up": NO_LOOKUP, "wasi:http": NO_HTTP}
GUESTS = (
    # Go's package net, which its server needs, would make the guest of all other rows a large one.
    Guest("Go, preview 1", "Go", guests.wasm_go, PREVIEW_1, LISTEN, guests.wasm_http),
    Guest("C, preview 1", "C", guests.wasm_c, PREVIEW_1, LISTEN),
    Guest("C, component", "C", components.wasm_c, {"wasi:http": OWN_HTTP}),
    Guest("Python, component", "Python", components.wasm_py),
    Guest("JavaScript, component", "JavaScript", components.wasm_js),
)
KINDS = ("rootfs", "layer")
HOST = "guests.copepod.test"


class Case:
    """One guest in one kind of image: a pod of its own, and a container for each feature."""

    def __init__(self, pod: Pod, guest: Guest, kind: str, peer: str) -> None:
        self.pod = pod
        self.guest = guest
        self.image = name(guest, kind)
        self.server = name(guest, kind, server=True) if guest.server else self.image
        self.peer = peer
        self.volume = pod.node.home / f"volume-{pod.name}"
        self.volume.mkdir()
        self.hosts = pod.node.home / f"hosts-{pod.name}"
        self.hosts.write_text(f"127.0.0.1 localhost\n{peer} {PEER}\n")

    def start(self, feature: str, *words: str, image: str = "", **fields: Any) -> Container:
        """Starts the guest with these words."""
        volumes = {self.volume: "/data", self.hosts: "/etc/hosts"}
        title = re.sub(r"\W", "-", feature)
        return self.pod.start(title, image or self.image, list(words), volumes=volumes, **fields)

    def run(self, feature: str, *words: str, code: int = 0, **fields: Any) -> str:
        """Runs the guest to its end, which must be `code`; gives what it printed."""
        container = self.start(feature, *words, **fields)
        found = container.wait_exited(END)["exitCode"]
        said = container.log
        assert found == code, f"exit code {found} instead of {code}: {said}"
        return said


def name(guest: Guest, kind: str, *, server: bool = False) -> str:
    """The name of a guest's image."""
    word = re.sub(r"\W+", "-", guest.title.lower()) + ("-server" if server else "")
    return f"{HOST}/{word}:{kind}"


def output(case: Case) -> str:
    said = case.run("output", "hello").splitlines()[0]
    assert said == f"hello from {case.guest.language} in wasm", said
    return said


def exit_code(case: Case) -> str:
    case.run("exit", "exit", "3", code=3)
    return "3"


def arguments(case: Case) -> str:
    envs = [{"key": "GREETING", "value": GREETING}]
    said = case.run("arguments", "hello", "two words", envs=envs).splitlines()
    assert "arg 2: two words" in said, said
    assert f"env: GREETING={GREETING}" in said, said
    return f"{said[3]}, GREETING={GREETING}"


def volume(case: Case) -> str:
    (case.volume / "file").write_text("from the host\n")
    case.run("write", "write", "/data/file", "from the guest")
    both = "from the host\nfrom the guest\n"
    assert (case.volume / "file").read_text() == both, (case.volume / "file").read_text()
    said = case.run("read", "read", "/data/file")
    assert said == both.rstrip(), said
    return "read and written"


def stdin(case: Case) -> str:
    container = case.start("stdin", "echo", stdin=True, stdin_once=True)
    node = case.pod.node
    with Piped(node.cell.inside(node.crictl_argv("attach", "-i", container.id)), stdin=True) as it:
        it.send(b"a line\n")
        it.expect("a line")
        it.end_input()
        it.wait()
    code = container.wait_exited(END)["exitCode"]
    assert code == 0, code
    return "echoed"


def clock(case: Case) -> str:
    before = int(time.time())
    said = case.run("clock", "time")
    found = re.fullmatch(r"time (\d+)\nrandom ([0-9a-f]{16})\nrandom ([0-9a-f]{16})", said)
    assert found, said
    assert before <= int(found[1]) <= time.time(), said
    assert found[2] != found[3], said
    return f"random {found[2]}"


def listen(case: Case) -> str:
    container = case.start("listen", "serve", PORT, image=case.server)
    container.wait_log("serving", END)
    ip = case.pod.inspect()["status"]["network"]["ip"]
    argv = [sys.executable, "-c", CLIENT, ip, PORT]
    said = case.pod.node.cell.call(argv, timeout=END).out
    # Go's server says its words, the others the request's first line.
    wanted = f"serve {PORT}" if case.guest.server else "GET /from-the-host HTTP/1.0"
    assert wanted in said, said
    container.stop()
    return wanted


def connect(case: Case) -> str:
    said = case.run("connect", "connect", PEER, PORT, "from the guest\n")
    assert said == "from the guest", said
    return f"{PEER} answered"


def look_up(case: Case) -> str:
    said = case.run("look-up", "lookup", PEER)
    assert said == f"address {case.peer}", said
    return said


def wasi_http(case: Case) -> str:
    said = case.run("http", "fetch", f"http://{PEER}:{PORT}/page")
    assert said == "status 200\nGET /page HTTP/1.1", said
    return said.splitlines()[0]


def stop(case: Case) -> str:
    container = case.start("stop", "count", "20")
    container.wait_log("line 1", END)
    began = time.monotonic()
    container.stop(grace=60)
    took, code = time.monotonic() - began, container.wait_exited(END)["exitCode"]
    assert code == 143, code
    assert took < 10, f"it took {took:.1f} s"
    return f"143 after {took:.1f} s"


FEATURES: Mapping[str, Callable[[Case], str]] = {
    "output": output,
    "exit code": exit_code,
    "args, env": arguments,
    "volume": volume,
    "stdin": stdin,
    "clock, random": clock,
    "listen": listen,
    "connect": connect,
    "look-up": look_up,
    "wasi:http": wasi_http,
    "SIGTERM": stop,
}
MARKS = {"passed": "[green]yes[/]", "failed": "[red]NO[/]", "lacking": "[dim]-[/]"}


class Report:
    """Rows as they come, the reasons for what is not "yes", and the totals."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.passed = 0
        self.failed = 0
        self.notes: list[str] = []

    def count(self, what: str, attempt: Callable[[], str], *, show: bool = True) -> bool:
        """Makes one attempt; True when it passed."""
        try:
            said = attempt()
        except (RigError, AssertionError, OSError) as error:
            self.failed += 1
            text = str(error).strip().splitlines()
            self.notes.append(f"[red]{what}: {_escaped(' / '.join(text[-4:]))}[/]")
            if show:
                self.console.print(f"{MARKS['failed']}  {what}")
            return False
        self.passed += 1
        if show:
            self.console.print(f"{MARKS['passed']} {what}: {_escaped(said)}")
        return True


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


def _images(built: Mapping[str, Path], guest: Guest, *, server: bool) -> list[Image]:
    module = built[guest.title + (" server" if server else "")].read_bytes()
    names = [name(guest, kind, server=server) for kind in KINDS]
    return [images.rootfs_wasm(names[0], module), images.layer_wasm(names[1], module)]


def _build(report: Report) -> tuple[dict[str, Path], list[Guest]]:
    """Builds what can be; says of each other guest why it can't."""
    built: dict[str, Path] = {}
    found = []
    for guest in GUESTS:
        try:
            built[guest.title] = guest.build()
            if guest.server:
                built[f"{guest.title} server"] = guest.server()
        except Absent as error:
            report.notes.append(f"[yellow]{guest.title}: not built here: {_escaped(str(error))}[/]")
            continue
        found.append(guest)
    return built, found


def _guest_rows(report: Report, pods: Pods, found: Sequence[Guest], peer: str) -> Table:
    table = Table(title="guests", title_justify="left")
    table.add_column("guest")
    table.add_column("image")
    for feature in FEATURES:
        table.add_column(feature)
    reasons: dict[str, str] = {}
    for guest in GUESTS:
        if guest not in found:
            table.add_row(guest.title, "", "not built: see below")
            continue
        for kind in KINDS:
            cells = []
            pod = pods.run(f"table-{len(table.rows)}", annotations=dict(guest.annotations))
            case = Case(pod, guest, kind, peer)
            for feature, attempt in FEATURES.items():
                if feature in guest.lacks:
                    reasons[f"{guest.title}, {feature}"] = guest.lacks[feature]
                    cells.append(MARKS["lacking"])
                    continue
                what = f"{guest.title}, {kind}, {feature}"
                good = report.count(what, lambda c=case, a=attempt: a(c), show=False)  # type: ignore[misc]
                cells.append(MARKS["passed" if good else "failed"])
            table.add_row(guest.title, kind, *cells)
            pod.remove()
    report.notes += [f"- {where}: {why}" for where, why in reasons.items()]
    return table


def main(wanted: str, handler: str, focus: str) -> int:
    """Prints the tables and the totals; 1 when a row failed."""
    console = Console(width=max(Console().width, 150))
    report = Report(console)
    with console.status("building the guests"):
        built, found = _build(report)
    try:
        _rows(report, wanted, handler, focus, built, found)
    finally:
        for note in report.notes:
            console.print(note)
    console.print(f"{report.passed} passed, {report.failed} failed", highlight=False)
    return 1 if report.failed else 0


def _rows(
    report: Report,
    wanted: str,
    handler: str,
    focus: str,
    built: Mapping[str, Path],
    found: Sequence[Guest],
) -> None:
    with Cell() as cell, Containerd(cell, wanted) as node:
        pods = Pods(node, handler)
        catalogue = [images.pause()]
        for guest in found:
            catalogue += _images(built, guest, server=False)
            catalogue += _images(built, guest, server=True) if guest.server else []
        archive = images.archive(cell.home / "images.tar", catalogue)
        node.import_image(archive, namespace="k8s.io")
        before = leaks.take(node)
        if re.search(focus, "guests"):
            with _peer(pods, found) as peer:
                report.console.print(_guest_rows(report, pods, found, peer))
        compiling.rows(report, pods, focus)
        go_std.rows(report, pods, focus)
        report.count("nothing is left behind", lambda: _settled(node, before))


@contextmanager
def _peer(pods: Pods, found: Sequence[Guest]) -> Iterator[str]:
    """A server to which the guests talk: its address, or nothing if no component was built."""
    server = next((guest for guest in found if guest.build is components.wasm_c), None)
    if server is None:
        yield ""
        return
    pod = pods.run("peer")
    pod.start("peer", name(server, "layer"), ["serve", PORT]).wait_log("serving", END)
    yield str(pod.inspect()["status"]["network"]["ip"])
    pod.remove()


def _settled(node: Containerd, before: leaks.Count) -> str:
    leaks.settled(node, before)
    return "processes, mounts, cgroups, namespaces and files are as before"
