"""From nothing to a wasm pod: a minimal Debian without anything, and a clock.

The Debian is a folder, entered with process, mount and network namespaces of its own. It boots no
systemd, so containerd is started by hand where a node's systemd would; packages are downloaded
before the clock runs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packages import roots
from rig import images, tools
from rig.containerd import lowers_oom_score
from rig.shell import (
    CommandFailed,
    Daemon,
    Done,
    RigError,
    kill_group,
    read_line,
    run,
    until,
    wait_exit,
)

TIMEOUT = 300.0
PACKAGES = ("containerd", "./copepod.deb")
CRI = '[plugins."io.containerd.grpc.v1.cri"]\n'
CGROUPS = Path("/sys/fs/cgroup")
_ENTER = """
set -e
mount --bind "$ROOT" "$ROOT"
mount -t proc proc "$ROOT/proc"
mount --rbind /sys "$ROOT/sys"
mount --rbind /dev "$ROOT/dev"
mount -t tmpfs tmpfs "$ROOT/run"
ip link set lo up
echo ready
exec chroot "$ROOT" sleep infinity
"""


class Node:
    """The entered root; `parent` is the group that its pods' groups are below."""

    def __init__(self, root: Path, holder: int) -> None:
        self.root, self.holder = root, holder
        self.parent = f"cpd-minimal-{os.getpid()}"

    def argv(self, *words: str | Path) -> list[str]:
        """What runs `words` in there."""
        enter = ["nsenter", f"--target={self.holder}", "--mount", "--pid", "--net", "--ipc", "--"]
        home = ["chroot", str(self.root), "sh", "-c", 'cd /root && exec "$@"', "sh"]
        return [*enter, *home, *map(str, words)]

    def call(self, *words: str | Path) -> Done:
        """Runs a program to its end."""
        env = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "PATH": PATH}
        return run(self.argv(*words), timeout=TIMEOUT, env=env)


PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def check(packages: Path, work: Path) -> str:
    """The commands and their seconds."""
    root = _root(packages, work)
    clock: list[str] = []
    with _entered(root) as node:
        _timed(clock, node, "apt-get", "install", "-y", *PACKAGES)
        _furnish(root)
        log = work / "containerd.log"
        daemon = Daemon(node.argv("containerd"), log, env={"PATH": PATH})
        try:
            _ready(node, daemon)
            _timed(clock, node, "copepod", "node", "install", "--no-restart")
        finally:
            _stop(daemon)
        daemon = Daemon(node.argv("containerd"), log, env={"PATH": PATH})
        try:
            _ready(node, daemon)
            return _pod(node, clock)
        except RigError as error:
            raise RigError(f"{error}\n{daemon.tail()}") from None
        finally:
            node.call("crictl", "rmp", "--all", "--force")
            _stop(daemon)


def _stop(daemon: Daemon) -> None:
    """nsenter(1) waits for the containerd that it has started, and does not pass signals on."""
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children")
    for pid in map(int, children.read_text().split() if daemon.alive() else ()):
        os.kill(pid, signal.SIGTERM)
        wait_exit(pid, 20)
    daemon.stop()


def _pod(node: Node, clock: list[str]) -> str:
    """Images in, a pod that writes a line, its log."""
    node.call("ctr", "-n", "k8s.io", "images", "import", "images.tar")
    _name_pause(node)
    words = ("run", "--no-pull", "--runtime=copepod", "container.json", "pod.json")
    container = _timed(clock, node, "crictl", *words).out.strip()
    until("the pod's line", lambda: "from zero" in node.call("crictl", "logs", container).out)
    total = sum(float(text.rpartition(" ")[2]) for text in clock)
    return "; ".join(f"{text} s" for text in clock) + f"; together {total:.1f} s"


def _timed(clock: list[str], node: Node, *words: str) -> Done:
    began = time.monotonic()
    done = node.call(*words)
    shown = " ".join(word for word in words if not word.endswith(".json"))
    clock.append(f"{shown} {time.monotonic() - began:.1f}")
    return done


def _root(packages: Path, work: Path) -> Path:
    """A copy of a minimal Debian, with the downloaded packages."""
    root = work / "minimal"
    run(["cp", "-a", roots.ensure("trixie", variant="minbase"), root], timeout=TIMEOUT)
    (package,) = packages.glob("*_amd64.deb")
    shutil.copyfile(package, root / "root/copepod.deb")
    shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    for words in (("update",), ("install", "-y", "--download-only", *PACKAGES)):
        argv = ["chroot", root, "sh", "-c", 'cd /root && exec apt-get -q "$@"', "sh", *words]
        run(argv, timeout=TIMEOUT, env={"PATH": PATH})
    return root


def _furnish(root: Path) -> None:
    """What the pod is of; and what this machine can't do, where it can't."""
    home = root / "root"
    images.archive(home / "images.tar", [*images.good_wasm(layers=False), images.pause()])
    shutil.copy2(tools.ensure("cri-tools-1.36") / "crictl", root / "usr/local/bin")
    endpoint = "unix:///run/containerd/containerd.sock"
    lines = [f"{kind}-endpoint: {endpoint}" for kind in ("runtime", "image")]
    (root / "etc/crictl.yaml").write_text("\n".join([*lines, "timeout: 60"]) + "\n")
    linux = {"security_context": {"namespace_options": {"network": 2}}}  # the node's own
    meta = {"name": "zero", "namespace": "default", "uid": "zero", "attempt": 0}
    pod = {
        "metadata": meta,
        "log_directory": "/var/log/zero",
        "linux": {"cgroup_parent": f"/cpd-minimal-{os.getpid()}", **linux},
    }
    container = {
        "metadata": {"name": "zero"},
        "image": {"image": images.C_ROOTFS},
        "command": [images.MODULE],
        "args": ["hello", "from zero"],
        "log_path": "zero.log",
        "linux": linux,
    }
    (home / "pod.json").write_text(json.dumps(pod))
    (home / "container.json").write_text(json.dumps(container))
    if not lowers_oom_score():
        config = root / "etc/containerd/config.toml"
        text = f"version = 2\n{CRI}restrict_oom_score_adj = true\n"
        config.write_text(text)


def _ready(node: Node, daemon: Daemon) -> None:
    def answers() -> bool:
        if not daemon.alive():
            raise RigError(f"containerd ended:\n{daemon.tail()}")
        try:
            return bool(node.call("crictl", "info"))
        except CommandFailed:
            return False

    try:
        until("CRI to answer", answers, 60, pause=0.3)
    except RigError as error:
        raise RigError(f"{error}\n{daemon.tail()}") from None


def _name_pause(node: Node) -> None:
    """The image that this containerd takes for a pod's own process is ours."""
    for line in node.call("containerd", "config", "dump").out.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "sandbox_image":
            wanted = value.strip().strip("\"'")
            node.call(
                "ctr", "-n", "k8s.io", "images", "tag", "--force", images.pause().name, wanted
            )


@contextmanager
def _entered(root: Path) -> Iterator[Node]:
    words = ["unshare", "--mount", "--pid", "--net", "--ipc", "--fork", "--kill-child"]
    with subprocess.Popen(
        [*words, "--propagation=private", "sh", "-c", _ENTER],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "ROOT": str(root)},
        start_new_session=True,
    ) as unshare:
        try:
            assert unshare.stdout
            if (said := read_line(unshare.stdout, 20)) != "ready":
                raise RigError(f"the root could not be entered: {said}")
            children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
            node = Node(root, int(children.read_text().split()[0]))
            try:
                yield node
            finally:
                kill_group(unshare.pid)
                wait_exit(node.holder, 20)  # it ends when all in its namespace have
                for top in (*CGROUPS.glob(f"*/{node.parent}"), *CGROUPS.glob(node.parent)):
                    for folder, _, _ in sorted(os.walk(top), reverse=True):
                        os.rmdir(folder)
        finally:
            kill_group(unshare.pid)
