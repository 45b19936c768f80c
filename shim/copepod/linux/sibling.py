"""fork(2) of a child whose parent is the caller's parent: how a process in between hands the one
that stays to whoever waits for it.

The other way, a subreaper that outlives the process in between, would be given the orphans of
everybody else below it, too.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import TYPE_CHECKING, Any

from copepod.linux import libc, prctl

if TYPE_CHECKING:
    from collections.abc import Callable

# Not clone3(2): a seccomp profile that is on already may know only the call that fork(3) makes.
_SYS_clone = {"x86_64": 56, "aarch64": 220}
_CLONE_PARENT = 0x00008000
_CLONE_CHILD_CLEARTID = 0x00200000
_CLONE_CHILD_SETTID = 0x01000000
_PR_GET_TID_ADDRESS = 40


def fork() -> int:
    """As os.fork, in a process of one thread. OSError where the kernel doesn't do it; nothing has
    happened then. The signal at the child's end is the one that our own end sends."""
    number, place, before, after_parent, after_child, call = _prepared()
    flags = _CLONE_PARENT | _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
    before()
    # x86-64 takes the place as the fourth argument, arm64 as the fifth; the other one is for
    # CLONE_SETTLS, which is not asked for (clone(2)).
    pid = call(number, flags, 0, 0, place, place)
    if pid == 0:
        after_child()
        return 0
    error = ctypes.get_errno()
    after_parent()
    if pid < 0:
        raise libc.fail(errno=error)
    return int(pid)


def prepare() -> None:
    """Looks up what `fork` needs; once, in the process that forks the caller."""
    _prepared()


@cache
def _prepared() -> tuple[int, int, Callable[..., int], Callable[..., int], Callable[..., int], Any]:
    # The C library keeps its thread's id where the kernel has it updated (set_tid_address(2)).
    place = ctypes.c_void_p()
    prctl.prctl(_PR_GET_TID_ADDRESS, ctypes.addressof(place))
    # The interpreter's own part of fork (C API, "PyOS_BeforeFork"); PyDLL keeps the GIL.
    names = ("PyOS_BeforeFork", "PyOS_AfterFork_Parent", "PyOS_AfterFork_Child")
    kind = ctypes.PYFUNCTYPE(None)
    before, after_parent, after_child = (kind((name, ctypes.pythonapi)) for name in names)
    syscall = ctypes.PyDLL(None, use_errno=True).syscall
    syscall.restype, syscall.argtypes = ctypes.c_long, [ctypes.c_long] * 6
    number = _SYS_clone[os.uname().machine]
    return number, place.value or 0, before, after_parent, after_child, syscall
