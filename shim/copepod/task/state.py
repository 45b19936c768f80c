"""The states of a process and what may be asked in each: one table.

Everything that allows, refuses or changes a state stands in this file; it does nothing else.
The numbers are those of containerd.v1.types.Status.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

from copepod import errors


class Status(IntEnum):
    """Where a process is in its life."""

    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    PAUSED = 4
    PAUSING = 5


class Verb(StrEnum):
    """What containerd may ask of a process."""

    START = "start"
    EXEC = "exec in"
    KILL = "kill"
    DELETE = "delete"
    PAUSE = "pause"
    RESUME = "resume"
    UPDATE = "update"


_ALLOWED: dict[Verb, frozenset[Status]] = {
    Verb.START: frozenset({Status.CREATED}),
    Verb.EXEC: frozenset({Status.RUNNING}),
    Verb.KILL: frozenset({Status.CREATED, Status.RUNNING, Status.PAUSED, Status.PAUSING}),
    Verb.DELETE: frozenset({Status.CREATED, Status.STOPPED}),
    Verb.PAUSE: frozenset({Status.RUNNING}),
    Verb.RESUME: frozenset({Status.PAUSED}),
    Verb.UPDATE: frozenset({Status.CREATED, Status.RUNNING, Status.PAUSED}),
}


def check(verb: Verb, status: Status, name: str) -> None:
    """Returns if `verb` may be done in `status`.

    Raises errors.NotFound for a signal to a process that is gone (containerd takes it as done),
    else errors.FailedPrecondition, with `name` in the sentence.
    """
    if status in _ALLOWED[verb]:
        return
    if verb is Verb.KILL:
        raise errors.NotFound(f"process {name} has already finished")
    state = status.name.lower()
    raise errors.FailedPrecondition(f"cannot {verb} {name}: it is {state}")
