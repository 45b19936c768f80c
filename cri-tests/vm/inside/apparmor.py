"""AppArmor, which Debian's and Ubuntu's nodes have: every pod of theirs runs under a profile."""

from __future__ import annotations

import os
from pathlib import Path

from vm.inside import leaks
from vm.inside.node import BUSYBOX, MODULE, WASM, WORK, Pod, crictl, run
from vm.inside.report import check

DEFAULT = "cri-containerd.apparmor.d (enforce)"
OWN = "copepod-test"
# Everything is allowed but one file.
PROFILE = f"""
profile {OWN} flags=(attach_disconnected,mediate_deleted) {{
  file,
  capability,
  network,
  signal,
  ptrace,
  umount,
  deny /forbidden rw,
}}
"""


def profile_of(pid: int | str) -> str:
    """The profile of a process, as the node sees it."""
    return Path(f"/proc/{pid}/attr/current").read_text().strip().strip("\0")


def localhost(name: str) -> dict[str, object]:
    """The field of CRI that names a profile of the node."""
    profile = {"profile_type": 2, "localhost_ref": name}
    return {"linux": {"security_context": {"apparmor": profile}}}


@check("AppArmor: containers of both kinds and what joins them have containerd's profile")
def default() -> str:
    assert Path("/sys/module/apparmor/parameters/enabled").read_text().strip() == "Y"
    before = leaks.count()
    with Pod("apparmor") as pod:
        native = pod.start("native", BUSYBOX, "sleep", "1000")
        wasm = pod.start("wasm", WASM, MODULE, "count", "1000")
        wasm.says("line 0")
        for container in (native, wasm):
            assert profile_of(container.pid) == DEFAULT, (container.name, container.pid)
        said = native.exec("cat", "/proc/self/attr/current").out.strip().strip("\0")
        assert said == DEFAULT, said
        # The profile denies it to root, too.
        denied = native.exec("sh", "-c", "echo 1 > /proc/sys/kernel/printk", check=False)
        assert denied.code != 0, denied.text
        assert "bin" in native.exec("ls", "/").out
        assert wasm.exec(MODULE, "hello").code == 0
        assert profile_of(os.getpid()) == "unconfined"
        assert profile_of(pod.shim) == "unconfined", "the shim itself is the node's"
        # Signals of the shim reach who is confined.
        crictl("stop", "--timeout", "60", wasm.id)
        assert wasm.ended()["exitCode"] == 143
    leaks.settled(before)
    return DEFAULT


@check("AppArmor: a profile of the node is put on, and one that is not loaded is refused")
def named() -> str:
    before = leaks.count()
    file = WORK / "apparmor-profile"
    file.write_text(PROFILE)
    run("apparmor_parser", "-Kr", str(file))
    try:
        with Pod("named") as pod:
            words = ("sh", "-c", "cat /proc/self/attr/current; echo x > /forbidden || echo denied")
            native = pod.start("native", BUSYBOX, *words, **localhost(OWN))
            native.ended()
            assert f"{OWN} (enforce)" in native.log, native.log
            assert "denied" in native.log, native.log
            wasm = pod.start("wasm", WASM, MODULE, "count", "1000", **localhost(OWN))
            wasm.says("line 0")
            assert profile_of(wasm.pid) == f"{OWN} (enforce)"
            open_ = {"linux": {"security_context": {"apparmor": {"profile_type": 1}}}}
            free = pod.start("free", WASM, MODULE, "count", "1000", **open_)
            free.says("line 0")
            assert profile_of(free.pid) == "unconfined"
            body = localhost("nobody-loaded-it")
            try:
                pod.start("missing", WASM, MODULE, "hello", **body)
            except Exception as error:
                said = str(error)
            else:
                raise AssertionError("a profile that is not loaded was taken")
            assert "nobody-loaded-it" in said, said
    finally:
        run("apparmor_parser", "-R", str(file))
    leaks.settled(before)
    return said.strip().splitlines()[-1][-160:]
