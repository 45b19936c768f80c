"""Listening sockets for preview 1, which can accept but can't make them: from descriptor 3 on.

The engine's own sock_* functions refuse everything and it can't be given a socket, so these are
functions of ours. They see only the sockets' descriptors: a small wasm module between guest and
engine passes the rest on, because the engine's functions look for memory in their caller.
"""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Callable

from copepod import errors
from copepod.engine import capi, objects, preview1
from copepod.engine.preview1 import Memory

FIRST = 3
ACCEPTED, MOST = 1 << 16, 1 << 16  # accepted connections, clear of the engine's own descriptors
BACKLOG = 511
# Parameters of the functions that take a descriptor first; all give an errno.
FUNCTIONS = {
    "fd_close": "i",
    "fd_fdstat_get": "ii",
    "fd_fdstat_set_flags": "ii",
    "fd_filestat_get": "ii",
    "fd_prestat_dir_name": "iii",
    "fd_prestat_get": "ii",
    "fd_read": "iiii",
    "fd_write": "iiii",
    "sock_accept": "iii",
    "sock_recv": "iiiiii",
    "sock_send": "iiiii",
    "sock_shutdown": "ii",
    "poll_oneoff": "iiii",
}
_ALWAYS_OURS = "poll_oneoff"


def bind(addresses: tuple[tuple[str, int], ...]) -> list[socket.socket]:
    """Opens the sockets, in this network namespace; a host of "" is every address.

    Raises errors.FailedPrecondition with the address that can't be had.
    """
    opened: list[socket.socket] = []
    for host, port in addresses:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        one = socket.socket(family, socket.SOCK_STREAM)
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((host, port))
            one.listen(BACKLOG)
        except OSError as error:
            for each in (one, *opened):
                each.close()
            where = f"{host or '0.0.0.0'}:{port}"
            raise errors.FailedPrecondition(f"can't listen on {where}: {error.strerror}") from None
        opened.append(one)
    return opened


class Sockets:
    """The sockets of one guest, by their descriptors, and the functions over them.

    Each function takes the guest's memory and its arguments and gives 0 or raises OSError.
    """

    def __init__(self, listeners: list[socket.socket]) -> None:
        self._open = dict(enumerate(listeners, FIRST))
        self._names = {
            fd: "/dev/tcp/{}/{}".format(*one.getsockname()[:2]).encode()
            for fd, one in self._open.items()
        }
        self._asked: set[int] = set()
        self._next = ACCEPTED

    def call(self, name: str, memory: Memory, arguments: list[int]) -> int:
        """Calls a function of FUNCTIONS by name; gives WASI's errno."""
        try:
            getattr(self, name)(memory, *arguments)
        except OSError as error:
            return preview1.errno(error)
        except (OverflowError, ValueError):  # a size that doesn't fit, a socket just closed
            return preview1.INVAL
        return 0

    def _at(self, fd: int) -> socket.socket:
        found = self._open.get(fd)
        if found is None:
            raise OSError(preview1.EBADF, "no such socket")
        return found

    def fd_close(self, _memory: Memory, fd: int) -> None:
        """Closes a socket."""
        self._at(fd).close()
        del self._open[fd]

    def fd_fdstat_get(self, memory: Memory, fd: int, out: int) -> None:
        """Says that it is a stream socket, and whether it blocks.

        A listening socket doesn't block any more once its flags are asked for: Go's runtime asks
        and needs one that doesn't, while a C or Rust program that just accepts never asks.
        """
        if fd in self._names and fd not in self._asked:
            self._at(fd).setblocking(False)
            self._asked.add(fd)
        flags = preview1.NONBLOCK if self._at(fd).getblocking() is False else 0
        memory.write(out, preview1.fdstat(preview1.SOCKET_STREAM, flags))

    def fd_fdstat_set_flags(self, _memory: Memory, fd: int, flags: int) -> None:
        """Switches blocking on or off; a socket has no other flag."""
        self._at(fd).setblocking(not flags & preview1.NONBLOCK)

    def fd_filestat_get(self, memory: Memory, fd: int, out: int) -> None:
        """Says that it is a stream socket."""
        self._at(fd)
        memory.write(out, preview1.filestat(preview1.SOCKET_STREAM))

    def fd_prestat_get(self, memory: Memory, fd: int, out: int) -> None:
        """Lets a listening socket pass for a folder with an odd name.

        The guest's libraries ask for the folders from descriptor 3 on and stop at the first one
        that is none; the real folders come after the sockets.
        """
        self._at(fd)
        if fd not in self._names:
            raise OSError(preview1.EBADF, "not a preopened descriptor")
        memory.write(out, bytes(4) + len(self._names[fd]).to_bytes(4, "little"))

    def fd_prestat_dir_name(self, memory: Memory, fd: int, out: int, size: int) -> None:
        """The odd name."""
        self._at(fd)
        memory.write(out, self._names.get(fd, b"")[:size])

    def sock_accept(self, memory: Memory, fd: int, flags: int, out: int) -> None:
        """Takes the next connection."""
        memory.view(out, 4)
        if len(self._open) >= MOST:
            raise OSError(preview1.EMFILE, "too many connections")
        made, _ = self._at(fd).accept()
        made.setblocking(not flags & preview1.NONBLOCK)
        while self._next in self._open:
            self._next = ACCEPTED + (self._next + 1 - ACCEPTED) % MOST
        self._open[self._next] = made
        memory.write(out, self._next.to_bytes(4, "little"))
        self._next = ACCEPTED + (self._next + 1 - ACCEPTED) % MOST

    def sock_recv(
        self, memory: Memory, fd: int, vectors: int, count: int, flags: int, out: int, seen: int
    ) -> None:
        """Receives into the guest's buffers."""
        how = (socket.MSG_PEEK if flags & 1 else 0) | (socket.MSG_WAITALL if flags & 2 else 0)
        memory.view(out, 4)
        size, _, told, _ = self._at(fd).recvmsg_into(memory.vectors(vectors, count), 0, how)
        memory.write(out, size.to_bytes(4, "little"))
        memory.write(seen, (1 if told & socket.MSG_TRUNC else 0).to_bytes(2, "little"))

    def sock_send(
        self, memory: Memory, fd: int, vectors: int, count: int, _flags: int, out: int
    ) -> None:
        """Sends the guest's buffers."""
        memory.view(out, 4)
        size = self._at(fd).sendmsg(memory.vectors(vectors, count), (), socket.MSG_NOSIGNAL)
        memory.write(out, size.to_bytes(4, "little"))

    def fd_read(self, memory: Memory, fd: int, vectors: int, count: int, out: int) -> None:
        """The same as receiving."""
        memory.view(out, 4)
        size = self._at(fd).recvmsg_into(memory.vectors(vectors, count))[0]
        memory.write(out, size.to_bytes(4, "little"))

    def fd_write(self, memory: Memory, fd: int, vectors: int, count: int, out: int) -> None:
        """The same as sending."""
        self.sock_send(memory, fd, vectors, count, 0, out)

    def sock_shutdown(self, _memory: Memory, fd: int, how: int) -> None:
        """Ends receiving (1), sending (2) or both (3)."""
        ways = {1: socket.SHUT_RD, 2: socket.SHUT_WR, 3: socket.SHUT_RDWR}
        if how not in ways:
            raise OSError(preview1.EINVAL, "no such way")
        self._at(fd).shutdown(ways[how])

    def poll_oneoff(self, memory: Memory, wanted: int, events: int, count: int, out: int) -> None:
        """Waits for the first of many things; all descriptors, ours and others, come here."""
        memory.view(out, 4)
        data = bytes(memory.view(wanted, 48 * count))
        numbers = {fd: one.fileno() for fd, one in self._open.items()}
        found = preview1.poll(data, numbers)
        memory.write(events, b"".join(found))
        memory.write(out, len(found).to_bytes(4, "little"))


def _switch_text() -> str:
    """A module that exports the functions and calls what stands in its table."""
    lines = [f'(module (table (export "table") {len(FUNCTIONS)} funcref)']
    for number, (name, params) in enumerate(FUNCTIONS.items()):
        kinds = " ".join("i32" for _ in params)
        given = " ".join(f"(local.get {index})" for index in range(len(params)))
        lines.append(
            f'(func (export "{name}") (param {kinds}) (result i32) (call_indirect '
            f"(param {kinds}) (result i32) {given} (i32.const {number})))"
        )
    return "\n".join([*lines, ")"])


def _sorter_text(listeners: int) -> str:
    """A module with the guest's memory that fills the table: descriptors of ours go to us."""
    lines = [
        '(module (import "guest" "memory" (memory 0)) (export "memory" (memory 0))',
        f'(import "switch" "table" (table {len(FUNCTIONS)} funcref))',
    ]
    for side in ("engine", "ours"):
        for name, params in FUNCTIONS.items():
            kinds = " ".join("i32" for _ in params)
            lines.append(
                f'(import "{side}" "{name}" (func ${side}_{name} (param {kinds}) (result i32)))'
            )
    for name, params in FUNCTIONS.items():
        kinds = " ".join("i32" for _ in params)
        given = " ".join(f"(local.get {index})" for index in range(len(params)))
        if name == _ALWAYS_OURS:
            body = f"(call $ours_{name} {given})"
        else:
            body = (
                f"(if (result i32) (call $is_ours (local.get 0)) (then (call $ours_{name} {given}))"
                f" (else (call $engine_{name} {given})))"
            )
        lines.append(f"(func ${name} (param {kinds}) (result i32) {body})")
    lines.append(
        "(func $is_ours (param i32) (result i32) (i32.or "
        f"(i32.lt_u (i32.sub (local.get 0) (i32.const {FIRST})) (i32.const {listeners})) "
        f"(i32.lt_u (i32.sub (local.get 0) (i32.const {ACCEPTED})) (i32.const {MOST}))))"
    )
    names = " ".join(f"${name}" for name in FUNCTIONS)
    return "\n".join([*lines, f"(elem (i32.const 0) func {names}))"])


def connect(
    engine: objects.Engine,
    linker: objects.Linker,
    store: objects.Store,
    sockets: list[socket.socket],
) -> Callable[[objects.Instance], None]:
    """Puts our functions before the engine's in a linker that has define_wasi behind it.

    The function given has to be called with the guest's instance before its first call.
    """
    ours = Sockets(sockets)
    for name, params in FUNCTIONS.items():
        linker.define("ours", name, params, "i", _host_function(ours, name, len(params)))
        native = linker.get(store, preview1.MODULE, name)
        if native is None:
            raise errors.Internal(f"copepod: the wasm engine has no {preview1.MODULE}.{name}")
        linker.define_item(store, "engine", name, native)
    switch = objects.Module.from_text(engine, _switch_text())
    switched = linker.instantiate_pre(switch).instantiate(store)
    for name in FUNCTIONS:
        linker.define_item(store, preview1.MODULE, name, switched.export(name))
    linker.define_item(store, "switch", "table", switched.export("table"))
    sorter = objects.Module.from_text(engine, _sorter_text(len(sockets)))

    def connected(guest: objects.Instance) -> None:
        linker.define_item(store, "guest", "memory", guest.export("memory"))
        linker.instantiate_pre(sorter).instantiate(store)

    return connected


def _host_function(ours: Sockets, name: str, count: int) -> objects.HostFunction:
    def call(caller: int, values: int) -> int | None:
        address, size = capi.caller_memory(caller)
        arguments = [capi.u32_at(values + index * capi.RAW_VALUE_SIZE) for index in range(count)]
        try:
            answer = ours.call(name, Memory(address, size), arguments)
        except BaseException:  # it must not leave the callback
            answer = preview1.IO
        ctypes.c_uint64.from_address(values).value = answer
        return None

    return call
