"""A newer package, then none: pods that run are never touched."""

from __future__ import annotations

import os
from pathlib import Path

from vm.inside import leaks
from vm.inside.node import (
    BUSYBOX,
    MODULE,
    PAYLOAD,
    WASM,
    Pod,
    alive,
    crictl,
    main_pid,
    run,
    systemctl,
    until,
)
from vm.inside.package import DEB, LONG
from vm.inside.pods import counting
from vm.inside.report import check

NEWER = str(PAYLOAD / "debs/newer.deb")
VERSION = "99.0.0"
TOP = Path("/usr/lib/copepod")
UNITS = Path("/usr/lib/systemd/system")


def current() -> str:
    """The tree that new pods run from."""
    return (TOP / "current").read_text().split()[0]


def tree_of(pid: int) -> set[str]:
    """The trees that a process has libraries of in memory, or was started from."""
    text = Path(f"/proc/{pid}/maps").read_text()
    text += Path(f"/proc/{pid}/cmdline").read_text().replace("\0", "\n")
    return {word for line in text.splitlines() for word in TREES if word in line}


TREES: set[str] = set()


@check("upgraded while pods run: they go on from the old tree, new ones use the new one")
def upgraded() -> None:
    before = leaks.count()
    old = current()
    with Pod("old") as pod:
        wasm, native = counting(pod), pod.start("two", BUSYBOX, "sleep", "1000")
        wasm.says("line 1")
        pids = (pod.pid, pod.shim, wasm.pid, native.pid)
        run("dpkg", "-i", NEWER, timeout=LONG)
        new = current()
        TREES.update((old, new))
        assert new != old
        assert VERSION in run("containerd-shim-copepod-v1", "-v").out
        assert (pod.pid, pod.shim, wasm.pid, native.pid) == pids
        wasm.grows()
        assert wasm.exec(MODULE, "hello").code == 0
        assert native.exec("echo", "still").out.strip() == "still"
        assert pod.start("late", WASM, MODULE, "exit", "2").ended()["exitCode"] == 2
        with Pod("new") as second:
            assert second.start("one", WASM, MODULE, "exit", "2").ended()["exitCode"] == 2
            assert tree_of(second.shim) == {new}, tree_of(second.shim)
            assert tree_of(pod.shim) == {old}, tree_of(pod.shim)
        crictl("stop", "--timeout", "30", wasm.id)
        assert wasm.status["exitCode"] == 143
    leaks.settled(before)


@check("the old tree goes when the last pod that ran from it has ended")
def collected() -> None:
    run(f"{TOP}/admin", "collect")
    left = sorted(path.name for path in (TOP / "versions").iterdir())
    assert left == [os.path.basename(current())], left


@check("the same package again changes nothing for pods")
def again() -> None:
    with Pod("same") as pod:
        one = counting(pod)
        one.says("line 1")
        run("dpkg", "-i", NEWER, timeout=LONG)
        one.grows()
        assert one.exec(MODULE, "hello").code == 0


@check("removed while a pod runs: it goes on and ends well, then the last file goes")
def removed() -> str:
    before = leaks.count()
    with Pod("last") as pod:
        one = counting(pod)
        one.says("line 1")
        said = run("dpkg", "-r", "copepod", timeout=LONG).text
        assert "pods still run" in said, said
        assert "copepod node uninstall" in said, said
        one.grows()
        assert one.exec(MODULE, "hello").code == 0
        crictl("stop", "--timeout", "30", one.id)
        assert one.status["exitCode"] == 143
    leaks.settled(before)
    until("the rest to be removed", lambda: not TOP.exists(), 120)
    assert not os.path.exists("/usr/bin/containerd-shim-copepod-v1")
    assert main_pid("copepod-zygote.service") == 0
    return said.splitlines()[-1]


@check("installed again: pods start at once")
def back() -> None:
    run("dpkg", "-i", DEB, timeout=LONG)
    with Pod("back") as pod:
        assert pod.start("one", WASM, MODULE, "exit", "2").ended()["exitCode"] == 2


@check("copepod node uninstall puts containerd's configuration back")
def uninstalled() -> None:
    run("copepod", "node", "uninstall", "--yes")
    text = Path("/etc/containerd/config.toml").read_text()
    assert "copepod" not in text, text
    until("CRI to answer", lambda: crictl("info", check=False).code == 0)
    refused = crictl("runp", "--runtime", "copepod", "/var/tmp/copepod-vm/back.json", check=False)
    assert refused.code != 0
    assert "copepod" in refused.text, refused.text


@check("purged: nothing of it is left on the node")
def purged() -> None:
    zygote = main_pid("copepod-zygote.service")
    said = run("dpkg", "--purge", "copepod", timeout=LONG).text
    assert "not empty" not in said, said
    if zygote:
        until("the fork server's end", lambda: not alive(zygote))
    find = ["find", "/usr", "/etc", "/var", "/run", "-xdev", "-name", "*copepod*"]
    # The node's own: its disks' labels, its unit, its network, what the checks write.
    for ours in ("/var/tmp/*", "/var/log/*", "/etc/cni/*", "*copepod-vm*", "/run/udev/links/*"):
        find += ["-not", "-path", ours]
    kept = run(*find, check=False).out.splitlines()
    assert not kept, kept
    assert not systemctl("list-unit-files", "copepod-zygote*", "--no-legend", check=False).out
