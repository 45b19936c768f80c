#!/usr/bin/env python3
"""Builds the deb and rpm packages: stages every file, then lets nfpm pack them.

Nothing of the machine gets into a package: no time but SOURCE_DATE_EPOCH (the last commit's),
no name, no order of a directory. nfpm is found in the cache or built from its Go module.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import bundle
import sbom

HERE = Path(__file__).parent
NFPM = "github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.0"
LIB = "usr/lib/copepod"
DOC = "usr/share/doc/copepod"
UNITS = "usr/lib/systemd"
RPM_LICENSES = "usr/share/licenses/copepod"
LICENSES = "Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND BSD-3-Clause AND MIT AND PSF-2.0"
LAUNCHERS = {
    "usr/bin/copepod": ("Copepod's command line tool: copepod(1).", "tool.py"),
    "usr/bin/containerd-shim-copepod-v1": (
        "containerd runs this for each pod: containerd-shim-copepod-v1(8).",
        "shim.py",
    ),
    f"{LIB}/zygote": ("The fork server, which systemd starts when it is wanted.", "zygote.py"),
}
MAN = {"copepod.1": "man1", "copepod.toml.5": "man5", "containerd-shim-copepod-v1.8": "man8"}


def main() -> None:
    """Command line: which architectures and formats, where to, where the cache is."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "copepod"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", action="append", choices=tuple(bundle.MACHINES))
    parser.add_argument("--format", action="append", choices=("deb", "rpm"))
    parser.add_argument("--output", type=Path, default=bundle.ROOT / "build/packages")
    parser.add_argument("--cache", type=Path, default=cache)
    parser.add_argument("--release", default="1")
    parser.add_argument("--stage-only", action="store_true", help="lay the files out, pack nothing")
    parser.add_argument("--opt", action="store_true", help="lay out the node installer's tree")
    parser.add_argument("--relock", action="store_true", help="write wheels.lock anew and stop")
    args = parser.parse_args()
    if args.relock:
        bundle.relock(args.cache / "wheels")
        return
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _commit_time())
    args.output.mkdir(parents=True, exist_ok=True)
    for arch in args.arch or bundle.MACHINES:
        if args.opt:
            opt = args.output / "stage" / f"opt-{arch}"
            print(f"{arch}: {lay_out_opt(opt, arch, args.cache / 'wheels')} in {opt}")
            continue
        stage = args.output / "stage" / arch
        identity = lay_out(stage, arch, args.cache / "wheels", epoch)
        print(f"{arch}: {identity}, {_size(stage) / 1e6:.1f} MB installed")
        for kind in () if args.stage_only else args.format or ("deb", "rpm"):
            target = pack(stage, arch, kind, args, epoch)
            print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


def _commit_time() -> str:
    argv = ["git", "log", "-1", "--format=%ct"]
    return subprocess.run(argv, cwd=HERE, check=True, capture_output=True, text=True).stdout


def version() -> str:
    """The version of the package `copepod`."""
    text: str = (bundle.ROOT / "shim/copepod/__init__.py").read_text()
    return text.partition('__version__ = "')[2].partition('"')[0]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def lay_out(stage: Path, arch: str, cache: Path, epoch: int) -> str:
    """Every file of the package below `stage`; gives the tree's name."""
    shutil.rmtree(stage, ignore_errors=True)
    machine = bundle.MACHINES[arch]
    tree, licences = bundle.assemble(cache, machine)
    programs = {path.name: path.read_bytes() for path in (HERE / "files/tree").iterdir()}
    tree.update(programs)
    identity = f"{version()}-{bundle.identity(tree)}"
    files = {f"{LIB}/dist/{identity}/{name}": data for name, data in tree.items()}
    files[f"{LIB}/dist/name"] = f"{identity}\n".encode()
    for name in ("admin", "find-python"):
        files[f"{LIB}/{name}"] = (HERE / "files" / name).read_bytes()
    files |= {name: launcher(name, f"/{LIB}") for name in LAUNCHERS}
    for name in ("copepod-zygote.service", "copepod-zygote.socket"):
        files[f"{UNITS}/system/{name}"] = (HERE / "systemd" / name).read_bytes()
    files["etc/copepod/config.toml"] = (HERE / "files/config.toml").read_bytes()
    for name, section in MAN.items():
        page = (bundle.ROOT / "docs/man" / name).read_bytes()
        files[f"usr/share/man/{section}/{name}.gz"] = gzip.compress(page, 9, mtime=0)
    files |= {f"{DOC}/licenses/{name}": data for name, data in licences.items()}
    bom = sbom.document(bundle.fetch(cache, machine), version(), arch, epoch, identity)
    files[f"{DOC}/copepod.cdx.json"] = bom
    files[f"{DOC}/copyright"] = (HERE / "files/copyright").read_bytes()
    files["usr/share/lintian/overrides/copepod"] = (HERE / "files/lintian-overrides").read_bytes()
    for name, data in files.items():
        path = stage / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o755 if _executable(name) else 0o644)
    return identity


def lay_out_opt(stage: Path, arch: str, cache: Path) -> str:
    """The tree for /opt/copepod, which brings no units and no pages; gives its name."""
    shutil.rmtree(stage, ignore_errors=True)
    tree, licences = bundle.assemble(cache, bundle.MACHINES[arch])
    tree.update({path.name: path.read_bytes() for path in (HERE / "files/tree").iterdir()})
    identity = f"{version()}-{bundle.identity(tree)}"
    files = {f"dist/{identity}/{name}": data for name, data in tree.items()}
    files |= {f"dist/licenses/{name}": data for name, data in licences.items()}
    files["dist/name"] = f"{identity}\n".encode()
    for name in ("admin", "find-python"):
        files[name] = (HERE / "files" / name).read_bytes()
    for name in LAUNCHERS:
        target = "zygote" if name.endswith("zygote") else name.removeprefix("usr/")
        files[target] = launcher(name, "/opt/copepod")
    for name, data in files.items():
        path = stage / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o644 if name.startswith("dist/") else 0o755)
    return identity


def _executable(name: str) -> bool:
    return name in LAUNCHERS or name in {f"{LIB}/admin", f"{LIB}/find-python"}


def launcher(name: str, top: str) -> bytes:
    """One of the three programs, for a tree at `top`."""
    what, entry = LAUNCHERS[name]
    text = (HERE / "files/launch.in").read_text()
    return text.replace("@WHAT@", what).replace("@TOP@", top).replace("@ENTRY@", entry).encode()


def _changelog(epoch: int, release: str) -> list[dict[str, object]]:
    """In nfpm's form, from which it makes each format's own."""
    return [
        {
            "semver": f"{version()}-{release}",
            "date": _rfc(epoch),
            "packager": "The Copepod developers <copepod@copepod.dev>",
            "deb": {"distributions": ["unstable"], "urgency": "medium"},
            "changes": [{"note": "see the project's history for what is new in this version"}],
        }
    ]


def pack(stage: Path, arch: str, kind: str, args: argparse.Namespace, epoch: int) -> Path:
    """One package by nfpm; its configuration is JSON, which is YAML."""
    config = json.loads((HERE / "nfpm.json").read_text())
    config |= {"arch": arch, "version": version(), "release": args.release, "mtime": _rfc(epoch)}
    config["contents"] = _contents(stage, kind)
    changes = stage.parent / "changelog.json"
    changes.write_text(json.dumps(_changelog(epoch, args.release)))
    config["changelog"] = str(changes)
    if kind == "rpm":
        config["license"] = LICENSES
    path = stage.parent / f"nfpm-{arch}-{kind}.json"
    path.write_text(json.dumps(config))
    names = {
        "deb": f"copepod_{version()}-{args.release}_{arch}.deb",
        "rpm": f"copepod-{version()}-{args.release}.{bundle.MACHINES[arch]}.rpm",
    }
    target: Path = args.output / names[kind]
    subprocess.run(
        [_nfpm(args.cache), "package", "-f", path, "-p", kind, "-t", target],
        check=True, stdout=subprocess.DEVNULL, cwd=HERE,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
    )  # fmt: skip
    return target


def _rfc(epoch: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _contents(stage: Path, kind: str) -> list[dict[str, object]]:
    """Every staged file and the directories that are ours, sorted."""
    made: list[dict[str, object]] = []
    for path in sorted(stage.rglob("*")):
        name = path.relative_to(stage)
        if path.is_dir():
            if kind == "rpm" and "licenses" in name.parts:
                folder = str(name).replace(f"{DOC}/licenses", RPM_LICENSES)
                made.append({"dst": f"/{folder}", "type": "dir", "file_info": {"mode": 0o755}})
                continue
            if any(str(name).startswith(one) for one in (LIB, DOC, "etc/copepod")):
                made.append({"dst": f"/{name}", "type": "dir", "file_info": {"mode": 0o755}})
            continue
        if kind != "deb" and ("lintian" in name.parts or name.name == "copyright"):
            continue
        one: dict[str, object] = {"src": str(path), "dst": f"/{name}"}
        one["file_info"] = {"mode": path.stat().st_mode & 0o777, "owner": "root", "group": "root"}
        if str(name).startswith("etc/"):
            one["type"] = "config|noreplace"
        elif kind == "rpm" and "licenses" in name.parts:
            one |= {
                "type": "license",
                "dst": f"/{str(name).replace(f'{DOC}/licenses', RPM_LICENSES)}",
            }
        elif kind == "rpm" and str(name).startswith("usr/share/"):
            one["type"] = "doc"
        made.append(one)
    return made


def _nfpm(cache: Path) -> str:
    path = cache / "bin/nfpm"
    if not path.exists():
        env = {**os.environ, "GOBIN": str(path.parent), "GOFLAGS": "-trimpath"}
        subprocess.run(["go", "install", NFPM], check=True, env=env)
    return str(path)


if __name__ == "__main__":
    main()
