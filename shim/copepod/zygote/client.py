"""The launcher's side of the zygote: hands over a listening socket, learns whether it was taken.

It imports nothing but C modules and decides nothing: where no zygote answers the launcher forks
the shim itself.
"""

from __future__ import annotations

import _socket
import sys

TIMEOUT = 2.0
TAKEN = b"taken"
GO = b"go"
# struct int, the only element of SCM_RIGHTS that is sent (cmsg(3)).
_INT = 4


def ask(path: str, listener: int, given: dict[str, str]) -> bool:
    """True if the zygote at `path` forked the shim; False if it isn't there or refuses.

    The answer comes from the new process, so that a dead zygote can't swallow a start; and that
    process waits for our word, so that one whose launcher gave up (a zygote that was still being
    loaded, or hung) never serves a socket that another shim serves.
    """
    zygote = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    zygote.settimeout(TIMEOUT)
    try:
        zygote.connect(path)
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, listener.to_bytes(_INT, sys.byteorder))
        zygote.sendmsg([encode(given)], [rights])
        if zygote.recv(64) != TAKEN:
            return False
        zygote.send(GO)
        return True
    except OSError:
        return False
    finally:
        zygote.close()


def encode(given: dict[str, str]) -> bytes:
    """Gives name NUL value NUL ..., which `decode` takes apart."""
    return b"".join(f"{name}\0{value}\0".encode() for name, value in given.items())


def decode(data: bytes) -> dict[str, str]:
    """The reverse of `encode`; raises ValueError for anything else."""
    words = data.decode().split("\0")
    if len(words) % 2 == 0 or words[-1]:
        raise ValueError("the request of a launcher is cut short")
    return dict(zip(words[:-1:2], words[1::2], strict=True))
