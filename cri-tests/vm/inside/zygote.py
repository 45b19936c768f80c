"""The fork server: started when it is wanted, killed, stopped; pods never depend on it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from vm.inside import leaks
from vm.inside.node import MODULE, WASM, Pod, alive, cgroup_of, main_pid, run, systemctl, until
from vm.inside.pods import counting
from vm.inside.report import check

UNIT = "copepod-zygote.service"
SOCKET = "copepod-zygote.socket"


def parent(pid: int) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def ready() -> None:
    """Waits until it answers: what it has to load first takes longer here than a launcher waits."""

    def answered() -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.settimeout(60)
            peer.connect("/run/copepod/zygote.sock")
            peer.shutdown(socket.SHUT_WR)
            return peer.recv(1) == b""

    until("the fork server to answer", answered)


def forked(pod: Pod) -> bool:
    """True when the pod's shim was forked by the fork server: it lives in its service's group."""
    return UNIT in str(cgroup_of(pod.shim))


@check("it is started by its socket, and shims are forked from it")
def used() -> str:
    ready()
    with Pod("forked") as pod:
        assert main_pid(UNIT) > 0, systemctl("status", UNIT, check=False).text
        assert forked(pod), cgroup_of(pod.shim)
        assert parent(pod.shim) == main_pid(UNIT)
        threads = len(os.listdir(f"/proc/{main_pid(UNIT)}/task"))
        assert threads == 1, threads
        status = Path(f"/proc/{main_pid(UNIT)}/smaps_rollup").read_text()
        pss = next(line for line in status.splitlines() if line.startswith("Pss:"))
        assert pod.start("one", WASM, MODULE, "exit", "2").ended()["exitCode"] == 2
    return f"{int(pss.split()[1]) / 1000:.1f} MB"


@check("killed with -9: pods go on and end well, the next pod gets a new one")
def killed() -> None:
    before = leaks.count()
    with Pod("orphan") as pod:
        one = counting(pod)
        one.says("line 1")
        old = main_pid(UNIT)
        os.kill(old, signal.SIGKILL)
        until("its end", lambda: not alive(old))
        one.grows()
        assert one.exec(MODULE, "hello").code == 0
        ready()
        with Pod("next") as second:
            two = counting(second)
            two.says("line 1")
            assert main_pid(UNIT) not in (0, old)
            assert forked(second)
        one.grows()
        crashed = systemctl("is-failed", UNIT, check=False).out.strip()
        assert crashed != "failed", crashed
    leaks.settled(before)


@check("restarted by systemd: pods go on")
def service_restarted() -> None:
    before = leaks.count()
    with Pod("stays") as pod:
        one = counting(pod)
        one.says("line 1")
        systemctl("restart", UNIT)
        one.grows()
        pid, shim = one.pid, pod.shim
        systemctl("stop", UNIT)
        one.grows()
        assert (one.pid, pod.shim) == (pid, shim)
        assert one.exec(MODULE, "hello").code == 0
    leaks.settled(before)


@check("stopped with its socket: pods start without it")
def without() -> None:
    before = leaks.count()
    systemctl("stop", SOCKET, UNIT)
    try:
        assert not os.path.exists("/run/copepod/zygote.sock")
        with Pod("alone") as pod:
            assert not forked(pod)
            assert pod.start("one", WASM, MODULE, "exit", "2").ended()["exitCode"] == 2
        assert main_pid(UNIT) == 0
        warned = run("copepod", "doctor", "--no-container", check=False)
        assert "copepod-zygote.socket" in warned.out, warned.out
        assert warned.code == 0, warned.out
    finally:
        systemctl("start", SOCKET)
    leaks.settled(before)


@check("hung: a pod that asks it starts all the same")
def hung() -> None:
    before = leaks.count()
    ready()
    pid = main_pid(UNIT)
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        with Pod("patient") as pod:
            assert pod.start("one", WASM, MODULE, "exit", "2").ended()["exitCode"] == 2
    finally:
        os.kill(pid, signal.SIGCONT)
    leaks.settled(before)
