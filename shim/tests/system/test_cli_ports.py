"""`copepod run -p`: a port of the node reaches a server in another network namespace."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from copepod.cli.run import ports

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces are root's"),
]

# In a network namespace of its own: loopback up, one connection answered in capitals.
SERVER = """
import socket, subprocess
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with socket.create_server(("127.0.0.1", 8080)) as server:
    print("up", flush=True)
    connection, _ = server.accept()
    connection.sendall(connection.recv(100).upper())
    connection.close()
    input()
"""


def children_left() -> bool:
    """Waits for a child that has ended, if there is one."""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def test_a_published_port_reaches_the_namespace(tmp_path: Path) -> None:
    argv = ["unshare", "--net", sys.executable, "-ISB", "-c", SERVER]
    guest = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert guest.stdout
        assert guest.stdout.readline() == b"up\n"
        pid_file = tmp_path / "pid"
        pid_file.write_text(str(guest.pid))
        with socket.create_server(("127.0.0.1", 0)) as free:
            number = free.getsockname()[1]
        published = [ports.Port("127.0.0.1", number, 8080)]
        listeners = ports.listen(published)
        ports.serve(listeners, published, str(pid_file), guest, detached=True)
        with socket.create_connection(("127.0.0.1", number), timeout=20) as connection:
            connection.sendall(b"hello")
            assert connection.recv(100) == b"HELLO"
    finally:
        guest.communicate(b"\n", timeout=20)
    # The carrier ends with the process whose network it had entered: it is a child of ours, and
    # perhaps not the only one.
    deadline = time.monotonic() + 20
    while children_left():
        assert time.monotonic() < deadline
    with socket.socket() as late:
        assert late.connect_ex(("127.0.0.1", number)) != 0


# Sends more than the way to a client that doesn't read takes, and ends at once.
LAST_WORDS = """
import socket, subprocess
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with socket.create_server(("127.0.0.1", 8080)) as server:
    print("up", flush=True)
    connection, _ = server.accept()
    connection.sendall(b"x" * 300_000)
    connection.close()
"""


def test_what_a_container_sent_before_its_end_arrives(tmp_path: Path) -> None:
    argv = ["unshare", "--net", sys.executable, "-ISB", "-c", LAST_WORDS]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as guest:
        assert guest.stdout
        assert guest.stdout.readline() == b"up\n"
        (tmp_path / "pid").write_text(str(guest.pid))
        with socket.create_server(("127.0.0.1", 0)) as free:
            number = free.getsockname()[1]
        published = [ports.Port("127.0.0.1", number, 8080)]
        listeners = ports.listen(published)
        listeners[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ports.serve(listeners, published, str(tmp_path / "pid"), guest, detached=True)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(20)
            connection.connect(("127.0.0.1", number))
            assert guest.wait(20) == 0
            received = 0
            while data := connection.recv(65536):
                received += len(data)
        assert received == 300_000
    deadline = time.monotonic() + 20
    while children_left():
        assert time.monotonic() < deadline
