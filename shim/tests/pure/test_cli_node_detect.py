"""Which containerd `copepod node` takes for this node's, and what it says where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import cli_fakes as fakes
from cli_debian import CONFIG, ETC, EXE, OLD, node_with, run
from copepod.cli.node import detect
from copepod.cli.system import Process, Result

Captured = pytest.CaptureFixture[str]


def test_a_containerd_that_does_not_run(tmp_path: Path, capsys: Captured) -> None:
    node = node_with(tmp_path, process=OLD)
    node.answers[(EXE, "--version")] = Result(126, "", f"{EXE}: Exec format error")
    for words in (("install", "--yes"), ("uninstall",), ("status",)):
        assert run(node, *words) == 1
        told = capsys.readouterr().err
        assert "does not tell a version: /usr/bin/containerd: Exec format error" in told
    assert node.read(ETC) == CONFIG


def test_a_flavour_that_is_not_there(tmp_path: Path, capsys: Captured) -> None:
    assert run(node_with(tmp_path), "install", "--containerd", "microk8s") == 1
    assert "no microk8s on this node" in capsys.readouterr().err


def test_dockers_own_containerd_is_never_the_node_s(tmp_path: Path) -> None:
    argv = (EXE, "--config", "/var/run/docker/containerd/containerd.toml")
    node = node_with(tmp_path, process=Process(5, argv, EXE, "/usr/bin", 1e10))
    assert detect.find(node).pid == 0
    assert detect.find(node).config == ETC


def test_rke2_that_does_not_run(tmp_path: Path) -> None:
    """The newest of its unpacked trees counts."""
    node = fakes.Node(tmp_path, "v1.7.20")
    for at, name in ((1, "v1.29"), (2, "v1.30")):
        exe = f"/var/lib/rancher/rke2/data/{name}/bin/containerd"
        node.put(exe, b"")
        os.utime(node.path(exe), (at, at))
    found = detect.find(node)
    assert (found.flavour, found.binary.split("/")[6]) == ("rke2", "v1.30")


def test_upgraded_since_its_start(tmp_path: Path) -> None:
    """The program that runs is gone from disk, and what is there is another version."""
    node = node_with(tmp_path, process=Process(9, ("containerd",), "/old/containerd", "", 1e10))
    node.answers[("/proc/9/exe", "--version")] = Result(0, "containerd x/containerd 1.6.20 ab\n")
    node.put("/etc/k0s/k0s.yaml", b"")
    found = detect.find(node)
    assert found.binary == EXE
    assert "containerd 1.6.20 still runs although 1.7.24 is installed" in found.notes[0]
    assert "/etc/k0s/containerd.d/copepod.toml" in found.notes[1]


def test_the_user_s_choice_of_several(tmp_path: Path) -> None:
    """--containerd and --config each pick one of two that run."""

    class Two(fakes.Node):
        def processes(self, name: str) -> list[Process]:
            exe = "/var/lib/rancher/k3s/data/current/bin/k3s"
            return [OLD, Process(10, ("containerd", "-c", "/k3s.toml"), exe, "/usr/bin", 1.0)]

    node = Two(tmp_path, "1.7.24")
    node.put(EXE, b"")
    node.put("/var/lib/rancher/k3s/data/current/bin/k3s", b"")
    assert detect.find(node).pid == 10  # a cluster's own wins
    assert detect.find(node, flavour="containerd").pid == 9
    chosen = detect.find(node, config="/k3s.toml")
    assert (chosen.pid, chosen.binary) == (10, "/var/lib/rancher/k3s/data/current/bin/containerd")
    assert detect.find(node, config=ETC).pid == 9
