"""What strangers do to a shim's socket: garbage, and connections of users other than root.

It talks to the sockets of the cell's own shims only.
"""

import json
import socket
import sys
from pathlib import Path

from rig.runs import Runner
from rig.shell import Done, RigError, run

# Written to the socket as they are: no frame, a frame longer than the limit of 4 MiB, a response
# where a request belongs, a request that is no message, half a header (ttrpc's PROTOCOL.md).
GARBAGE = (
    b"GET / HTTP/1.1\r\nHost: shim\r\n\r\n",
    b"\xff" * 64,
    (5 << 20).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\x01\x00" + b"x" * 4096,
    (4).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\x02\x00" + b"abcd",
    (4).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\x01\x00" + b"\xff\xff\xff\xff",
    b"\x00\x00\x00",
)
_AS_NOBODY = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
peer.settimeout(5)
peer.connect(sys.argv[1])
try:
    peer.sendall(bytes.fromhex(sys.argv[2]))
    answer = peer.recv(64)
except ConnectionError:
    answer = b""
print("answered" if answer else "closed")
"""


def shim_socket(runner: Runner, name: str) -> Path:
    """The socket of a running container's shim, as a path that works outside the cell."""
    tasks = runner.node.settings.state / "io.containerd.runtime.v2.task"
    bundle = tasks / runner.namespace / name
    if (bundle / "address").exists():
        text = (bundle / "address").read_text().strip()
    else:  # newer shims leave it to containerd to write down what they answered
        text = str(json.loads((bundle / "bootstrap.json").read_text())["address"])
    inside = Path(text.removeprefix("unix://"))
    if not inside.is_relative_to("/run"):
        raise RigError(f"the shim's address is {text!r}: no unix socket under /run")
    return runner.node.cell.run_dir / inside.relative_to("/run")


def throw_garbage(path: Path) -> str:
    """Sends each piece of GARBAGE on a connection of its own and hangs up; gives "goes on"."""
    for piece in GARBAGE:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(5)
            peer.connect(str(path))
            try:
                peer.sendall(piece)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(4096):
                    pass
            except (ConnectionError, TimeoutError):
                continue
    return "goes on"


def ask_as_nobody(runner: Runner, path: Path) -> str:
    """Opens the socket's way for everybody, connects as nobody, and says what came back.

    The modes are put back after; "closed" is what a shim that checks its peers gives.
    """
    above = [place for place in path.parents if place.is_relative_to(runner.node.cell.run_dir)]
    modes = {place: place.stat().st_mode for place in (path, *above)}
    # Of a service that does not exist: a shim that serves this peer answers Unimplemented.
    body = b"\x0a\x01x\x12\x01y"
    request = len(body).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\x01\x00" + body
    try:
        for place in modes:
            place.chmod(0o777)
        argv = [sys.executable, "-c", _AS_NOBODY, str(path), request.hex()]
        return run(argv, timeout=20).out.strip()
    finally:
        for place, mode in modes.items():
            place.chmod(mode)


def answers(runner: Runner, name: str) -> Done:
    """Asks containerd for the container's processes, which the shim must answer."""
    return runner.node.ctr("tasks", "ps", name, namespace=runner.namespace)
