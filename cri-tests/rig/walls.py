"""What a container's first process sees and is, in words that two runtimes can be compared by.

It runs one script in a native container and reads /proc and the cgroups of its process from
outside; ids, paths and numbers that differ for every container are replaced by words.
"""

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rig import guests, images, procs
from rig.cri import Pods
from rig.leaks import CGROUPS
from rig.piped import Piped
from rig.runs import Runner
from rig.shell import run

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
# What proc_pid_status(5) tells of rights and signals; pids, memory and switches are left out.
STATUS = (
    *("Umask", "Uid", "Gid", "Groups", "NSpid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"),
    *("NoNewPrivs", "Seccomp", "Seccomp_filters", "SigBlk", "SigIgn", "Cpus_allowed_list"),
    *("CoreDumping", "THP_enabled", "NStgid", "Speculation_Store_Bypass"),
)
# Settings of cgroup v1 and v2 that a runtime writes; counters are left out.
SETTINGS = (
    *("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes"),
    *("memory.swappiness", "memory.oom_control", "memory.use_hierarchy", "cpu.shares"),
    *("cpu.cfs_quota_us", "cpu.cfs_period_us", "cpuset.cpus", "cpuset.mems", "pids.max"),
    *("devices.list", "blkio.weight", "freezer.state", "notify_on_release"),
    *("memory.max", "memory.high", "memory.low", "memory.swap.max", "cpu.max", "cpu.weight"),
    *("io.weight", "cgroup.freeze", "cgroup.type", "memory.oom.group", "cgroup.subtree_control"),
)
_numbers = itertools.count(1)
_SCRIPT = """
echo "== status"; cat /proc/1/status
echo "== limits"; cat /proc/1/limits
echo "== mounts"; cat /proc/1/mountinfo
echo "== cgroup"; cat /proc/1/cgroup
echo "== ids"; cat /proc/1/uid_map /proc/1/gid_map /proc/1/setgroups
echo "== scores"; cat /proc/1/oom_score_adj /proc/1/coredump_filter
echo "== environment"; tr '\\0' '\\n' < /proc/1/environ
echo "== name"; hostname; cat /proc/1/comm; pwd
echo "== descriptors"; ls -l /proc/1/fd
echo "== devices"; ls -ln /dev /dev/pts /dev/shm /dev/mqueue
echo "== root"; ls -lan /
echo "== net"; cat /proc/net/dev
echo "== sysctl"; cd /proc/sys; for f in net/ipv4/ip_unprivileged_port_start \
    net/ipv4/ping_group_range kernel/msgmax kernel/shm_rmid_forced; do cat $f; done; cd /
echo "== stat"; cat /proc/1/stat
echo "== end"
"""
_SCRIPT_OF_ITSELF = _SCRIPT.replace("/proc/1/", "/proc/$$/")


@dataclass(frozen=True, slots=True)
class Walls:
    """Facts by section, a list of lines each."""

    facts: dict[str, list[str]]

    def differences(self, other: "Walls") -> list[str]:
        """`section: -mine` and `section: +theirs` for each line that only one has."""
        found = []
        for section in sorted({*self.facts, *other.facts}):
            mine, theirs = self.facts.get(section, []), other.facts.get(section, [])
            found += [f"{section}: -{line}" for line in mine if line not in theirs]
            found += [f"{section}: +{line}" for line in theirs if line not in mine]
            if sorted(mine) == sorted(theirs) and mine != theirs:
                found.append(f"{section}: another order")
        return found


def of_run(runner: Runner, *flags: str) -> Walls:
    """The walls of a busybox container that `ctr run` made with these flags."""
    name = f"walls-{runner.new_name()}"
    args = ["sh", "-c", f"{_SCRIPT}\nsleep 1000 & wait"]
    with runner.start(images.BUSYBOX, *args, flags=flags, name=name) as running:
        running.expect("== end")
        facts = sections(running.out, (name, runner.node.cell.name))
        facts |= outside(runner.pid(name), runner.node.pid, (name, runner.node.cell.name))
        runner.kill(name, "SIGKILL")
        running.wait(30)
    return Walls(facts)


def of_spec(runner: Runner, change: Callable[[dict[str, Any]], None]) -> Walls:
    """The walls of a busybox container with ctr's default config.json, changed; its root is a
    folder of its own."""
    name = f"walls-{runner.new_name()}"
    home = runner.node.cell.home / name
    root = home / "root"
    for folder in ("bin", "etc", "proc", "sys", "dev", "tmp", "run"):
        (root / folder).mkdir(parents=True)
    shutil.copy(guests.busybox(), root / "bin/busybox")
    for word in run([guests.busybox(), "--list"]).out.split():
        if word != "busybox":
            (root / "bin" / word).symlink_to("busybox")
    document = json.loads(runner.node.ctr("oci", "spec").out)
    document["root"] = {"path": str(root)}
    document["process"]["args"] = ["sh", "-c", f"{_SCRIPT}\nsleep 1000 & wait"]
    document["process"]["env"] = ["PATH=/bin"]
    document["linux"]["cgroupsPath"] = f"/{runner.namespace}/{name}"
    change(document)
    (home / "config.json").write_text(json.dumps(document))
    words = ["run", "--rm", *runner.flags(), "--config", str(home / "config.json"), name]
    argv = runner.node.ctr_argv(*words, namespace=runner.namespace)
    with Piped(runner.node.cell.inside(argv)) as running:
        running.expect("== end")
        facts = sections(running.out, (name, runner.node.cell.name))
        facts |= outside(runner.pid(name), runner.node.pid, (name, runner.node.cell.name))
        runner.kill(name, "SIGKILL")
        running.wait(30)
    shutil.rmtree(home)
    return Walls(facts)


def of_exec(runner: Runner, *flags: str) -> Walls:
    """The walls of a process that joined a busybox container by `ctr tasks exec`."""
    name = f"walls-{runner.new_name()}"
    with runner.start(images.BUSYBOX, "sleep", "1000", flags=flags, name=name) as running:
        pid = runner.wait_running(name)
        words = ["tasks", "exec", "--exec-id", "more", name, "sh", "-c", _SCRIPT_OF_ITSELF]
        done = runner.node.ctr(*words, namespace=runner.namespace)
        facts = sections(done.out, (name, runner.node.cell.name))
        facts |= outside(pid, runner.node.pid, (name, runner.node.cell.name))
        runner.kill(name, "SIGKILL")
        running.wait(30)
    return Walls(facts)


def of_sandbox(pods: Pods, **fields: Any) -> Walls:
    """The walls of a pod's waiting process."""
    pod = pods.run(f"walls-{pods.handler}-{next(_numbers)}", **fields)
    pid = pod.pid
    status = [_plain(line, ()) for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    facts = {"status": [line for line in status if line.split(":")[0] in STATUS]}
    facts["limits"] = Path(f"/proc/{pid}/limits").read_text().splitlines()
    facts |= outside(pid, pods.node.pid, (pod.id, pods.node.cell.name))
    pod.remove()
    return Walls(facts)


def of_pod(pods: Pods, sandbox: dict[str, Any], **fields: Any) -> Walls:
    """The walls of a busybox container in a pod of its own, made through CRI."""
    name = f"walls-{pods.handler}-{next(_numbers)}"  # a log of its own
    pod = pods.run(name, **sandbox)
    argv = ["sh", "-c", f"{_SCRIPT}\nsleep 1000 & wait"]
    container = pod.start(name, images.BUSYBOX, command=argv, **fields)
    host = pods.node.pid
    words = (container.id, pod.id, pods.node.cell.name, name)
    facts = sections(container.wait_log("== end"), words)
    facts |= outside(container.pid, host, words)
    pod.remove()
    return Walls(facts)


def sections(text: str, words: tuple[str, ...]) -> dict[str, list[str]]:
    """The script's output by section, made comparable."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("== "):
            section = line[3:]
            found[section] = []
        elif section:
            found[section].append(_plain(line, words))
    found.pop("end", None)
    found["status"] = [line for line in found["status"] if line.split(":")[0] in STATUS]
    found["mounts"] = [_mount(line) for line in found["mounts"]]
    found["stat"] = [_stat(line) for line in found["stat"]]
    found["environment"].sort()
    found["net"] = [line.split(":")[0].strip() for line in found["net"][2:]]
    for name in ("descriptors", "devices", "root"):
        found[name] = [_listed(line) for line in found[name] if not line.startswith("total")]
    return found


def _plain(line: str, words: tuple[str, ...]) -> str:
    for word in words:
        line = line.replace(word, "ID")
    line = re.sub(r"snapshots/\d+", "snapshots/N", line)
    line = re.sub(r"/fifo/\d+/", "/fifo/N/", line)
    return re.sub(r"\b(pipe|socket|anon_inode):\[\d+\]", r"\1", line).replace("\t", " ")


def _mount(line: str) -> str:
    """Without mount ids, device numbers and peer groups' numbers (proc_pid_mountinfo(5))."""
    left, _, right = line.partition(" - ")
    fields = left.split()
    tags = " ".join(tag.split(":")[0] for tag in fields[6:])
    return f"{fields[3]} on {fields[4]} {fields[5]} [{tags}] {right}"


def _stat(line: str) -> str:
    """Group, session, terminal, priority, nice and policy of proc_pid_stat(5)."""
    fields = line.rsplit(")", 1)[1].split()
    names = {"pgrp": 2, "session": 3, "tty": 4, "priority": 15, "nice": 16, "policy": 38}
    return " ".join(f"{name} {fields[index]}" for name, index in names.items())


def _listed(line: str) -> str:
    """A line of `ls -l` without link count, size of files and time."""
    match = re.match(
        r"(\S+)\s+\d+\s+(\S+)\s+(\S+)\s+(\d+,\s*\d+|\d+)\s+\S+\s+\S+\s+\S+\s(.*)", line
    )
    if not match:
        return line
    mode, user, group, size, name = match.groups()
    return f"{mode} {user} {group} {size if ',' in size else ''} {name}"


def outside(pid: int, host: int, words: tuple[str, ...]) -> dict[str, list[str]]:
    """Namespaces that are not the host's, cgroup settings and scheduling, seen from outside."""
    own = [kind for kind in NAMESPACES if procs.namespace(pid, kind) != procs.namespace(host, kind)]
    found = {"own namespaces": own}
    found["host cgroups"] = [
        _plain(line, words)
        for line in sorted(Path(f"/proc/{pid}/cgroup").read_text().splitlines())
        if not line.endswith(":/")
    ]
    found["cgroup settings"] = _settings(pid)
    policy, nice = os.sched_getscheduler(pid), os.getpriority(os.PRIO_PROCESS, pid)
    cpus = sorted(os.sched_getaffinity(pid))
    found["schedule"] = [f"policy {policy}", f"nice {nice}", f"cpus {cpus}"]
    return found


def _settings(pid: int) -> list[str]:
    found = []
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        top = CGROUPS / controllers.removeprefix("name=") if controllers else CGROUPS
        if path == "/" or not (top / path.lstrip("/")).is_dir():
            continue
        for name in SETTINGS:
            file = top / path.lstrip("/") / name
            if file.exists():
                values = " | ".join(sorted(file.read_text().split("\n"))).strip(" |")
                found.append(f"{controllers} {name}: {values}")
    return sorted(found)
