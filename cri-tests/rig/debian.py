"""Debian packages: installs tools, and unpacks daemons without installing them.

It never installs a package that would start a service: those are unpacked into the cache.
"""

import fcntl
import functools
import os
import platform
import shutil
from collections.abc import Iterable
from pathlib import Path

from rig.paths import cache_dir
from rig.shell import RigError, run

APT_TIMEOUT = 900.0


def _apt(*words: str, cwd: Path | None = None) -> None:
    env = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    # The machine's own apt may be at work: apt waits for it, where it is asked to (apt.conf(5)).
    wait = ["-o", f"DPkg::Lock::Timeout={APT_TIMEOUT:.0f}"]
    run(["apt-get", "-q", "-y", *wait, *words], timeout=2 * APT_TIMEOUT, env=env, cwd=cwd)


def installed(package: str) -> bool:
    """True when dpkg says that the package is installed and configured."""
    done = run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package], check=False)
    return done.out == "installed"


def candidate(package: str) -> str:
    """The version that apt would take; empty when it knows none."""
    done = run(["apt-cache", "policy", package], check=False)
    for line in done.out.splitlines():
        if line.strip().startswith("Candidate:"):
            version = line.split(":", 1)[1].strip()
            return "" if version == "(none)" else version
    return ""


def _lists() -> None:
    """Brings apt's package lists when there are none."""
    if not candidate("base-files") or not any(Path("/var/lib/apt/lists").glob("*Packages*")):
        _apt("update")


def need(*packages: str) -> None:
    """Installs those of the packages that are missing. Tools only, nothing with a service."""
    missing = [package for package in packages if not installed(package)]
    if not missing:
        return
    if os.geteuid() != 0:
        raise RigError(f"these Debian packages are missing: {' '.join(missing)}")
    with _locked():
        _lists()
        _apt("install", "--no-install-recommends", *missing)


def need_command(command: str, *packages: str) -> str:
    """The path of a command, after installing the packages when it is not there."""
    if not shutil.which(command):
        need(*packages)
    found = shutil.which(command)
    if not found:
        raise RigError(f"{command} is not on PATH, though {' '.join(packages)} is installed")
    return found


@functools.cache
def unpacked(package: str) -> Path:
    """The tree of a package of the newest version that apt knows, unpacked in the cache."""
    version = candidate(package)
    if version and _home(package, version).is_dir():
        return _home(package, version)
    with _locked():
        _lists()
        version = candidate(package)
        if not version:
            raise RigError(f"apt knows no package {package}: run apt-get update")
        home = _home(package, version)
        if home.is_dir():
            return home
        stage = home.with_name(f".{home.name}.{os.getpid()}")
        stage.mkdir(parents=True)
        try:
            _apt("download", package, cwd=stage)
            (archive,) = stage.glob("*.deb")
            run(["dpkg", "-x", archive, stage / "tree"], timeout=120)
            (stage / "tree").rename(home)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    return home


def _home(package: str, version: str) -> Path:
    name = f"{package}_{version.replace('/', '_').replace(':', '_')}"
    return cache_dir() / "debian" / name


class _locked:
    """One process of ours at a time talks to apt."""

    def __enter__(self) -> None:
        self._file = (cache_dir() / "apt.lock").open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()


def release() -> str:
    """The Debian release, as in os-release(5): "12", "13"; empty on another system."""
    fields = platform.freedesktop_os_release()
    return fields.get("VERSION_ID", "") if fields.get("ID") == "debian" else ""


def newest(prefix: str, names: Iterable[str]) -> str:
    """The name with the highest number after `prefix`, as in libclang-rt-19-dev-wasm32."""

    def number(name: str) -> int:
        digits = name.removeprefix(prefix).split("-", 1)[0]
        return int(digits) if digits.isdigit() else -1

    return max(names, key=number, default="")
