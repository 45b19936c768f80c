"""Runs programs: every one has a time limit, and a failure says what was run and what it printed.

It starts no shell and ends only the processes that it started.
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

T = TypeVar("T")


class RigError(Exception):
    """Something that the rig needs is missing or broke; the text says what and what to do."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a finished program left: its argv, exit code, standard output and error, seconds."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float

    @property
    def text(self) -> str:
        """Both outputs, for messages."""
        return "\n".join(part for part in (self.out.strip(), self.err.strip()) if part)


class CommandFailed(RigError):
    """A program ended with a code that the caller did not expect; `done` holds its output."""

    def __init__(self, done: Done) -> None:
        super().__init__(f"{' '.join(done.argv)}: exit code {done.code}\n{done.text}")
        self.done = done


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float = 60.0,
    stdin: bytes | str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
) -> Done:
    """Runs argv to its end and gives its output.

    `env` is added to this process's environment. Past `timeout` seconds the program's whole
    process group is killed and RigError raised; so is CommandFailed for a code other than 0
    when `check` is set.
    """
    words = tuple(str(word) for word in argv)
    data = stdin.encode() if isinstance(stdin, str) else stdin
    began = time.monotonic()
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **env} if env else None,
        cwd=cwd,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(data, timeout=timeout)
        except subprocess.TimeoutExpired:
            kill_group(process.pid)
            out, err = process.communicate()
            shown = (out + err).decode(errors="replace").strip()
            raise RigError(f"{' '.join(words)}: not done after {timeout:g} s\n{shown}") from None
        except BaseException:
            kill_group(process.pid)
            raise
    done = Done(
        words,
        process.returncode,
        out.decode(errors="replace"),
        err.decode(errors="replace"),
        time.monotonic() - began,
    )
    if check and done.code != 0:
        raise CommandFailed(done)
    return done


def kill_group(pid: int) -> None:
    """SIGKILL to the process group that `pid`, a child of ours, leads."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Daemon:
    """A long-running child whose output goes to a log file."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.argv = tuple(str(word) for word in argv)
        self.log = log
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={**os.environ, **env} if env else None,
                pass_fds=tuple(pass_fds),
                start_new_session=True,
            )
        self.pid = self._process.pid

    def alive(self) -> bool:
        """True while the program runs."""
        return self._process.poll() is None

    def tail(self, lines: int = 20) -> str:
        """The last lines of the log, for messages."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, signum: int = signal.SIGTERM, timeout: float = 20.0) -> int:
        """Sends `signum`, waits, kills what does not end in time; gives the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signum)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait(timeout)


def wait_exit(pid: int, timeout: float) -> bool:
    """Waits for a process that need not be a child; False when it lives past `timeout` seconds."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        return bool(poller.poll(timeout * 1000))
    finally:
        os.close(fd)


def until(
    what: str, probe: Callable[[], T | None], timeout: float = 20.0, pause: float = 0.05
) -> T:
    """Calls `probe` until it gives something true, for peers that announce nothing.

    RigError, naming `what`, when that takes longer than `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise RigError(f"waited {timeout:g} s for {what}: it did not happen")
        select.select([], [], [], pause)


def read_line(stream: IO[bytes], timeout: float) -> str:
    """One line of a child's output within `timeout` seconds; RigError when none comes."""
    ready, _, _ = select.select([stream], [], [], timeout)
    if not ready:
        raise RigError(f"no output within {timeout:g} s")
    return stream.readline().decode(errors="replace").strip()
