"""A /proc without processes for wasm guests: child/hiding.py says why, and puts it in place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from copepod import errors
from copepod.child.mounts import configured
from copepod.linux import procfs, sigmask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from copepod.child.job import ProcMount


def make(wanted: Sequence[ProcMount], pidfd: int = -1) -> list[int]:
    """Gives a detached procfs for each mount; the fds are the caller's. With `pidfd` they show the
    pid namespace of that process. Raises errors.StepFailed."""
    made: list[int] = []
    try:
        with sigmask.all_blocked():
            for one in wanted:
                context = procfs.fsopen(pidfd)
                made.append(configured(context, "proc", (), one.data, one.attributes))
    except OSError as error:
        for fd in made:
            os.close(fd)
        text = f"make a /proc without processes: {error.strerror}"
        raise errors.StepFailed("proc", error.errno or 0, "", text) from None
    return made
