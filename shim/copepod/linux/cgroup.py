"""Ways into a cgroup, at birth or later, without the kernel's slow one.

A process that is named in cgroup.procs makes the kernel stop all forks and exits of the machine
first, which takes an RCU grace period: 5 to 15 ms. It is not needed for the only thread of a
process that writes into a version 1 group's `tasks` (cgroup_procs_write_start in the kernel's
kernel/cgroup/cgroup.c), nor for a child that is born in a version 2 group (clone3(2)).
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from functools import cache
from typing import TYPE_CHECKING

from copepod.linux import libc, prctl

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SYS_clone3 = 435
_CLONE_CHILD_CLEARTID = 0x00200000
_CLONE_CHILD_SETTID = 0x01000000
_CLONE_INTO_CGROUP = 0x200000000
_SIGCHLD = 17
_PR_GET_TID_ADDRESS = 40
_ARGS = struct.Struct("=11Q")  # struct clone_args, Linux 5.7


def open_group(path: str) -> int:
    """Opens a version 2 group for `enter` and `fork_into`; the caller closes it."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def enter(fd: int) -> None:
    """Moves this process, which has one thread, into the group behind `fd`: a version 2 group's
    directory, or a version 1 group's `tasks`, open for writing."""
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        os.write(fd, b"0")
        return
    procs = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=fd)
    try:
        os.write(procs, b"0")
    finally:
        os.close(procs)


def enter_whole(fd: int) -> None:
    """As `enter`, with all threads of this process; the kernel takes its time for it."""
    path = os.readlink(f"/proc/self/fd/{fd}")
    if not path.endswith("/tasks"):
        enter(fd)
        return
    with open(f"{path.removesuffix('tasks')}cgroup.procs", "wb", buffering=0) as file:
        file.write(b"0")


def fork(groups: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """fork(2) of a process of one thread that is to be in `groups`, the version 2 one first;
    gives the pid, 0 in the child, and the groups that the child has yet to `enter`."""
    if groups and stat.S_ISDIR(os.fstat(groups[0]).st_mode):
        try:
            return fork_into(groups[0]), tuple(groups[1:])
        except OSError:
            pass  # the write into the group will do, or say what is wrong
    return os.fork(), tuple(groups)


def fork_into(group: int) -> int:
    """fork(2) of a process of one thread, with the child born in the version 2 group behind the
    directory `group`; gives what fork gives.

    OSError where the kernel or the C library has no such thing; nothing has happened then, and
    `os.fork` followed by `enter` does the same, slower.
    """
    before, after_parent, after_child, call = _functions()
    flags = _CLONE_INTO_CGROUP | _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
    args = _ARGS.pack(flags, 0, _tid_address(), 0, _SIGCHLD, 0, 0, 0, 0, 0, group)
    before()
    pid = call(_SYS_clone3, args, _ARGS.size, 0, 0, 0, 0)
    if pid == 0:
        after_child()
        return 0
    number = ctypes.get_errno()
    after_parent()
    if pid < 0:
        raise libc.fail(errno=number)
    return pid


def prepare() -> None:
    """Looks up what `fork_into` needs; once, in a process that will fork."""
    _functions()


@cache
def _functions() -> tuple[Callable[..., int], ...]:
    # The interpreter's own part of fork (C API, "PyOS_BeforeFork"); PyDLL keeps the GIL.
    names = ("PyOS_BeforeFork", "PyOS_AfterFork_Parent", "PyOS_AfterFork_Child")
    kind = ctypes.PYFUNCTYPE(None)
    hooks = [kind((name, ctypes.pythonapi)) for name in names]
    syscall = ctypes.PyDLL(None, use_errno=True).syscall
    syscall.restype, syscall.argtypes = ctypes.c_long, [ctypes.c_long, *[ctypes.c_void_p] * 6]
    return (*hooks, syscall)


@cache
def _tid_address() -> int:
    """Where the C library keeps its thread's id, which fork(3) has the kernel update.

    That the kernel knows the place (set_tid_address(2)) and the id stands there is how glibc
    works; any other C library is refused with ENOSYS.
    """
    found = ctypes.c_void_p()
    prctl.prctl(_PR_GET_TID_ADDRESS, ctypes.addressof(found))
    if not found.value or ctypes.c_int.from_address(found.value).value != os.getpid():
        raise OSError(38, "this C library keeps its thread's id elsewhere")
    return found.value
