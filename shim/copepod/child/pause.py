"""The process that keeps a pod's namespaces: a program of 200 bytes in place of an interpreter.

It reaps orphans and ends with 0 on SIGTERM or SIGINT, nothing more. Being a fork of the shim, it
would hold four megabytes of its own for the pod's whole life; executed from a sealed memory file
it holds one page. The code is assembled from asm/pause_*.S (a test does it again); where there is
none for the machine, or memory files may not be executed, the caller stays and waits itself.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct

from copepod.linux import sigmask

_CODE = {
    "x86_64": (
        62,
        "b89d000000bf0400000031f60f05b89d000000bf0f000000488d35710000000f05b880000000488d3d5b0000"
        "0031f631d241ba080000000f0583f811742a83f8fc74de85c07809b8e700000031ff0f05b8220000000f0583"
        "f8fc74f4b8e7000000bf010000000f05b83d00000048c7c7ffffffff31f6ba010000004531d20f0585c07fe4"
        "eb9b66900240010000000000636f7065706f642d706175736500",
    ),
    "aarch64": (
        183,
        "e81480d2800080d2010080d2010000d4e81480d2e00180d201050010010000d4281180d260040010010080d2"
        "020080d2030180d2010000d41f440071800200541f100031e0feff541f0000718b000054c80b80d2000080d2"
        "010000d4280980d2000080d2010080d2020080d2030080d2040180d2010000d41f10003100ffff54c80b80d2"
        "200080d2010000d4882080d200008092010080d2220080d2030080d2010000d41f0000712cffff54ddffff17"
        "0240010000000000636f7065706f642d706175736500",
    ),
}
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_BASE = 0x400000
_HEADERS = 64 + 2 * 56  # elf(5): Elf64_Ehdr and two Elf64_Phdr
_PT_LOAD, _PT_GNU_STACK = 1, 0x6474E551
_READ_EXECUTE, _READ_WRITE = 5, 6
WANTED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


def image(machine: str) -> bytes:
    """Gives the program as an ELF file, b"" if there is none for `machine` (uname(2))."""
    if machine not in _CODE:
        return b""
    number, text = _CODE[machine]
    code = bytes.fromhex(text)
    size = _HEADERS + len(code)
    entry = _BASE + _HEADERS
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<HHIQQQIHHHHHH", 2, number, 1, entry, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    load = struct.pack("<IIQQQQQQ", _PT_LOAD, _READ_EXECUTE, 0, _BASE, _BASE, size, size, 0x1000)
    # A stack that can't be executed.
    stack = struct.pack("<IIQQQQQQ", _PT_GNU_STACK, _READ_WRITE, 0, 0, 0, 0, 0, 16)
    return ident + header + load + stack + code


def open_image() -> int:
    """Gives the fd of the program in a sealed memory file, -1 if there is none."""
    data = image(os.uname().machine)
    if not data:
        return -1
    fd = os.memfd_create("copepod-pause", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def become(fd: int) -> None:
    """Executes the program; returns if that can't be done. The signals that it waits for are
    blocked, all others have their default."""
    sigmask.set_(sigmask.of(WANTED))
    if fd < 0:
        return
    try:
        os.execve(fd, ["/pause"], {})
    except OSError:
        pass


def wait() -> None:
    """Does the same in the interpreter. Never returns."""
    while True:
        if signal.sigwait(WANTED) != signal.SIGCHLD:
            os._exit(0)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
