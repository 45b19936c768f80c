"""A process's stdin, stdout and stderr, as containerd names them: FIFOs, files, a log program.

It opens and closes; what a process without a terminal writes goes straight into the FIFO or to the
log program and never through the shim, what is for a file through `logfile`, a terminal's through
`console`.

Source: containerd pkg/process/io.go, docs/runtime-v2.md; fifo(7).
"""

from __future__ import annotations

import os
import stat

from copepod import errors
from copepod.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from copepod.task.logfile import LogFile

STDIN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
STDOUT_FLAGS = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Paths:
    """What Create or Exec asked for, kept to the letter: State must echo it."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


class Stdio:
    """The open ends of one process: `child` for the process, the rest held by the shim.

    The shim holds a read end of stdout and stderr, so that a restart of containerd breaks no pipe,
    and a write end of stdin, so that there is no end of file before CloseIO. `close` gives all of
    it up, which containerd waits for once the process is gone.
    """

    __slots__ = (
        "_binary",
        "_files",
        "_held",
        "_stdin_writer",
        "child",
        "console_in",
        "console_out",
        "paths",
    )

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.child = [-1, -1, -1]
        self.console_in = self.console_out = -1
        self._held: list[int] = []
        self._stdin_writer = -1
        self._binary: object | None = None
        self._files: list[LogFile] = []

    def release_child(self) -> None:
        """Closes the shim's copies of the process's own ends, once it has them."""
        for fd in {fd for fd in self.child if fd >= 0}:
            os.close(fd)
        self.child = [-1, -1, -1]

    def close_stdin(self) -> None:
        """CloseIO: the process reads the end of file once containerd's own end is closed too."""
        if self._stdin_writer >= 0:
            os.close(self._stdin_writer)
            self._stdin_writer = -1

    def close(self) -> None:
        """Closes every end that the shim still holds; more than once is fine."""
        self.release_child()
        self.close_stdin()
        for name in ("console_in", "console_out"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)
        while self._held:
            os.close(self._held.pop())
        while self._files:
            self._files.pop().close()

    async def stop_logger(self) -> None:
        """Ends the log program, if there is one: its input is closed, it may take its time."""
        from copepod.task import logger

        binary, self._binary = self._binary, None
        if isinstance(binary, logger.Logger):
            await binary.stop()


async def open_stdio(paths: Paths, container_id: str, namespace: str) -> Stdio:
    """Opens all that `paths` names; raises errors.InvalidArgument or OSError, leaving nothing."""
    stdio = Stdio(paths)
    try:
        if paths.stdin:
            _open_stdin(stdio, _fifo_path(paths.stdin))
        scheme, mark, _ = paths.stdout.partition("://")
        scheme = scheme if mark else ""
        if scheme == "binary":
            await _open_binary(stdio, container_id, namespace)
        elif scheme == "file":
            _open_file(stdio)
        elif scheme in ("", "fifo"):
            _open_outputs(stdio)
        else:
            raise errors.InvalidArgument(
                f"stdio {paths.stdout}: the scheme {scheme} is not known; fifo, file and binary are"
            )
        if paths.terminal:
            # The process gets its terminal's slave from inside the container.
            stdio.console_in, stdio.console_out = stdio.child[0], stdio.child[1]
            if stdio.child[2] not in (-1, stdio.child[1]):
                os.close(stdio.child[2])
            stdio.child = [-1, -1, -1]
            # A log program's pipe is made blocking: one that isn't read would stop the shim.
            for fd in (stdio.console_in, stdio.console_out):
                if fd >= 0:
                    os.set_blocking(fd, False)
        else:
            # Non-blocking was for open(2) alone; the description is the process's from here on.
            for fd in stdio.child:
                if fd >= 0:
                    os.set_blocking(fd, True)
    except BaseException:
        stdio.close()
        await stdio.stop_logger()
        raise
    return stdio


def _fifo_path(path: str) -> str:
    path = path.removeprefix("fifo://")
    if not path.startswith("/"):
        raise errors.InvalidArgument(f"stdio {path}: the path of a FIFO must be absolute")
    return path


def _open_stdin(stdio: Stdio, path: str) -> None:
    stdio.child[0] = os.open(path, STDIN_FLAGS)
    if stat.S_ISFIFO(os.fstat(stdio.child[0]).st_mode):
        stdio._stdin_writer = os.open(path, STDOUT_FLAGS)


def _open_outputs(stdio: Stdio) -> None:
    for index, name in ((1, stdio.paths.stdout), (2, stdio.paths.stderr)):
        if not name or (index == 2 and stdio.paths.terminal):
            continue
        path = _fifo_path(name)
        if stat.S_ISFIFO(os.stat(path).st_mode):
            # Reader first: a FIFO without one can't be opened for writing (fifo(7)).
            stdio._held.append(os.open(path, STDIN_FLAGS))
            stdio.child[index] = os.open(path, STDOUT_FLAGS)
        else:
            stdio.child[index] = _through_pipe(stdio, os.open(path, STDOUT_FLAGS | os.O_APPEND))


def _through_pipe(stdio: Stdio, fd: int) -> int:
    """Gives what stands for a file of the node in the process: not the file itself (a terminal's
    end stays in the shim, and a device is none that a container could harm)."""
    if stdio.paths.terminal or not stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    from copepod.task.logfile import LogFile

    file = LogFile(fd)
    stdio._files.append(file)
    return file.writer


def _open_file(stdio: Stdio) -> None:
    from urllib.parse import unquote, urlsplit

    path = unquote(urlsplit(stdio.paths.stdout).path)
    os.makedirs(os.path.dirname(path) or "/", mode=0o755, exist_ok=True)
    # Non-blocking: what has that name may be a FIFO that nobody reads.
    flags = STDOUT_FLAGS | os.O_APPEND | os.O_CREAT
    stdio.child[1] = stdio.child[2] = _through_pipe(stdio, os.open(path, flags, 0o644))


async def _open_binary(stdio: Stdio, container_id: str, namespace: str) -> None:
    from copepod.task import logger

    stdio._binary, stdio.child[1], stdio.child[2] = await logger.spawn(
        stdio.paths.stdout, container_id, namespace
    )
