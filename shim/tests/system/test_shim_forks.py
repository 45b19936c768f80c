"""What the shim forks lets go of what the shim has: its socket, its connections, others' FIFOs.

A child that kept them would hide the shim's end from containerd, and that of a container's output.
"""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from copepod.container import seccomp, seccomp_compile
from copepod.linux import fds
from copepod.spec import Seccomp

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are made as root"),
]


def held(_: Seccomp) -> bytes:
    """What this process has open above stderr, by kind."""
    links = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            links += [os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]] if fd > 2 else []
        except FileNotFoundError:
            continue  # the listing's own
    return " ".join(links).encode()


def test_the_compiler_of_seccomp_profiles_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp_compile, "program", held)
    profile = Seccomp(default_action="SCMP_ACT_ALLOW")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")
        listener.listen()
        assert b"socket" in held(profile)
        assert asyncio.run(seccomp._in_child(profile)) == b"/memfd"


def test_a_received_descriptor_is_not_inherited() -> None:
    """A terminal's master, say, by the log programs and hooks that are executed later."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, open("/dev/ptmx", "rb") as master:
        socket.send_fds(theirs, [b"console"], [master.fileno()])
        data, (received,) = fds.receive(ours, 64, 4)
        assert data == b"console"
        assert not os.get_inheritable(received)
        os.close(received)
