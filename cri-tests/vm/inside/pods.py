"""Pods with WebAssembly and with Linux programs, under systemd's control group driver."""

from __future__ import annotations

import json
import time
from pathlib import Path

from vm.inside import leaks
from vm.inside.node import (
    BUSYBOX,
    CGROUPS,
    MODULE,
    WASM,
    WASM_GO,
    WASM_LAYER,
    Container,
    Pod,
    cgroup_of,
    crictl,
    ctr,
    main_pid,
    run,
    show,
    systemctl,
    until,
)
from vm.inside.report import check

MEGABYTE = 1 << 20


def counting(pod: Pod, name: str = "one", **fields: object) -> Container:
    """A wasm container that writes a line every now and then until it is told to end."""
    return pod.start(name, WASM, MODULE, "count", "200", **fields)


@check("a wasm pod through CRI, first run: output and exit code")
def first() -> str:
    before = leaks.count()
    began = time.monotonic()
    with Pod("first") as pod:
        up = time.monotonic()
        container = pod.start("one", WASM, MODULE, "hello", envs=[{"key": "A", "value": "b"}])
        started = time.monotonic()
        status = container.ended()
        assert status["exitCode"] == 0, status
        assert status["reason"] == "Completed", status
        for text in ("hello from C in wasm", "env: A=b"):
            assert text in container.log, container.log
        failing = pod.start("two", WASM, MODULE, "exit", "3")
        assert failing.ended()["exitCode"] == 3
        trap = pod.start("three", WASM, MODULE, "trap")
        assert trap.ended()["exitCode"] == 134
        assert "unreachable" in trap.log, trap.log
    leaks.settled(before)
    return f"sandbox {up - began:.1f} s, create and start {started - up:.1f} s"


@check("modules in layers of their own: C, and 2.6 MB of Go, compiled here")
def layers() -> str:
    before = leaks.count()
    with Pod("layers") as pod:
        assert pod.start("c", WASM_LAYER, MODULE, "exit", "4").ended()["exitCode"] == 4
        began = time.monotonic()
        pod.start("go", WASM_GO, MODULE, "hello").ended()
        cold = time.monotonic() - began
        began = time.monotonic()
        pod.start("again", WASM_GO, MODULE, "hello").ended()
        warm = time.monotonic() - began
    leaks.settled(before)
    return f"Go module: first run {cold:.1f} s, second {warm:.1f} s"


@check("the container is a scope in the pod's slice, with the limits asked for")
def limits() -> None:
    before = leaks.count()
    resources = {
        "memory_limit_in_bytes": 256 * MEGABYTE,
        "memory_swap_limit_in_bytes": 256 * MEGABYTE,
        "cpu_quota": 50_000,
        "cpu_period": 100_000,
        "cpu_shares": 512,
        "unified": {"pids.max": "77"},
    }
    with Pod("limits") as pod:
        one = counting(pod, linux={"resources": resources})
        group = one.group
        assert group.name == one.unit, group
        assert group.parent.name == pod.slice, group
        # From the slice on: the sandbox has a scope beside the container's.
        assert cgroup_of(pod.pid).parent == group.parent, cgroup_of(pod.pid)
        got = {name: one.read(name) for name in ("memory.max", "memory.swap.max", "cpu.max")}
        assert got == {
            "memory.max": str(256 * MEGABYTE),
            "memory.swap.max": "0",
            "cpu.max": "50000 100000",
        }, got
        assert one.read("pids.max") == "77"
        told = show(
            one.unit, "MemoryMax", "CPUQuotaPerSecUSec", "TasksMax", "Delegate", "CPUWeight"
        )
        assert told == {
            "MemoryMax": str(256 * MEGABYTE),
            "CPUQuotaPerSecUSec": "500ms",
            "TasksMax": "77",
            "Delegate": "yes",
            "CPUWeight": one.read("cpu.weight"),
        }, told
        # systemd writes its properties again when it is told to look: nothing may change.
        systemctl("daemon-reload")
        assert {name: one.read(name) for name in got} == got
        assert one.read("pids.max") == "77"
    leaks.settled(before)


@check("limits are changed under way")
def update() -> None:
    with Pod("update") as pod:
        one = counting(pod, linux={"resources": {"memory_limit_in_bytes": 128 * MEGABYTE}})
        crictl("update", "--memory", str(192 * MEGABYTE), "--cpu-quota", "20000",
               "--cpu-period", "100000", one.id)  # fmt: skip
        assert one.read("memory.max") == str(192 * MEGABYTE)
        assert one.read("cpu.max") == "20000 100000"
        told = show(one.unit, "MemoryMax", "CPUQuotaPerSecUSec")
        assert told == {
            "MemoryMax": str(192 * MEGABYTE),
            "CPUQuotaPerSecUSec": "200ms",
        }, told
        systemctl("daemon-reload")
        assert one.read("memory.max") == str(192 * MEGABYTE)
        one.grows()


@check("exec in a wasm container: output, exit code, and the same walls")
def execute() -> None:
    before = leaks.count()
    with Pod("exec") as pod:
        one = counting(pod)
        assert "hello from C in wasm" in one.exec(MODULE, "hello").out
        failed = one.exec(MODULE, "exit", "7", check=False)
        assert failed.code != 0, failed.text
        assert "7" in failed.text, failed.text
        one.grows()
        assert one.status["state"] == "CONTAINER_RUNNING"
    leaks.settled(before)


@check("statistics are those of version 2")
def stats() -> str:
    with Pod("stats") as pod:
        one = counting(pod, linux={"resources": {"memory_limit_in_bytes": 128 * MEGABYTE}})
        one.says("line 2")

        def counted() -> dict[str, dict[str, object]] | None:
            found = json.loads(crictl("stats", "-o", "json", "--id", one.id).out)["stats"]
            ready = found and found[0].get("memory", {}).get("workingSetBytes")
            return found[0] if ready else None

        seen = until("CRI to have statistics", counted)
        metrics = json.loads(ctr("tasks", "metrics", "--format", "json", one.id).out)
        assert metrics["memory"]["usage"] > 0, metrics
        assert metrics["memory"]["usage_limit"] == 128 * MEGABYTE, metrics
        assert metrics["cpu"]["usage_usec"] > 0, metrics
        assert metrics["pids"]["current"] >= 1, metrics
        assert int(str(seen["cpu"]["usageCoreNanoSeconds"]["value"])) > 0, seen  # type: ignore[index]
        assert pod.id[:12] in crictl("statsp").out
        return f"{metrics['memory']['usage'] / 1e6:.1f} MB in a wasm container"


@check("paused it stands still, resumed it goes on")
def pause() -> None:
    with Pod("pause") as pod:
        one = counting(pod)
        one.says("line 1")
        ctr("tasks", "pause", one.id)
        assert "frozen 1" in one.read("cgroup.events")
        usage = one.read("cpu.stat").split()[1]
        said = len(one.log)
        time.sleep(2)
        assert (one.read("cpu.stat").split()[1], len(one.log)) == (usage, said)
        ctr("tasks", "resume", one.id)
        assert "frozen 0" in one.read("cgroup.events")
        one.grows()


@check("SIGTERM ends a wasm container at once with 143, SIGKILL with 137")
def stop() -> str:
    before = leaks.count()
    with Pod("stop") as pod:
        one = counting(pod)
        one.says("line 1")
        began = time.monotonic()
        crictl("stop", "--timeout", "60", one.id)
        took = time.monotonic() - began
        assert one.status["exitCode"] == 143, one.status
        two = counting(pod, "two")
        ctr("tasks", "kill", "-s", "SIGKILL", two.id)
        assert two.ended()["exitCode"] == 137
        assert took < 30, took
    leaks.settled(before)
    return f"{took:.1f} s"


@check("a native pod: its walls, its exec, its group seen from inside")
def native() -> None:
    before = leaks.count()
    with Pod("native") as pod:
        one = pod.start("one", BUSYBOX, "sh", "-c", "cat /proc/self/cgroup; hostname; sleep 1000")
        one.says("native")
        assert "0::/\n" in one.log, one.log
        assert one.exec("hostname").out.strip() == "native"
        assert one.exec("cat", "/proc/self/cgroup").out.strip() == "0::/"
        denied = one.exec("sh", "-c", "mknod /tmp/k c 1 11 && cat /tmp/k", check=False)
        assert denied.code != 0, "a device that nobody allowed can be read"
        assert "not permitted" in denied.text, denied.text
        assert one.exec("dd", "if=/dev/zero", "of=/dev/null", "count=1").code == 0
        assert one.exec("sh", "-c", "exit 9", check=False).code != 0
        assert one.group.name == one.unit
        # A change of the units makes systemd settle its device programs anew: ours has to stay.
        systemctl("daemon-reload")
        assert one.exec("cat", "/tmp/k", check=False).code != 0
    leaks.settled(before)


@check("a privileged pod may use devices and sees the control groups writable")
def privileged() -> None:
    context = {"security_context": {"privileged": True}}
    with Pod("privileged", linux={"security_context": {"privileged": True}}) as pod:
        one = pod.start("one", BUSYBOX, "sleep", "1000", linux=context)
        said = one.exec("sh", "-c", "mknod /tmp/k c 1 3 && echo yes > /tmp/k && echo fine").out
        assert "fine" in said, said
        one.exec("sh", "-c", "mkdir /sys/fs/cgroup/inner && rmdir /sys/fs/cgroup/inner")
        group = one.group
    until("the pod's slice to go", lambda: not group.parent.exists())


@check("more memory than allowed: OOMKilled, and the pod's other container goes on")
def oom() -> None:
    before = leaks.count()
    with Pod("oom") as pod:
        other = counting(pod, "other")
        limit = {
            "memory_limit_in_bytes": 48 * MEGABYTE,
            "memory_swap_limit_in_bytes": 48 * MEGABYTE,
        }
        one = pod.start("one", BUSYBOX, "sh", "-c", "tail /dev/zero", linux={"resources": limit})
        status = one.ended()
        assert status["reason"] == "OOMKilled", status
        assert status["exitCode"] == 137, status
        other.grows()
    leaks.settled(before)


@check("a shim killed with -9: containerd reports the ends, and nothing is left")
def shim_killed() -> None:
    before = leaks.count()
    with Pod("killed") as pod:
        one = counting(pod)
        one.says("line 1")
        run("kill", "-9", str(pod.shim))
        assert one.ended()["exitCode"] != 0
    leaks.settled(before)


@check("containerd restarted: the pods go on, with their logs, exec and end")
def restarted() -> None:
    before = leaks.count()
    with Pod("restart") as pod:
        wasm = counting(pod)
        native = pod.start("two", BUSYBOX, "sleep", "1000")
        wasm.says("line 1")
        pids = (wasm.pid, native.pid, pod.pid)
        systemctl("restart", "containerd")
        until("CRI to answer", lambda: crictl("ps", check=False).code == 0)
        assert (wasm.pid, native.pid, pod.pid) == pids
        wasm.grows()
        assert wasm.exec(MODULE, "hello").code == 0
        assert native.exec("echo", "still").out.strip() == "still"
    leaks.settled(before)


@check("ctr run without a pod: a network of its own, in version 2 groups by path")
def plain() -> None:
    before = leaks.count()
    words = ["run", "--rm", "--runtime", "io.containerd.copepod.v1"]
    ctr("images", "import", "/payload/images.tar", namespace="default")
    done = ctr(*words, WASM, "plain", MODULE, "exit", "5", namespace="default", check=False)
    assert done.code == 5, done.text
    limit = ["--detach", "--null-io", "--memory-limit", str(64 * MEGABYTE)]
    ctr(*words[:1], *words[2:], *limit, BUSYBOX, "native", "sleep", "1000", namespace="default")
    listed = ctr("tasks", "ls", namespace="default").out.splitlines()
    pid = next(int(line.split()[1]) for line in listed if line.startswith("native "))
    assert cgroup_of(pid) == CGROUPS / "default/native", cgroup_of(pid)
    assert (cgroup_of(pid) / "memory.max").read_text().strip() == str(64 * MEGABYTE)
    links = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in links] == ["lo"], links
    ctr("tasks", "rm", "--force", "native", namespace="default")
    ctr("containers", "rm", "native", namespace="default")
    leaks.settled(before)


@check("copepod run runs a file, with and without a limit")
def run_file() -> None:
    before = leaks.count()
    done = run("copepod", "run", "--rm", "-e", "A=b", "/payload/guest.wasm", "hello")
    assert "env: A=b" in done.out, done.text
    assert run("copepod", "run", "--rm", "/payload/guest.wasm", "exit", "6", check=False).code == 6
    leaks.settled(before)


@check("the cache holds what was compiled, and it is root's alone")
def cache() -> str:
    entries = json.loads(run("copepod", "cache", "ls", "--json").out)
    assert entries, "the cache is empty"
    assert Path("/var/lib/copepod/cache").stat().st_mode & 0o077 == 0
    run("copepod", "cache", "verify")
    assert main_pid("containerd.service")
    return f"{len(entries)} entries"
