"""What a stranger needs to free a container: a small file in its bundle, written before the act.

The bundle is the only state that outlives the shim, so `delete` works from this file alone. It
holds facts, no policy; the format is one `name=value` a line, so that reading it imports nothing.
"""

from __future__ import annotations

import os

from copepod.answers import STATE_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Record:
    """What one container has on the node. Empty fields mean "nothing of this kind".

    `wanted` are the cgroups that are about to be made: what is in them is not known to be ours.
    """

    __slots__ = (
        "bundle",
        "cgroups",
        "exit_status",
        "exited_at",
        "netns",
        "pid",
        "starttime",
        "wanted",
    )

    def __init__(self, bundle: str) -> None:
        self.bundle = bundle
        self.pid = self.starttime = 0
        self.cgroups: tuple[str, ...] = ()
        self.wanted: tuple[str, ...] = ()
        self.netns = ""
        self.exit_status = -1
        self.exited_at = 0

    def write(self) -> None:
        """Replaces the file in one step; raises OSError."""
        lines = [
            f"pid={self.pid}",
            f"starttime={self.starttime}",
            f"netns={self.netns}",
            f"exit_status={self.exit_status}",
            f"exited_at={self.exited_at}",
            *(f"cgroup={path}" for path in self.cgroups),
            *(f"wanted={path}" for path in self.wanted),
        ]
        path = f"{self.bundle}/{STATE_FILE}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fd = os.open(f"{path}.new", flags, 0o600)
        try:
            os.write(fd, "\n".join([*lines, ""]).encode())
        finally:
            os.close(fd)
        os.rename(f"{path}.new", path)

    def is_kept(self) -> bool:
        """Whether the file is there."""
        return os.access(f"{self.bundle}/{STATE_FILE}", os.F_OK)

    def forget(self) -> None:
        """Removes the file: nothing of the container is left on the node."""
        for name in (STATE_FILE, f"{STATE_FILE}.new"):
            try:
                os.unlink(f"{self.bundle}/{name}")
            except FileNotFoundError:
                pass

    def forget_if_freed(self) -> None:
        """As `forget`, unless it names cgroups: what could not be freed is left to `delete`."""
        if not self.cgroups:
            self.forget()

    def set_process(self, pid: int) -> None:
        """Remembers a process so that its number alone, used again, is not taken for it."""
        self.pid, self.starttime = pid, starttime(pid)


def read(bundle: str) -> Record:
    """Gives the bundle's record; lines that are damaged or unknown are passed over."""
    record = Record(bundle)
    with open(f"{bundle}/{STATE_FILE}", encoding="utf-8", errors="replace") as file:
        record_from(record, file)
    return record


def record_from(record: Record, lines: Iterable[str]) -> None:
    """Fills `record` from the file's lines."""
    paths: dict[str, list[str]] = {"cgroup": [], "wanted": []}
    for line in lines:
        name, _, value = line.rstrip("\n").partition("=")
        if name in paths and value.startswith("/"):
            paths[name].append(value)
        elif name == "netns":
            record.netns = value
        elif name in ("pid", "starttime", "exit_status", "exited_at"):
            try:
                setattr(record, name, int(value))
            except ValueError:
                pass
    record.cgroups, record.wanted = tuple(paths["cgroup"]), tuple(paths["wanted"])


def starttime(pid: int) -> int:
    """Gives when `pid` started, in clock ticks since boot (proc(5), field 22), or 0 if gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            data = file.read()
    except OSError:
        return 0
    # comm, in parentheses, may hold anything.
    return int(data[data.rindex(b")") + 2 :].split()[19])
