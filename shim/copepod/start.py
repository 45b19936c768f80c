"""The `start` action: finds or makes the shim of a pod and gives its address.

It knows the three dialects of containerd's stdin, the grouping of a pod's containers and the
socket; it runs nothing of the shim itself, whose first line of code stands in `entry`.

Source: containerd docs/runtime-v2.md, pkg/shim/{shim,util_unix,compat}.go.
"""

from __future__ import annotations

import posix
import sys

from copepod import launch, socketfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Iterator

SOCKET_DIR = "/run/containerd/s"
# sun_path holds 108 bytes with the final NUL (unix(7)); containerd keeps one more in reserve.
SOCKET_PATH_MAX = 106
STDIN_MAX = 10 << 20
GROUP_ANNOTATIONS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")


def start(flags: launch.Flags) -> bytes:
    """Gives the address of the shim that serves `flags.id`, which it starts if none lives.

    The answer is plain text on every containerd: 1.6 to 2.4 all take it, and keep to task v2.
    Raises OSError or ValueError, whose text containerd shows to the user.
    """
    if not flags.id or not flags.namespace:
        raise ValueError("start needs -namespace and -id")
    bundle = posix.getcwd()
    bootstrap = read_bootstrap(flags)
    group = group_of(bundle) or flags.id
    directory = bootstrap.get("socket_dir", b"").decode() or SOCKET_DIR
    path = socket_path(directory, flags.address, flags.namespace, group)
    address = f"unix://{path}"
    listener = socketfile.claim(path)
    try:
        # Before there is a shim: without this file containerd can't find it to end it.
        _write_address(bundle, address)
        if listener is not None:
            _spawn(listener, path, bundle, flags, bootstrap)
    except BaseException:
        if listener is not None:
            posix.unlink(path)
        raise
    return address.encode()


def group_of(bundle: str) -> str:
    """Gives the group that the bundle's spec names, or "" (also where there is no spec)."""
    try:
        with open(f"{bundle}/config.json", "rb") as file:
            data = file.read()
    except FileNotFoundError:
        # A shim that is its own sandboxer is started before any spec exists.
        return ""
    # A full JSON parser would be the largest import of this path. Only annotations can hold one of
    # these names as a key, and inside a JSON string every quote is escaped, so that bytes which
    # look like the key are the key.
    for name in GROUP_ANNOTATIONS:
        value = _string_member(data, b'"%s"' % name.encode())
        if value:
            return value
    return ""


def _string_member(data: bytes, key: bytes) -> str:
    at = data.find(key)
    while at >= 0:
        rest = data[at + len(key) : at + len(key) + 4096].lstrip()
        if rest[:1] == b":":
            rest = rest[1:].lstrip()
            end = rest.find(b'"', 1)
            if rest[:1] == b'"' and end > 0 and b"\\" not in rest[1:end]:
                return rest[1:end].decode()
        at = data.find(key, at + 1)
    return ""


def socket_path(directory: str, address: str, namespace: str, group: str) -> str:
    """Gives the path of the group's socket: its name is private to us, and one per containerd."""
    try:
        from _sha2 import sha256  # type: ignore[import-not-found]  # CPython >= 3.12
    except ImportError:
        from _sha256 import sha256  # type: ignore[import-not-found]
    name = sha256(f"copepod\0{address}\0{namespace}\0{group}".encode()).hexdigest()
    path = f"{directory}/{name}"
    if len(path) > SOCKET_PATH_MAX:
        raise ValueError(f"the socket directory {directory} is too long: at most 41 characters")
    return path


def _spawn(
    listener: _socket.socket,
    path: str,
    bundle: str,
    flags: launch.Flags,
    bootstrap: dict[str, bytes],
) -> None:
    """Makes the shim process: a fork of the zygote where one lives, else of this process."""
    env = posix.environ
    given = {
        "address": flags.address,
        "ttrpc_address": env.get(b"TTRPC_ADDRESS", b"").decode() or f"{flags.address}.ttrpc",
        "namespace": flags.namespace,
        "id": flags.id,
        "bundle": bundle,
        "socket": path,
        "config": env.get(b"COPEPOD_CONFIG", b"").decode(),
        "debug": "1" if flags.debug or _wants_debug(bootstrap) else "",
    }
    if not _ask_zygote(listener, given):
        _fork(listener, given)


def _fork(listener: _socket.socket, given: dict[str, str]) -> None:
    if posix.fork():
        return
    try:
        from copepod import entry

        entry.become_shim(listener.detach(), given)
    except BaseException as error:
        launch._write(2, launch._explain(error).encode())
    finally:
        posix._exit(1)


def _ask_zygote(listener: _socket.socket, given: dict[str, str]) -> bool:
    """Lets the node's zygote fork the shim; False where none answers (which is no error)."""
    socket = posix.environ.get(b"COPEPOD_ZYGOTE", launch.ZYGOTE_SOCKET.encode()).decode()
    if not socket:
        return False
    try:
        posix.stat(socket)
    except OSError:
        return False
    from copepod.zygote import client

    return client.ask(socket, listener.fileno(), given)


def _write_address(bundle: str, address: str) -> None:
    fd = posix.open(
        f"{bundle}/.address",
        posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC,
        0o600,
    )
    try:
        posix.write(fd, address.encode())
    finally:
        posix.close(fd)
    posix.rename(f"{bundle}/.address", f"{bundle}/address")


# --- stdin ----------------------------------------------------------------------------------------


def read_bootstrap(flags: launch.Flags) -> dict[str, bytes]:
    """Reads what containerd gives on stdin; gives the fields of BootstrapParams that we use.

    Before 2.3 it is an Any with the runtime options, or nothing. Both messages have strings at 1
    and 2, so it is a BootstrapParams only if those are our own id and namespace
    (the rule that containerd's own shim library follows).
    """
    data = _read_stdin()
    try:
        fields = list(_fields(data))
    except ValueError:
        return {}
    found = {number: value for number, _, value in fields if isinstance(value, bytes)}
    if found.get(1) != flags.id.encode() or found.get(2) != flags.namespace.encode():
        return {}
    result = {"socket_dir": found.get(9, b"")}
    for number, wire, value in fields:
        if number == 3 and wire == 0 and isinstance(value, int):
            level = value - (1 << 64) if value >> 63 else value
            result["debug"] = b"1" if level < 0 else b""
    return result


def _wants_debug(bootstrap: dict[str, bytes]) -> bool:
    return bool(bootstrap.get("debug"))


def _read_stdin() -> bytes:
    try:
        if posix.isatty(0):
            return b""
        data = bytearray()
        while len(data) < STDIN_MAX:
            chunk = posix.read(0, 65536)
            if not chunk:
                break
            data += chunk
        return bytes(data)
    except OSError:
        return b""


def _fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Walks a protobuf message: (field number, wire type, value). Raises ValueError."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        value: int | bytes
        if wire == 0:
            value, at = _varint(data, at)
        elif wire in (1, 2, 5):
            size = 8 if wire == 1 else 4
            if wire == 2:
                size, at = _varint(data, at)
            value = data[at : at + size]
            at += size
            if at > len(data):
                raise ValueError("a field ends after the message")
        else:
            raise ValueError("not a protobuf message")
        yield tag >> 3, wire, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a varint does not end")


if sys.platform != "linux":  # pragma: no cover
    raise ImportError("copepod's shim runs on Linux")
