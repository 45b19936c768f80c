"""What a wasm guest must not see: its own process, and what its process was started with.

A guest reaches all files of its root. Through /proc it could write into the memory of the engine
that holds it (/proc/self/mem), and read the environment that containerd gave to the shim. So it
gets a procfs of a pid namespace that nobody lives in: the machine's files are there, processes
are not. A native program needs its /proc whole and keeps it.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import TYPE_CHECKING

from copepod.child.privs import Step
from copepod.linux import mount as m
from copepod.linux.path import O_PATH, open_in_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from copepod.child.job import ProcMount

_ARG_START = 48 - 3  # fields of proc_pid_stat(5), counted from the one behind the name


def cover(root: int, fds: Sequence[int], wanted: Sequence[ProcMount]) -> None:
    """Puts them over what is at their places."""
    for fd, one in zip(fds, wanted, strict=True):
        try:
            target = open_in_root(root, one.destination, O_PATH | os.O_DIRECTORY)
            m.move_mount(fd, target, one.destination)
            os.close(target)
        except OSError as error:
            raise Step(f"cover {one.destination} for a wasm guest", error) from None
        os.close(fd)


def erase_start() -> tuple[int, int]:
    """Overwrites the environment that this process's program was started with, as the kernel
    shows it in /proc/<pid>/environ; gives where its arguments are, for `rename`.

    A fork has both from the shim. (prctl(2)'s PR_SET_MM needs CAP_SYS_RESOURCE, memory does not.)
    """
    arg_start, arg_end, env_start, env_end = start_places()
    if 0 < env_start < env_end:
        ctypes.memset(env_start, 0, env_end - env_start)
    return arg_start, arg_end


@cache
def start_places() -> tuple[int, int, int, int]:
    """Gives where this process's memory has the arguments and the environment of its program's
    start, first byte and end of each; a fork has them at the same places."""
    fd = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
    text = os.read(fd, 4096)
    os.close(fd)
    fields = text[text.rindex(b")") + 2 :].split()
    arg_start, arg_end, env_start, env_end = map(int, fields[_ARG_START : _ARG_START + 4])
    return arg_start, arg_end, env_start, env_end


def rename(place: tuple[int, int], args: Sequence[str]) -> None:
    """Makes /proc/<pid>/cmdline, and so ps(1), show the guest's arguments, as many as fit."""
    start, end = place
    if not 0 < start < end:
        return
    size = end - start
    text = b"\0".join(os.fsencode(word) for word in args)[: size - 1]
    ctypes.memmove(start, text.ljust(size, b"\0"), size)
