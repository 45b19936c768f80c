"""CRI's validation suite with wasm images: the tools are the toolbox, the web servers are guests.

What wasm can't pass by its nature is listed here, each with the reason; all else must pass.
"""

import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rig import components, critest, critest_images, guests, images, oci
from rig.critest_images import E2E, HOST_PORT, STAGING
from rig.oci import Entry, Image
from rig.shell import run

TOOLS = "registry.k8s.io/copepod/toolbox:1"
SERVER = "registry.k8s.io/copepod/server:1"
PAGE = "<html><h1>Welcome to nginx!</h1><h1>It works!</h1></html>"

LIST = """
import sys
import wasmtime
store = wasmtime.Store()
linker = wasmtime.Linker(store.engine)
linker.define_wasi()
wasi = wasmtime.WasiConfig()
wasi.argv = ["toolbox", "--list"]
wasi.inherit_stdout()
store.set_wasi(wasi)
module = wasmtime.Module.from_file(store.engine, sys.argv[1])
linker.instantiate(store, module).exports(store)["_start"](store)
"""

# The name of a spec -> why no wasm program can pass it.
CANT: Mapping[str, str] = {}


def tools(name: str, extra: Iterable[Entry] = (), **fields: object) -> Image:
    """An image whose commands are links to one module, as busybox's are to one program."""
    module = guests.toolbox()
    names = _names(module)
    entries = [
        *(Entry(path, directory=True) for path in ("bin", "dev", "etc", "proc", "sys", "root")),
        *(Entry(path, directory=True) for path in ("home", "usr", "usr/bin", "var")),
        *(Entry(path, directory=True, mode=0o1777) for path in ("tmp", "var/tmp", "var/run")),
        Entry("bin/toolbox.wasm", module.read_bytes()),
        *(Entry(f"bin/{word}", link="bin/toolbox.wasm", hard=True) for word in names),
        Entry("etc/passwd", images.PASSWD.encode(), 0o644),
        Entry("etc/group", images.GROUP.encode(), 0o644),
        *extra,
    ]
    base = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    return Image(name, (oci.tar_layer(entries),), {**base, "Cmd": ["sh"], **fields})


def _names(module: Path) -> list[str]:
    """The tools, as the module itself lists them."""
    done = run([sys.executable, "-c", LIST, module], check=False)  # its exit is an exception
    return done.out.split()


def server(name: str, port: str = "80") -> Image:
    """A web server of one page, over wasi:sockets, among the tools."""
    program = Entry("server.wasm", components.wasm_c().read_bytes())
    return tools(name, (program,), Cmd=["/server.wasm", "serve", port, PAGE])


def catalogue() -> list[Image]:
    """The images of the suite in wasm; those that only are pulled and listed stay as they are."""
    ours = [
        tools(TOOLS),
        server(SERVER),
        tools(f"{E2E}/busybox:1.29-2"),
        server(f"{E2E}/nginx:1.14-2"),
        server(f"{E2E}/httpd:2.4.39-4"),
        server(f"{STAGING}/hostnet-nginx-{oci.machine()}:latest", HOST_PORT),
        *critest_images.users(tools),
    ]
    names = {image.name for image in ours}
    return [*ours, *(image for image in critest_images.catalogue() if image.name not in names)]


def _flags(home: Path) -> list[str]:
    path = home / "test-images.yaml"
    path.write_text(f"defaultTestContainerImage: {TOOLS}\nwebServerTestImage: {SERVER}\n")
    return [f"-test-images-file={path}"]


def main(wanted: str, focus: str, keep: Path | None) -> int:
    """Shows runc on Linux images beside ours on wasm images; 1 when a spec that must pass does not,
    or one that can't pass does."""
    console = Console(width=max(Console().width, 150))
    wasm = critest.Images(catalogue, _flags)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(critest.run_suite, wanted, "runc", focus=focus)
        two = pool.submit(critest.run_suite, wanted, "copepod", focus=focus, keep=keep, images=wasm)
        runc, ours = one.result(), two.result()
    table = Table(title=f"critest, containerd {wanted}", title_justify="left")
    for heading in ("spec", "runc, busybox", "copepod, wasm", "why not"):
        table.add_column(heading, overflow="fold")
    bad = []
    skipped = critest.Spec("", "skipped")
    for name in sorted(runc.keys() | ours.keys()):
        first, second = (side.get(name, skipped) for side in (runc, ours))
        if {first.outcome, second.outcome} == {"skipped"}:
            continue
        why = CANT.get(name, "")
        table.add_row(name, critest.MARKS[first.outcome], critest.MARKS[second.outcome], why)
        if (first.outcome == "passed" and second.outcome != "passed" and not why) or (
            why and second.outcome == "passed"
        ):
            bad.append(second)
    console.print(table)
    for spec in bad:
        said = (
            f"passes: take it off the list ({CANT[spec.name]})" if spec.name in CANT else spec.why
        )
        console.print(f"[red]{spec.name}[/]: {said.replace('[', chr(92) + '[')[:600]}")
    outcomes = [spec.outcome for spec in ours.values()]
    excused = sum(name in CANT and spec.outcome == "failed" for name, spec in ours.items())
    console.print(
        f"copepod, wasm: {outcomes.count('passed')} passed, {len(bad)} failed against what is said"
        f" of them, {excused} can't pass, {outcomes.count('skipped')} skipped"
    )
    console.print(f"{outcomes.count('passed')} passed, {len(bad)} failed", highlight=False)
    return 1 if bad else 0
