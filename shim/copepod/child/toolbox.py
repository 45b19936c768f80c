"""The toolbox as a process: what it is told of its host, and what it may see in /proc.

It is the node's own program and not the image's, so it may be shown more than other guests; what
could reach the engine that holds it stays out of its sight.
"""

from __future__ import annotations

import os
import termios
from typing import TYPE_CHECKING

from copepod.linux import caps, libc, ns
from copepod.linux import mount as m

if TYPE_CHECKING:
    from collections.abc import Sequence

    from copepod.child.job import Context, Job

# WASI has no calls for these: one "name value" in each line. The program takes it out of its
# environment again before anything can look.
VARIABLE = "COPEPOD_TOOLBOX"
_SYS_PTRACE = 1 << 19  # capabilities(7)
_MODE_FILTER = 2  # seccomp(2): SECCOMP_MODE_FILTER


def stays_unseen(job: Job) -> bool:
    """Whether it can be left out of the container's pid namespace, whose /proc it then sees whole:
    all processes but itself, so that /proc/self leads nowhere.

    The memory of other guests is closed to it, for they are not dumpable (ptrace(2)), unless it
    had CAP_SYS_PTRACE. Where the pid namespace is the node's it could find itself.
    """
    who = job.program.identity
    has = who.bounding | who.effective | who.permitted | who.inheritable | who.ambient
    return bool(job.join_flags & ns.CLONE_NEWPID) and not has & _SYS_PTRACE


def admit(context: Context) -> None:
    """Notes that it is the toolbox, and where it will be: the shim makes its /proc by the same.
    Call it while the node's /proc is there, and in the container's user namespace or before it
    is joined."""
    context.toolbox, context.unseen = True, stays_unseen(context.job)
    place = f"/proc/{context.job.init_pid or 'self'}"
    context.id_maps = (_id_map(f"{place}/uid_map"), _id_map(f"{place}/gid_map"))
    if context.job.proc_mounts:
        context.network = _alone(f"{place}/net")


def _alone(path: str) -> int:
    """Gives a folder as a read-only mount of its own, from which no `..` leads to the node's /proc
    for one who gets hold of it; -1 in a user namespace, which may make none."""
    try:
        return m.detached(libc.AT_FDCWD, path, m.MOUNT_ATTR_RDONLY)
    except PermissionError:
        return -1


def folders(context: Context) -> dict[str, str]:
    """Gives folders that it is shown beside the root, by its names for them: /proc/net leads to
    /proc/self, which is not there. The process's own working directory is used up for it."""
    if context.network < 0:
        return {}
    os.fchdir(context.network)
    os.close(context.network)
    return {"/proc/net": "."}


def _id_map(path: str) -> str:
    """Reads lines of three numbers (user_namespaces(7)); gives them with commas between."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = os.read(fd, 8192).decode().splitlines()
    finally:
        os.close(fd)
    return ",".join(" ".join(line.split()) for line in lines)


def keep_ctrl_d(terminal: int) -> None:
    """Has the terminal deliver Ctrl-D as a character that ends a line (termios(3)).

    The engine takes an end of file for the end of stdin for ever: after a `cat` that was ended so,
    the shell could read no more. The program reads the character as what it stands for.
    """
    modes = termios.tcgetattr(terminal)
    control = modes[6]
    control[termios.VEOL], control[termios.VEOF] = control[termios.VEOF], b"\0"
    termios.tcsetattr(terminal, termios.TCSANOW, modes)


def environment(context: Context) -> str:
    """Gives the variable; call it in the container's namespaces, because of the host's name, and
    when this process has become the user that it stays."""
    job = context.job
    who, host = job.program.identity, os.uname()
    words = {
        "uid": who.uid,
        "gid": who.gid,
        "groups": " ".join(map(str, who.groups)),
        "terminal": int(job.terminal),
        "hostname": host.nodename,
        "system": host.sysname,
        "release": host.release,
        "version": host.version,
        "machine": host.machine,
        "uid_map": context.id_maps[0],
        "gid_map": context.id_maps[1],
        **_rights(job),
    }
    lines = [f"{name} {value}" for name, value in words.items()]
    return f"{VARIABLE}=" + "\n".join((*lines, *_mounts(job.places)))


def _mounts(places: Sequence[str]) -> list[str]:
    """Which mounts are read-only: the engine has no word for it, and calls a write there an I/O
    error."""
    lines = []
    for place in ("/", *places):
        if "\n" in place:
            continue
        try:
            flags = os.statvfs(place).f_flag
        except OSError:
            continue  # where this user can't go there is nothing to write
        lines.append(f"{'read_only' if flags & os.ST_RDONLY else 'writable'} {place}")
    return lines


def _rights(job: Job) -> dict[str, str]:
    """What /proc/self/status says of capabilities, privileges and filter (proc(5))."""
    effective, permitted, inheritable = caps.get()
    sets = {
        "CapInh": inheritable,
        "CapPrm": permitted,
        "CapEff": effective,
        "CapBnd": caps.bounding(),
        "CapAmb": caps.ambient(),
    }
    # The filter is there before the guest is, but may not be there yet.
    seccomp = _MODE_FILTER if job.filter else 0
    flags = {"NoNewPrivs": job.program.identity.no_new_privs, "Seccomp": seccomp}
    hexadecimal = {name: f"{value:016x}" for name, value in sets.items()}
    return hexadecimal | {name: str(int(value)) for name, value in flags.items()}
