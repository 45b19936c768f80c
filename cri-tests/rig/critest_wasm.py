"""CRI's validation suite with wasm images: the tools are the toolbox, the web servers are guests.

What wasm can't pass by its nature is listed here, each with the reason; all else must pass.
"""

import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rig import components, critest, critest_images, guests, images, oci
from rig.critest_images import E2E, HOST_PORT, STAGING
from rig.oci import Entry, Image
from rig.shell import run

Specs = Mapping[str, critest.Spec]

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

_MOUNT = "Container Mount Propagation runtime should support mount propagation mount with"
_OOM = "Container OOM runtime should output OOMKilled reason"
_CONTEXT = "Security Context"
_NAMESPACE = f"{_CONTEXT} NamespaceOption runtime should support"
_SECCOMP = f"{_CONTEXT} SeccompProfilePath"
_BUCKET = f"{_CONTEXT} bucket runtime should support"

# Why no wasm program can pass a spec -> the specs. docs/critest-wasm.md says the same.
_REASONS = {
    "WASI has no call to mount anything, which the spec does inside the container.": (
        f"{_MOUNT} 'rprivate' should not support propagation",
        f"{_MOUNT} 'rshared' should support propagation from host to container and vice versa",
        f"{_MOUNT} 'rslave' should support propagation from host to container",
    ),
    "A guest's memory ends below the container's limit: its own allocation fails, and the kernel "
    "never has to kill it.": (f"{_OOM} should terminate with exitCode 137 and reason OOMKilled",),
    "WASI has no process ids: the web server can't write the pid file that the spec reads.": (
        f"{_NAMESPACE} HostPID",
    ),
    "WASI has no call that sets the host's name.": (
        f"{_SECCOMP} runtime should ignore a seccomp profile that blocks setting hostname when "
        "privileged",
        f"{_SECCOMP} runtime should not block setting host name with unconfined seccomp and "
        "SYS_ADMIN",
    ),
    "WASI has no call that changes a mode: there is no `chmod` for the profile to deny.": (
        f"{_SECCOMP} should support seccomp localhost profile on the container",
    ),
    "WASI has no ioctl, by which `brctl` makes the bridge that the spec looks for.": (
        f"{_BUCKET} Privileged is true",
        f"{_BUCKET} adding capability",
    ),
    "WASI has no raw sockets: there is no `ping` to be denied one.": (
        f"{_BUCKET} dropping capability",
    ),
}
CANT: Mapping[str, str] = {name: why for why, names in _REASONS.items() for name in names}


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
    """A web server of one page, over wasi:sockets, among the tools. It says the title that specs
    look for: nginx's in its arguments, httpd's in its log."""
    program = Entry("server.wasm", components.wasm_c().read_bytes())
    title = f"{name.rpartition('/')[2].partition(':')[0]}: master process"
    return tools(name, (program,), Cmd=["/server.wasm", "serve", port, PAGE, title])


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
    critest.prepare([wanted])
    wasm = critest.Images(catalogue, _flags)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(critest.run_suite, wanted, "runc", focus=focus)
        two = pool.submit(critest.run_suite, wanted, "copepod", focus=focus, keep=keep, images=wasm)
        runc, ours = one.result(), two.result()
    console.print(_table(f"critest with wasm images, containerd {wanted}", runc, ours))
    bad = judge(runc, ours)
    for name, why in bad.items():
        console.print(f"{name}: {why[:600]}", markup=False, style="red")
    outcomes = [spec.outcome for spec in ours.values()]
    excused = sum(name in CANT and spec.outcome == "failed" for name, spec in ours.items())
    neither = sum(
        spec.outcome == "failed" and name not in CANT and name not in bad
        for name, spec in ours.items()
    )
    console.print(
        f"copepod, wasm: {excused} can't pass, {neither} fail with runc too, "
        f"{outcomes.count('skipped')} skipped",
        highlight=False,
    )
    console.print(f"{outcomes.count('passed')} passed, {len(bad)} failed", highlight=False)
    return 1 if bad else 0


def judge(runc: Specs, ours: Specs) -> dict[str, str]:
    """The specs that are not as they have to be, and what is wrong: what runc passes ours passes,
    but for those that can't, and these fail."""
    bad = {}
    for name, spec in ours.items():
        if name in CANT:
            if spec.outcome == "passed":
                bad[name] = f"it passes: take it off the list ({CANT[name]})"
        elif name in runc and runc[name].outcome == "passed" and spec.outcome != "passed":
            bad[name] = spec.why or spec.outcome
    missing = {name for name, spec in runc.items() if spec.outcome == "passed"} - ours.keys()
    return bad | dict.fromkeys(missing, "it is not in our report")


def _table(title: str, runc: Specs, ours: Specs) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("spec", "runc, busybox", "copepod, wasm", "why not"):
        table.add_column(heading, overflow="fold")
    skipped = critest.Spec("", "skipped")
    for name in sorted(runc.keys() | ours.keys()):
        first, second = (side.get(name, skipped) for side in (runc, ours))
        if {first.outcome, second.outcome} != {"skipped"}:
            marks = (critest.MARKS[first.outcome], critest.MARKS[second.outcome])
            table.add_row(escape(name), *marks, CANT.get(name, ""))
    return table
