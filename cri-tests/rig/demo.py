"""One screen that shows a wasm program in a pod: its output, volume, statistics and events.

It uses a private containerd and removes all that it made; the machine's own is not touched.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rig import images, leaks
from rig.cell import Cell
from rig.containerd import DEBIAN, Containerd, debian_runc
from rig.cri import Container, Pod, Pods
from rig.oci import Image
from rig.piped import Piped

KINDS = {"create": "cyan", "start": "green", "exit": "yellow", "delete": "magenta"}


def main(wanted: str, handler: str) -> int:
    """Runs the demonstration."""
    console = Console()
    with ExitStack() as stack:
        with console.status("getting a containerd, its tools and a guest ready"):
            cell = stack.enter_context(Cell())
            node = Containerd(cell, wanted, runc=debian_runc() if wanted == DEBIAN else None)
            catalogue = _catalogue(handler)
        with console.status("starting a private containerd"):
            stack.enter_context(node)
            archive = images.archive(cell.home / "images.tar", catalogue)
            node.import_image(archive, namespace="k8s.io")
            node.wait_cri()
        _show(console, node, handler)
    console.print("[green]all of it is removed: nothing was left by the runtime[/]")
    return 0


def _show(console: Console, node: Containerd, handler: str) -> None:
    volume = node.cell.home / "volume"
    volume.mkdir()
    (volume / "greeting").write_text("a line that the host wrote\n")
    console.rule(f"containerd {node.release.version}, runtime handler [bold]{handler}[/]")
    with Piped(node.cell.inside(node.ctr_argv("events", namespace="k8s.io"))) as events:
        before = leaks.take(node)
        pod = Pods(node, handler).run("demo", hostname="copepod-demo")
        try:
            counting = _tour(console, pod, volume)
            console.print(_containers(node), _stats(node, counting))
            counting.stop()
        finally:
            pod.remove()
        leaks.settled(node, before)
        events.expect("/tasks/delete")
        console.print(_events(events.out))


def _catalogue(handler: str) -> list[Image]:
    wasm = images.good_wasm(layers=False) if handler == "copepod" else []
    return [images.pause(), images.busybox(), *wasm]


def _tour(console: Console, pod: Pod, volume: Path) -> Container:
    """Three containers of one pod: one says hello, one writes and reads, one goes on."""
    wasm = pod.pods.handler == "copepod"
    image = images.GO_ROOTFS if wasm else images.BUSYBOX

    def command(*words: str, script: str) -> list[str]:
        return [images.MODULE, *words] if wasm else ["sh", "-c", script]

    def start(name: str, argv: Sequence[str]) -> Container:
        return pod.start(
            name,
            image,
            command=list(argv),
            envs=[{"key": "GREETING", "value": "from the pod's spec"}],
            volumes={volume: "/data"},
        )

    hello = start("hello", command("hello", "wasm", script="echo hello; env"))
    hello.wait_exited()
    text, path = "a line that the guest wrote", "/data/greeting"
    write = start("writer", command("write", path, text, script=f"echo {text} >> {path}"))
    write.wait_exited()
    read = start("reader", command("read", path, script=f"cat {path}"))
    read.wait_exited()
    for title, log in (("crictl logs hello", hello.log), (f"crictl logs reader: {path}", read.log)):
        console.print(Panel(Text(log.rstrip()), title=title, title_align="left"))
    loop = 'i=0; while :; do echo "line $i"; i=$((i+1)); sleep 1; done'
    counting = start("counting", command("count", "200", script=loop))
    counting.wait_log("line 1")
    return counting


def _containers(node: Containerd) -> Table:
    table = _table("crictl ps -a", "container", "name", "state", "image")
    for one in node.crictl_json("ps", "-a", "-o", "json")["containers"]:
        state = one["state"].removeprefix("CONTAINER_").lower()
        name = one["metadata"]["name"]
        table.add_row(one["id"][:12], name, state, one["image"]["image"])
    return table


def _stats(node: Containerd, container: Container) -> Table:
    table = _table("crictl stats", "container", "name", "cpu", "memory")
    for one in node.crictl_json("stats", "-o", "json", "--id", container.id)["stats"]:
        cpu = int(one["cpu"]["usageCoreNanoSeconds"]["value"]) / 1e6
        memory = int(one["memory"]["workingSetBytes"]["value"]) / 1e6
        name = one["attributes"]["metadata"]["name"]
        table.add_row(container.id[:12], name, f"{cpu:.1f} ms", f"{memory:.1f} MB")
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="dim")
    for heading in headings:
        table.add_column(heading)
    return table


def _events(text: str) -> Table:
    """The task events as containerd published them."""
    table = _table("ctr events", "time", "topic", "container", "pid", "exit status")
    for line in text.splitlines():
        words = line.split(" ", 6)
        if len(words) < 7 or "/tasks/" not in line:
            continue
        topic, body = words[5], json.loads(words[6])
        colour = KINDS.get(topic.rsplit("/", 1)[1], "white")
        status = str(body.get("exit_status", 0)) if "exited_at" in body else ""
        table.add_row(
            words[1][:12],
            f"[{colour}]{topic}[/]",
            body.get("container_id", "")[:12],
            str(body.get("pid", "")),
            status,
        )
    return table
