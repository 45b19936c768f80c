"""Go's own tests of its standard library, built for preview 1: inside a container of ours and under
the plain wasmtime package, outcome by outcome.

It judges no outcome by itself: a test that fails in both places is the port's.
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from rig import images, tools
from rig.cri import Pods
from rig.guests import BUILD_TIMEOUT
from rig.shell import Done, run

PACKAGES = ("os", "io/fs", "time", "strings", "net/http")
FLAGS = ("-test.v", "-test.short", "-test.timeout=600s")
LIMIT = 700.0
HOST = "std.copepod.test"
# Runs a module as a container would, with nothing but the package; its code becomes the exit code.
PLAIN = """
import os, sys
import wasmtime
module, *argv = sys.argv[1:]
engine = wasmtime.Engine()
store, linker = wasmtime.Store(engine), wasmtime.Linker(engine)
linker.define_wasi()
wasi = wasmtime.WasiConfig()
wasi.argv = ["/guest.wasm", *argv]
wasi.env = [*os.environ.items(), ("PWD", os.getcwd())]
for stream in (wasi.inherit_stdin, wasi.inherit_stdout, wasi.inherit_stderr):
    stream()
wasi.preopen_dir("/", "/")
store.set_wasi(wasi)
instance = linker.instantiate(store, wasmtime.Module.from_file(engine, module))
try:
    instance.exports(store)["_start"](store)
except wasmtime.ExitTrap as end:
    sys.stdout.flush()
    os._exit(end.code)
"""


class Report(Protocol):
    """Where the rows go."""

    def count(self, what: str, attempt: Callable[[], str], *, show: bool = True) -> bool: ...


def rows(report: Report, pods: Pods, focus: str) -> None:
    """A row for each package, if `focus` names them."""
    if not re.search(focus, "std"):
        return
    root = Path(run([tools.go(), "env", "GOROOT"]).out.strip())
    for package in PACKAGES:
        what = f"Go's tests of {package} end in a container as under the wasmtime package"
        report.count(what, lambda one=package: _compare(pods, root, one))  # type: ignore[misc]


def _compare(pods: Pods, root: Path, package: str) -> str:
    module = _build(pods.node.home, root, package)
    try:
        plain = _plain(module, root, package)
        ours = _ours(pods, module, root, package)
    finally:
        module.unlink()
    differ = [
        f"{name}: {ours.get(name)}, with the package alone {plain.get(name)}"
        for name in sorted(ours.keys() | plain.keys())
        if ours.get(name) != plain.get(name)
    ]
    assert not differ, "; ".join(differ[:20])
    counts = {word: list(ours.values()).count(word) for word in ("PASS", "SKIP", "FAIL")}
    assert counts["PASS"], "no test ran"
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def _build(folder: Path, root: Path, package: str) -> Path:
    target = folder / f"{package.replace('/', '-')}.wasm"
    env = {"GOOS": "wasip1", "GOARCH": "wasm"}
    argv = ["nice", tools.go(), "test", "-c", "-o", str(target), "."]
    run(argv, timeout=BUILD_TIMEOUT, env=env, cwd=root / "src" / package)
    return target


def _environment(root: Path) -> dict[str, str]:
    return {"HOME": "/root", "TMPDIR": "/tmp", "GOROOT": str(root), "PATH": f"{root}/bin"}


def _ours(pods: Pods, module: Path, root: Path, package: str) -> Mapping[str, str]:
    """In a pod of its own; the library's sources, where its tests look for files, are a volume."""
    word = module.stem
    name = f"{HOST}/{word}:1"
    image = images.rootfs_wasm(name, module.read_bytes())
    archive = images.archive(module.with_suffix(".tar"), [image])
    pods.node.import_image(archive, namespace="k8s.io")
    archive.unlink()
    pod = pods.run(f"std-{word}")
    envs = [{"key": key, "value": value} for key, value in _environment(root).items()]
    container = pod.start(
        "tests",
        name,
        FLAGS,
        volumes={root: str(root)},
        envs=envs,
        working_dir=str(root / "src" / package),
    )
    code = container.wait_exited(LIMIT)["exitCode"]
    found = _outcomes(container.log, code)
    pod.remove()
    return found


def _plain(module: Path, root: Path, package: str) -> Mapping[str, str]:
    argv = ["env", "-i", *(f"{name}={value}" for name, value in _environment(root).items())]
    done: Done = run(
        [*argv, sys.executable, "-c", PLAIN, module, *FLAGS],
        timeout=LIMIT,
        cwd=root / "src" / package,
        check=False,
    )
    return _outcomes(done.out, done.code)


def _outcomes(text: str, code: int) -> Mapping[str, str]:
    """Test -> PASS, FAIL or SKIP; how the run itself ended counts as a test, too."""
    found = {name: word for word, name in re.findall(r"^ *--- (\w+): (\S+)", text, re.M)}
    return found | {"(the run)": "PASS" if code == 0 else f"exit code {code}"}
