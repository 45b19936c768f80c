"""A cell: a mount and a network namespace in which a private containerd and its peers live.

It gives them a /run, a /var/lib/cni and a loopback of their own, so that runs go on side by side
and the machine's own containerd, bridges and sockets are never seen; when it ends, what a broken
runtime left mounted or bridged ends with it. It is no sandbox: files and cgroups are the host's.
"""

import fcntl
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from rig import debian, procs
from rig.shell import Done, RigError, kill_group, read_line, run, wait_exit

# /run and the directories below are replaced inside the cell; these parts of /run stay the host's
# (resolv.conf may be a link into /run/systemd, and runc asks /run/systemd what the machine is).
KEPT = ("systemd", "dbus", "resolvconf", "udev")
# In a cell's directory: a file that its owner keeps locked, and the pid of the holder.
LOCK = "owner"
HOLDER = "holder"
CGROUPS = Path("/sys/fs/cgroup")
PRIVATE = ("/var/lib/cni", "/var/lib/copepod")

_SETUP = """
set -e
mount --make-rshared /
# containerd's own default state directory, there on every node but those of k3s and the like
mkdir -p "$CELL/run/lock" && mkdir -m 711 "$CELL/run/containerd"
for name in $KEPT; do
    if [ -d "/run/$name" ]; then
        mkdir -p "$CELL/run/$name"
        mount --rbind "/run/$name" "$CELL/run/$name"
    fi
done
for path in $PRIVATE; do
    mkdir -p "$CELL$path"
    mount --bind "$CELL$path" "$path"
done
mount --rbind "$CELL/run" /run
mount --make-rshared /run
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
echo ready
exec sleep infinity
"""


class Cell:
    """Two namespaces and a directory; a context manager that makes and ends them."""

    def __init__(self, home: Path | None = None) -> None:
        """`home` is the cell's directory, a new one under /tmp unless given.

        Its path must be short: sockets lie in it, and sun_path holds 108 bytes (unix(7)).
        """
        self._given = home
        self.home = Path("/nonexistent")
        self.name = ""
        self._holder: subprocess.Popen[bytes] | None = None
        self._made: list[Path] = []
        self._lock: IO[str] | None = None

    def __enter__(self) -> "Cell":
        debian.need_command("ip", "iproute2")
        debian.need_command("nsenter", "util-linux")
        debian.need_command("mount", "mount")
        sweep()
        # The name is also a containerd namespace: letters, digits and single dashes.
        name = f"cpd-{secrets.token_hex(4)}"
        # Locked under a name that no sweep looks at: one that met it unlocked would remove it.
        stage = self._given or Path("/tmp") / f".{name}"
        stage.mkdir(exist_ok=self._given is not None)
        self._lock = (stage / LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.home = self._given or stage.rename(stage.with_name(name))
        self.name = self.home.name
        self.home.chmod(0o711)  # a container's mapped root (user namespaces) must pass through
        for path in map(Path, PRIVATE):
            if not path.exists():
                path.mkdir(parents=True)
                self._made.append(path)
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> None:
        words = ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", _SETUP]
        env = {"CELL": str(self.home), "KEPT": " ".join(KEPT), "PRIVATE": " ".join(PRIVATE)}
        self._holder = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
            start_new_session=True,
        )
        assert self._holder.stdout
        said = read_line(self._holder.stdout, 20)
        if said != "ready":
            raise RigError(f"the cell's namespaces could not be set up: {said}")
        (self.home / HOLDER).write_text(str(self.pid))

    @property
    def pid(self) -> int:
        """The process that holds the namespaces."""
        assert self._holder, "the cell is not open"
        return self._holder.pid

    @property
    def run_dir(self) -> Path:
        """What is /run inside, seen from outside."""
        return self.home / "run"

    def inside(self, argv: Sequence[str | Path]) -> list[str]:
        """The argv that runs `argv` inside the cell."""
        enter = ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", f"--net=/proc/{self.pid}/ns/net"]
        return [*enter, "--", *map(str, argv)]

    def call(
        self,
        argv: Sequence[str | Path],
        *,
        timeout: float = 60.0,
        stdin: bytes | str | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> Done:
        """shell.run, inside."""
        return run(self.inside(argv), timeout=timeout, stdin=stdin, env=env, check=check)

    def close(self) -> None:
        """Ends what still runs in the cell and removes its directory."""
        if self._holder:
            if self._holder.poll() is None:
                _clear(self.pid, self.name)
            kill_group(self._holder.pid)
            self._holder.wait(10)
            if self._holder.stdout:
                self._holder.stdout.close()
            self._holder = None
        if not self._given:
            shutil.rmtree(self.home, ignore_errors=True)
        if self._lock:
            self._lock.close()
        for path in self._made:
            try:
                path.rmdir()
            except OSError:  # another run uses it too
                pass
        self._made.clear()

    def residents(self) -> list[int]:
        """The processes in the cell's mount or network namespace, and all their descendants."""
        return _residents(self.pid)


def sweep() -> None:
    """Ends what is left of cells whose owner was killed before it could."""
    for lock in Path("/tmp").glob(f"cpd-*/{LOCK}"):
        home = lock.parent
        try:
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                holder = int((home / HOLDER).read_text())
                # A pid may have been given to somebody else: only the holder has this variable.
                if f"CELL={home}".encode() in Path(f"/proc/{holder}/environ").read_bytes():
                    _clear(holder, home.name)
                    _kill(holder)
        except BlockingIOError:  # its owner lives
            continue
        except (OSError, ValueError):
            pass
        shutil.rmtree(home, ignore_errors=True)


def _clear(holder: int, name: str) -> None:
    """Kills the processes of the holder's namespaces and removes their cgroups."""
    groups = {*CGROUPS.glob(f"*/{name}"), *CGROUPS.glob(name)}
    home = _own_groups(holder)
    pids = _residents(holder)
    for pid in pids:
        groups |= _own_groups(pid) - home
    for pid in pids:
        _kill(pid)
    for pid in pids:
        wait_exit(pid, 10)
    _remove_groups(groups)


def _residents(holder: int) -> list[int]:
    own = {kind: os.readlink(f"/proc/{holder}/ns/{kind}") for kind in ("mnt", "net")}
    parents: dict[int, int] = {}
    found: set[int] = set()
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        if pid == holder:
            continue
        try:
            parents[pid] = procs.parent(pid)
            if any(procs.namespace(pid, kind) == own[kind] for kind in own):
                found.add(pid)
        except OSError:
            continue
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        grown = bool(more)
        found |= more
    return sorted(found)


def _own_groups(pid: int) -> set[Path]:
    """The directories of a process's cgroups (cgroups(7)), cgroup v1 and v2."""
    found: set[Path] = set()
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, names, path = line.split(":", 2)
        for name in [*names.removeprefix("name=").split(","), names, "unified", ""]:
            folder = CGROUPS / name / path.lstrip("/")
            if path != "/" and folder.is_dir():
                found.add(folder)
    return found


def _remove_groups(groups: set[Path]) -> None:
    """Removes emptied groups, the deepest first; one that is in use stays."""
    for top in groups:
        for root, _, _ in sorted(os.walk(top), reverse=True):
            try:
                os.rmdir(root)
            except OSError:
                pass


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
