"""`copepod node` where something else is wrong: told in a sentence, and nothing is lost."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import cli_fakes as fakes
from cli_debian import CONFIG, ETC, EXE, OLD, node_with, run
from copepod import errors
from copepod.cli.node import apply, check, detect, plan, restart, runtime
from copepod.cli.system import Result

VERSIONS = ("1.7.24", "v2.1.4")


Captured = pytest.CaptureFixture[str]


# What containerd says of its configuration.


def answer_dump(node: fakes.Node, result: Result) -> None:
    node.answers[(EXE, "-c", str(node.path(ETC)), "config", "dump")] = result


def test_a_configuration_that_it_refuses(tmp_path: Path, capsys: Captured) -> None:
    node = node_with(tmp_path)
    node.programs["containerd"] = EXE
    answer_dump(node, Result(1, "", "containerd: invalid plugin config: bad sandboxer\n"))
    for words in (("install", "--yes"), ("uninstall",), ("status",)):
        assert run(node, *words) == 1
        told = capsys.readouterr().err
        assert f"refuses {ETC}: containerd: invalid plugin config: bad sandboxer" in told
    answer_dump(node, Result(0, "level=warning msg=[odd\n"))
    assert run(node, "install", "--yes") == 1
    assert "printed no valid TOML" in capsys.readouterr().err
    answer_dump(node, Result(124, "", f"{EXE} did not end within 60 seconds"))
    assert run(node, "install", "--yes") == 1
    assert "did not end within 60 seconds" in capsys.readouterr().err
    assert node.files() == {ETC: CONFIG, EXE: b""}


def test_another_file_that_wins(tmp_path: Path, capsys: Captured) -> None:
    """A drop-in that sorts behind ours and sets the same table in its own way."""
    node = node_with(tmp_path, "v2.1.4")
    node.put(ETC, b'version = 3\nimports = ["conf.d/c*.toml", "conf.d/z*.toml"]\n')
    later = runtime.to_toml(3, {"copepod": {"runtime_type": "io.else.v1"}})
    path = "/etc/containerd/conf.d/zz.toml"

    class Late(fakes.Node):
        """The other file comes while we write."""

        def write(self, name: str, data: bytes) -> None:
            super().write(name, data)
            if name.endswith("conf.d/copepod.toml"):
                self.put(path, b"version = 3\n" + later.encode())

    late = Late(tmp_path, "v2.1.4")
    assert run(late, "install", "--yes") == 1
    assert "does not come out as written (another file" in capsys.readouterr().err
    assert not late.exists("/etc/containerd/conf.d/copepod.toml")


# What can't be written or read.


def test_a_damaged_record(tmp_path: Path, capsys: Captured) -> None:
    node = node_with(tmp_path)
    assert run(node, "install", "--yes") == 0
    for damage in (b"{", b"[]", b'{"files": [{"path": "/x"}], "folders": []}'):
        node.put(apply.RECORD, damage)
        for words in (("install", "--shim", EXE), ("uninstall",), ("status",)):
            assert run(node, *words) == 1
            assert f"{apply.RECORD} is damaged" in capsys.readouterr().err
    node.remove(apply.RECORD)
    assert run(node, "uninstall") == 0
    assert node.read(ETC) == CONFIG


@pytest.mark.parametrize("version", VERSIONS)
def test_uninstall_on_a_read_only_file_system(
    tmp_path: Path, version: str, capsys: Captured
) -> None:
    node = node_with(tmp_path, version)
    assert run(node, "install", "--yes") == 0
    before = node.files()
    node.read_only.add(ETC)
    assert run(node, "uninstall") == 1
    assert "can't be written: Read-only file system" in capsys.readouterr().err
    assert node.files() == before
    node.read_only.clear()
    assert run(node, "uninstall") == 0
    assert node.files() == {ETC: CONFIG, EXE: b""}


def test_no_room_for_the_record(tmp_path: Path, capsys: Captured) -> None:
    node = node_with(tmp_path)
    node.read_only.add(apply.RECORD)
    assert run(node, "install", "--yes") == 1
    assert f"{apply.RECORD} can't be written" in capsys.readouterr().err
    assert node.read(ETC) == CONFIG


def test_an_objection_to_the_removal(tmp_path: Path, capsys: Captured) -> None:
    """containerd refuses the old file by now: what was installed stays."""
    node = node_with(tmp_path)
    assert run(node, "install", "--yes") == 0
    before = node.files()

    class Refuses(fakes.Node):
        def _effective(self, doc: dict[str, object]) -> dict[str, object]:
            if "copepod" not in runtime.runtimes(doc):
                raise ValueError("sandbox_image is gone")
            return super()._effective(doc)

    assert run(Refuses(tmp_path, "1.7.24"), "uninstall") == 1
    assert "sandbox_image is gone" in capsys.readouterr().err
    assert node.files() == before


def test_a_table_by_hand_is_not_taken_out(tmp_path: Path, capsys: Captured) -> None:
    node = node_with(tmp_path)
    by_hand = runtime.to_toml(2, {"copepod": runtime.settings()}).encode()
    node.put(ETC, CONFIG + by_hand)
    assert run(node, "status") == 0
    assert run(node, "uninstall") == 1
    assert "the runtime copepod is still there" in capsys.readouterr().err
    assert node.read(ETC) == CONFIG + by_hand


def test_a_second_fault_while_rolling_back(tmp_path: Path, capsys: Captured) -> None:
    """The first one is told; the backup and its record are there for the next try."""

    class Dying(fakes.Node):
        def write(self, name: str, data: bytes) -> None:
            super().write(name, data)
            if name == ETC:
                self.read_only.add(ETC)
                raise OSError(5, "Input/output error", ETC)

    node = Dying(tmp_path, "1.7.24")
    node.put(ETC, CONFIG)
    assert run(node, "install", "--yes") == 1
    assert "Input/output error" in capsys.readouterr().err
    files, _ = apply.read_record(node)
    assert node.read(str(files[0].backup)) == CONFIG
    assert run(fakes.Node(tmp_path, "1.7.24"), "uninstall") == 0
    assert node.files() == {ETC: CONFIG}


# What is asked and told.


def test_print_and_dry_run(tmp_path: Path, capsys: Captured) -> None:
    node = node_with(tmp_path, "v2.1.4")
    assert run(node, "install", "--print", "3") == 0
    assert '[plugins."io.containerd.cri.v1.runtime"' in capsys.readouterr().out
    before = node.files()
    assert run(node, "install", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert '+imports = ["/etc/containerd/conf.d/copepod.toml"]' in shown
    assert "--- /dev/null" in shown
    assert node.files() == before


@pytest.mark.parametrize("path", ["bin/shim", "/nowhere/shim"])
def test_a_shim_that_is_not_there(tmp_path: Path, path: str, capsys: Captured) -> None:
    assert run(node_with(tmp_path), "install", "--shim", path) == 1
    assert f"--shim {path}: no such absolute path" in capsys.readouterr().err


def test_a_shim_off_containerds_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is on ours, or lies beside this tool: its whole path is written."""
    node = node_with(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/opt/copepod/bin/copepod"])

    class Elsewhere(fakes.Node):
        found: str | None = f"/opt/mine/{runtime.SHIM}"

        def which(self, name: str, path: str | None = None) -> str | None:
            if name != runtime.SHIM:
                return super().which(name, path)
            return None if path else self.found

    for found in (f"/opt/mine/{runtime.SHIM}", None):
        node = Elsewhere(tmp_path, "1.7.24")
        node.found = found
        node.put(f"/opt/copepod/bin/{runtime.SHIM}", b"")
        assert run(node, "install", "--yes") == 0
        table = runtime.runtimes(check.dump(node, detect.find(node), ETC))["copepod"]
        assert table["runtime_path"] == (found or f"/opt/copepod/bin/{runtime.SHIM}")


def test_nobody_knows_how_to_restart_it(tmp_path: Path, capsys: Captured) -> None:
    """No systemd, or none of its units: said, and the exit code is 0, for all is written."""
    node = node_with(tmp_path, process=OLD)
    assert run(node, "install", "--yes") == 0
    assert "no service manager here knows it" in capsys.readouterr().out
    node.put("/run/systemd/system/x", b"")
    assert run(node, "install", "--yes") == 0
    assert "restart it as it was started" in capsys.readouterr().out


def restartable(root: Path) -> fakes.Node:
    node = node_with(root, process=OLD)
    node.put("/run/systemd/system/x", b"")
    node.answers[("systemctl", "is-active", "--quiet", "containerd")] = Result(0)
    node.answers[("systemctl", "restart", "containerd")] = Result(0)
    return node


def test_restarted_and_back(tmp_path: Path, capsys: Captured) -> None:
    node = restartable(tmp_path)
    path = node.path("/run/containerd/containerd.sock")
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert run(node, "install", "--yes") == 0
    assert "containerd is back" in capsys.readouterr().out
    assert ("systemctl", "restart", "containerd") in node.ran


def test_restarted_and_silent(tmp_path: Path) -> None:
    node = restartable(tmp_path)
    with pytest.raises(errors.Unavailable, match=r"does not answer on .* 0\.3 seconds after"):
        restart.restart(node, detect.find(node), ["systemctl", "restart", "containerd"], 0.3)


UNITS = [("k3s", "k3s-agent"), ("rke2", "rke2-server"), ("microk8s", "")]


@pytest.mark.parametrize(("flavour", "unit"), UNITS)
def test_each_flavour_s_restart(tmp_path: Path, flavour: str, unit: str) -> None:
    node = fakes.Node(tmp_path, "v1.7.20")
    node.put("/run/systemd/system/x", b"")
    node.answers[("systemctl", "is-active", "--quiet", unit)] = Result(0)
    containerd = detect.Containerd(flavour, (1, 7, 20), "", EXE, ETC, "/run/x.sock")
    wanted = ["systemctl", "restart", unit] if unit else [
        "snap", "restart", "microk8s.daemon-containerd"]  # fmt: skip
    assert restart.command(node, containerd) == wanted


BLOCK = runtime.to_toml(2, {"copepod": runtime.settings()}).encode()
STATES: list[tuple[Callable[[fakes.Node], None], int, str]] = [
    (lambda node: None, 3, "fail the runtime copepod is not configured"),
    (lambda node: node.put(ETC, CONFIG + BLOCK), 1, "has not been restarted since"),
    (lambda node: setattr(node, "process", None), 3, "not running"),
]


@pytest.mark.parametrize(("spoil", "code", "said"), STATES)
def test_status_of_a_node_that_is_not_ready(
    tmp_path: Path, spoil: Callable[[fakes.Node], None], code: int, said: str, capsys: Captured
) -> None:
    node = node_with(tmp_path, process=OLD)
    node.put("/kind/version", b"v0.24.0")
    spoil(node)
    assert run(node, "status") == code
    shown = capsys.readouterr().out
    assert said in shown
    assert "warn this is a kind node" in shown
    assert run(node, "status", "--json") == code
    assert json.loads(capsys.readouterr().out)["configured"] == (code != 3)


def test_an_import_that_vanished(tmp_path: Path) -> None:
    """1.x: a list that leads to files that are not there any more, and one without a CRI table."""
    node = node_with(tmp_path)
    text = b'version = 2\nimports = ["/gone.toml", "/etc/containerd/debug.toml"]\n'
    node.put(ETC, text)
    node.put("/etc/containerd/debug.toml", b'version = 2\n[debug]\nlevel = "debug"\n')
    assert plan.make(node, detect.find(node), None).target == ETC


def test_a_drop_in_that_an_administrator_called_as_we_do(tmp_path: Path) -> None:
    """Theirs stays, ours comes behind it and goes again; and by hand in the root file is enough."""
    node = node_with(tmp_path, "v2.1.4")
    node.put(ETC, b"version = 3\n" + runtime.to_toml(3, {"copepod": runtime.settings()}).encode())
    assert plan.make(node, detect.find(node), None).by_hand == ETC
    folder = b'version = 3\nimports = ["/etc/containerd/conf.d/*.toml"]\n'
    theirs = b"version = 3\noom_score = -999\n"
    drop_in = "/etc/containerd/conf.d/copepod.toml"
    node.put(ETC, folder)
    node.put(drop_in, theirs)
    before = node.files()
    assert run(node, "install", "--yes") == 0
    assert (node.read(drop_in) or b"").startswith(theirs)
    assert run(node, "uninstall") == 0
    assert node.files() == before
