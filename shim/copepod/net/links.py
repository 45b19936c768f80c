"""Network links, told by netlink to change: the only module that knows pyroute2.

It takes pyroute2's codec and not its sockets: its sync calls run an event loop of their own, which
the shim's loop forbids, and all that is said here is one request with one answer.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import socket
import sys
from functools import cache
from typing import Any

LOOPBACK = 1  # the index of `lo` in every namespace (net/core/dev.c reserves it)

_TIMEOUT = 2.0  # seconds; the kernel answers while it takes the request
_RTM_NEWLINK, _NLMSG_ERROR = 16, 2
_NLM_F_REQUEST, _NLM_F_ACK = 1, 4
_IFF_UP = 1
_IFINFOMSG = (  # rtnetlink(7), struct ifinfomsg
    ("family", "B"),
    ("__align", "x"),
    ("type", "H"),
    ("index", "i"),
    ("flags", "I"),
    ("change", "I"),
)


def codec() -> Any:
    """pyroute2.netlink, without the rest of pyroute2.

    `import pyroute2` runs a package that pulls in 226 modules (SQLite, SSL) in 105 to 190 ms; its
    link messages alone take 12 ms, the message base classes 3. Which of these is paid counts,
    since it happens while a container is being made. So the package's own start is left out
    unless it has been run already.
    """
    if "pyroute2" not in sys.modules:
        found = importlib.util.find_spec("pyroute2")
        if found is None:
            raise ModuleNotFoundError("pyroute2 is not installed", name="pyroute2")
        # A package that is there but has not run: its submodules are found through its spec.
        bare = importlib.machinery.ModuleSpec("pyroute2", None, is_package=True)
        bare.submodule_search_locations = found.submodule_search_locations
        sys.modules["pyroute2"] = importlib.util.module_from_spec(bare)
    from pyroute2 import netlink

    return netlink


@cache
def _link() -> Any:
    return type("Link", (codec().nlmsg,), {"fields": _IFINFOMSG})


def prepare() -> None:
    """Imports what `set_up` needs; once, in a process that others are forked from."""
    _link()


def set_up(index: int) -> None:
    """Brings the link up in this process's network namespace; OSError as the kernel has it."""
    message = _link()()
    message["index"], message["flags"], message["change"] = index, _IFF_UP, _IFF_UP
    message["header"]["type"] = _RTM_NEWLINK
    message["header"]["flags"] = _NLM_F_REQUEST | _NLM_F_ACK
    message.encode()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
        link.settimeout(_TIMEOUT)
        link.sendto(bytes(message.data), (0, 0))
        answer = codec().nlmsgerr(link.recv(65536))
    answer.decode()
    if answer["header"]["type"] != _NLMSG_ERROR or answer["error"]:
        code = -int(answer["error"])
        raise OSError(code, os.strerror(code))
