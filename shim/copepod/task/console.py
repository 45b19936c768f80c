"""A terminal's bytes: between the pseudoterminal's master and the FIFOs that containerd gave.

Only processes with a terminal need it. It holds back a side that the other doesn't take, and
keeps no more than one chunk in memory. Source: pty(7), tty_ioctl(4).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios

CHUNK = 32768
# More than a terminal can hold back (drivers/tty/tty_buffer.c: 640 KiB): what comes after that many
# bytes was written later, by somebody who outlived the process.
REST_MAX = 1 << 20


class _Copy:
    """One direction: reads from `source` while `sink` takes it."""

    __slots__ = ("_ending", "_loop", "_pending", "_rest", "_sink", "_source", "done")

    def __init__(self, source: int, sink: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._source, self._sink = source, sink
        self._pending, self._ending, self._rest = b"", False, REST_MAX
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(source, self._readable)

    def _readable(self) -> None:
        if self.done.done() or self._pending:
            return
        if self._ending and self._rest <= 0:
            self.stop()
            return
        try:
            data = os.read(self._source, CHUNK)
        except BlockingIOError:
            if self._ending:
                self.stop()
            return
        except OSError:
            # EIO from a master: no process holds the slave any more (pty(7)).
            data = b""
        if data:
            if self._ending:
                self._rest -= len(data)
            self._pending = data
            self._loop.remove_reader(self._source)
            self._writable()
        else:
            self.stop()

    def _writable(self) -> None:
        try:
            self._pending = self._pending[os.write(self._sink, self._pending) :]
        except BlockingIOError:
            pass
        except OSError:
            self.stop()
            return
        if self._pending:
            try:
                self._loop.add_writer(self._sink, self._writable)
            except PermissionError:
                # A file that has taken a part has no room for the rest, and can't be waited for.
                self.stop()
            return
        self._loop.remove_writer(self._sink)
        self._loop.add_reader(self._source, self._readable)
        if self._ending:
            self._loop.call_soon(self._readable)

    def end_when_empty(self) -> None:
        """Ends the copying as soon as nothing more can be read, whoever still holds the source."""
        self._ending = True
        self._readable()

    def stop(self) -> None:
        """Ends the copying now; more than once is fine."""
        if not self.done.done():
            self._loop.remove_reader(self._source)
            self._loop.remove_writer(self._sink)
            self.done.set_result(None)


class Console:
    """The master's end of one process's terminal. Owns `master`; the FIFOs stay their owner's."""

    __slots__ = ("_input", "_master", "_output", "_writer")

    def __init__(self, master: int, stdin: int, stdout: int) -> None:
        os.set_blocking(master, False)
        self._master = master
        # A loop knows an fd once, and the two directions end apart from each other.
        self._writer = fcntl.fcntl(master, fcntl.F_DUPFD_CLOEXEC, 0)
        self._input = _Copy(stdin, self._writer) if stdin >= 0 else None
        self._output = _Copy(master, stdout) if stdout >= 0 else None

    def resize(self, width: int, height: int) -> None:
        """Sets the window's size in characters; the kernel sends SIGWINCH."""
        size = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def end(self) -> asyncio.Future[None]:
        """After the process's exit: no more input. Gives a future of its last output being out,
        which is never if nobody takes it; more than once is fine."""
        if self._input is not None:
            self._input.stop()
        if self._output is not None:
            self._output.end_when_empty()
            return self._output.done
        nothing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        nothing.set_result(None)
        return nothing

    def close(self) -> None:
        """Ends it now: output that nobody took is lost."""
        for copy in (self._input, self._output):
            if copy is not None:
                copy.stop()
        os.close(self._writer)
        os.close(self._master)
