"""The package for arm64, on another machine: qemu runs its programs in a root of Debian's arm64."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from pathlib import Path

from packages import inside, made, roots
from rig import debian, guests
from rig.shell import run

EMULATOR = "qemu-aarch64-static"
AARCH64 = 183  # e_machine in an ELF header (elf(5))
PACKAGES = ("python3", "libseccomp2", "libstdc++6")
# What a container's process does with a guest, without the container.
GUEST = """
import os, platform, sys
sys.path.insert(0, sys.argv[1])
import grpc, google.protobuf.message, pyroute2, rich
from hashlib import sha256
from copepod.engine import compile, run
from copepod.engine.limits import Knobs
assert platform.machine() == "aarch64"
data = open(sys.argv[2], "rb").read()
knobs = Knobs()
profile = knobs.profile().at("winch")
fd = os.memfd_create("code")
compile.compile_to(data, fd, profile, sha256(data).digest())
loaded = run.load(fd, compile.kind(data), profile)
options = run.Options(args=["/guest.wasm", *sys.argv[3:]], knobs=knobs)
sys.exit(run.link(loaded, options).run())
"""


def libraries(tree: Callable[[], Path]) -> str:
    """Every shared library is of that machine, and there is one of grpcio for each CPython."""
    found = sorted(tree().rglob("*.so"))
    for path in found:
        head = path.read_bytes()[:20]
        assert head[:4] == b"\x7fELF", path
        assert int.from_bytes(head[18:20], "little") == AARCH64, path
    pythons = [path.name.split(".")[1] for path in found if path.name.startswith("cygrpc")]
    assert pythons == [f"cpython-3{minor}-aarch64-linux-gnu" for minor in (11, 12, 13, 14)], pythons
    return f"{len(found)} libraries"


def runs(tree: Callable[[], Path], work: Path) -> str:
    """-v and -info of the shim, and the C guest compiled and run by the bundled engine."""
    root = work / "arm64-root"
    run_by: list[str] = []
    base = roots.ensure("trixie", *PACKAGES, arch="arm64")
    run(["cp", "-a", base, root], timeout=120)
    run(["cp", "-a", f"{tree()}/.", root], timeout=120)
    if platform.machine() != "aarch64":
        program = debian.need_command(EMULATOR, "qemu-user-static")
        shutil.copy2(program, root / "usr/bin")
        run_by = [f"/usr/bin/{EMULATOR}"]
    private = f"/{made.private(root).relative_to(root)}"
    python = [*run_by, "/usr/bin/python3", "-ISB"]
    said = inside.call(root, [*python, f"{private}/shim.py", "-v"])
    assert (said.code, "io.containerd.copepod.v1" in said.out) == (0, True), said.text
    info = inside.call(root, [*python, f"{private}/shim.py", "-info"])
    assert info.code == 0, info.text
    assert "types.containerd.io/opencontainers/runtime-spec" in info.out, info.text
    shutil.copyfile(guests.wasm_c(), root / "guest.wasm")
    (root / "guest.py").write_text(GUEST)
    guest = [*python, "/guest.py", private, "/guest.wasm"]
    hello = inside.call(root, [*guest, "hello", "from arm64"])
    assert hello.code == 0, hello.text
    assert "from arm64" in hello.out, hello.text
    code = inside.call(root, [*guest, "exit", "5"]).code
    assert code == 5, code
    return f"{said.out.strip()}; -info {len(info.out)} characters; exit code {code}"
