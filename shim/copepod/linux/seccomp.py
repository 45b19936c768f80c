"""seccomp(2): puts a compiled filter on this process.

It compiles none (container/seccomp.py does) and asks for no listener.
"""

from __future__ import annotations

import ctypes

from copepod.linux import libc

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1
SECCOMP_FILTER_FLAG_LOG = 2
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4
_INSTRUCTION = 8  # sizeof(struct sock_filter)


class sock_fprog(ctypes.Structure):  # the kernel's name
    """struct sock_fprog of <linux/filter.h>."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def set_mode_filter(program: bytes, flags: int) -> None:
    """Needs no_new_privs or CAP_SYS_ADMIN. TSYNC reaches the threads that already run; the kernel
    answers with the number of a thread that can't take it, which counts as a failure here."""
    buffer = ctypes.create_string_buffer(program, len(program))
    wanted = sock_fprog(len(program) // _INSTRUCTION, ctypes.addressof(buffer))
    thread = libc.syscall(
        libc.number_of("seccomp"), SECCOMP_SET_MODE_FILTER, flags, ctypes.addressof(wanted)
    )
    if thread:
        raise OSError(3, f"thread {thread} can't be put under the filter")
