"""Runs a guest as a container process would: compiled in one child, run in another, with pipes.

The test's own process never makes an engine, so its threads and signal handlers stay its own.
"""

from __future__ import annotations

import faulthandler
import os
import selectors
import signal
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from copepod import errors
from copepod.engine import compile as engine_compile
from copepod.engine import run
from copepod.engine.limits import Knobs
from copepod.engine.profile import Profile
from copepod.image.cache import Cache

LIMIT = 60.0


class Outcome(NamedTuple):
    """What a child left: its exit code (or minus the signal), its output, its error output."""

    code: int
    out: bytes
    err: bytes


def child(work: Callable[[], int], stdin: bytes = b"", limit: float = LIMIT) -> Outcome:
    """Runs `work` in a forked child on pipes; its result is the exit code, an errors.Error 200."""
    pipes = [os.pipe() for _ in range(3)]
    pid = os.fork()
    if pid == 0:
        try:
            faulthandler.disable()  # pytest's, which would tell of a death that is meant
            os.dup2(pipes[0][0], 0)
            os.dup2(pipes[1][1], 1)
            os.dup2(pipes[2][1], 2)
            for fd in {fd for pipe in pipes for fd in pipe if fd > 2}:
                os.close(fd)
            os._exit(work())
        except errors.Error as error:
            os.write(2, f"{type(error).__name__}: {error}".encode())
            os._exit(200)
        except BaseException as error:
            os.write(2, f"unexpected {error!r}".encode())
        finally:
            os._exit(201)
    for fd in (pipes[0][0], pipes[1][1], pipes[2][1]):
        os.close(fd)
    try:
        out, err = _talk(pipes[0][1], pipes[1][0], pipes[2][0], stdin, limit)
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        status = os.waitpid(pid, 0)[1]
    return Outcome(os.waitstatus_to_exitcode(status), out, err)


def _talk(stdin: int, stdout: int, stderr: int, data: bytes, limit: float) -> tuple[bytes, bytes]:
    got: dict[int, list[bytes]] = {stdout: [], stderr: []}
    os.write(stdin, data)  # tests give less than a pipe holds
    os.close(stdin)
    deadline = time.monotonic() + limit
    with selectors.DefaultSelector() as selector:
        for fd in got:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"the guest still runs after {limit} s")
            for key, _ in selector.select(left):
                chunk = os.read(key.fd, 65536)
                got[key.fd].append(chunk)
                if not chunk:
                    selector.unregister(key.fd)
                    os.close(key.fd)
    return b"".join(got[stdout]), b"".join(got[stderr])


def compiled(data: bytes, profile: Profile | None = None, cache: Cache | None = None) -> int:
    """Gives a descriptor of the compiled module, from a cache of the tests' own."""
    profile = profile or Profile()
    digest = sha256(data).digest()
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = cache or Cache(str(root / "copepod" / "test-modules"))

    def build(fd: int) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                engine_compile.compile_to(data, fd, profile, digest)
                os._exit(0)
            except BaseException as error:
                os.write(2, f"{error!r}\n".encode())
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0, "the module could not be compiled"

    return cache.compile_once(profile.key(), digest.hex(), build)


def guest(
    module: bytes | Path,
    *args: str,
    stdin: bytes = b"",
    tier: str = "cranelift",
    ahead: str = "",
    knobs: Knobs | None = None,
    before: Callable[[], object] | None = None,
    limit: float = LIMIT,
    **options: object,
) -> Outcome:
    """Compiles a module and runs it with `args` behind its own name; `before` runs in the child.

    `ahead`: for which tier an engine, and what a core module imports, are there before the code.
    """
    data = module if isinstance(module, bytes) else module.read_bytes()
    knobs = knobs or Knobs()
    profile = knobs.profile().at(tier)
    fd = compiled(data, profile)

    def work() -> int:
        made = run.Ahead(profile, ahead) if ahead else None
        if made is not None:
            made.link()
        loaded = run.load(fd, engine_compile.kind(data), profile, made)
        if before:
            before()
        words = ["/guest.wasm", *args]
        all_options = run.Options(args=words, knobs=knobs, **options)  # type: ignore[arg-type]
        return run.link(loaded, all_options).run()

    try:
        return child(work, stdin, limit)
    finally:
        os.close(fd)
