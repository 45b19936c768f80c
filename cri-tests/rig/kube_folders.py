"""Folders that must be there on the machine so that a cell can mount its own over them.

The last run that uses them removes those that a run has made, and no others: rmdir(2) of a mount
point succeeds and takes the mount away from every namespace that still uses it.
"""

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rig.paths import cache_dir


@contextmanager
def present(paths: Sequence[str]) -> Iterator[None]:
    """Makes the folders that are missing, for as long as any run is in here."""
    with (cache_dir() / "kube-folders").open("a+") as ours:
        fcntl.flock(ours, fcntl.LOCK_SH)
        try:
            for path in map(Path, paths):
                if not path.exists():
                    path.mkdir(exist_ok=True)
                    print(path, file=ours, flush=True)
            yield
        finally:
            try:
                fcntl.flock(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # the other run does it
                pass
            else:
                _remove(ours.name)


def _remove(record: str) -> None:
    for line in Path(record).read_text().splitlines():
        try:
            Path(line).rmdir()
        except OSError:  # somebody has put something in, and it is theirs
            pass
    Path(record).write_text("")
