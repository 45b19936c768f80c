"""What run.py and component.py share: what a guest gets, its one call, what is said of its end.

It refuses nothing: by the time a guest is Ready all that can be refused has been.
"""

from __future__ import annotations

import _thread
import os
import re
import resource
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from copepod import errors
from copepod.engine import capi, coredump, objects
from copepod.engine.limits import Knobs
from copepod.engine.profile import Profile
from copepod.values import dataclass, field

if TYPE_CHECKING:
    from copepod.engine.imports import Imports

TRAP_EXIT_CODE = 134  # 128 + SIGABRT; 137 would read as an out-of-memory kill
_EXITING = b"exit"
_GRACE = 0.5  # seconds in which a guest that isn't waiting for anything comes to its end
_LONGEST = 1e9  # seconds; time.sleep takes no more than some ten times that
_HOST_STACK = 1 << 20  # for the functions that the guest calls, and for what called it
_TRAP = "wasm trap: "
# The engine's text: frames as "    3:   0x2e0 - module!name", causes numbered if they are several.
_FRAME = re.compile(r"\s+\d+:\s+0x[0-9a-f]+ - |\s+at ")
_NUMBER = re.compile(r"^\s*(\d+: )?\s*")
_CAUSE = re.compile(r"^(?!Caused by:).*\S")


class Loaded:
    """Mapped code, the engine that mapped it, and what it may import if that is made already."""

    def __init__(
        self,
        engine: objects.Engine,
        module: objects.Module,
        profile: Profile,
        imports: Imports | None = None,
    ) -> None:
        self.engine, self.module, self.profile, self.imports = engine, module, profile, imports

    @property
    def kind(self) -> str:
        """ "core" or "component"."""
        return self.module.kind


@dataclass(frozen=True, slots=True)
class Options:
    """What the guest gets. `entry` (of the command line) goes before the one of `knobs`."""

    args: list[str]
    env: list[str] = field(default_factory=list)
    cwd: str = "/"
    entry: str | None = None
    knobs: Knobs = field(default_factory=Knobs)


class ExitCode:
    """Keeps what the guest gave to proc_exit: the engine's own takes 0 to 125 only. `over`: the
    guest has come back, by whatever way."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.over = False

    def proc_exit(self, _caller: int, values: int) -> int | None:
        """The host function: ends the guest with a trap of ours. As in Linux, 8 bits count."""
        self.code = capi.u32_at(values) & 0xFF
        trap: int | None = capi.library().wasmtime_trap_new(_EXITING, len(_EXITING))
        return trap

    def exit_with_code(self, values: int) -> int | None:
        """The same for a component: one u8."""
        self.code = capi.u8_at(values + capi.ComponentValue.value.offset)
        error: int | None = capi.library().wasmtime_error_new(_EXITING)
        return error


class Ready:
    """A guest that is one call from running."""

    def __init__(
        self, call: Callable[[], int], loaded: Loaded, knobs: Knobs, exit_code: ExitCode
    ) -> None:
        self._call, self._loaded, self._knobs, self._exit = call, loaded, knobs, exit_code

    def run(self) -> int:
        """Runs the guest and gives its exit code, 0 to 255; 134 after a trap, whose message and
        wasm backtrace go to file descriptor 2. Never raises.
        """
        try:
            if self._knobs.time_limit is not None:
                _thread.start_new_thread(self._end_after, (self._knobs.time_limit,))
            return self._call()
        except capi.EngineError as error:
            self._exit.over = True
            if self._exit.code is not None:
                return self._exit.code
            if error.exit_status is not None:
                return error.exit_status & 0xFF
            say(report(error, self._knobs))
        except BaseException as error:  # whatever it is, the container has to end with a code
            say(f"copepod: the guest could not be run: {error}\n")
        return TRAP_EXIT_CODE

    def _end_after(self, seconds: float) -> None:
        """A thread of its own: the guest's doesn't come back to Python before its end.

        The engine looks at the time in the guest's loops and calls only. A guest that waits, for
        a connection or for another day, is ended with its process.
        """
        time.sleep(min(seconds, _LONGEST))
        self._loaded.engine.increment_epoch()
        time.sleep(_GRACE)
        if not self._exit.over:
            say(f"copepod: {_late(seconds)}, and was waiting then\n")
            os._exit(TRAP_EXIT_CODE)


def dump(path: str, name: str, error: capi.EngineError, instance: objects.Instance) -> None:
    """Writes a core dump and says where, or why not."""
    try:
        coredump.write(path, name, error.frames, instance.memory("memory"))
        say(f"copepod: core dump in {path}\n")
    except OSError as failure:
        say(f"copepod: no core dump in {path}: {failure.strerror}\n")


def store(loaded: Loaded, knobs: Knobs) -> objects.Store:
    """A store with the knobs' limits.

    Raises errors.Internal when the code was compiled for other ones, errors.InvalidArgument when
    the process can't have the stack.
    """
    if knobs.profile().at(loaded.profile.tier).key() != loaded.profile.key():
        raise errors.Internal("copepod: the module is compiled for other limits than it is run by")
    _make_room(knobs.stack)
    made = objects.Store(loaded.engine)
    made.limit(
        memory=_or_none(knobs.memory),
        elements=_or_none(knobs.table_elements),
        tables=_or_none(knobs.tables),
        instances=_or_none(knobs.instances),
    )
    if knobs.fuel is not None:
        made.set_fuel(knobs.fuel)
    if knobs.time_limit is not None:
        made.set_deadline(1)
    return made


def _make_room(stack: int) -> None:
    """Lets this thread's stack grow to the wasm stack's size and what the engine needs above it.

    The kernel looks at the soft limit whenever the stack grows (getrlimit(2)). Raises
    errors.InvalidArgument when the container's hard limit is lower.
    """
    needed = stack + _HOST_STACK
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise errors.InvalidArgument(
            f"the container's RLIMIT_STACK of {hard} bytes is too small for a wasm stack of "
            f"{stack} bytes, which needs {needed}: raise it or set copepod.dev/stack"
        )
    resource.setrlimit(resource.RLIMIT_STACK, (needed, hard))


def _or_none(value: int | None) -> int:
    return -1 if value is None else value


def report(error: capi.EngineError, knobs: Knobs) -> str:
    """What a person sees of a trap: why, and the wasm frames, innermost first."""
    frames, causes = [], []
    for line in error.message.splitlines():
        if _FRAME.match(line):
            frames.append(line.replace("<unknown>!", ""))
        elif _CAUSE.search(line) and not line.startswith(("note: using", "error while executing")):
            causes.append(_NUMBER.sub("", line))
    why = ": ".join(reversed(causes)) or "it does not say why"
    text = f"copepod: {_limit(why, knobs) or 'the guest trapped: ' + why.replace(_TRAP, '')}\n"
    return text + "\n".join(["wasm backtrace:", *frames, ""]) if frames else text


def _limit(why: str, knobs: Knobs) -> str:
    """The sentence for a trap that a knob made."""
    if knobs.time_limit is not None and why == f"{_TRAP}interrupt":
        return _late(knobs.time_limit)
    if knobs.fuel is not None and why == f"{_TRAP}all fuel consumed by WebAssembly":
        return f"the guest was ended: it used up its fuel of {knobs.fuel}"
    return ""


def _late(seconds: float) -> str:
    return f"the guest was ended: it ran for its time limit of {seconds:g} s"


def say(text: str) -> None:
    """Writes to the container's stderr; a closed or full one is nobody's business any more."""
    data = text.encode("utf-8", "replace")
    try:
        while data:
            data = data[os.write(2, data) :]
    except OSError:
        pass
