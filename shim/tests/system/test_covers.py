"""A procfs of a pid namespace that is not ours: whose processes it shows, and what it costs us."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from copepod import errors
from copepod.child.job import ProcMount
from copepod.container import covers, fork
from copepod.linux import libc, ns, procfs
from copepod.linux import mount as m

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are made as root"),
]


def names(tree: int) -> set[str]:
    """What is in the root of a detached mount."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=tree)
    try:
        return set(os.listdir(fd))
    finally:
        os.close(fd)


def state() -> tuple[set[str], str, str, set[int], set[int]]:
    """Our fds, children, pid namespace for children, blocked signals and CPUs."""
    links = {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    space = os.readlink("/proc/self/ns/pid_for_children")
    blocked = set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    return links, children, space, blocked, os.sched_getaffinity(0)


def test_nobody_is_in_it() -> None:
    procfs.prepare()
    before = state()
    for tree in covers.make([ProcMount("/proc", 0)] * 3):
        assert "meminfo" in names(tree)
        assert not [name for name in names(tree) if name.isdigit()]
        with pytest.raises(FileNotFoundError):
            os.readlink("self", dir_fd=tree)
        os.close(tree)
    assert state() == before


def test_options_and_attributes() -> None:
    wanted = ProcMount("/proc", m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOEXEC, ("hidepid=2",))
    (tree,) = covers.make([wanted])
    flags = os.fstatvfs(tree).f_flag
    os.close(tree)
    assert flags & os.ST_RDONLY
    assert flags & os.ST_NOEXEC


def test_the_namespace_of_a_process() -> None:
    ready, done = os.pipe(), os.pipe()
    own = ns.own("pid")
    ns.unshare(ns.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        try:
            os.write(ready[1], b"1")
            os.read(done[0], 1)
        finally:
            os._exit(0)
    ns.setns(own, ns.CLONE_NEWPID)
    os.close(own)
    pidfd = os.pidfd_open(pid)
    try:
        assert os.read(ready[0], 1) == b"1"
        procfs.prepare()
        before = state()
        (tree,) = covers.make([ProcMount("/proc", 0)], pidfd)
        assert {name for name in names(tree) if name.isdigit()} == {"1"}
        os.close(tree)
        assert state() == before
        os.write(done[1], b"1")
        os.waitpid(pid, 0)
        with pytest.raises(errors.StepFailed, match="a /proc without processes"):
            covers.make([ProcMount("/proc", 0)], pidfd)
        assert state()[1:] == (before[1].replace(f"{pid} ", ""), *before[2:])
    finally:
        for fd in (*ready, *done, pidfd):
            os.close(fd)


def test_a_refusal_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option that procfs does not have, behind a mount that was made; no process to be had."""
    before = state()
    with pytest.raises(errors.StepFailed, match="a /proc without processes"):
        covers.make([ProcMount("/proc", 0), ProcMount("/proc", 0, ("nothing=1",))])
    assert state() == before

    _, code, stack = procfs.prepare()
    monkeypatch.setattr(procfs, "prepare", lambda: (lambda *_: -1, code, stack))
    with pytest.raises(errors.StepFailed):
        covers.make([ProcMount("/proc", 0)])
    assert state() == before


def test_a_node_that_takes_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, cpus: set[int]) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    (tree,) = covers.make([ProcMount("/proc", 0)])
    assert "meminfo" in names(tree)
    os.close(tree)


def test_a_node_where_memory_may_not_be_made_executable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shim starts there as everywhere, and a guest's Create says what is wrong."""
    real = libc.function

    def refusing(name: str, *argtypes: Any, restype: Any = ctypes.c_int) -> Any:
        if name != "mprotect":
            return real(name, *argtypes, restype=restype)

        def refuse(*_: object) -> int:
            ctypes.set_errno(13)
            return -1

        return refuse

    monkeypatch.setattr(libc, "function", refusing)
    procfs.prepare.cache_clear()
    fork.prepare.cache_clear()
    fork.prepare()
    with pytest.raises(errors.StepFailed, match="Permission denied"):
        covers.make([ProcMount("/proc", 0)])
    assert not procfs.prepare.cache_info().currsize


def test_no_fds_left() -> None:
    """What the child could not open is said with its reason."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            procfs.prepare()
            used = max(map(int, os.listdir("/proc/self/fd")))
            resource.setrlimit(resource.RLIMIT_NOFILE, (used, used))
            while True:
                try:
                    os.dup(0)
                except OSError:
                    break
            try:
                procfs.fsopen()
            except OSError as error:
                code = 0 if error.errno == 24 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_code_is_not_writable() -> None:
    _, code, _ = procfs.prepare()
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, mode = line.split()[:2]
        start, end = (int(word, 16) for word in span.split("-"))
        if start <= code < end:
            assert mode == "r-xp"
            break
    else:
        raise AssertionError("no such mapping")
