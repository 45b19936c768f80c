"""The way into the C library: prototypes made once, errors as OSError with the path.

It has no policy and knows no container; the rooms beside it give system calls their kernel names.
A prototype is made at its first use and kept (`functools.cache`), so a fork inherits it for free.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

# System calls newer than Linux 5.0 have one number on every architecture (syscalls(2));
# the older ones without a wrapper in every C library are listed by architecture.
SYS_open_tree = 428
SYS_move_mount = 429
SYS_fsopen = 430
SYS_fsconfig = 431
SYS_fsmount = 432
SYS_close_range = 436
SYS_openat2 = 437
SYS_mount_setattr = 442
_BY_MACHINE = {
    "x86_64": {
        "keyctl": 250,
        "ioprio_set": 251,
        "set_mempolicy": 238,
        "sched_setattr": 314,
        "seccomp": 317,
    },
    "aarch64": {
        "keyctl": 219,
        "ioprio_set": 30,
        "set_mempolicy": 237,
        "sched_setattr": 274,
        "seccomp": 277,
    },
}


@cache
def library() -> ctypes.CDLL:
    """Gives the C library that the interpreter itself is linked to."""
    return ctypes.CDLL(None, use_errno=True)


@cache
def function(name: str, *argtypes: Any, restype: Any = ctypes.c_int) -> Callable[..., int]:
    """Gives one function with a prototype of its own, so that no other caller can change it."""
    prototype = ctypes.CFUNCTYPE(restype, *argtypes, use_errno=True)
    return prototype((name, library()))


@cache
def _syscall() -> Callable[..., int]:
    # c_void_p takes what any argument can be: an int, bytes, None or a structure's address.
    return function("syscall", ctypes.c_long, *[ctypes.c_void_p] * 6, restype=ctypes.c_long)


# Prototypes of everything that a container's process calls: making one costs 0.1 ms, and a forked
# child has what its parent made.
_PROTOTYPES = (
    ("mount", *[ctypes.c_char_p] * 3, ctypes.c_ulong, ctypes.c_char_p),
    ("umount2", ctypes.c_char_p, ctypes.c_int),
    ("pivot_root", ctypes.c_char_p, ctypes.c_char_p),
    ("unshare", ctypes.c_int),
    ("setns", ctypes.c_int, ctypes.c_int),
    ("sethostname", ctypes.c_char_p, ctypes.c_size_t),
    ("setdomainname", ctypes.c_char_p, ctypes.c_size_t),
    ("prctl", ctypes.c_int, *[ctypes.c_ulong] * 4),
    ("personality", ctypes.c_ulong),
    ("signal", ctypes.c_int, ctypes.c_void_p),
    ("pthread_sigmask", ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p),
    ("fstatfs", ctypes.c_int, ctypes.c_void_p),
    ("sched_setaffinity", ctypes.c_int, ctypes.c_size_t, ctypes.c_char_p),
    ("capget", ctypes.c_void_p, ctypes.c_void_p),
    ("capset", ctypes.c_void_p, ctypes.c_void_p),
)


@cache
def named(name: str) -> Callable[..., int]:
    """Gives one of the functions above, with its prototype."""
    argtypes = next(types for known, *types in _PROTOTYPES if known == name)
    return function(name, *argtypes)


def prepare() -> None:
    """Makes all prototypes; once in the life of a process that will fork."""
    _syscall()
    for name, *_ in _PROTOTYPES:
        named(name)


def fail(path: str | bytes = "", errno: int | None = None) -> OSError:
    """Makes the OSError of the call that has just failed."""
    number = ctypes.get_errno() if errno is None else errno
    return OSError(number, os.strerror(number), os.fsdecode(path) if path else None)


def syscall(number: int, *args: Any, path: str | bytes = "") -> int:
    """Makes a system call with up to six arguments; raises OSError with `path` in it."""
    padded = args + (0,) * (6 - len(args))
    result = _syscall()(number, *padded)
    if result < 0:
        raise fail(path)
    return result


@cache
def number_of(name: str) -> int:
    """Gives the number of an older system call on this machine; KeyError if it is not known."""
    return _BY_MACHINE[os.uname().machine][name]
