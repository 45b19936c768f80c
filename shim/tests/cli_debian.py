"""A Debian node of kubeadm, on which the tests of `copepod node` break one thing each."""

from __future__ import annotations

from pathlib import Path

import cli_fakes as fakes
from copepod.cli import command
from copepod.cli.system import Process

ETC = "/etc/containerd/config.toml"
EXE = "/usr/bin/containerd"
OLD = Process(9, (EXE,), EXE, "/usr/bin", 1.0)  # it runs since before the files were written
CONFIG = fakes.KUBEADM_DEBIAN_12


def node_with(root: Path, version: str = "1.7.24", process: Process | None = None) -> fakes.Node:
    node = fakes.Node(root, version, process)
    node.put(EXE, b"")
    node.put(ETC, CONFIG)
    return node


def run(node: fakes.Node, *words: str) -> int:
    return command.run(["node", *words], node)
