"""What users do with kubectl, by way of crictl: exec, attach, probes, port-forward, logs, stats,
update and stop; each on a Linux container and on a wasm one of the same handler.

RIG_RUNTIME=runc runs the native half with runc.
"""

import re
import time
from pathlib import Path
from typing import Any

import pytest

from rig import debian, guests, images, procs
from rig.containerd import Containerd
from rig.cri import Container, Pod, Pods
from rig.leaks import CGROUPS
from rig.piped import Piped
from rig.runs import Runner
from rig.shell import until
from rig.terminal import Terminal, window

pytestmark = pytest.mark.peer

WEB = f"{images.HOST}/guest-http:rootfs"
PORT = 8080
LISTEN = {"copepod.dev/listen": str(PORT)}


class Kind:
    """Starts containers of one kind, native or wasm, that do the same things."""

    def __init__(self, pods: Pods, name: str) -> None:
        self.pods, self.name = pods, name
        # busybox's words are those of runc's containers, whoever runs them here.
        self._words = Runner(pods.node, "copepod" if name == "wasm" else "runc")

    def words(self, verb: str, *rest: str) -> list[str]:
        """The argv that does `verb` in a container of this kind."""
        if self.name == "native" and verb in ("sleep", "echo"):
            # One process: what a shell started would outlive it when it is killed.
            return {"sleep": ["sleep", *rest], "echo": ["cat"]}[verb]
        return self._words.guest(verb, *rest)[1]

    def pod(self, name: str, **fields: Any) -> Pod:
        """A pod whose log no other test writes to."""
        return self.pods.run(f"{name}-{self.name}", **fields)

    def start(self, pod: Pod, verb: str, *rest: str, **fields: Any) -> Container:
        """Starts a container that does `verb`."""
        image = self._words.guest("hello")[0]
        words = self.words(verb, *rest)
        return pod.start("main", image, words[1:], command=words[:1], **fields)


@pytest.fixture(params=["native", "wasm"])
def kind(request: pytest.FixtureRequest, pods: Pods) -> Kind:
    """Both kinds, as far as the handler runs them."""
    if request.param == "wasm" and pods.handler != "copepod":
        pytest.skip("runc runs no wasm")
    return Kind(pods, request.param)


def inside(container: Container, *words: str) -> list[str]:
    """The argv of a crictl command that goes on for a while."""
    return container.node.cell.inside(container.node.crictl_argv(*words))


def pids(container: Container) -> set[int]:
    """The processes of a container, as the runtime tells them."""
    listed = container.node.ctr("tasks", "ps", container.id, namespace="k8s.io").out
    return {int(line.split()[0]) for line in listed.splitlines()[1:]}


def running(container: Container, words: list[str]) -> set[int]:
    """Those that show `words` as their command line: our compiler may be among the others."""
    found = set()
    for pid in pids(container):
        try:
            shown = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if shown.rstrip(b"\0").decode().split("\0") == words:
            found.add(pid)
    return found


def newcomer(container: Container, words: list[str]) -> int:
    """Waits for the process that runs `words`; gives its pid."""
    (pid,) = until(f"{words} to run", lambda: running(container, words))
    return pid


def test_exec_on_a_terminal_follows_the_window(kind: Kind) -> None:
    pod = kind.pod("exec-it")
    container = kind.start(pod, "sleep", "1000")
    words = kind.words("echo")
    with Terminal(inside(container, "exec", "-it", container.id, *words)) as user:
        user.type("hello\r")
        user.expect("hello\r\nhello\r\n")  # the terminal's echo, and the program's
        pid = newcomer(container, words)
        user.resize(30, 100)
        until("a wider window", lambda: window(pid) == (30, 100))
        user.resize(50, 132)
        until("a still wider window", lambda: window(pid) == (50, 132))
        user.type("\x04")
        assert user.wait() == 0
    assert not running(container, words)
    assert container.status["state"] == "CONTAINER_RUNNING"
    pod.remove()


def test_a_native_program_hears_of_the_windows_size(pods: Pods) -> None:
    pod = pods.run("winch")
    container = Kind(pods, "native").start(pod, "sleep", "1000")
    script = "trap 'stty size' WINCH; echo ready; while :; do sleep 1000 & wait $!; done"
    with Terminal(inside(container, "exec", "-it", container.id, "sh", "-c", script)) as user:
        user.expect("ready")
        user.resize(41, 123)
        user.expect("41 123")
        user.type("\x03")
        assert user.wait() != 0
    pod.remove()


def test_attach_to_standard_input(kind: Kind) -> None:
    pod = kind.pod("attach")
    container = kind.start(pod, "echo", stdin=True, stdin_once=True)
    with Piped(inside(container, "attach", "-i", container.id), stdin=True) as user:
        user.send(b"one\n")
        user.expect("one")
        user.send(b"two\n")
        user.expect("two")
        user.end_input()
        assert container.wait_exited()["exitCode"] == 0
        assert user.wait().code == 0
    assert container.log == "one\ntwo"
    pod.remove()


def test_attach_to_a_terminal_follows_the_window(kind: Kind) -> None:
    pod = kind.pod("attach-it")
    container = kind.start(pod, "echo", stdin=True, tty=True)
    with Terminal(inside(container, "attach", "-i", "-t", container.id)) as user:
        user.type("hello\r")
        user.expect("hello\r\nhello\r\n")
        user.resize(33, 77)
        until("the new window", lambda: window(container.pid) == (33, 77))
        user.type("\x04")
        user.wait()
    assert container.wait_exited()["exitCode"] == 0
    pod.remove()


def test_a_probe_sees_the_exit_code_and_both_outputs(kind: Kind) -> None:
    pod = kind.pod("probe")
    container = kind.start(pod, "sleep", "1000")
    fine = container.exec(*kind.words("exit", "0"), check=False)
    assert fine.code == 0, fine.text
    sick = container.exec(*kind.words("exit", "3"), check=False)
    assert sick.code != 0
    assert re.search(r"exit(ed with| code:?| status) 3", sick.text), sick.text
    absent = container.exec("/no/such/program", check=False)
    assert absent.code != 0
    assert "/no/such/program" in absent.text
    said = container.exec(*kind.words("read", "/etc/hostname"))
    assert said.out.strip()
    wrong = container.exec(*kind.words("read", "/nowhere"), check=False)
    assert "/nowhere" in wrong.err
    assert running(container, kind.words("sleep", "1000")) == {container.pid}
    pod.remove()


def test_a_probe_that_takes_too_long_is_killed(kind: Kind) -> None:
    pod = kind.pod("slow-probe")
    container = kind.start(pod, "sleep", "1000")
    words = kind.words("sleep", "999")
    began = time.monotonic()
    late = container.exec(*words, timeout=2, check=False)
    assert late.code != 0
    assert "DeadlineExceeded" in late.text or "timed out" in late.text, late.text
    assert 2 <= time.monotonic() - began < 20
    assert not running(container, words)
    assert container.status["state"] == "CONTAINER_RUNNING"
    assert container.exec(*kind.words("exit", "0")).code == 0
    pod.remove()


@pytest.fixture(scope="module")
def web(node: Containerd) -> str:
    """An image of the HTTP guest."""
    image = images.rootfs_wasm(WEB, guests.wasm_http().read_bytes())
    node.import_image(images.archive(node.home / "web.tar", [image]), namespace="k8s.io")
    return WEB


def test_port_forward(kind: Kind, web: str) -> None:
    curl = debian.need_command("curl", "curl")
    if kind.name == "wasm":
        pod = kind.pod("web", annotations=LISTEN)
        pod.start("main", web, ["forwarded"], command=[images.MODULE], annotations=LISTEN)
        path, answer = "/", "forwarded"
    else:
        pod = kind.pod("web")
        script = f"mkdir /www; echo forwarded > /www/f; exec httpd -f -p {PORT} -h /www"
        pod.start("main", images.BUSYBOX, command=["sh", "-c", script])
        path, answer = "/f", "forwarded"
    node = kind.pods.node
    with Piped(node.cell.inside(node.crictl_argv("port-forward", pod.id, f":{PORT}"))) as forward:
        forward.expect("Forwarding from 127.0.0.1:")
        found = re.search(r"127\.0\.0\.1:(\d+)", forward.out)
        assert found
        url = f"http://127.0.0.1:{found[1]}{path}"

        def fetch() -> str:
            return node.cell.call([curl, "-sS", "--max-time", "5", url], check=False).out

        until("an answer", lambda: answer in fetch())
        assert all(answer in fetch() for _ in range(5))
    pod.remove()


def test_logs(kind: Kind) -> None:
    pod = kind.pod("logs")
    container = kind.start(pod, "count", "20")
    container.wait_log("line 10")
    lines = container.node.crictl("logs", container.id).out.splitlines()
    assert lines[:11] == [f"line {number}" for number in range(11)]
    last = container.node.crictl("logs", "--tail=1", container.id).out
    first = int(last.split()[1])
    with Piped(inside(container, "logs", "--follow", "--tail=1", container.id)) as following:
        following.expect(f"line {first + 20}\n")
    container.node.crictl("logs", "--reopen", container.id)
    container.wait_log(f"line {first + 40}")
    pod.remove()


def test_stats_of_container_and_pod(kind: Kind) -> None:
    pod = kind.pod("stats")
    container = kind.start(pod, "count", "20")
    container.wait_log("line 5")
    (stats,) = pod.node.crictl_json("stats", "-o", "json", "--id", container.id)["stats"]
    assert int(stats["cpu"]["usageCoreNanoSeconds"]["value"]) > 0
    assert int(stats["memory"]["workingSetBytes"]["value"]) > 0
    (whole,) = pod.node.crictl_json("statsp", "-o", "json", "--id", pod.id)["stats"]
    linux = whole["linux"]
    assert int(linux["cpu"]["usageCoreNanoSeconds"]["value"]) > 0
    assert int(linux["process"]["processCount"]["value"]) >= 1
    assert [one["attributes"]["id"] for one in linux["containers"]] == [container.id]
    pod.remove()


def setting(pid: int, controller: str, v1: str, v2: str) -> str:
    """One file of a process's cgroup, of version 1 or 2."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return (CGROUPS / controller / path.lstrip("/") / v1).read_text().strip()
    unified = path  # the line of version 2 is the last one (cgroups(7))
    return (CGROUPS / unified.lstrip("/") / v2).read_text().strip()


def test_update_reaches_the_cgroup(kind: Kind) -> None:
    pod = kind.pod("update")
    limits = {"memory_limit_in_bytes": 256 << 20, "cpu_period": 100000, "cpu_quota": 50000}
    container = kind.start(pod, "count", "20", linux={"resources": limits})
    container.wait_log("line 1")
    pid = container.pid
    memory = ("memory", "memory.limit_in_bytes", "memory.max")
    assert setting(pid, *memory) == str(256 << 20)
    words = ("--memory", str(384 << 20), "--cpu-quota", "70000", "--cpu-period", "100000")
    pod.node.crictl("update", *words, "--cpu-share", "512", container.id)
    assert setting(pid, *memory) == str(384 << 20)
    assert setting(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "70000"
    assert setting(pid, "cpu", "cpu.shares", "cpu.weight") in ("512", "20")
    shown = container.status["resources"]["linux"]
    assert int(shown["memoryLimitInBytes"]) == 384 << 20
    assert container.pid == pid
    pod.remove()


def test_stop_is_graceful(kind: Kind) -> None:
    pod = kind.pod("stop")
    if kind.name == "wasm":
        container = kind.start(pod, "count", "20")
        container.wait_log("line 1")
        expected = 143
    else:
        script = "trap 'echo goodbye; exit 5' TERM; echo up; while :; do sleep 1000 & wait; done"
        container = pod.start("main", images.BUSYBOX, command=["sh", "-c", script])
        container.wait_log("up")
        expected = 5
    began = time.monotonic()
    container.stop(grace=60)
    assert time.monotonic() - began < 20
    assert container.status["exitCode"] == expected
    if kind.name == "native":
        assert "goodbye" in container.log
    pod.remove()


def test_one_that_ignores_sigterm_is_killed_after_its_grace(pods: Pods) -> None:
    pod = pods.run("stubborn")
    script = "trap '' TERM; echo up; while :; do sleep 1000 & wait; done"
    container = pod.start("main", images.BUSYBOX, command=["sh", "-c", script])
    container.wait_log("up")
    everybody = pids(container)
    began = time.monotonic()
    container.stop(grace=3)
    assert 3 <= time.monotonic() - began < 20
    assert container.status["exitCode"] == 137
    assert not any(Path(f"/proc/{pid}").exists() for pid in everybody)
    pod.remove()


@pytest.mark.parametrize("hard", [False, True], ids=["restarted", "killed"])
def test_streams_outlive_containerd(kind: Kind, hard: bool) -> None:
    """containerd's own streaming server ends with it, and so do the client's connections; what
    must not end are the streams between it and the container."""
    pod = kind.pod("killed-streams" if hard else "streams")
    counting = kind.start(pod, "count", "20")
    words = kind.words("echo")
    image = counting.inspect()["status"]["image"]["image"]
    plain = pod.start("plain", image, words[1:], command=words[:1], stdin=True)
    terminal = pod.start("terminal", image, words[1:], command=words[:1], stdin=True, tty=True)
    counting.wait_log("line 5")
    with (
        Piped(inside(counting, "exec", "-i", counting.id, *words), stdin=True) as execing,
        Piped(inside(plain, "attach", "-i", plain.id), stdin=True) as attached,
        Terminal(inside(terminal, "attach", "-it", terminal.id)) as user,
    ):
        execing.send(b"exec\n")
        execing.expect("exec")
        attached.send(b"before\n")
        attached.expect("before")
        user.type("before\r")
        user.expect("before\r\nbefore\r\n")
        process = newcomer(counting, words)
        kind.pods.node.restart(hard=hard)
        kind.pods.node.wait_cri()
    with (
        Piped(inside(plain, "attach", "-i", plain.id), stdin=True) as attached,
        Terminal(inside(terminal, "attach", "-it", terminal.id)) as user,
    ):
        attached.send(b"after\n")
        attached.expect("after")
        user.type("after\r")
        user.expect("after\r\nafter\r\n")
        user.resize(44, 111)
        until("the new window", lambda: window(terminal.pid) == (44, 111))
    assert plain.log == "before\nafter"
    seen = int(counting.log.splitlines()[-1].split()[1])
    counting.wait_log(f"line {seen + 20}\n")
    for container in (counting, plain, terminal):
        assert container.status["state"] == "CONTAINER_RUNNING"
    assert procs.parent(process) == procs.parent(counting.pid), "the exec goes on, too"
    pod.remove()
