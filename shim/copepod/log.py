"""The shim's log: logrus text lines for the FIFO that containerd copies into its own log.

It never waits and never raises: a line that containerd doesn't take is dropped.
"""

from __future__ import annotations

import os
import time

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/@^+")


class Log:
    """Writes lines to a file descriptor, with fields that every line carries."""

    __slots__ = ("_debug", "_fd", "_fields")

    def __init__(self, fd: int = 2, *, debug: bool = False, fields: str = "") -> None:
        self._fd, self._debug, self._fields = fd, debug, fields

    def bind(self, **fields: object) -> Log:
        """Gives a log whose lines carry `fields` too."""
        return Log(self._fd, debug=self._debug, fields=self._fields + _format(fields))

    def debug(self, message: str, **fields: object) -> None:
        """Logs only if containerd itself logs at debug level."""
        if self._debug:
            self._line("debug", message, fields)

    def info(self, message: str, **fields: object) -> None:
        """Logs what an operator may want to know."""
        self._line("info", message, fields)

    def warning(self, message: str, **fields: object) -> None:
        """Logs what went wrong without harm to a container."""
        self._line("warning", message, fields)

    def error(self, message: str, **fields: object) -> None:
        """Logs what went wrong."""
        self._line("error", message, fields)

    def _line(self, level: str, message: str, fields: dict[str, object]) -> None:
        seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        text = f'time="{stamp}.{nanos:09d}Z" level={level} msg={_quote(message, always=True)}'
        line = f"{text}{self._fields}{_format(fields)}\n"
        try:
            os.write(self._fd, line.encode(errors="backslashreplace"))
        except OSError:
            # EAGAIN or EPIPE: containerd is away or slow; the next line may find it again.
            pass


def _format(fields: dict[str, object]) -> str:
    return "".join(f" {name}={_quote(str(value))}" for name, value in fields.items())


def _quote(text: str, *, always: bool = False) -> str:
    if not always and text and _PLAIN.issuperset(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
