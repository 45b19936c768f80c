"""Digests of files that the node remembers: found again, and never for another state or file."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator
from hashlib import sha256

import pytest

from copepod.image import digests
from copepod.linux import mount

BYTES = os.urandom(300_000)
DIGEST = sha256(BYTES).hexdigest()


@pytest.fixture
def place(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setattr(digests, "_SETTLED", -(10**12))  # the tests' files are all new
    fd = os.open(tmp_path, os.O_RDONLY)
    kind = mount.fstype(fd)
    os.close(fd)
    if kind not in digests._KERNELS_OWN:
        pytest.skip(f"the tests' folder is on a file system of type {kind:#x}, which isn't trusted")
    return tmp_path


def opened(path: pathlib.Path, data: bytes = BYTES) -> int:
    path.write_bytes(data)
    # As an archive's reader leaves it: a time of its own, which makes ctime another one.
    os.utime(path, (1_000_000_000, 1_000_000_000))
    return os.open(path, os.O_RDONLY)


def test_worked_out(tmp_path: pathlib.Path) -> None:
    for data in (b"", b"x", BYTES, BYTES[: 1 << 17]):
        fd = opened(tmp_path / "file", data)
        assert digests.work_out(fd) == sha256(data).hexdigest()
        os.close(fd)


def test_remembered(place: pathlib.Path) -> None:
    root = str(place / "cache")
    fd = opened(place / "file")
    assert digests.recall(root, fd) == ""
    assert digests.identify(root, fd) == DIGEST
    assert digests.recall(root, fd) == DIGEST
    other = os.open(place / "file", os.O_RDONLY)
    assert digests.recall(root, other) == DIGEST, "it is the file, not the descriptor"
    for folder in (root, f"{root}/digests"):
        assert os.stat(folder).st_mode & 0o777 == 0o700
    os.close(fd)
    os.close(other)


def test_remembered_for_one_alone(place: pathlib.Path) -> None:
    root = str(place / "cache")
    fd = opened(place / "file")
    assert digests.identify(root, fd, "k8s.io/one") == DIGEST
    assert [digests.recall(root, fd, who) for who in ("", "k8s.io/two")] == ["", ""]
    assert digests.recall(root, fd, "k8s.io/one") == DIGEST
    assert digests.identify(root, fd) == DIGEST
    assert digests.recall(root, fd, "k8s.io/two") == ""
    os.close(fd)


@pytest.mark.parametrize("change", ["in the middle", "times", "mode", "replaced"])
def test_another_state_is_unknown(place: pathlib.Path, change: str) -> None:
    root, path = str(place / "cache"), place / "file"
    fd = opened(path)
    assert digests.identify(root, fd) == DIGEST
    os.close(fd)
    before = os.stat(path)
    if change == "in the middle":
        with path.open("r+b") as file:
            file.seek(150_000)
            file.write(b"\0\0\0\0")
    elif change == "times":
        os.utime(path, (5, 5))
    elif change == "mode":
        path.chmod(0o600)
    else:
        (place / "new").write_bytes(BYTES)
        os.rename(place / "new", path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    fd = os.open(path, os.O_RDONLY)
    # The time of change has moved on; that nothing else has is what makes it hard to see.
    assert os.fstat(fd).st_ctime_ns > before.st_ctime_ns
    assert digests.recall(root, fd) == ""
    os.close(fd)


def test_made_up_times_are_not_relied_on(
    place: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(place / "cache")
    (place / "file").write_bytes(BYTES)
    fd = os.open(place / "file", os.O_RDONLY)
    found = os.fstat(fd)
    if found.st_ctime_ns == found.st_mtime_ns:  # as after writing alone
        assert digests.identify(root, fd) == DIGEST
        assert not os.path.exists(root)
    os.utime(place / "file", (7, 7))
    monkeypatch.setattr(digests, "_KERNELS_OWN", {})
    assert digests.identify(root, fd) == DIGEST
    assert digests.recall(root, fd) == ""
    assert not os.path.exists(root)
    os.close(fd)


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    place: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, path, whole = str(place / "cache"), place / "file", digests.work_out

    def changed_after_reading(fd: int) -> str:
        digest = whole(fd)
        with path.open("r+b") as file:
            file.seek(150_000)
            file.write(b"\0\0\0\0")
        os.utime(path, (5, 5))
        return digest

    fd = opened(path)
    monkeypatch.setattr(digests, "work_out", changed_after_reading)
    assert digests.identify(root, fd) == DIGEST
    assert digests.recall(root, fd) == ""
    os.close(fd)


def test_a_file_that_has_just_changed_is_not_remembered(
    place: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another change in the same step of the kernel's clock would have the same time."""
    root = str(place / "cache")
    fd = opened(place / "file")
    monkeypatch.setattr(digests, "_SETTLED", 3600 * 10**9)
    assert digests.identify(root, fd) == DIGEST
    assert digests.recall(root, fd) == ""
    os.close(fd)


@pytest.fixture
def disks(place: pathlib.Path) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """Two ext4 disks that differ in the middle of one file, and in nothing that stat(2) shows."""
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4", path="/usr/sbin:/usr/bin"):
        pytest.skip("disks are root's, and made by mkfs.ext4")
    image, copy = place / "one.img", place / "other.img"
    one, other = place / "one", place / "other"
    one.mkdir()
    other.mkdir()
    subprocess.run(["/usr/sbin/mkfs.ext4", "-q", image, "4M"], check=True, timeout=60)
    done = subprocess.run(["mount", "-o", "loop", image, one], capture_output=True, timeout=60)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.decode()}")
    os.close(opened(one / "app.wasm"))
    subprocess.run(["umount", one], check=True, timeout=60)
    data, middle = image.read_bytes(), BYTES[150_000:150_064]
    assert data.count(middle) == 1
    copy.write_bytes(data.replace(middle, bytes(64)))
    for disk, point in ((image, one), (copy, other)):
        subprocess.run(["mount", "-o", "loop,ro", disk, point], check=True, timeout=60)
    yield one, other
    for point in (one, other):
        subprocess.run(["umount", point], check=True, timeout=60)


def test_a_file_of_another_disk_is_another(
    place: pathlib.Path, disks: tuple[pathlib.Path, pathlib.Path]
) -> None:
    root = str(place / "cache")
    one, other = (os.open(disk / "app.wasm", os.O_RDONLY) for disk in disks)
    try:
        numbers = [
            (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            for found in (os.fstat(one), os.fstat(other))
        ]
        assert numbers[0] == numbers[1]
        assert digests.identify(root, one) == DIGEST
        assert digests.recall(root, one) == DIGEST
        assert digests.recall(root, other) == ""
    finally:
        os.close(one)
        os.close(other)


def test_no_more_than_a_bound(place: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "MAX", 3)
    root = str(place / "cache")
    fds = [opened(place / f"file{number}") for number in range(5)]
    for fd in fds:
        assert digests.identify(root, fd) == DIGEST
    assert [digests.recall(root, fd) != "" for fd in fds] == [False] * 3 + [True] * 2
    for fd in fds:
        os.close(fd)


def test_a_link_of_somebody_else_is_not_followed(place: pathlib.Path) -> None:
    root = str(place / "cache")
    fd = opened(place / "file")
    assert digests.identify(root, fd) == DIGEST
    (link,) = (place / "cache" / "digests").iterdir()
    os.lchown(link, 1000, 1000)
    assert digests.recall(root, fd) == ""
    os.close(fd)


def test_where_nothing_can_be_written(place: pathlib.Path) -> None:
    (place / "cache").write_text("a file")
    fd = opened(place / "file")
    assert digests.identify(str(place / "cache"), fd) == DIGEST
    assert digests.recall(str(place / "cache"), fd) == ""
    os.close(fd)
