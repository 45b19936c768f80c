"""A /proc without processes, for wasm guests: child/hiding.py says why, and puts it in its place.

A procfs shows the pid namespace of who makes it. So a child is born into a new one, makes the
procfs, hands it over detached, and with the child the namespace ends. The shim has this done while
the container's process builds its walls or maps its code.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from typing import TYPE_CHECKING, NoReturn

from copepod import errors
from copepod.child import signals
from copepod.child.mounts import make as make_mount
from copepod.linux import fds, ns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from copepod.child.job import ProcMount

_TIMEOUT = 10.0  # seconds; the child makes a few system calls


class Maker:
    """The child at work, one detached procfs for each mount; with `pidfd`, one that shows the pid
    namespace of that process. Raises errors.StepFailed, now or in `take`."""

    def __init__(self, wanted: Sequence[ProcMount], pidfd: int = -1) -> None:
        self._count, self._pid = len(wanted), 0
        if not wanted:
            return
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_TIMEOUT)
        try:
            self._pid = _fork(theirs, wanted, pidfd)
        except OSError as error:
            self._socket.close()
            raise _failed(error.errno or 0) from None
        finally:
            theirs.close()

    def take(self) -> list[int]:
        """Waits for it to be done, and gives the fds, which are the caller's; once."""
        if not self._pid:
            return []
        got: list[int] = []
        try:
            _, got = fds.receive(self._socket, 64, self._count)
        except OSError as error:
            raise _failed(error.errno or 0) from None
        finally:
            self.close()
        if len(got) != self._count:
            for fd in got:
                os.close(fd)
            raise _failed(errno.EIO)
        return got

    def close(self) -> None:
        """Ends it if nobody took what it made."""
        if self._pid:
            _end(self._pid)
            self._pid = 0
            self._socket.close()


def _failed(number: int) -> errors.StepFailed:
    text = f"make a /proc without processes: {os.strerror(number)}"
    return errors.StepFailed("proc", number, "", text)


def _fork(theirs: socket.socket, wanted: Sequence[ProcMount], pidfd: int) -> int:
    """Forks into the pid namespace; this process stays in its own in any case."""
    own = ns.own("pid")
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signals.everything())
    try:
        if pidfd >= 0:
            ns.setns(pidfd, ns.CLONE_NEWPID)
        else:
            ns.unshare(ns.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            _be_maker(theirs, wanted)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        try:
            ns.setns(own, ns.CLONE_NEWPID)
        finally:
            os.close(own)


def _be_maker(sock: socket.socket, wanted: Sequence[ProcMount]) -> NoReturn:
    try:
        fds.close_all_but((0, 1, 2, sock.fileno()))
        made = [make_mount("proc", "proc", (), one.data, one.attributes) for one in wanted]
        socket.send_fds(sock, [b"proc"], made)
    finally:
        os._exit(0)


def _end(pid: int) -> None:
    """It has said its only word, or is not to say it: both ways it is gone in a moment."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    os.waitpid(pid, 0)
