"""The package comes onto the node, and containerd learns of the runtime."""

from __future__ import annotations

import json
import os
from pathlib import Path

from vm.inside.node import PAYLOAD, Done, main_pid, run, show, systemctl, until
from vm.inside.report import check

DEB = str(PAYLOAD / "debs/copepod.deb")
CONFIG = Path("/etc/containerd/config.toml")
LONG = 900.0  # seconds: the whole tree is byte-compiled on an emulated processor


@check("the package is installed", vital=True)
def install() -> str:
    said = run("dpkg", "-i", DEB, timeout=LONG).text
    assert "copepod node install" in said, said
    tree, python = Path("/usr/lib/copepod/current").read_text().split()
    assert os.access(python, os.X_OK), python
    assert list(Path(tree, "copepod").glob("__pycache__/*.pyc")), "the tree is not byte-compiled"
    version = run("containerd-shim-copepod-v1", "-v").out
    assert "io.containerd.copepod.v1" in version, version
    return version.strip()


@check("its socket is enabled and listens, and the fork server waits to be wanted")
def socket_unit() -> None:
    assert systemctl("is-enabled", "copepod-zygote.socket").out.strip() == "enabled"
    state = show("copepod-zygote.socket", "ActiveState")["ActiveState"]
    assert state == "active", state
    assert main_pid("copepod-zygote.service") == 0


@check("the node's state before: status says so, doctor says what to do")
def before() -> None:
    assert run("copepod", "node", "status", check=False).code == 3
    done = doctor()
    assert done.code == 1, done.text
    findings = {one["check"]: one for one in json.loads(done.out)}
    assert findings["configuration"]["kind"] == "fail", findings
    assert "copepod node install" in findings["configuration"]["advice"], findings


def doctor(*words: str) -> Done:
    """`copepod doctor --json`."""
    return run("copepod", "doctor", "--json", *words, check=False, timeout=600)


@check("copepod node install writes containerd's configuration and restarts it", vital=True)
def node_install() -> str:
    old = CONFIG.read_text() if CONFIG.exists() else ""
    pid = main_pid("containerd.service")
    done = run("copepod", "node", "install", "--yes")
    text = CONFIG.read_text()
    kept = [line for line in old.splitlines() if line.strip() and line not in text]
    assert not kept, f"lines of the old configuration are gone: {kept}"
    assert main_pid("containerd.service") not in (0, pid), "containerd was not restarted"
    until("crictl to be answered", _answered)
    return done.out.splitlines()[0] if done.out else ""


def _answered() -> bool:
    return run(str(PAYLOAD / "bin/crictl"), "info", check=False).code == 0


@check("a second node install changes nothing")
def again() -> None:
    pid, text = main_pid("containerd.service"), CONFIG.read_text()
    run("copepod", "node", "install", "--yes")
    assert CONFIG.read_text() == text
    assert main_pid("containerd.service") == pid
    assert run("copepod", "node", "status", check=False).code == 0


@check("copepod doctor finds nothing wrong, and runs a container")
def healthy() -> str:
    done = doctor()
    findings = json.loads(done.out)
    bad = [f"{one['check']}: {one['text']}" for one in findings if one["kind"] in ("fail", "warn")]
    assert done.code == 0, bad
    (container,) = [one for one in findings if one["check"] == "container"]
    assert container["kind"] == "ok", container
    return f"{len(findings)} lines" + (f", warnings: {'; '.join(bad)}" if bad else "")
