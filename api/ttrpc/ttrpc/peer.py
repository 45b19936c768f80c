"""Who is at the other end of a transport: the one place that asks the kernel.

It judges nobody; the server's `authorize` hook does.
"""

from __future__ import annotations

import asyncio
import socket
from struct import Struct

from .service import Peer

_UCRED = Struct("3i")  # struct ucred of unix(7): pid, uid, gid


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """Gives the peer's credentials; all -1 where the transport's socket has none to tell."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return Peer(-1, -1, -1)
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    except OSError:
        return Peer(-1, -1, -1)
    return Peer(*_UCRED.unpack(data))
