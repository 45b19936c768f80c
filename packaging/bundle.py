"""The private tree of the packages: our code and the wheels that it needs, for one architecture.

It fetches only what wheels.lock names, with the digest that stands there, and keeps what is needed
at run time.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = Path(__file__).parent / "wheels.lock"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# One wheel for all machines and Pythons, one per machine, one per machine and Python.
PURE = ("jeepney", "pyroute2", "pyseccomp", "rich", "typing_extensions")
PER_MACHINE = ("protobuf", "wasmtime")
PER_PYTHON = ("grpcio",)
SOURCES = ("shim/copepod", "api/copepod_api", "api/ttrpc/ttrpc")

# Not needed at run time: compilers and tests, type stubs, headers, the Python half of wasmtime
# (engine/capi.py binds the library itself), TLS roots (our only channel is a unix socket), and
# the parts of rich that want further packages.
_DROPPED = re.compile(
    r"\.pyi$|\.pxd$|\.pyx$|\.h$|(^|/)py\.typed$|(^|/)tests?/|^google/protobuf/(compiler|testing)/"
    r"|^wasmtime/(?!linux-[^/]+/_libwasmtime\.so$)|^grpc/_cython/_credentials/"
    r"|^pyroute2/config/test_platform\.py$"
    r"|^rich/(markdown|syntax|traceback)\.py$"
    r"|\.dist-info/(RECORD|WHEEL|top_level\.txt|entry_points\.txt|REQUESTED|INSTALLER)$"
    r"|\.data/scripts/"
)


@dataclass(frozen=True, slots=True)
class Wheel:
    """One file of the lock."""

    file: str
    sha256: str

    @property
    def name(self) -> str:
        """The distribution, as wheels spell it."""
        return self.file.split("-")[0]

    @property
    def version(self) -> str:
        """Its version."""
        return self.file.split("-")[1]

    @property
    def python(self) -> str:
        """The `cp311` of a wheel for one CPython; "" when it serves all."""
        tags = self.file.removesuffix(".whl").split("-")[2:4]
        return tags[0] if tags[0] == tags[1] else ""

    def serves(self, machine: str) -> bool:
        """True when its library is for `machine` (x86_64, aarch64) or it has none."""
        return self.file.endswith(("-any.whl", f"{machine}.whl"))


def locked() -> list[Wheel]:
    """The lock's wheels."""
    lines = [line.split() for line in LOCK.read_text().splitlines() if line[:1] not in ("#", "")]
    return [Wheel(file, digest) for digest, file in lines]


def fetch(cache: Path, machine: str) -> list[Path]:
    """The wheels for `machine`, from `cache` or the package index, with the locked digests."""
    cache.mkdir(parents=True, exist_ok=True)
    found = []
    for wheel in locked():
        if not wheel.serves(machine):
            continue
        path = cache / wheel.file
        if not path.exists():
            _download(wheel, machine, cache)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != wheel.sha256:
            raise SystemExit(f"{path} has digest {digest}, the lock says {wheel.sha256}")
        found.append(path)
    return found


def _download(wheel: Wheel, machine: str, cache: Path) -> None:
    python = wheel.python.removeprefix("cp") or "311"
    _pip(cache, machine, python, f"{wheel.name}=={wheel.version}")


def _pip(cache: Path, machine: str, python: str, requirement: str) -> None:
    platforms = [f"manylinux2014_{machine}", f"manylinux_2_17_{machine}",
                 f"manylinux_2_28_{machine}", "any"]  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
         "--implementation=cp", f"--python-version={python}", f"--dest={cache}",
         *[f"--platform={one}" for one in platforms], requirement],
        check=True,
    )  # fmt: skip


def relock(cache: Path) -> None:
    """Writes wheels.lock for the versions of requirements.lock."""
    text = (ROOT / "requirements.lock").read_text()
    versions = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", text, re.MULTILINE))
    known = {name.lower().replace("-", "_"): version for name, version in versions.items()}
    fresh = cache / "relock"
    for machine in MACHINES.values():
        for name in (*PURE, *PER_MACHINE):
            _pip(fresh, machine, "311", f"{name}=={known[name]}")
        for name in PER_PYTHON:
            for python in PYTHONS:
                _pip(fresh, machine, python.replace(".", ""), f"{name}=={known[name]}")
    lines = [
        "# The wheels in the packages: SHA-256 and file. `packaging/build.py --relock` writes it."
    ]
    for path in sorted(fresh.iterdir()):
        lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}")
        path.replace(cache / path.name)
    LOCK.write_text("\n".join(lines) + "\n")


def sources() -> dict[str, bytes]:
    """Our code by its place in the tree: the working tree without what git ignores."""
    found = {}
    for folder in SOURCES:
        listed = subprocess.run(
            ["git", "ls-files", "-zco", "--exclude-standard", "--", folder],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        parent = Path(folder).parent
        for name in filter(None, listed.stdout.decode().split("\0")):
            path = ROOT / name
            if path.is_file() and path.suffix not in (".pyi", ".typed"):
                found[str(Path(name).relative_to(parent))] = path.read_bytes()
    return found


def wheel_files(paths: list[Path]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What the wheels put into the tree, and their licences by `package/file`."""
    tree: dict[str, bytes] = {}
    licences: dict[str, bytes] = {}
    for path in paths:
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if name.endswith("/") or _DROPPED.search(name):
                    continue
                data = wheel.read(name)
                if re.search(r"\.dist-info/(licenses/)?(LICEN[CS]E|COPYING|NOTICE|AUTHORS)", name):
                    licences[f"{path.name.split('-')[0]}/{name.rpartition('/')[2]}"] = data
                    continue
                if tree.setdefault(name, data) != data and not name.endswith("/METADATA"):
                    raise SystemExit(f"{path.name}: {name} differs from another wheel's")
    return tree, licences


def assemble(cache: Path, machine: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The whole tree and the licences, by their names in it."""
    tree, licences = wheel_files(fetch(cache, machine))
    ours = sources()
    if clash := tree.keys() & ours.keys():
        raise SystemExit(f"a wheel brings a file of ours: {sorted(clash)[0]}")
    toolbox, theirs = guests()
    return {**tree, **ours, **toolbox}, {**licences, **theirs}


def guests() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The toolbox, which is the same for all machines, and the licences of what is in it."""
    subprocess.run([sys.executable, ROOT / "shim/guests/build.py"], check=True)
    built = ROOT / "build/guests"
    licences = {
        f"toolbox/{path.name}": path.read_bytes() for path in (built / "licenses").iterdir()
    }
    return {"guests/toolbox.wasm": (built / "toolbox.wasm").read_bytes()}, licences


def identity(tree: dict[str, bytes]) -> str:
    """A name for exactly these bytes: two builds of one version may live side by side."""
    total = hashlib.sha256()
    for name in sorted(tree):
        total.update(f"{name}\0{hashlib.sha256(tree[name]).hexdigest()}\n".encode())
    return total.hexdigest()[:10]
