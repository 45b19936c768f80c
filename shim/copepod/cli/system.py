"""What the command line tool asks of the node: files below a root, programs, processes.

It decides nothing; tests give it a directory of files written by them and answers of programs
that never ran.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NOT_FOUND = 127  # what a POSIX shell answers for a program that isn't there
TIMED_OUT = 124  # what timeout(1) answers


def python_argv(module: str, *words: str) -> list[str]:
    """A command line that runs one of our modules in a fresh interpreter like this one.

    Isolated: neither the working directory nor PYTHONPATH may put code into it.
    """
    code = f"import sys; sys.path[:0] = {sys.path!r}; sys.argv[1:] = {list(words)!r}; "
    return [sys.executable, "-ISB", "-c", f"{code}import {module} as room; room.main()"]


@dataclass(frozen=True, slots=True)
class Result:
    """How a program ended and what it printed."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def ok(self) -> bool:
        """True when it ended with 0."""
        return self.code == 0

    def reason(self) -> str:
        """The last line that it printed, standard error first: the sentence to show."""
        for text in (self.err, self.out):
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if lines:
                return lines[-1]
        return f"exit code {self.code}"


@dataclass(frozen=True, slots=True)
class Process:
    """One running program: /proc/<pid> as far as it is wanted here (proc(5))."""

    pid: int
    argv: tuple[str, ...]
    exe: str
    path: str = ""  # PATH of its environment
    started: float = 0.0  # seconds since the epoch


class System:
    """The node below `root`; "/" is the real one."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Where the absolute path `name` of the node is found from here."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None when there is no such file."""
        try:
            return self.path(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, data: bytes) -> None:
        """Replaces a file's bytes at once; mode and owner stay, a symlink is followed.

        A new file gets 0644. The old bytes or the new ones are on disk, never a mixture.
        """
        path = Path(os.path.realpath(self.path(name)))
        try:
            old: os.stat_result | None = path.stat()
        except FileNotFoundError:
            old = None
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(fd, "wb") as file:
                file.write(data)
                os.fchmod(fd, stat.S_IMODE(old.st_mode) if old else 0o644)
                if old:
                    os.fchown(fd, old.st_uid, old.st_gid)
                file.flush()
                os.fsync(fd)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

    def remove(self, name: str) -> None:
        """Removes a file; it's no error when it isn't there."""
        self.path(name).unlink(missing_ok=True)

    def glob(self, pattern: str) -> list[str]:
        """The node's paths that match an absolute pattern, sorted."""
        found = self.root.glob(pattern.lstrip("/"))
        return sorted("/" + str(path.relative_to(self.root)) for path in found)

    def exists(self, name: str) -> bool:
        """True for anything that is there, a dangling symlink excepted."""
        return self.path(name).exists()

    def euid(self) -> int:
        """The user that the tool runs as."""
        return os.geteuid()

    def which(self, name: str, path: str | None = None) -> str | None:
        """The program that `name` means, by `path` or this process's PATH."""
        return shutil.which(name, path=path)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 60.0,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Runs a program to its end; what it printed is decoded leniently.

        A program that isn't there gives `NOT_FOUND`, one that takes longer than `timeout` seconds
        is killed and gives `TIMED_OUT`.
        """
        try:
            done = subprocess.run(
                list(argv),
                input=stdin if stdin is not None else b"",
                capture_output=True,
                timeout=timeout,
                check=False,
                env=None if env is None else {**os.environ, **env},
            )
        except subprocess.TimeoutExpired:
            return Result(TIMED_OUT, "", f"{argv[0]} did not end within {timeout:g} seconds")
        except OSError as error:
            return Result(NOT_FOUND, "", f"{argv[0]}: {os.strerror(error.errno or 0)}")
        return Result(
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )

    def processes(self, name: str) -> list[Process]:
        """The running processes whose argv[0] or executable is called `name`, oldest first."""
        pids = [int(one.name) for one in self.path("/proc").iterdir() if one.name.isdigit()]
        found = [process for pid in pids if (process := self._process(pid, name))]
        return sorted(found, key=lambda process: (process.started, process.pid))

    def _process(self, pid: int, name: str) -> Process | None:
        base = self.path(f"/proc/{pid}")
        try:
            argv = tuple((base / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1])
            if not argv:
                return None  # a kernel thread
            exe = os.readlink(base / "exe").removesuffix(" (deleted)")
            if name not in (os.path.basename(argv[0]), os.path.basename(exe)):
                return None
            return Process(pid, argv, exe, _path_of(base / "environ"), self._started(base / "stat"))
        except (OSError, ValueError):
            return None  # it ended while it was looked at, or it isn't ours to read

    def _started(self, stat: Path) -> float:
        """proc_pid_stat(5): field 22 is in clock ticks since boot, and boot time in /proc/stat."""
        ticks = int(stat.read_text().rpartition(")")[2].split()[19])
        boot = 0
        for line in self.path("/proc/stat").read_text().splitlines():
            if line.startswith("btime "):
                boot = int(line.split()[1])
        return boot + ticks / os.sysconf("SC_CLK_TCK")


def _path_of(environ: Path) -> str:
    try:
        for item in environ.read_bytes().split(b"\0"):
            if item.startswith(b"PATH="):
                return item[5:].decode(errors="replace")
    except OSError:
        pass
    return ""
