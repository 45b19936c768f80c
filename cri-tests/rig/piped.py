"""A running program whose output is read while it runs, for what must be caught in the act.

It never waits without a limit.
"""

import os
import selectors
import subprocess
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rig.shell import Done, RigError, kill_group


class Piped:
    """A child with pipes; a context manager that kills it when it still runs at the end."""

    def __init__(self, argv: Sequence[str], *, stdin: bool = False) -> None:
        self.argv = tuple(argv)
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            self.argv,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._text = {"out": b"", "err": b""}
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout
        assert self._process.stderr
        self._selector.register(self._process.stdout, selectors.EVENT_READ, "out")
        self._selector.register(self._process.stderr, selectors.EVENT_READ, "err")

    def __enter__(self) -> "Piped":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            kill_group(self.pid)
        self._process.wait(10)
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream:
                stream.close()

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return self._text["out"].decode(errors="replace")

    @property
    def err(self) -> str:
        """What it has printed on standard error so far."""
        return self._text["err"].decode(errors="replace")

    def send(self, data: bytes) -> None:
        """Writes to its standard input."""
        assert self._process.stdin
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def end_input(self) -> None:
        """Closes its standard input."""
        assert self._process.stdin
        self._process.stdin.close()

    def _pump(self, deadline: float, done: Callable[[], bool]) -> None:
        """Reads until `done`, the end of both streams, or the deadline."""
        while not done() and self._selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise RigError(f"{' '.join(self.argv)}: too slow\n{self.out}{self.err}")
            for key, _ in self._selector.select(left):
                data = os.read(key.fd, 65536)
                self._text[key.data] += data
                if not data:
                    self._selector.unregister(key.fileobj)

    def expect(self, text: str, timeout: float = 30.0) -> None:
        """Reads until `text` has been printed; RigError when it ends or takes longer."""
        self._pump(time.monotonic() + timeout, lambda: text in self.out)
        if text not in self.out:
            raise RigError(f"{' '.join(self.argv)}: no {text!r}\n{self.out}{self.err}")

    def wait(self, timeout: float = 30.0) -> Done:
        """Reads to the end and gives the program's exit code and output."""
        deadline = time.monotonic() + timeout
        self._pump(deadline, lambda: False)
        code = self._process.wait(max(0.1, deadline - time.monotonic()))
        return Done(self.argv, code, self.out, self.err, time.monotonic() - self._began)
