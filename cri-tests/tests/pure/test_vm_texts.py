"""What the tests of a whole node read and write without one: sources, reports, checks."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from rig.shell import RigError
from vm import qemu, root
from vm.inside.report import Check, Failed, Line

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("text", "mirror"),
    [
        ("deb http://mirror.example/debian trixie main\n", "http://mirror.example/debian"),
        ("deb [signed-by=/k.gpg] https://m.example/debian/ sid main", "https://m.example/debian"),
        (
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: x\n",
            "http://mirror.example/debian",
        ),
    ],
)
def test_the_mirror_of_the_machine(tmp_path: Path, text: str, mirror: str) -> None:
    (tmp_path / "a.list").write_text("# deb http://no.example/debian x main\n")
    (tmp_path / "b.sources").write_text("URIs: http://security.example/debian-security\n" + text)
    assert root.mirror(tmp_path) == mirror


def test_no_mirror_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RigError, match="no mirror of Debian"):
        root.mirror(tmp_path)


def test_reports_and_what_is_none() -> None:
    assert qemu.parse(b'{"note": "x"}\r') == {"note": "x"}
    assert qemu.parse(b"Traceback (most") == {"note": "Traceback (most"}
    assert qemu.parse(b"[1]") == {"note": "[1]"}


def test_a_check_reports_how_it_went() -> None:
    def wrong() -> str:
        raise Failed("it is red")

    sink = io.StringIO()
    line = Line(sink)
    assert line.run(Check("good", lambda: "a note", False))
    assert not line.run(Check("bad", wrong, False))
    good, bad = (json.loads(text) for text in sink.getvalue().splitlines())
    assert (good["passed"], good["text"]) == (True, "a note")
    assert not bad["passed"]
    assert bad["text"].startswith("it is red")


def test_the_node_has_no_network_and_cannot_change_its_disks(tmp_path: Path) -> None:
    disk = root.Disk(tmp_path, tmp_path / "tree")
    words = qemu.argv(qemu.Node(disk, tmp_path / "p.ext4", tmp_path, words=("copepod.only=x",)))
    assert "-snapshot" in words
    assert words[words.index("-nic") + 1] == "none"
    assert words[words.index("-append") + 1].endswith(" copepod.only=x")


def test_units_and_files_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "etc/containerd").mkdir(parents=True)
    for _ in range(2):
        root.furnish(tmp_path)
    assert (tmp_path / "etc/containerd/config.toml").read_text().count("[timeouts]") == 1
    units = tmp_path / "etc/systemd/system"
    assert (units / "apt-daily.timer").readlink() == Path("/dev/null")
    assert (units / "graphical.target.wants/copepod-vm.service").is_symlink()
    assert "LABEL=copepod-payload" in (tmp_path / "etc/fstab").read_text()
