"""Compiled modules on disk: `<root>/<engine key>/<sha256 of the source>.cwasm`, root's alone.

What lies there is native code that containers run, so a folder that others could write to is
refused, and an entry that is torn, foreign or of another engine is a miss, never an error.

What `open` checks of each entry: owner, length, that it says what its name says (engine key and
source digest), and, once for each boot of the machine, the SHA-256 of all of it. Entries are
renamed into place without fsync: only a crash of the machine can tear one, and after that the
boot is another. `verify` checks the SHA-256 of everything.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from copepod import errors
from copepod.engine import artifact
from copepod.image import locks

SUFFIX = ".cwasm"
DEFAULT_MAX_BYTES = 2 << 30
PATIENCE = 75.0  # seconds that a start waits for another one's compiler
_STAGED = ".staged-"
_LOCK = ".lock"
_LATER = ".later"
_STEP = 0.02
# O_NONBLOCK: a FIFO in an entry's place must not hold anybody up.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Entry(NamedTuple):
    """One compiled module: sizes in bytes, `used` in seconds since the epoch."""

    path: str
    key: str
    digest: str
    size: int
    used: float


class Cache:
    """The cache under `root`, kept below `max_bytes` by dropping what was used longest ago."""

    def __init__(self, root: str, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.root, self.max_bytes = root, max_bytes

    def open(self, engine_key: str, digest: str) -> int | None:
        """Gives a read-only descriptor of the entry for `digest` (hex), or None for a miss.

        Four system calls on a hit; never raises for what it finds on the disk.
        """
        path = self._path(engine_key, digest)
        try:
            fd = os.open(path, _READ)
        except OSError:
            return None
        if self._fits(fd, path, engine_key, digest):
            return fd
        os.close(fd)
        return None

    def _fits(self, fd: int, path: str, engine_key: str, digest: str) -> bool:
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or not _ours(found):
                return False
            trailer = artifact.read(fd)
            if trailer is None or (trailer.key, trailer.source.hex()) != (engine_key, digest):
                return False
            if trailer.boot != artifact.boot_id() and not _seen_intact(fd, path, trailer):
                return False
        except OSError:
            return False
        try:
            os.utime(fd)
        except OSError:
            pass  # a read-only cache is good too: nothing is ever dropped from it
        return True

    def compile_once(
        self,
        engine_key: str,
        digest: str,
        build: Callable[[int], None],
        patience: float = PATIENCE,
    ) -> int:
        """Gives a descriptor of the entry, made by `build(fd)` if there is none.

        Of all processes that want one entry at the same time one builds, the others wait for it,
        but not longer than `patience` seconds: its container may be frozen, or get no CPU time.
        `build` writes the compiled file to an empty one; what it raises is passed on. Where the
        disk is full, read-only or not ours the result is a memory file of this container alone.
        """
        try:
            lock = self._lock(engine_key, digest, digest, patience)
        except (OSError, errors.PermissionDenied):
            return _in_memory(build)
        try:
            fd = self.open(engine_key, digest)
            return self._store(engine_key, digest, build, digest) if fd is None else fd
        finally:
            locks.release(lock, self._path(engine_key, digest, _LOCK))

    def compile_later(self, engine_key: str, digest: str, build: Callable[[int], None]) -> None:
        """Makes the entry for later starts, unless it is there, somebody does so already, or it
        can't be kept. No start waits for this one, which may be of the lowest priority.
        """
        name = digest + _LATER
        try:
            lock = self._lock(engine_key, name, digest, 0)
        except (OSError, errors.PermissionDenied):
            return
        if lock == locks.BUSY:
            return
        try:
            fd = self.open(engine_key, digest)
            os.close(self._store(engine_key, digest, build, name) if fd is None else fd)
        finally:
            locks.release(lock, self._path(engine_key, name, _LOCK))

    def _store(self, engine_key: str, digest: str, build: Callable[[int], None], lock: str) -> int:
        """Builds in memory and copies: a full disk costs the copy, not a second compilation.

        The staged file is named after the lock under which it is written, see `_sweep`.
        """
        memory = _in_memory(build)
        staged = self._path(engine_key, f"{_STAGED}{lock}-{os.getpid()}", "")
        try:
            fd = _copy(memory, staged)
        except OSError:
            _unlink(staged)
            return memory
        try:
            os.rename(staged, self._path(engine_key, digest))
        except OSError:
            _unlink(staged)
            os.close(fd)
            return memory
        os.close(memory)
        self.prune()
        return fd

    def discard(self, engine_key: str, digest: str) -> None:
        """Drops an entry that the engine did not take."""
        _unlink(self._path(engine_key, digest))

    def ls(self) -> list[Entry]:
        """All entries of all engines, the one used longest ago first."""
        found = []
        for key, name, path in self._files():
            if name.endswith(SUFFIX):
                try:
                    status = os.stat(path, follow_symlinks=False)
                except OSError:
                    continue
                digest = name.removesuffix(SUFFIX)
                found.append(Entry(path, key, digest, status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: entry.used)

    def prune(self, max_bytes: int | None = None) -> list[Entry]:
        """Drops entries until `max_bytes` (or the cache's own bound) are left; gives them.

        What a killed process left staged goes too. A container that runs a dropped entry keeps
        it: the kernel frees a mapped file when its last user ends.
        """
        self._sweep()
        entries, dropped = self.ls(), []
        size = sum(entry.size for entry in entries)
        bound = self.max_bytes if max_bytes is None else max_bytes
        for entry in entries:
            if size <= bound:
                break
            _unlink(entry.path)
            size -= entry.size
            dropped.append(entry)
        return dropped

    def verify(self, *, remove: bool = False) -> list[tuple[Entry, str]]:
        """Reads everything; gives the entries that are not what they were written as, and why."""
        bad = []
        for entry in self.ls():
            why = _defect(entry)
            if why:
                bad.append((entry, why))
                if remove:
                    _unlink(entry.path)
        return bad

    def _sweep(self) -> None:
        """Drops staged and lock files that nobody holds."""
        for key, name, path in self._files():
            if name.startswith(_STAGED):
                _sweep_one(path, self._path(key, name[len(_STAGED) :].rpartition("-")[0], _LOCK))
            elif name.endswith(_LOCK):
                _sweep_one(path, path)

    def _files(self) -> Iterator[tuple[str, str, str]]:
        try:
            keys = os.listdir(self.root)
        except OSError:
            return
        for key in keys:
            try:
                names = os.listdir(f"{self.root}/{key}")
            except OSError:
                continue
            for name in names:
                yield key, name, f"{self.root}/{key}/{name}"

    def _path(self, engine_key: str, name: str, suffix: str = SUFFIX) -> str:
        return f"{self.root}/{engine_key}/{name}{suffix}"

    def _lock(self, engine_key: str, name: str, digest: str, patience: float) -> int:
        """Takes the lock `name`, or waits for whoever has it: locks.BUSY when the entry came
        meanwhile or the patience is at its end."""
        folder = f"{self.root}/{engine_key}"
        for path in (self.root, folder):
            os.makedirs(path, mode=0o700, exist_ok=True)
            refuse_foreign(path)
        path = self._path(engine_key, name, _LOCK)
        until = time.monotonic() + patience
        while (fd := locks.attempt(path)) == locks.BUSY:
            found = self.open(engine_key, digest)
            if found is not None:
                os.close(found)
                break
            if time.monotonic() >= until:
                break
            time.sleep(_STEP)
        return fd


def refuse_foreign(path: str) -> None:
    """Raises errors.PermissionDenied unless the folder is ours and nobody else can write to it."""
    found = os.stat(path, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode) or not _ours(found):
        raise errors.PermissionDenied(
            f"the cache {path} is not used: it has to be a folder that belongs to "
            f"uid {os.geteuid()} and that nobody else can write to"
        )
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        raise errors.PermissionDenied(f"the cache {path} is not used: it is mounted noexec")


def _ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _sweep_one(path: str, lock: str) -> None:
    """Removes `path` if nobody holds `lock`."""
    try:
        fd = locks.attempt(lock)
    except OSError:
        # On a full disk there may be no room for a lock, but then nobody else can have made one.
        fd = locks.BUSY if os.path.lexists(lock) else locks.NOWHERE
    if fd != locks.BUSY:
        _unlink(path)
        locks.release(fd, lock)


def _copy(memory: int, path: str) -> int:
    """Writes a memory file to a new file; gives a read-only descriptor of that."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        size, at = os.fstat(memory).st_size, 0
        while at < size:
            at += os.sendfile(fd, memory, at, size - at)
        # A container in a user namespace of its own opens the file again through its descriptor,
        # as a user that is nobody here; the folder keeps all others out.
        os.fchmod(fd, 0o444)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


def _in_memory(build: Callable[[int], None]) -> int:
    fd = os.memfd_create("copepod-module", os.MFD_CLOEXEC)
    try:
        build(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _seen_intact(fd: int, path: str, trailer: artifact.Trailer) -> bool:
    """Reads an entry of an earlier boot whole, and says in it that this boot has done so."""
    if not artifact.intact(fd, trailer):
        return False
    try:
        writable = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return True  # a read-only cache is good too, only slower
    try:
        if os.path.sameopenfile(fd, writable):
            artifact.stamp_boot(writable, trailer.length)
    except OSError:
        pass
    finally:
        os.close(writable)
    return True


def _defect(entry: Entry) -> str:
    try:
        fd = os.open(entry.path, _READ)
    except OSError as error:
        return os.strerror(error.errno or 0)
    try:
        if not _ours(os.fstat(fd)):
            return "others own it or can write to it"
        trailer = artifact.read(fd)
        if trailer is None:
            return "it is torn or not an entry"
        if (trailer.key, trailer.source.hex()) != (entry.key, entry.digest):
            return "it is another module's or another engine's"
        return "" if artifact.intact(fd, trailer) else "its bytes have changed"
    finally:
        os.close(fd)
