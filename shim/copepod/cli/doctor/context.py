"""What the checks see of the node, and what they say.

It looks at nothing by itself: `Context` holds the seams, `Finding` the answers.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from copepod.cli.image.describe import Description, describe
from copepod.cli.node.detect import Containerd
from copepod.cli.system import System
from copepod.config import Config


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `kind` is ok, warn, fail or skip; `advice` says what to do."""

    kind: str
    check: str
    text: str
    advice: str = ""


def has_syscall(number: int) -> bool:
    """True when the kernel knows a system call; it is called with arguments that can't work."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, -1, None, None, 0) >= 0:
        return True
    return ctypes.get_errno() != errno.ENOSYS


def has_library(name: str) -> bool:
    """True when the dynamic linker finds a shared library."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def answers(path: str, packets: bool = False) -> bool:
    """True when something accepts connections on a unix socket, of packets or of a stream."""
    import socket

    kind = socket.SOCK_SEQPACKET if packets else socket.SOCK_STREAM
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.settimeout(2)
        try:
            sock.connect(path)
        except OSError:
            return False
    return True


def room(path: Path) -> int:
    """Bytes that are free on the file system of `path`."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


@dataclass(slots=True)
class Context:
    """The node, its containerd (None without one, and why), and the seams."""

    system: System
    settings: Config
    node: Containerd | None = None
    missing: str = ""
    dump: dict[str, Any] = field(default_factory=dict)
    dump_error: str = ""
    kernel: str = field(default_factory=lambda: os.uname().release)
    has_syscall: Callable[[int], bool] = has_syscall
    has_library: Callable[[str], bool] = has_library
    answers: Callable[..., bool] = answers
    describe: Callable[[bytes], Description] = describe
    room: Callable[[Path], int] = room


Check = Callable[[Context], Iterable[Finding]]
