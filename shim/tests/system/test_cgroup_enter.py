"""Ways into a cgroup on a real kernel: being born in one, and writing into it."""

from __future__ import annotations

import os
import pathlib
import signal
import threading
from collections.abc import Iterator

import pytest

from copepod.container import cgroup_mounts
from copepod.linux import cgroup


@pytest.fixture
def group() -> Iterator[pathlib.Path]:
    unified = cgroup_mounts.host().unified
    if unified is None:
        pytest.skip("no version 2 hierarchy is mounted on this machine")
    path = pathlib.Path(unified.point, f"cpd-enter-{os.getpid()}")
    path.mkdir()
    yield path
    path.rmdir()


def born(fds: list[int]) -> tuple[str, int]:
    """Forks into the groups; gives what the child saw of itself, and its exit status."""
    read, write = os.pipe()
    pid, left = cgroup.fork(fds)
    if pid == 0:
        try:
            for fd in left:
                cgroup.enter(fd)
            ids: list[int] = []
            thread = threading.Thread(target=lambda: ids.append(threading.get_native_id()))
            thread.start()
            thread.join()
            grandchild = os.fork()
            if grandchild == 0:
                os._exit(7)
            status = os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1])
            with open("/proc/self/cgroup") as file:
                place = next(line for line in file if line.startswith("0:")).strip()
            known = (os.getpid(), threading.get_native_id() == os.getpid(), ids[0] != os.getpid())
            os.write(
                write, f"{place} {known[0]} {known[1]} {known[2]} {status} {len(left)}".encode()
            )
            signal.raise_signal(signal.SIGUSR1)
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    done = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert text.split()[1:2] == [str(pid)]
    return text.replace(f" {pid} ", " "), done


def test_a_child_is_born_in_the_group(group: pathlib.Path) -> None:
    fd = cgroup.open_group(str(group))
    # A thread, a fork and a signal of its own: the C library knows which thread it is.
    text, status = born([fd])
    os.close(fd)
    assert text.endswith(f"{group.name} True True 7 0")
    assert status == -signal.SIGUSR1


def test_what_can_not_be_born_into_is_entered(
    group: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> int:
        raise OSError(38, "no such system call")

    fd = cgroup.open_group(str(group))
    monkeypatch.setattr(cgroup, "fork_into", refuse)
    text, status = born([fd])
    os.close(fd)
    assert text.endswith(f"{group.name} True True 7 1")
    assert status == -signal.SIGUSR1


def test_a_group_that_is_gone(group: pathlib.Path) -> None:
    (group / "gone").mkdir()
    fd = cgroup.open_group(str(group / "gone"))
    (group / "gone").rmdir()
    with pytest.raises(OSError, match="No such"):
        cgroup.fork_into(fd)
    with pytest.raises(OSError, match="No such"):
        cgroup.enter(fd)
    os.close(fd)
