"""The cache on disk: hits, misses, torn and foreign entries, one build for many, bounds."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from copepod import errors
from copepod.engine import artifact
from copepod.image import locks
from copepod.image.cache import Cache

KEY = "50.0.1-x86_64-cranelift-0123456789abcdef"
DIGEST = "ab" * 32


def builder(
    content: bytes = b"code", key: str = KEY, digest: str = DIGEST
) -> Callable[[int], None]:
    def build(fd: int) -> None:
        artifact.append(
            fd,
            memoryview(content),
            kind="core",
            tier="cranelift",
            source=bytes.fromhex(digest),
            key=key,
        )

    return build


def never(_fd: int) -> None:
    raise AssertionError("it is compiled again")


def content(fd: int | None) -> bytes:
    assert fd is not None
    data = os.pread(fd, 1 << 20, 0)
    os.close(fd)
    return data[: -artifact.SIZE]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "cache"))


def entry(cache: Cache) -> Path:
    return Path(cache.root) / KEY / f"{DIGEST}.cwasm"


def test_miss_build_hit(cache: Cache) -> None:
    assert cache.open(KEY, DIGEST) is None
    assert content(cache.compile_once(KEY, DIGEST, builder())) == b"code"
    assert content(cache.open(KEY, DIGEST)) == b"code"
    assert content(cache.compile_once(KEY, DIGEST, never)) == b"code"
    assert os.listdir(f"{cache.root}/{KEY}") == [f"{DIGEST}.cwasm"]
    assert os.stat(cache.root).st_mode & 0o777 == 0o700
    assert os.stat(f"{cache.root}/{KEY}").st_mode & 0o777 == 0o700
    assert os.stat(entry(cache)).st_mode & 0o777 == 0o444


def test_what_build_raises_is_passed_on_and_leaves_nothing(cache: Cache) -> None:
    def build(_fd: int) -> None:
        raise errors.InvalidArgument("no module")

    before = os.listdir("/proc/self/fd")
    with pytest.raises(errors.InvalidArgument, match="no module"):
        cache.compile_once(KEY, DIGEST, build)
    assert os.listdir("/proc/self/fd") == before
    assert os.listdir(f"{cache.root}/{KEY}") == []


def torn(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def changed_while_the_machine_was_down(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    data[-artifact.SIZE + 96 : -artifact.SIZE + 112] = bytes(16)  # an earlier boot
    rewrite(path, bytes(data))


def writable_by_others(path: Path) -> None:
    path.chmod(0o666)


def symlink(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def anothers(path: Path) -> None:
    path.unlink()
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o444)
    builder(digest="cd" * 32)(fd)
    os.close(fd)


def another_engines(path: Path) -> None:
    path.unlink()
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o444)
    builder(key=KEY.replace("50", "49"))(fd)
    os.close(fd)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def rewrite(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)
    path.chmod(0o444)


@pytest.mark.parametrize(
    "harm",
    [
        torn,
        changed_while_the_machine_was_down,
        writable_by_others,
        symlink,
        anothers,
        another_engines,
        lambda path: rewrite(path, b""),
        lambda path: rewrite(path, b"\x7fELF" * 100),
    ],
)
def test_a_bad_entry_is_a_miss_and_is_made_again(
    cache: Cache, harm: Callable[[Path], None]
) -> None:
    os.close(cache.compile_once(KEY, DIGEST, builder()))
    harm(entry(cache))
    assert cache.open(KEY, DIGEST) is None
    assert content(cache.compile_once(KEY, DIGEST, builder(b"again"))) == b"again"
    assert content(cache.open(KEY, DIGEST)) == b"again"


def test_a_folder_in_the_entrys_place_means_memory(cache: Cache) -> None:
    os.close(cache.compile_once(KEY, DIGEST, builder()))
    folder(entry(cache))
    assert content(cache.compile_once(KEY, DIGEST, builder())) == b"code"
    assert cache.open(KEY, DIGEST) is None


def test_an_intact_entry_of_an_earlier_boot_is_read_once(cache: Cache) -> None:
    os.close(cache.compile_once(KEY, DIGEST, builder()))
    path = entry(cache)
    data = bytearray(path.read_bytes())
    data[-artifact.SIZE + 96 : -artifact.SIZE + 112] = bytes(16)
    rewrite(path, bytes(data))
    assert content(cache.open(KEY, DIGEST)) == b"code"
    fd = os.open(path, os.O_RDONLY)
    trailer = artifact.read(fd)
    os.close(fd)
    assert trailer is not None
    assert trailer.boot == artifact.boot_id()


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
def test_a_folder_that_others_can_write_to_is_not_used(cache: Cache, mode: int) -> None:
    os.mkdir(cache.root)
    os.chmod(cache.root, mode)
    assert content(cache.compile_once(KEY, DIGEST, builder())) == b"code"
    assert cache.open(KEY, DIGEST) is None
    assert cache.ls() == []


def test_no_folder_at_all_means_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(str(tmp_path / "file" / "cache"))
    assert content(cache.compile_once(KEY, DIGEST, builder())) == b"code"
    assert cache.prune() == []


def test_full_disk_means_memory(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "sendfile", full)
    assert content(cache.compile_once(KEY, DIGEST, builder())) == b"code"
    assert os.listdir(f"{cache.root}/{KEY}") == []


def test_twenty_processes_build_once(cache: Cache, tmp_path: Path) -> None:
    log = tmp_path / "builds"
    gate_out, gate_in = os.pipe()

    def build(fd: int) -> None:
        with log.open("a") as file:
            file.write("built\n")
        builder(b"x" * 100_000)(fd)

    pids = []
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            try:
                signal.alarm(60)
                os.close(gate_in)
                os.read(gate_out, 1)
                done = content(cache.compile_once(KEY, DIGEST, build)) == b"x" * 100_000
                os._exit(0 if done else 1)
            finally:
                os._exit(2)
        pids.append(pid)
    os.close(gate_in)
    os.close(gate_out)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 20
    assert log.read_text() == "built\n"
    assert os.listdir(f"{cache.root}/{KEY}") == [f"{DIGEST}.cwasm"]


def test_a_builder_that_is_killed_leaves_the_lock_to_the_next(cache: Cache) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            cache.compile_once(KEY, DIGEST, lambda _fd: os.kill(os.getpid(), signal.SIGKILL))
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert content(cache.compile_once(KEY, DIGEST, builder())) == b"code"
    cache.prune()
    assert os.listdir(f"{cache.root}/{KEY}") == [f"{DIGEST}.cwasm"]


def stopped(work: Callable[[], object]) -> int:
    """Forks a child that does `work` and is stopped in it, as in a container that is frozen."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(2)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    return pid


def stop(_fd: int) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL


def test_a_builder_that_is_frozen_does_not_hold_up_others_for_ever(cache: Cache) -> None:
    pid = stopped(lambda: cache.compile_once(KEY, DIGEST, stop))
    try:
        assert content(cache.compile_once(KEY, DIGEST, builder(), 0.1)) == b"code"
        assert content(cache.compile_once(KEY, DIGEST, never)) == b"code"
        cache.prune()
        assert sorted(os.listdir(f"{cache.root}/{KEY}")) == [f"{DIGEST}.cwasm", f"{DIGEST}.lock"]
    finally:
        end(pid)
    cache.prune()
    assert os.listdir(f"{cache.root}/{KEY}") == [f"{DIGEST}.cwasm"]


def test_nobody_waits_for_what_is_built_for_later(cache: Cache) -> None:
    pid = stopped(lambda: cache.compile_later(KEY, DIGEST, stop))
    try:
        cache.compile_later(KEY, DIGEST, never)
        assert content(cache.compile_once(KEY, DIGEST, builder(), 60)) == b"code"
    finally:
        end(pid)
    cache.compile_later(KEY, DIGEST, never)
    cache.discard(KEY, DIGEST)
    cache.compile_later(KEY, DIGEST, builder(b"later"))
    assert content(cache.open(KEY, DIGEST)) == b"later"
    assert os.listdir(f"{cache.root}/{KEY}") == [f"{DIGEST}.cwasm"]


def test_what_cannot_be_kept_is_not_built_for_later(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    Cache(str(tmp_path / "file")).compile_later(KEY, DIGEST, never)


def test_a_read_only_cache_is_used(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    os.close(cache.compile_once(KEY, DIGEST, builder()))

    def read_only(*_args: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", read_only)
    assert content(cache.open(KEY, DIGEST)) == b"code"


def test_a_fifo_in_an_entrys_place_holds_nobody_up(cache: Cache) -> None:
    os.makedirs(f"{cache.root}/{KEY}", mode=0o700)
    os.mkfifo(entry(cache), 0o444)
    signal.alarm(30)  # the default action: it ends the test's process
    assert cache.open(KEY, DIGEST) is None
    assert [why for _, why in cache.verify()] == ["it is torn or not an entry"]
    signal.alarm(0)
    assert content(cache.compile_once(KEY, DIGEST, builder())) == b"code"


def fill(cache: Cache, count: int) -> list[str]:
    digests = [f"{number:02x}" * 32 for number in range(count)]
    for number, digest in enumerate(digests):
        os.close(cache.compile_once(KEY, digest, builder(bytes(744), digest=digest)))
        os.utime(f"{cache.root}/{KEY}/{digest}.cwasm", (number, number))
    return digests


def test_what_was_used_longest_ago_goes_first(cache: Cache) -> None:
    digests = fill(cache, 5)
    fd = cache.open(KEY, digests[0])
    assert fd is not None
    os.close(fd)
    assert [entry.digest for entry in cache.ls()] == [*digests[1:], digests[0]]
    assert [entry.digest for entry in cache.prune(2999)] == digests[1:4]
    assert [entry.digest for entry in cache.ls()] == [digests[4], digests[0]]
    cache.max_bytes = 2000
    os.close(cache.compile_once(KEY, DIGEST, builder()))
    assert [entry.digest for entry in cache.ls()] == [digests[0], DIGEST]
    assert len(cache.prune(0)) == 2


def test_stale_staged_files_are_swept(cache: Cache) -> None:
    os.close(cache.compile_once(KEY, DIGEST, builder()))
    stale = Path(cache.root) / KEY / f".staged-{DIGEST}-12345"
    stale.write_text("half")
    (Path(cache.root) / KEY / f"{'cd' * 32}.lock").write_text("")
    cache.prune()
    assert os.listdir(f"{cache.root}/{KEY}") == [f"{DIGEST}.cwasm"]


def test_a_full_disk_is_swept(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    os.close(cache.compile_once(KEY, DIGEST, builder()))
    folder = Path(cache.root) / KEY
    held = "cd" * 32
    for name in (f".staged-{DIGEST}-12345", f".staged-{held}-12345", f"{held}.lock"):
        (folder / name).write_text("")

    def full(_path: str) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(locks, "attempt", full)
    cache.prune()
    names = {f"{DIGEST}.cwasm", f".staged-{held}-12345", f"{held}.lock"}
    assert set(os.listdir(folder)) == names
    monkeypatch.undo()
    cache.prune()
    assert os.listdir(folder) == [f"{DIGEST}.cwasm"]


def test_verify_says_why(cache: Cache) -> None:
    fill(cache, 4)
    paths = [Path(entry.path) for entry in cache.ls()]
    assert cache.verify() == []
    torn(paths[0])
    writable_by_others(paths[1])
    data = bytearray(paths[2].read_bytes())
    data[5] ^= 1
    rewrite(paths[2], bytes(data))
    found = {Path(entry.path): why for entry, why in cache.verify(remove=True)}
    assert found == {
        paths[0]: "it is torn or not an entry",
        paths[1]: "others own it or can write to it",
        paths[2]: "its bytes have changed",
    }
    assert [Path(entry.path) for entry in cache.ls()] == [paths[3]]


def test_discard(cache: Cache) -> None:
    os.close(cache.compile_once(KEY, DIGEST, builder()))
    cache.discard(KEY, DIGEST)
    cache.discard(KEY, DIGEST)
    assert cache.open(KEY, DIGEST) is None
