"""Signals of a process that runs wasm: one thread of our own waits and ends the process at once.

The kernel drops default-action signals sent to pid 1 of a namespace (pid_namespaces(7)), and a
Python handler never runs while the engine does; a blocked signal, however, waits to be taken by
sigwait(3). It handles no fault: those signals belong to the engine and stay unblocked.
"""

from __future__ import annotations

import _thread
import os
import signal
from functools import cache
from typing import TYPE_CHECKING

from copepod.linux import libc, sigmask

if TYPE_CHECKING:
    from collections.abc import Callable

# What ends nothing by default (signal(7)), what can't be blocked, and what the engine needs.
_IGNORED = {signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT}
_STOPS = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_FAULTS = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGSYS,
    signal.SIGABRT,
}
_NEVER = {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}
_STACK = 64 * 1024


@cache
def ending() -> frozenset[int]:
    """Gives the signals that end a process: those that the thread waits for."""
    return frozenset(signal.valid_signals()) - _IGNORED - _STOPS - _FAULTS - _NEVER


def default() -> None:
    """Gives a fresh fork, with all signals blocked, the dispositions of a fresh program.

    Python ignores SIGPIPE and SIGXFSZ and catches SIGINT, the shim's loop catches more; what is
    ignored would stay so across execve(2). Only those are touched that the kernel says are set
    (proc_pid_status(5)), and past the interpreter, which takes ten times as long.
    """
    signal.set_wakeup_fd(-1)
    fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    text = os.read(fd, 8192)
    os.close(fd)
    changed = 0
    for name in (b"SigIgn:\t", b"SigCgt:\t"):
        start = text.index(name) + len(name)
        changed |= int(text[start : start + 16], 16)
    for number in range(1, signal.NSIG):
        # glibc keeps 32 and 33 for itself (nptl(7)).
        if changed >> (number - 1) & 1 and number not in (32, 33):
            libc.named("signal")(number, None)  # SIG_DFL


def unblock_all() -> None:
    """The last thing before execve(2): masks are inherited across it."""
    sigmask.set_(sigmask.NONE)


def prepare_guest() -> None:
    """Sets masks for a wasm guest: ending signals stay blocked for the thread, the others act.

    A guest that writes into a closed pipe gets EPIPE, as WASI says, so SIGPIPE is ignored.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    sigmask.set_(sigmask.of(ending()))


def watch(end: Callable[[int], None] | None = None) -> None:
    """Starts the thread. On a signal `end` may let the guest's server drain; then the process
    exits with 128 + the signal's number."""
    _thread.stack_size(_STACK)
    _thread.start_new_thread(_wait, (ending(), end))


def _wait(wanted: frozenset[int], end: Callable[[int], None] | None) -> None:
    number = signal.sigwait(wanted)
    try:
        if end is not None:
            end(number)
    finally:
        os._exit(128 + number)
