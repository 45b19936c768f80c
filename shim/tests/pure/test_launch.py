"""The launcher: flags, stdin's dialects, grouping, the socket, `delete`'s fast path."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from google.protobuf import any_pb2
from hypothesis import given
from hypothesis import strategies as st

from copepod import __version__, answers, features, launch, socketfile, start
from copepod_api import bootstrap_v1_pb2, task_v2_pb2, types_pb2

pytestmark = pytest.mark.pure
ROOT = Path(__file__).parents[3]


def test_flags_as_containerd_gives_them() -> None:
    flags = launch.parse(
        [
            "-namespace",
            "k8s.io",
            "-address",
            "/run/c.sock",
            "-publish-binary",
            "/bin/c",
            "-id",
            "abc",
            "-debug",
            "start",
        ]
    )
    assert (flags.namespace, flags.address, flags.id) == ("k8s.io", "/run/c.sock", "abc")
    assert (flags.action, flags.debug) == ("start", True)
    flags = launch.parse(["--namespace=n", "-id=x", "-bundle", "/b", "-debug=false", "delete"])
    assert (flags.namespace, flags.id, flags.bundle) == ("n", "x", "/b")
    assert (flags.action, flags.debug) == ("delete", False)
    assert launch.parse(["-v"]).version
    assert launch.parse(["-info"]).info


@pytest.mark.parametrize("extra", [["-new"], ["-new", "value"], ["--new=value"]])
def test_unknown_flags_are_passed_over(extra: list[str]) -> None:
    flags = launch.parse(["-id", "x", *extra, "start"])
    assert (flags.id, flags.action) == ("x", "start")


@given(st.lists(st.text(max_size=12), max_size=8))
def test_no_command_line_raises(argv: list[str]) -> None:
    launch.parse(argv)


def test_delete_response_is_protobuf() -> None:
    message = task_v2_pb2.DeleteResponse.FromString(answers.delete_response(300, 137, 1 << 33, 999))
    assert (message.pid, message.exit_status) == (300, 137)
    assert (message.exited_at.seconds, message.exited_at.nanos) == (1 << 33, 999)


def test_runtime_info_is_protobuf_with_features() -> None:
    import json

    info = types_pb2.RuntimeInfo.FromString(features.runtime_info())
    assert info.name == "io.containerd.copepod.v1"
    assert info.version.version == __version__
    document = json.loads(info.features.value)
    assert "user" in document["linux"]["namespaces"]
    assert "rro" in document["mountOptions"]
    assert document["mountOptions"] == sorted(document["mountOptions"])


def _feed(data: bytes) -> dict[str, bytes]:
    """What `read_bootstrap` makes of `data` on stdin."""
    flags = launch.parse(["-namespace", "ns", "-id", "c1", "start"])
    read, write = os.pipe()
    saved = os.dup(0)
    try:
        os.dup2(read, 0)
        os.write(write, data)
        os.close(write)
        return start.read_bootstrap(flags)
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(read)


def test_bootstrap_params_are_told_from_an_any() -> None:
    params = bootstrap_v1_pb2.BootstrapParams(
        instance_id="c1", namespace="ns", log_level="LOG_LEVEL_DEBUG", socket_dir="/run/s"
    )
    assert _feed(params.SerializeToString()) == {"socket_dir": b"/run/s", "debug": b"1"}
    legacy = any_pb2.Any(type_url="runtimeoptions.v1.Options", value=b"x")
    assert _feed(legacy.SerializeToString()) == {}
    assert _feed(b"") == {}


@given(st.binary(max_size=200))
def test_garbage_on_stdin_is_no_error(data: bytes) -> None:
    assert _feed(data).keys() <= {"socket_dir", "debug"}


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ('{"annotations":{"io.kubernetes.cri.sandbox-id":"s1"}}', "s1"),
        ('{"annotations": {"io.kubernetes.cri.sandbox-id" : "s1"}}', "s1"),
        (
            '{"annotations":{"io.kubernetes.cri.sandbox-id":"s1","io.containerd.runc.v2.group":"g"}}',
            "g",
        ),
        ('{"process":{"env":["A=\\"io.kubernetes.cri.sandbox-id\\":\\"evil\\""]}}', ""),
        ('{"annotations":{}}', ""),
        ("", ""),
    ],
)
def test_group_of_a_bundle(tmp_path: Path, text: str, group: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert start.group_of(str(tmp_path)) == group


def test_a_bundle_without_spec_has_no_group(tmp_path: Path) -> None:
    assert start.group_of(str(tmp_path)) == ""


def test_socket_is_claimed_shared_and_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "missing" / "s" / "name")
    first = socketfile.claim(path)
    assert first is not None
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(tmp_path / "missing" / "s").st_mode & 0o777 == 0o700
    assert socketfile.claim(path) is None
    first.close()
    second = socketfile.claim(path)
    assert second is not None
    second.close()


def _locked(directory: Path) -> int:
    """Holds what another `start` or `delete` holds; closing the fd lets go of it."""
    fd = os.open(directory, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def test_a_socket_that_is_bound_and_not_yet_listened_on_is_not_dead(tmp_path: Path) -> None:
    """Two containers of a pod at once: the second one must not take the first one's socket."""
    path = str(tmp_path / "name")
    lock = _locked(tmp_path)
    with socket.socket(socket.AF_UNIX) as other, ThreadPoolExecutor(1) as thread:
        other.bind(path)
        second = thread.submit(socketfile.claim, path)
        wait([second], timeout=0.2)
        other.listen()
        os.close(lock)
        claimed = second.result(20)
        if claimed is not None:
            claimed.close()
        assert claimed is None


def test_a_socket_that_was_replaced_meanwhile_is_not_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "name")
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(path)
    dead.close()
    lock = _locked(tmp_path)
    with socket.socket(socket.AF_UNIX) as living, ThreadPoolExecutor(1) as thread:
        removal = thread.submit(socketfile.remove_dead, path)
        wait([removal], timeout=0.2)
        os.unlink(path)
        living.bind(path)
        living.listen()
        os.close(lock)
        removal.result(20)
        assert socketfile.alive(path)


def test_a_socket_that_is_gone_is_not_alive(tmp_path: Path) -> None:
    """A shim that ends removes its file: its address would be waited for in vain, for 100 s."""
    assert not socketfile.alive(str(tmp_path / "gone"))


def test_delete_does_not_wait_for_a_shim_that_takes_no_connection(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as hung, socket.socket(socket.AF_UNIX) as first:
        hung.bind(str(path))
        hung.listen(0)
        first.connect(str(path))  # the backlog is full with it
        (tmp_path / "address").write_text(f"unix://{path}")
        done = _shim("-id", "c", "-bundle", str(tmp_path), "delete", cwd=tmp_path)
        assert task_v2_pb2.DeleteResponse.FromString(done.stdout).exit_status == 137
        assert path.exists()


def test_socket_path_is_short_and_private_to_containerd() -> None:
    paths = {
        start.socket_path(start.SOCKET_DIR, address, namespace, group)
        for address in ("/a", "/b")
        for namespace in ("n", "m")
        for group in ("x", "y")
    }
    assert len(paths) == 8
    assert all(len(path) <= start.SOCKET_PATH_MAX for path in paths)
    with pytest.raises(ValueError, match="too long"):
        start.socket_path("/" + "d" * 60, "/a", "n", "g")


def _shim(*argv: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    code = f"import sys; sys.path[:0]={[str(ROOT / d) for d in ('shim', 'api', 'api/ttrpc')]!r}\n"
    code += "from copepod.launch import main\nmain()"
    return subprocess.run(
        [sys.executable, "-ISBc", code, *argv],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
    )


def test_delete_of_a_bundle_that_is_clean_removes_a_dead_socket(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    (tmp_path / "address").write_text(f"unix://{path}")
    done = _shim("-namespace", "n", "-id", "c", "-bundle", str(tmp_path), "delete", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert task_v2_pb2.DeleteResponse.FromString(done.stdout).exit_status == 137
    assert not path.exists()


def test_a_living_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        (tmp_path / "address").write_text(f"unix://{path}")
        done = _shim("-id", "c", "-bundle", str(tmp_path), "delete", cwd=tmp_path)
        assert done.returncode == 0
        assert path.exists()


def test_mistakes_end_with_one_sentence(tmp_path: Path) -> None:
    done = _shim(cwd=tmp_path)
    assert done.returncode == 1
    assert b"containerd calls this program" in done.stderr
    done = _shim("start", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == b"copepod shim: ValueError: start needs -namespace and -id"


def test_the_hot_paths_import_next_to_nothing() -> None:
    code = "import sys; sys.path[:0]=%r\n" % [str(ROOT / d) for d in ("shim", "api", "api/ttrpc")]
    code += "before=set(sys.modules)\nimport copepod.launch, copepod.start, copepod.features\n"
    code += "import copepod.zygote.client\n"
    code += "print(sorted(set(sys.modules)-before))"
    done = subprocess.run(
        [sys.executable, "-ISBc", code], capture_output=True, timeout=20, check=True
    )
    loaded = set(eval(done.stdout))
    ours = {name for name in loaded if name.startswith("copepod")}
    assert loaded - ours <= {"__future__", "_socket", "errno"}
