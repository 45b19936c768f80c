"""A new procfs that shows another pid namespace than ours.

It shows that of the process that calls fsopen(2), and no process changes its own. So a child is
born where the procfs is to look: of clone(2) with our memory and files, it makes that one call,
leaves the descriptor with us and ends. A fork would copy what the shim has mapped and make both
copy each page that they write from then on: 2 to 6 ms for a system call of 20 microseconds.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING

from copepod.linux import libc, ns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What the child does, assembled from asm/procfs_*.S (a test does it again): it uses no stack and
# nothing of the C library, whose thread it shares.
CODE = {
    "x86_64": "4889fb488d3d18000000be01000000b8ae0100000f0548890331ffb83c0000000f0570726f6300",
    "aarch64": (
        "f30300aa00010010210080d2c83580d2010000d4600200f9000080d2a80b80d2010000d470726f6300"
    ),
}
_CLONE_VM = 0x00000100
_CLONE_FILES = 0x00000400
_CLONE_VFORK = 0x00004000
_STACK = 4096
_MAP_FAILED = ctypes.c_void_p(-1).value


def fsopen(pidfd: int = -1) -> int:
    """fsopen(2) of a procfs that shows the pid namespace of the process behind `pidfd`, or, without
    one, a namespace in which there is no process and never will be. Gives a close-on-exec fd.

    This process stays where it is. Signals have to be blocked: the child shares our memory.
    """
    if pidfd < 0:
        return _opened(ns.CLONE_NEWPID)
    with ns.pid_kept():
        ns.setns(pidfd, ns.CLONE_NEWPID)
        return _opened(0)


def _opened(flags: int) -> int:
    clone, code, stack = prepare()
    result = ctypes.c_long()
    flags |= _CLONE_VM | _CLONE_FILES | _CLONE_VFORK | signal.SIGCHLD
    with _on_this_cpu():
        pid = clone(code, stack, flags, ctypes.addressof(result))
    if pid < 0:
        raise libc.fail()
    os.waitpid(pid, 0)  # it has ended: CLONE_VFORK has us wait for that
    if result.value < 0:
        raise libc.fail(errno=-result.value)
    return result.value


@contextmanager
def _on_this_cpu() -> Iterator[None]:
    """A child that is born inside is on our CPU, which is free while we wait for it; elsewhere it
    could have to wait a millisecond for its turn. Where that can't be (sched_setaffinity(2): CPUs
    come and go) it waits."""
    before = os.sched_getaffinity(0)
    with suppress(OSError):
        os.sched_setaffinity(0, {_cpu()()})
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, before)


@cache
def _cpu() -> Callable[[], int]:
    return libc.function("sched_getcpu")


@cache
def prepare() -> tuple[Callable[..., int], int, int]:
    """Gives clone(2), where the child's code is, and the end of a stack for it; once in a life."""
    _cpu()
    code, size = bytes.fromhex(CODE[os.uname().machine]), mmap.PAGESIZE + _STACK
    word, place = ctypes.c_int, ctypes.c_void_p
    allocate = libc.function(
        "mmap", place, ctypes.c_size_t, word, word, word, ctypes.c_long, restype=place
    )
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start = allocate(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if start == _MAP_FAILED:
        raise libc.fail()
    ctypes.memmove(start, code, len(code))
    # Never both writable and executable; the change also has arm64's caches agree on what is there.
    mprotect = libc.function("mprotect", place, ctypes.c_size_t, word)
    if mprotect(start, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC) < 0:
        error = libc.fail()
        why = "containerd's processes may not make memory executable, which all wasm needs: see "
        why += "MemoryDenyWriteExecute= of its unit, and SELinux's execmem"
        raise OSError(error.errno, f"{error.strerror}: {why}")
    return libc.function("clone", place, place, word, place), start, start + size
