"""Status codes and the exceptions of this package.

It knows no wire format: wire.py turns a status into bytes, server.py an exception into a status.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

Detail = tuple[str, bytes]
"""One google.protobuf.Any of a status: its type URL and the serialized message."""


class Code(IntEnum):
    """google.rpc.Code: the numbers that travel in a status."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Error(Exception):
    """A call that failed with a status.

    Raised by a handler it becomes the answer; raised by a client it is the answer, or what
    stopped the call on this side (a deadline, a message over the limit, a closed connection).
    `code` is a Code, or a bare int when the peer sent a number that is not in the list.
    """

    def __init__(self, code: int, message: str = "", details: Sequence[Detail] = ()) -> None:
        super().__init__(code, message)
        self.code = known_code(code)
        self.message = message
        self.details = tuple(details)

    def __str__(self) -> str:
        name = self.code.name if isinstance(self.code, Code) else f"code {self.code}"
        return f"{name}: {self.message}" if self.message else name


class ClosedError(Error):
    """The connection is closed: no answer will come, and whether the call ran is not known."""

    def __init__(self, message: str = "ttrpc: closed") -> None:
        super().__init__(Code.UNAVAILABLE, message)


class StateError(Exception):
    """The caller asked a connection for something that the protocol forbids in its state.

    Always a defect of the calling code, never of the peer: a second answer on one stream, data
    after the last data, more streams than there are identifiers.
    """


def known_code(code: int) -> int:
    """Gives the Code for a number, or the number itself when the list has no such code."""
    try:
        return Code(code)
    except ValueError:
        return code


def oversized(length: int, limit: int) -> Error:
    """Gives the error for a message of `length` bytes where `limit` is the most allowed."""
    return Error(
        Code.RESOURCE_EXHAUSTED,
        f"message length {length} exceeds the maximum message size of {limit}",
    )
