"""A guest under a profiler: its engine is made in the container's root, not before.

The engine opens /tmp/perf-<pid>.map or ./jit-<pid>.dump when it is made, as root of the node if it
were made where code is mapped otherwise; and it ends the process when it can't. Both are refused
here: nothing of a pod's is written on the node, and a folder that can't be written to is said.
"""

from __future__ import annotations

import mmap
import os

from copepod import errors
from copepod.engine import objects
from copepod.engine.guest import Loaded
from copepod.engine.profile import Profile
from copepod.values import replace


class Unmade(Loaded):
    """Code that is read, and the settings of the engine that will run it."""

    def __init__(self, code: bytes, kind: str, profile: Profile) -> None:
        self._code, self._kind, self._wanted = code, kind, profile

    def made(self) -> Loaded:
        """Makes the engine, in the container's root and as the container's user.

        Raises errors.InvalidArgument when the profiler's file can't be written there, EngineError
        when the code isn't this engine's.
        """
        _try_file(self._wanted.profiling)
        engine = replace(self._wanted, parallel=False).engine()
        module = objects.Module.deserialize(engine, self._code, self._kind)
        return Loaded(engine, module, self._wanted)


def _try_file(profiling: str) -> None:
    """Does with the file what the engine will do; jitdump's is mapped executable, as a marker."""
    pid, perfmap = os.getpid(), profiling == "perfmap"
    path = f"/tmp/perf-{pid}.map" if perfmap else f"{os.getcwd().rstrip('/')}/jit-{pid}.dump"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if not perfmap:
                os.ftruncate(fd, mmap.PAGESIZE)
                protection = mmap.PROT_READ | mmap.PROT_EXEC
                mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_PRIVATE, protection).close()
                os.ftruncate(fd, 0)
        finally:
            os.close(fd)
    except OSError as error:
        raise errors.InvalidArgument(
            f"copepod.dev/profiling: {path} can't be written in the container: {error.strerror}"
        ) from None
