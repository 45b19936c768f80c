"""The log file of `file://` stdio: what a container writes goes through a pipe and is copied.

The file is the node's, and its inode is all that a container's root needs to make it a program
that runs as somebody else, or to unwrite it. A file that can't take more holds the container back.
"""

from __future__ import annotations

import asyncio
import os

CHUNK = 65536
REST_MAX = 1 << 20  # of a pipe's last bytes; what holds more has been made so by its writer
RETRY = 1.0  # seconds, for a file that is full


class LogFile:
    """Copies from a pipe, whose other end is `writer` and the receiver's, into the file `sink`,
    which it owns."""

    __slots__ = ("_again", "_loop", "_pending", "_sink", "_source", "writer")

    def __init__(self, sink: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._sink, self._pending = sink, b""
        self._again: asyncio.TimerHandle | None = None
        self._source, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._source, False)
        self._loop.add_reader(self._source, self._readable)

    def _readable(self) -> None:
        if not self._take():
            self._loop.remove_reader(self._source)
        elif self._pending:
            self._loop.remove_reader(self._source)
            self._again = self._loop.call_later(RETRY, self._retry)

    def _take(self) -> int:
        """Copies one chunk; gives its length, 0 at the end or if there is none now."""
        try:
            self._pending = os.read(self._source, CHUNK)
        except BlockingIOError:
            self._pending = b""
        size = len(self._pending)
        self._put()
        return size

    def _put(self) -> None:
        try:
            while self._pending:
                self._pending = self._pending[os.write(self._sink, self._pending) :]
        except OSError:
            pass  # full, most likely: somebody may make room

    def _retry(self) -> None:
        self._again = None
        self._put()
        if self._pending:
            self._again = self._loop.call_later(RETRY, self._retry)
        else:
            self._loop.add_reader(self._source, self._readable)

    def close(self) -> None:
        """Copies what is still in the pipe, as far as the file takes it, and ends."""
        self._loop.remove_reader(self._source)
        if self._again is not None:
            self._again.cancel()
        self._put()
        left = REST_MAX
        while left > 0 and not self._pending and (size := self._take()):
            left -= size
        os.close(self._source)
        os.close(self._sink)
