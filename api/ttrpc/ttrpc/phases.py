"""The life of one stream as a table: the one place for the rule of who may send what, and when.

It names no message and answers nothing. Both sides hold the same phase for a stream, because
only the client opens one and "closed" is always said by a flag or by a response.
"""

from __future__ import annotations

from enum import Enum, auto


class Phase(Enum):
    """Where an open stream is."""

    UNARY = auto()
    """The request was all of it; one response and no data may follow."""
    OPEN = auto()
    """Client and server may both send data."""
    HALF_CLOSED = auto()
    """The client has sent its last data; the server may still send."""
    FINISHED = auto()
    """Nothing more in either direction; the stream is forgotten."""


class Act(Enum):
    """What a side does to a stream after the request."""

    CLIENT_DATA = auto()
    CLIENT_END = auto()
    SERVER_DATA = auto()
    SERVER_END = auto()
    RESPONSE = auto()


# The server's end finishes a stream also when the client was not done: the protocol has no phase
# in which only the server has closed.
NEXT: dict[tuple[Phase, Act], Phase] = {
    (Phase.UNARY, Act.RESPONSE): Phase.FINISHED,
    (Phase.OPEN, Act.CLIENT_DATA): Phase.OPEN,
    (Phase.OPEN, Act.CLIENT_END): Phase.HALF_CLOSED,
    (Phase.OPEN, Act.SERVER_DATA): Phase.OPEN,
    (Phase.OPEN, Act.SERVER_END): Phase.FINISHED,
    (Phase.OPEN, Act.RESPONSE): Phase.FINISHED,
    (Phase.HALF_CLOSED, Act.SERVER_DATA): Phase.HALF_CLOSED,
    (Phase.HALF_CLOSED, Act.SERVER_END): Phase.FINISHED,
    (Phase.HALF_CLOSED, Act.RESPONSE): Phase.FINISHED,
}


class Streams:
    """The open streams of one connection and the phase of each."""

    def __init__(self) -> None:
        self._phases: dict[int, Phase] = {}

    def __len__(self) -> int:
        return len(self._phases)

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._phases

    def open(self, stream_id: int, phase: Phase) -> None:
        """Adds a stream that a request has just opened."""
        self._phases[stream_id] = phase

    def phase(self, stream_id: int) -> Phase:
        """Gives the phase of a stream; FINISHED for one that is not open."""
        return self._phases.get(stream_id, Phase.FINISHED)

    def act(self, stream_id: int, act: Act) -> bool:
        """Moves a stream on; False, and nothing changed, when the table has no such move."""
        phase = NEXT.get((self._phases.get(stream_id, Phase.FINISHED), act))
        if phase is None:
            return False
        if phase is Phase.FINISHED:
            del self._phases[stream_id]
        else:
            self._phases[stream_id] = phase
        return True

    def drop(self, stream_id: int) -> bool:
        """Ends a stream from any phase; False if it was not open."""
        return self._phases.pop(stream_id, None) is not None
