"""A program on a terminal of its own, as a user's kubectl is: keys, output, the window's size.

It never waits without a limit.
"""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from types import TracebackType

from rig.shell import RigError, kill_group

LIMIT = 60.0


class Terminal:
    """A child on a pseudoterminal; a context manager that kills it when it still runs at the end.

    `text` is what it printed behind the last thing that was expected.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = tuple(argv)
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            self.argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self.text = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            kill_group(self._process.pid)
        self._process.wait(10)
        os.close(self._master)

    def type(self, text: str) -> None:
        """Sends keys."""
        os.write(self._master, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        """Changes the window's size, as a user does who pulls at its corner."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        # The kernel tells the terminal's session, which is nobody's here.
        self._process.send_signal(signal.SIGWINCH)

    def expect(self, text: str, timeout: float = LIMIT) -> None:
        """Reads until `text` has come; RigError when that takes longer, or never will."""
        end = time.monotonic() + timeout
        while text not in self.text:
            data = self._read(end - time.monotonic())
            if not data:
                raise RigError(f"{' '.join(self.argv)}: no {text!r} after {self.text!r}")
            self.text += data
        self.text = self.text.partition(text)[2]

    def _read(self, timeout: float) -> str:
        """What has come, or "" when nothing did in time or the program has ended."""
        if not select.select([self._master], [], [], max(0.0, timeout))[0]:
            return ""
        try:
            return os.read(self._master, 4096).decode(errors="replace")
        except OSError:  # EIO: the program has ended (pty(7))
            return ""

    def wait(self, timeout: float = LIMIT) -> int:
        """Reads to the end; gives the exit code."""
        end = time.monotonic() + timeout
        while data := self._read(end - time.monotonic()):
            self.text += data
        return self._process.wait(max(0.1, end - time.monotonic()))


def window(pid: int) -> tuple[int, int]:
    """Rows and columns of the terminal that a process has on descriptor 0."""
    fd = os.open(f"/proc/{pid}/fd/0", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        answer = fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8))
    finally:
        os.close(fd)
    rows, columns, _, _ = struct.unpack("HHHH", answer)
    return rows, columns
