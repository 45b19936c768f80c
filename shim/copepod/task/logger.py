"""The log program of `binary://` stdio: one process that reads a container's stdout and stderr.

It only starts and ends that program. Source: containerd pkg/process/io.go (NewBinaryIO), cmd.go.
"""

from __future__ import annotations

import asyncio
import os
import signal
from urllib.parse import parse_qs, unquote, urlsplit

from copepod import errors
from copepod.task.reaper import reap_when_dead

READY_TIMEOUT = 10.0
STOP_TIMEOUT = 12.0
# posix_spawn's dup2s onto 3, 4 and 5 must not hit a source.
FIRST_SAFE_FD = 10


class Logger:
    """A running log program."""

    __slots__ = ("_exited", "_pidfd")

    def __init__(self, pidfd: int, exited: asyncio.Future[int]) -> None:
        self._pidfd, self._exited = pidfd, exited

    async def stop(self) -> None:
        """SIGTERM, at most 12 s, SIGKILL; the pipes that it reads should be closed before."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._exited.done():
                break
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                pass
            await asyncio.wait([self._exited], timeout=STOP_TIMEOUT)
        os.close(self._pidfd)


async def spawn(uri: str, container_id: str, namespace: str) -> tuple[Logger, int, int]:
    """Starts the program that `uri` names; gives it and the write ends of stdout and stderr.

    It has the read ends on 3 and 4, and closes 5 when it is ready, which is waited for (10 s).
    Raises errors.InvalidArgument for a bad URI, errors.Unavailable for a program that isn't ready,
    OSError if it can't be executed.
    """
    parts = urlsplit(uri)
    program = unquote(parts.path)
    if not program.startswith("/"):
        raise errors.InvalidArgument(f"stdio {uri}: the log program's path must be absolute")
    argv = [program]
    for key, values in parse_qs(parts.query, keep_blank_values=True).items():
        argv += [key, *([values[0]] if values[0] else [])]
    env = {"CONTAINER_ID": container_id, "CONTAINER_NAMESPACE": namespace}
    pairs = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
    (out_r, out_w), (err_r, err_w), (ready_r, ready_w) = pairs
    sources = [_above(fd) for fd in (out_r, err_r, ready_w)]
    try:
        pid = os.posix_spawn(
            program,
            argv,
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, 3 + i) for i, fd in enumerate(sources)],
            setsigdef=range(1, signal.SIGRTMAX),
            setsigmask=[],
        )
    except BaseException:
        for fd in (out_w, err_w, ready_r):
            os.close(fd)
        raise
    finally:
        for fd in (out_r, err_r, ready_w, *sources):
            os.close(fd)
    pidfd = os.pidfd_open(pid)
    program_process = Logger(pidfd, reap_when_dead(pidfd))
    try:
        await _until_ready(ready_r, program)
    except BaseException:
        os.close(out_w)
        os.close(err_w)
        await program_process.stop()
        raise
    return program_process, out_w, err_w


def _above(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_SAFE_FD)


async def _until_ready(fd: int, program: str) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await asyncio.wait_for(ready.wait(), READY_TIMEOUT)
    except TimeoutError:
        raise errors.Unavailable(
            f"the log program {program} is not ready after {READY_TIMEOUT:.0f} s: "
            "it must close fd 5 when it is"
        ) from None
    finally:
        loop.remove_reader(fd)
        os.close(fd)
