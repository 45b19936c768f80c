"""The shim as a process: started as containerd does, with and without a zygote, and ended again."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ttrpc
from copepod import start
from copepod.zygote import client
from copepod.zygote.server import NEEDED
from copepod_api import task_v2_pb2 as pb
from copepod_api.task_v2_ttrpc import TaskClient

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="a shim runs as root"),
]
ROOT = Path(__file__).parents[3]
ROOMS = [str(ROOT / name) for name in ("shim", "api", "api/ttrpc")]
TIMEOUT = 20


def command(*argv: str) -> list[str]:
    """The shim's program as an interpreter's command line."""
    import sysconfig

    paths = [*ROOMS, sysconfig.get_path("purelib")]
    code = f"import sys; sys.path.extend({paths!r})\nfrom copepod.launch import main\nmain()"
    return [sys.executable, "-ISBc", code, *argv]


class Node:
    """A folder with a bundle, a socket directory's name and perhaps a zygote."""

    def __init__(self, home: Path, zygote: str) -> None:
        self.bundle = home / "bundle"
        self.bundle.mkdir()
        os.mkfifo(self.bundle / "log")
        self.log = os.open(self.bundle / "log", os.O_RDWR | os.O_NONBLOCK)
        self.grpc = str(home / "containerd.sock")
        self.environment = {"PATH": "/usr/bin:/bin", "COPEPOD_ZYGOTE": zygote}

    def start(self, name: str, bundle: Path | None = None) -> str:
        """Runs `start`; gives the address that it printed."""
        done = subprocess.run(
            command("-namespace", "ns", "-address", self.grpc, "-id", name, "start"),
            cwd=bundle or self.bundle,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout.decode()

    def pid(self, address: str) -> int:
        """Asks the shim for its pid."""

        async def ask(task: TaskClient) -> int:
            return (await task.connect(pb.ConnectRequest(id="x"), timeout=TIMEOUT)).shim_pid

        return talk(address, ask)

    def end(self, address: str) -> None:
        """Shuts the shim down and waits for its end."""
        pidfd = os.pidfd_open(self.pid(address))

        async def ask(task: TaskClient) -> int:
            await task.shutdown(pb.ShutdownRequest(id="x"), timeout=TIMEOUT)
            return 0

        talk(address, ask)
        wait_for_end(pidfd)
        assert not os.path.exists(address.removeprefix("unix://"))


def talk(address: str, ask: object) -> int:
    """Runs `ask(client)` on one connection."""

    async def body() -> int:
        client = await ttrpc.Client.connect(address.removeprefix("unix://"))
        try:
            return await ask(TaskClient(client))  # type: ignore[operator,no-any-return]
        finally:
            await client.close()

    return asyncio.run(body())


def wait_for_end(pidfd: int) -> None:
    """Waits for the end of any process."""
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(TIMEOUT * 1000), "the process did not end"
    os.close(pidfd)


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[str]:
    """A zygote of one's own: its socket; beside it lies what it said."""
    path, log = str(tmp_path / "zygote.sock"), tmp_path / "zygote.log"
    with log.open("wb") as stderr:
        argv = command("-socket", path, "zygote")
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=stderr)
    end = time.monotonic() + TIMEOUT
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    while probe.connect_ex(path) != 0:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end
        os.sched_yield()
    probe.close()
    yield path
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=TIMEOUT)


@pytest.fixture(params=["with a zygote", "without"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    """A node, both ways."""
    path = request.getfixturevalue("zygote") if request.param == "with a zygote" else ""
    made = Node(tmp_path, path)
    yield made
    os.close(made.log)


def test_a_pod_has_one_shim_and_it_ends(node: Node) -> None:
    first = node.start("a")
    assert first.startswith(f"unix://{start.SOCKET_DIR}/")
    assert (node.bundle / "address").read_text() == first
    spec = '{"annotations":{"io.kubernetes.cri.sandbox-id":"a"}}'
    (node.bundle / "config.json").write_text(spec)
    assert node.start("b") == first
    node.end(first)
    second = node.start("b")
    assert second == first
    node.end(second)


def test_a_shim_holds_nothing_of_its_parent(node: Node) -> None:
    address = node.start("a")
    pid = node.pid(address)
    fds = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    assert (fds["0"], fds["1"]) == ("/dev/null", "/dev/null")
    assert fds["2"] == str(node.bundle / "log")
    others = {fd: name for fd, name in fds.items() if int(fd) > 2}
    # Of its own it has the null device, as a mount that hangs nowhere and so is called "/".
    (null,) = (fd for fd, name in others.items() if name == "/")
    assert os.stat(f"/proc/{pid}/fd/{null}").st_rdev == os.makedev(1, 3)
    del others[null]
    assert all(name.startswith(("socket:", "anon_inode:")) for name in others.values()), others
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.getsid(pid) == pid
    assert len(os.listdir(f"/proc/{pid}/task")) == 1
    # What a container could reach by /proc/self/exe (CVE-2019-5736) can't be written to.
    assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY
    node.end(address)


def test_a_dead_shim_is_replaced_and_delete_removes_its_socket(node: Node) -> None:
    address = node.start("a")
    pidfd = os.pidfd_open(node.pid(address))
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    wait_for_end(pidfd)
    again = node.start("a")
    assert again == address
    pidfd = os.pidfd_open(node.pid(again))
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    wait_for_end(pidfd)
    done = subprocess.run(
        command("-namespace", "ns", "-id", "a", "-bundle", str(node.bundle), "delete"),
        cwd=node.bundle,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert pb.DeleteResponse.FromString(done.stdout).exit_status == 137
    assert not os.path.exists(address.removeprefix("unix://"))


def test_nobody_listens_any_more_when_the_end_of_a_shim_is_heard(node: Node) -> None:
    """containerd runs `delete` when its connection ends, which removes what nobody listens on."""
    for _ in range(5):
        address = node.start("a")
        path = address.removeprefix("unix://")
        pid = node.pid(address)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(path)
            assert node.pid(address) == pid  # so the connection has been accepted, too
            os.kill(pid, signal.SIGKILL)
            assert connection.recv(1) == b""
            with socket.socket(socket.AF_UNIX) as probe:
                assert probe.connect_ex(path) == errno.ECONNREFUSED
        os.unlink(path)


def test_starts_at_the_same_time_make_one_shim(node: Node) -> None:
    bundles = [node.bundle / str(number) for number in range(8)]
    for bundle in bundles:
        bundle.mkdir()
        spec = '{"annotations":{"io.kubernetes.cri.sandbox-id":"a"}}'
        (bundle / "config.json").write_text(spec)
    with ThreadPoolExecutor(8) as threads:
        (address,) = set(threads.map(node.start, "abcdefgh", bundles))
    path = address.removeprefix("unix://")
    table = Path("/proc/net/unix").read_text().splitlines()
    # unix(7) has no words for the columns: flags 00010000 is __SO_ACCEPTCON.
    assert sum(row.endswith(path) and " 00010000 " in row for row in table) == 1
    node.end(address)


def test_a_start_that_can_not_be_told_of_leaves_no_shim(node: Node) -> None:
    """A full disk: containerd forgets the bundle then, and nobody could end that shim."""
    (node.bundle / ".address").mkdir()
    with pytest.raises(AssertionError, match="Is a directory"):
        node.start("a")
    path = start.socket_path(start.SOCKET_DIR, node.grpc, "ns", "a")
    assert not os.path.exists(path)
    assert path not in Path("/proc/net/unix").read_text()


def test_sigterm_does_not_end_a_shim(node: Node) -> None:
    address = node.start("a")
    pid = node.pid(address)
    os.kill(pid, signal.SIGTERM)
    assert node.pid(address) == pid
    node.end(address)


def test_a_dead_zygote_is_no_obstacle(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stale.bind(str(tmp_path / "stale"))
    stale.close()
    node = Node(tmp_path, str(tmp_path / "stale"))
    node.end(node.start("a"))
    os.close(node.log)


@pytest.mark.parametrize("data", [b"", b"x", b"a\0b\0", b"\xff" * 100])
def test_the_zygote_survives_bad_requests(zygote: str, tmp_path: Path, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(TIMEOUT)
        peer.connect(zygote)
        if data:
            peer.send(data)
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(64) == b""
    node = Node(tmp_path, zygote)
    node.end(node.start("a"))
    os.close(node.log)


def test_only_a_request_is_refused_aloud(zygote: str) -> None:
    """The doctor asks whether somebody listens: that is worth no line in the journal."""
    for data in (b"", b"x"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.settimeout(TIMEOUT)
            peer.connect(zygote)
            if data:
                peer.send(data)
            peer.shutdown(socket.SHUT_WR)
            assert peer.recv(64) == b""
    (line,) = Path(zygote).with_name("zygote.log").read_text().splitlines()
    assert "request refused" in line


def test_a_launcher_that_gives_up_leaves_no_shim(zygote: str, tmp_path: Path) -> None:
    path = str(tmp_path / "shim.sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()
    request = client.encode(dict.fromkeys(NEEDED, "") | {"bundle": str(tmp_path)})
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(TIMEOUT)
        peer.connect(zygote)
        socket.send_fds(peer, [request], [listener.fileno()])
        assert peer.recv(64) == client.TAKEN
    listener.close()
    end = time.monotonic() + TIMEOUT
    code = 0
    while code != errno.ECONNREFUSED:
        assert time.monotonic() < end, "a shim that nobody waits for holds the socket"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            code = probe.connect_ex(path)
    node = Node(tmp_path, zygote)
    node.end(node.start("a"))
    os.close(node.log)
