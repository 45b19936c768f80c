"""ttrpc, the small RPC protocol between containerd and its shims: server, client, and the
protocol itself without IO.

It knows nothing of containers. Importing it loads neither asyncio nor google.protobuf: Server and
Client come when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import ClosedError, Code, Detail, Error, StateError
from .service import (
    Context,
    Limits,
    Message,
    Method,
    Peer,
    Receiver,
    Sender,
    Service,
    same_user,
)
from .wire import Metadata

if TYPE_CHECKING:
    from .client import Client, ClientStream
    from .server import ErrorMapper, Server

__version__ = "0.1.0"

__all__ = [
    "Server",
    "Client",
    "ClientStream",
    "Method",
    "Context",
    "Peer",
    "Sender",
    "Receiver",
    "Error",
    "ClosedError",
    "StateError",
    "Code",
    "Detail",
    "ErrorMapper",
    "Limits",
    "Message",
    "Metadata",
    "Service",
    "same_user",
]


def __getattr__(name: str) -> Any:
    # PEP 562. The sans-IO half and generated code must not pay for asyncio (tens of milliseconds).
    if name in ("Server", "ErrorMapper"):
        from . import server as module
    elif name in ("Client", "ClientStream"):
        from . import client as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(module, name)
    globals()[name] = value
    return value
