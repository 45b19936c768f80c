"""Named network namespaces on a real kernel: made with `lo` up, removed by name, or not at all."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from copepod import errors
from copepod.linux import ns
from copepod.net import links, netns

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
NAME = f"copepod-test-{os.getpid()}"


def state() -> tuple[list[str], list[str], list[str], int]:
    """Descriptors, pinned namespaces, mounts below RUN, and the namespace that we are in."""
    names = sorted(os.listdir(netns.RUN)) if os.path.isdir(netns.RUN) else []
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    pinned = [line for line in mounts if f" {netns.RUN}/{NAME}" in line]
    return sorted(os.listdir("/proc/self/fd")), names, pinned, os.stat("/proc/self/ns/net").st_ino


@pytest.fixture(autouse=True)
def no_leak() -> Iterator[None]:
    before = state()
    yield
    netns.remove(NAME)
    assert state() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def inside(path: str) -> tuple[list[str], bool]:
    """The interfaces in the namespace, and whether loopback carries a connection there."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            fd = os.open(path, os.O_RDONLY)
            ns.setns(fd, ns.CLONE_NEWNET)
            names = ",".join(name for _, name in socket.if_nameindex())
            works = 0
            for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                with socket.socket(family) as server, socket.socket(family) as client:
                    server.bind((host, 0))
                    server.listen()
                    client.settimeout(5)
                    client.connect(server.getsockname())
                    works += 1
            os.write(write, f"{names} {works}".encode())
        finally:
            os._exit(0)
    os.close(write)
    words = os.read(read, 4096).decode().split()
    os.close(read)
    os.waitpid(pid, 0)
    return words[0].split(","), words[1:] == ["2"]


def test_made_and_removed() -> None:
    path = netns.create(NAME)
    assert path == f"/run/netns/{NAME}"
    assert os.stat(path).st_ino != os.stat("/proc/self/ns/net").st_ino
    assert inside(path) == (["lo"], True)
    netns.remove(NAME)
    assert not os.path.exists(path)
    netns.remove(NAME)


def test_it_is_handed_out_before_it_has_a_name() -> None:
    seen: list[int] = []

    def made(fd: int) -> None:
        assert not os.path.exists(f"{netns.RUN}/{NAME}")
        seen.append(os.fstat(fd).st_ino)

    assert os.stat(netns.create(NAME, made)).st_ino == seen[0]

    def refuse(fd: int) -> None:
        raise OSError(9, "nobody takes it")

    with pytest.raises(errors.StepFailed, match="hand out"):
        netns.create(f"{NAME}-2", refuse)
    assert not os.path.exists(f"{netns.RUN}/{NAME}-2")


def test_the_directory_is_shared_with_copies_of_our_mounts() -> None:
    netns.create(NAME)
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    (line,) = [line for line in mounts if line.split()[4] == netns.RUN]
    assert "shared:" in line


def test_a_name_that_is_taken() -> None:
    netns.create(NAME)
    with pytest.raises(errors.AlreadyExists, match=NAME):
        netns.create(NAME)
    assert inside(f"{netns.RUN}/{NAME}")[1], "the first one is untouched"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b"])
def test_names_that_can_not_be(name: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        netns.create(name)
    with pytest.raises(errors.InvalidArgument):
        netns.remove(name)


@pytest.mark.parametrize("step", ["lo-up", "mount"])
def test_a_failure_inside_leaves_nothing(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no")

    if step == "lo-up":
        monkeypatch.setattr(links, "set_up", refuse)
    else:
        netns.create(NAME)  # so that /run/netns is a mount already
        netns.remove(NAME)
        monkeypatch.setattr("copepod.linux.mount.mount", refuse)
    with pytest.raises(errors.StepFailed, match=step) as caught:
        netns.create(NAME)
    assert caught.value.errno == 1


def test_a_name_for_the_namespace_of_a_process() -> None:
    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            ns.unshare(ns.CLONE_NEWNET)
            links.set_up(links.LOOPBACK)
            os.write(ready[1], b"1")
            os.read(done[0], 1)
        finally:
            os._exit(0)
    try:
        assert os.read(ready[0], 1) == b"1"
        path = netns.pin(NAME, pid)
        assert os.stat(path).st_ino == os.stat(f"/proc/{pid}/ns/net").st_ino
        with pytest.raises(errors.AlreadyExists):
            netns.pin(NAME, pid)
        os.write(done[1], b"1")
    finally:
        os.waitpid(pid, 0)
        for fd in (*ready, *done):
            os.close(fd)
    assert inside(path) == (["lo"], True), "it outlives the process"


def test_no_name_for_a_process_that_is_gone() -> None:
    with pytest.raises(errors.StepFailed, match="/proc/4194305/ns/net"):
        netns.pin(NAME, 4194305)
    assert not os.path.exists(f"{netns.RUN}/{NAME}")


def test_many() -> None:
    names = [f"{NAME}-{number}" for number in range(4)]
    try:
        paths = [netns.create(name) for name in names]
        assert len({os.stat(path).st_ino for path in paths}) == 4
    finally:
        for name in names:
            netns.remove(name)


def test_no_way_back_is_the_end() -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(write, 2)
            setattr(ns, "setns", lambda *_: ns.own("nothing"))  # noqa: B010  # in this child only
            netns.create(NAME)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        assert "can't return to the node's network namespace" in file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_no_thread_is_started() -> None:
    netns.create(NAME)
    assert threading.active_count() == 1


def test_a_link_that_is_not_there() -> None:
    with pytest.raises(OSError, match="No such device"):
        links.set_up(1 << 30)
