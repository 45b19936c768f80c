"""The zygote: a process that has everything imported and forks shims for the launcher.

One thread for ever, no event loop, no container: it accepts, checks that the peer is root, forks,
answers. It may die at any time: shims are processes of their own and launchers do without it.
Started by systemd with its socket on fd 3 (sd_listen_fds(3)), or by hand with a path.
"""

from __future__ import annotations

import array
import gc
import os
import signal
import socket
import struct
import sys
from typing import NoReturn

from copepod import entry
from copepod.linux import selfexe
from copepod.zygote import client, preload

REQUEST_MAX = 65536
REQUEST_TIMEOUT = 2.0
ACTIVATED = 3
NEEDED = frozenset(
    {"address", "ttrpc_address", "namespace", "id", "bundle", "socket", "config", "debug"}
)


def main(path: str) -> NoReturn:
    """Serves on systemd's socket if it gave one, else on `path`; ends at SIGTERM."""
    _protect()
    listener = _listen(path)
    preload.everything()
    gc.collect()
    gc.freeze()
    # Nobody asks how a shim ended; ignored children leave no zombies (wait(2)).
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    while True:
        connection, _ = listener.accept()
        try:
            serve_one(connection, listener)
        except EOFError:
            pass  # whoever it was wanted to know whether somebody listens, as the doctor does
        except Exception as error:
            print(f"copepod zygote: request refused: {error}", file=sys.stderr, flush=True)
        finally:
            connection.close()


def _protect() -> None:
    """Runs from where no container that is forked from here can write (CVE-2019-5736)."""
    try:
        if not selfexe.is_protected():
            selfexe.execute_protected(sys.orig_argv, dict(os.environ))
    except OSError as error:
        print(f"copepod zygote: not protected from containers: {error}", file=sys.stderr)


def _listen(path: str) -> socket.socket:
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        return socket.socket(fileno=ACTIVATED)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    old = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(old)
    listener.listen(128)
    return listener


def serve_one(connection: socket.socket, listener: socket.socket) -> None:
    """Takes one request and forks its shim; raises ValueError or OSError for a bad one, EOFError
    when there is none."""
    connection.settimeout(REQUEST_TIMEOUT)
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, uid, _ = struct.unpack("3i", credentials)
    if uid != os.geteuid():
        raise PermissionError(f"the peer is user {uid}")
    data, fd = _receive(connection)
    try:
        given = client.decode(data)
        missing = NEEDED - given.keys()
        if missing:
            raise ValueError(f"the request lacks {', '.join(sorted(missing))}")
        if os.fork() == 0:
            _become_shim(connection, fd, given)
    finally:
        os.close(fd)


def _become_shim(connection: socket.socket, fd: int, given: dict[str, str]) -> NoReturn:
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection.send(client.TAKEN)
        connection.settimeout(None)  # the launcher's word, or the end of the launcher
        if connection.recv(len(client.GO)) == client.GO:
            entry.become_shim(fd, given)
    finally:
        os._exit(1)


def _receive(connection: socket.socket) -> tuple[bytes, int]:
    fds = array.array("i")
    data, ancillary, flags, _ = connection.recvmsg(
        REQUEST_MAX, socket.CMSG_SPACE(fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    if not data and not fds:
        raise EOFError
    if len(fds) != 1 or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for fd in fds:
            os.close(fd)
        raise ValueError("a request is one packet with one file descriptor")
    return data, fds[0]
