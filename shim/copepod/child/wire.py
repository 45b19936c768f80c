"""The words between a container's first process and the shim, over one SOCK_SEQPACKET pair.

A message is a tag and fields, NUL between them, with at most a few fds beside it. It knows no
event loop: the shim's end waits in container/talk.py.

child says                                  shim says
                                              network +fd (the new namespace, to be joined)
  map (give me my id maps)                    mapped
  pid N (of the process that stays)           adopted
  hooks (the namespaces are there)            hooked
  console +fd (the terminal's master)
  found name entry +fd                        module kind entry [toolbox] +fd
  missing name entry searched                 module kind entry [toolbox] +fd
                                              proc +fd (one for each mount of a procfs, after
                                              the first module: what a guest is to see of it)
  unusable text (that module is torn)         module kind entry +fd
  ready kind                                  go
  failed step errno path text                 (and the child is gone)
  error class text                            (and the child is gone)
"""

from __future__ import annotations

import select
import socket

from copepod.linux.fds import receive

MAX_MESSAGE = 65536
MAX_FDS = 4
_FIELD_MAX = 8192


def encode(tag: str, *fields: str) -> bytes:
    """Makes a message; a NUL in a field becomes a space, an overlong field is cut."""
    words = (tag, *fields)
    return b"\0".join(
        word.encode("utf-8", "surrogateescape").replace(b"\0", b" ")[:_FIELD_MAX] for word in words
    )


def decode(data: bytes) -> tuple[str, ...]:
    """Gives (tag, field, ...); an empty message is the peer's end: ("",)."""
    return tuple(word.decode("utf-8", "surrogateescape") for word in data.split(b"\0"))


class Wire:
    """The child's end: blocking."""

    __slots__ = ("_socket",)

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def fileno(self) -> int:
        """The fd, close-on-exec: an execve that succeeds is the end of the conversation."""
        return self._socket.fileno()

    def say(self, tag: str, *fields: str, fds: tuple[int, ...] = ()) -> None:
        """Sends one message; the fds stay the caller's."""
        if fds:
            socket.send_fds(self._socket, [encode(tag, *fields)], list(fds))
        else:
            self._socket.send(encode(tag, *fields))

    def hear(self, tag: str) -> tuple[tuple[str, ...], list[int]]:
        """Waits for the message `tag` and gives (fields, fds). Raises ConnectionError when the
        shim has gone or says something else: then nobody is left to be a container for."""
        data, received = receive(self._socket, MAX_MESSAGE, MAX_FDS)
        words = decode(data)
        if words[0] != tag:
            raise ConnectionError(f"the shim said {words[0]!r} where {tag!r} was due")
        return words[1:], received

    def has_news(self) -> bool:
        """Whether `hear` would not have to wait."""
        poller = select.poll()  # select(2) knows no descriptor above 1023
        poller.register(self._socket, select.POLLIN)
        return bool(poller.poll(0))

    def hear_all(self, tag: str, count: int) -> list[int]:
        """Waits for `count` messages with one fd each, and gives the fds."""
        return [fd for _ in range(count) for fd in self.hear(tag)[1]]

    def close(self) -> None:
        """Ends the conversation."""
        self._socket.close()
