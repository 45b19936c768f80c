"""Trees of control groups as files: read, write, list, kill and remove them.

It refuses to know what a limit means, and it imports nothing that costs time: the launcher's
`delete` runs `kill_paths` and `remove_paths` in a fresh interpreter, when the shim is dead.
"""

from __future__ import annotations

import errno
import os
import time

from copepod.errors import StepFailed

SIGKILL = 9  # `signal` builds enums at import, which the launcher would pay for
_ROUNDS = 64  # sweeps of kill
_PAUSE_MIN, _PAUSE_MAX = 0.001, 0.05  # seconds between two tries of rmdir, doubling


class Files:
    """The kernel's side of cgroupfs; tests put a fake kernel in its place."""

    def mkdir(self, path: str) -> None:
        os.mkdir(path, 0o755)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def read(self, path: str) -> str:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return read_fd(fd).decode(errors="replace")
        finally:
            os.close(fd)

    def write(self, path: str, value: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)

    def chown(self, path: str, uid: int) -> None:
        os.chown(path, uid, -1)

    def exists(self, path: str) -> bool:
        return os.access(path, os.F_OK)

    def children(self, path: str) -> list[str]:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def read_fd(fd: int) -> bytes:
    """The whole of a control file from its start, through a descriptor that may be kept open."""
    data = os.pread(fd, 4096, 0)
    while len(data) % 4096 == 0 and (more := os.pread(fd, 65536, len(data))):
        data += more
    return data


def put(files: Files, path: str, value: str) -> None:
    """Writes a control file; a refusal becomes StepFailed that names the file and the value."""
    try:
        files.write(path, value)
    except OSError as error:
        raise refused(error, path, value) from None


def refused(error: OSError, path: str, value: str) -> StepFailed:
    """The error for a value that the kernel does not take."""
    code = error.errno or 0
    text = f"cgroup: the kernel refuses {value!r} in {path}: {os.strerror(code)}"
    return StepFailed("cgroup", code, path, text)


def make_dir(files: Files, path: str, stop: str) -> list[str]:
    """Makes `path` and what is missing above it, below `stop`; gives what it made, top first.

    The common case is one mkdir(2). On failure everything made here is removed again.
    """
    made: list[str] = []
    missing = [path]
    try:
        while missing:
            try:
                files.mkdir(missing[-1])
                made.append(missing.pop())
            except FileExistsError:
                missing.pop()
            except FileNotFoundError:
                above = os.path.dirname(missing[-1])
                if len(above) <= len(stop):
                    raise
                missing.append(above)
    except OSError as error:
        undo(files, made)
        raise StepFailed("mkdir", error.errno or 0, path) from None
    return made


def undo(files: Files, made: list[str]) -> None:
    """Removes groups that this process has just made; what went away meanwhile is fine."""
    for path in reversed(made):
        try:
            files.rmdir(path)
        except OSError:
            pass


def walk(files: Files, path: str) -> list[str]:
    """`path` and every group below it, parents before children; [] when it is gone."""
    found, left = [], [path]
    while left:
        here = left.pop()
        try:
            left.extend(files.children(here))
        except (FileNotFoundError, NotADirectoryError):
            continue
        found.append(here)
    return found


def pids_below(files: Files, path: str) -> set[int]:
    """Every process in the group and in the groups below it, as this pid namespace sees them."""
    pids: set[int] = set()
    for group in walk(files, path):
        pids.update(_pids(files, group))
    pids.discard(0)  # a process of a pid namespace that is not below ours
    return pids


def pids(path: str) -> list[int]:
    """Every process in the group at `path` and below it; [] when it is gone."""
    return sorted(pids_below(Files(), path))


def _pids(files: Files, group: str) -> list[int]:
    try:
        return [int(line) for line in files.read(f"{group}/cgroup.procs").split()]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return []
        # cgroups(7): a threaded group has no cgroup.procs to read, its threads are listed apart.
        if error.errno == errno.EOPNOTSUPP:
            return [int(line) for line in files.read(f"{group}/cgroup.threads").split()]
        raise


def kill_paths(paths: tuple[str, ...] | list[str], files: Files | None = None) -> None:
    """Sends SIGKILL to everything in the groups and below, and thaws what is frozen.

    Returns when no process is left that has not been sent the signal; waiting for the ends is the
    caller's. cgroup.kill (Linux 5.14) does it in one write; the sweep is for version 1.
    """
    files = files or Files()
    for path in paths:
        _try(files, f"{path}/cgroup.kill", "1")
    freezers = [path for path in paths if files.exists(f"{path}/freezer.state")]
    try:
        _sweep(files, paths, freezers)
    finally:
        # Version 1 delivers even SIGKILL only after the thaw (freezer-subsystem.rst); version 2
        # lets it through.
        for path in freezers:
            for group in walk(files, path):
                _try(files, f"{group}/freezer.state", "THAWED")


def _sweep(files: Files, paths: tuple[str, ...] | list[str], freezers: list[str]) -> None:
    signalled: set[int] = {os.getpid()}
    for turn in range(_ROUNDS):
        pids = set().union(*(pids_below(files, path) for path in paths)) - signalled
        if not pids:
            return
        for pid in pids:
            try:
                os.kill(pid, SIGKILL)
            except ProcessLookupError:
                pass
        signalled |= pids
        if turn == 1:  # they fork faster than we look: from here on they stand still
            for path in freezers:
                _try(files, f"{path}/freezer.state", "FROZEN")


def _try(files: Files, path: str, value: str) -> bool:
    try:
        files.write(path, value)
    except OSError:
        return False
    return True


def remove_once(files: Files, path: str) -> bool:
    """Removes the group with all below it, children first; False when something is still busy."""
    try:
        files.rmdir(path)
        return True
    except FileNotFoundError:
        return True
    except OSError as error:
        # A tree mounted read-only says so before it looks whether the group is there.
        if error.errno == errno.EROFS and not files.exists(path):
            return True
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise StepFailed("rmdir", error.errno or 0, path) from None
    gone = True
    for group in reversed(walk(files, path)):
        try:
            files.rmdir(group)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise StepFailed("rmdir", error.errno or 0, group) from None
            gone = False
    return gone


def remove_paths(
    paths: tuple[str, ...] | list[str], timeout: float = 1.0, files: Files | None = None
) -> list[str]:
    """Removes the groups and all below them within `timeout` seconds; gives what is left.

    For a stranger (`delete` after the shim's death): it needs nothing but the paths and may be
    called again. It kills nothing: see `kill_paths`.
    """
    files = files or Files()
    end, pause = time.monotonic() + timeout, _PAUSE_MIN
    left = [path for path in paths if not remove_once(files, path)]
    while left and (rest := end - time.monotonic()) > 0:
        wait_for_one(set().union(*(pids_below(files, path) for path in left)), min(rest, pause))
        pause = min(pause * 2, _PAUSE_MAX)
        left = [path for path in left if not remove_once(files, path)]
    return left


def wait_for_one(pids: set[int], timeout: float) -> None:
    """Returns when one of the processes has ended, or after `timeout` seconds."""
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except OSError:  # ended already, or no descriptors left: the time-out bounds the wait
            continue
        import select  # a shared object: loaded only when there is something to wait for

        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll(timeout * 1000)
        finally:
            os.close(fd)
        return
    time.sleep(timeout)  # exiting threads are listed nowhere; the group is busy until they are gone
