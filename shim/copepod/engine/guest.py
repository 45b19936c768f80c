"""What run.py and component.py share: what a guest gets, its one call, what is said of its end.

It refuses nothing: by the time a guest is Ready all that can be refused has been.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from copepod.engine import capi, objects, wasi
from copepod.engine.profile import Profile

TRAP_EXIT_CODE = 134  # 128 + SIGABRT; 137 would read as an out-of-memory kill
_EXITING = b"exit"
# The engine's text: frames as "    3:   0x2e0 - module!name", causes numbered if they are several.
_FRAME = re.compile(r"\s+\d+:\s+0x[0-9a-f]+ - |\s+at ")
_NUMBER = re.compile(r"^\s*(\d+: )?\s*")
_CAUSE = re.compile(r"^(?!Caused by:).*\S")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Mapped code and the engine that mapped it."""

    engine: objects.Engine
    module: objects.Module
    profile: Profile

    @property
    def kind(self) -> str:
        """ "core" or "component"."""
        return self.module.kind


@dataclass(frozen=True, slots=True)
class Options:
    """What the guest gets. `entry` names an export to call instead of the usual one, `network`
    opens wasi:sockets and name look-up to a component.
    """

    args: list[str]
    env: list[str] = field(default_factory=list)
    cwd: str = "/"
    preopens: tuple[wasi.Preopen, ...] = (wasi.ROOT,)
    entry: str | None = None
    network: bool = True


class ExitCode:
    """Keeps what the guest gave to proc_exit: the engine's own takes 0 to 125 only."""

    def __init__(self) -> None:
        self.code: int | None = None

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

    def __init__(self, call: Callable[[], int], exit_code: ExitCode | None = None) -> None:
        self._call, self._exit_code = call, exit_code or ExitCode()

    def run(self) -> int:
        """Runs the guest and gives its exit code, 0 to 255; 134 after a trap, whose message and
        wasm backtrace go to file descriptor 2. Never raises.
        """
        try:
            return self._call()
        except capi.EngineError as error:
            if self._exit_code.code is not None:
                return self._exit_code.code
            if error.exit_status is not None:
                return error.exit_status & 0xFF
            say(report(error))
        except BaseException as error:  # whatever it is, the container has to end with a code
            say(f"copepod: the guest could not be run: {error}\n")
        return TRAP_EXIT_CODE


def report(error: capi.EngineError) -> str:
    """What a person sees of a trap: why, and the wasm frames, innermost first."""
    frames, causes = [], []
    for line in error.message.splitlines():
        if _FRAME.match(line):
            frames.append(line.replace("<unknown>!", ""))
        elif _CAUSE.search(line) and not line.startswith(("note: using", "error while executing")):
            causes.append(_NUMBER.sub("", line))
    why = ": ".join(reversed(causes)) or "it does not say why"
    text = f"copepod: the guest trapped: {why.replace('wasm trap: ', '')}\n"
    return text + "\n".join(["wasm backtrace:", *frames, ""]) if frames else text


def say(text: str) -> None:
    """Writes to the container's stderr; a closed or full one is nobody's business any more."""
    data = text.encode("utf-8", "replace")
    try:
        while data:
            data = data[os.write(2, data) :]
    except OSError:
        pass
