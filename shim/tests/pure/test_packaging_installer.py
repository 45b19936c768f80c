"""The node installer: files first, containerd restarted when pods have settled, all undone at the
end, and only then."""

from __future__ import annotations

import http.server
import importlib.util
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_PATH = Path(__file__).parents[3] / "packaging/k8s/node-installer/installer.py"
_SPEC = importlib.util.spec_from_file_location("installer", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
installer = importlib.util.module_from_spec(_SPEC)
sys.modules["installer"] = installer  # dataclasses look their module up
_SPEC.loader.exec_module(installer)

STARTING = {"status": {"phase": "Pending", "containerStatuses": [
    {"state": {"waiting": {"reason": "ContainerCreating"}}}]}}  # fmt: skip
RUNNING = {"status": {"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}}
CRASHING = {"status": {"phase": "Running", "containerStatuses": [
    {"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}}  # fmt: skip

# Stands for the node's programs: says what it was called with, answers `node status`.
PROGRAM = """
import json, pathlib, sys
log = pathlib.Path(sys.argv[1])
words = sys.argv[2:]
with log.open("a") as file:
    file.write(" ".join(words) + "\\n")
if "status" in words:
    print(json.dumps({"pending": "--restart" not in log.read_text()}))
if "in-use" in words:
    sys.exit(1)
"""


class Cluster(http.server.ThreadingHTTPServer):
    """An API server that knows one node, its pods and one DaemonSet."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pods: list[list[dict[str, Any]]] = [[]]  # the answers, the last one for ever
        self.daemonset: dict[str, Any] | int = {"metadata": {"name": "i"}}
        self.patches: list[object] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Cluster

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        assert self.headers["Authorization"] == "Bearer t0ken"
        if "daemonsets" in self.path:
            found = self.server.daemonset
            self._answer(*((found, {}) if isinstance(found, int) else (200, found)))
            return
        assert "spec.nodeName%3Dn1" in self.path
        pods = self.server.pods.pop(0) if len(self.server.pods) > 1 else self.server.pods[0]
        named = [{"metadata": {"name": f"p{i}"}, **pod} for i, pod in enumerate(pods)]
        self._answer(200, {"items": named})

    def do_PATCH(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.patches.append(json.loads(self.rfile.read(length)))
        self._answer(200, {})


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def node(tmp_path: Path, cluster: Cluster) -> Any:
    payload = tmp_path / "payload"
    for name in (
        "dist/v1/shim.py",
        "bin/copepod",
        "admin",
        "find-python",
        "python-3.13/bin/python3",
    ):
        (payload / name).parent.mkdir(parents=True, exist_ok=True)
        (payload / name).write_text(name)
    (tmp_path / "account").mkdir()
    (tmp_path / "account/token").write_text("t0ken")
    (tmp_path / "program.py").write_text(PROGRAM)
    url = f"http://127.0.0.1:{cluster.server_address[1]}"
    return installer.Installer(
        installer.Api(url, account=tmp_path / "account"), "n1", host=tmp_path / "host",
        payload=payload, ready=tmp_path / "ready", poll=0.01, settle=5, grace=5,
        enter=(sys.executable, "-ISB", str(tmp_path / "program.py"), str(tmp_path / "log")),
    )  # fmt: skip


def called(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().splitlines()


def test_installed_in_order(tmp_path: Path, cluster: Cluster, node: Any) -> None:
    cluster.pods = [[STARTING], [STARTING, RUNNING], [RUNNING, CRASHING]]
    node.install()
    shim = "--shim /opt/copepod/bin/containerd-shim-copepod-v1"
    assert called(tmp_path) == [
        "/opt/copepod/admin activate",
        f"/opt/copepod/bin/copepod node install --no-restart {shim}",
        "/opt/copepod/bin/copepod node status --json",
        f"/opt/copepod/bin/copepod node install --restart {shim}",
        "/opt/copepod/bin/copepod node status --json",
    ]
    assert len(cluster.pods) == 1  # it looked until nothing was being started
    assert cluster.patches == [{"metadata": {"labels": {"copepod.dev/runtime": "ready"}}}]
    assert node.ready.exists()
    assert (tmp_path / "host/opt/copepod/bin/copepod").read_text() == "bin/copepod"


def test_a_second_version_leaves_the_interpreter(tmp_path: Path, node: Any) -> None:
    node.copy()
    python = tmp_path / "host/opt/copepod/python-3.13/bin/python3"
    inode = python.stat().st_ino
    shutil.move(node.payload / "dist/v1", node.payload / "dist/v2")
    node.copy()
    assert python.stat().st_ino == inode
    assert [one.name for one in (tmp_path / "host/opt/copepod/dist").iterdir()] == ["v2"]


def test_without_a_restart_the_node_is_not_ready(
    tmp_path: Path, cluster: Cluster, node: Any
) -> None:
    node.restart = False
    node.install()
    assert cluster.patches == [{"metadata": {"labels": {"copepod.dev/runtime": None}}}]
    assert not node.ready.exists()


@pytest.mark.parametrize(
    ("daemonset", "deleted"),
    [
        ({"metadata": {}}, False), ({"metadata": {"deletionTimestamp": "now"}}, True),
        (404, True), (401, True), (403, True), (500, False),
    ],
)  # fmt: skip
def test_only_a_deleted_daemonset_undoes(
    cluster: Cluster, node: Any, daemonset: Any, deleted: bool
) -> None:
    cluster.daemonset = daemonset
    assert node.deleted("ns", "i") is deleted


def test_a_silent_api_server_undoes_nothing(node: Any) -> None:
    node.api.url = "http://127.0.0.1:1"
    assert node.deleted("ns", "i") is False


def test_uninstalled(tmp_path: Path, cluster: Cluster, node: Any) -> None:
    node.copy()
    (tmp_path / "host/opt/copepod/current").write_text(
        "/opt/copepod/versions/v1 /usr/bin/python3\n"
    )
    cache = tmp_path / "host/var/lib/copepod/cache"
    cache.mkdir(parents=True)
    node.uninstall()
    assert called(tmp_path) == [
        "/opt/copepod/admin in-use",
        "/opt/copepod/bin/copepod node uninstall --restart",
        "env COPEPOD_BIN=/opt/copepod/bin /opt/copepod/versions/v1/bin/admin withdraw",
    ]
    assert cluster.patches == [{"metadata": {"labels": {"copepod.dev/runtime": None}}}]
    assert not (tmp_path / "host/opt/copepod").exists()
    assert not cache.parent.exists()
