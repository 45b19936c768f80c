"""The toolbox as an exec'd process: what it is told of its host, and what it may see in /proc.

It is the node's own program and not the image's, so it may be shown more than other guests; what
could reach the engine that holds it stays out of its sight.
"""

from __future__ import annotations

import os
import termios
from typing import TYPE_CHECKING

from copepod.linux import ns

if TYPE_CHECKING:
    from copepod.child.job import Context, Job

# WASI has no calls for these: one "name value" in each line. The program takes it out of its
# environment again before anything can look.
VARIABLE = "COPEPOD_TOOLBOX"
_SYS_PTRACE = 1 << 19  # capabilities(7)


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
    """Notes that it is the toolbox, and where it will be: the shim makes its /proc by the same."""
    context.toolbox, context.unseen = True, stays_unseen(context.job)


def keep_ctrl_d(terminal: int) -> None:
    """Has the terminal deliver Ctrl-D as a character that ends a line (termios(3)).

    The engine takes an end of file for the end of stdin for ever: after a `cat` that was ended so,
    the shell could read no more. The program reads the character as what it stands for.
    """
    modes = termios.tcgetattr(terminal)
    control = modes[6]
    control[termios.VEOL], control[termios.VEOF] = control[termios.VEOF], b"\0"
    termios.tcsetattr(terminal, termios.TCSANOW, modes)


def environment(job: Job) -> str:
    """Gives the variable; call it in the container's namespaces, because of the host's name."""
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
    }
    return f"{VARIABLE}=" + "\n".join(f"{name} {value}" for name, value in words.items())
