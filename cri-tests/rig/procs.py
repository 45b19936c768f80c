"""Facts of a process from /proc (proc(5)): its parent, namespaces, threads and descriptors.

It reads; it signals nothing.
"""

import os
from pathlib import Path


def parent(pid: int) -> int:
    """The parent's pid."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def namespace(pid: int, kind: str) -> str:
    """The name of one of its namespaces, such as net:[4026531840]."""
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def threads(pid: int) -> int:
    """How many threads it has."""
    return len(os.listdir(f"/proc/{pid}/task"))


def descriptors(pid: int) -> int:
    """How many descriptors it has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def pss(pid: int) -> int:
    """Its proportional share of memory, in bytes; none once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in lines:
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
