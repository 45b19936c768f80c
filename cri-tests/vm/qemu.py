"""Boots the node and reads what it reports on its second serial line.

Nothing is shared with the node but two disks, which it can't change, and it has no network.
"""

from __future__ import annotations

import json
import select
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rig import debian
from rig.shell import Daemon, RigError
from vm.root import Disk

MEMORY = "2560"
# An emulated Nehalem in one thread: newer models and multi-threaded emulation crash qemu 7.2.
MACHINE = ("-accel", "tcg,thread=single", "-smp", "1", "-cpu", "Nehalem")
# Where the processor can run guests by itself the node is as fast as the machine.
NATIVE = ("-accel", "kvm", "-smp", "2", "-cpu", "host")
CMDLINE = (
    "root=/dev/vda rw console=ttyS0 panic=-1 quiet systemd.firstboot=off "
    "systemd.show_status=no net.ifnames=0"
)
PROGRAM = "qemu-system-x86_64"
SILENCE = 1200.0  # the longest that the node may go without a word


@dataclass(frozen=True, slots=True)
class Node:
    """What to boot: disks, where logs go, by which means, and words for the kernel's line."""

    disk: Disk
    payload: Path
    home: Path
    kvm: bool = False
    shell: bool = False
    words: tuple[str, ...] = ()


def argv(node: Node) -> list[str]:
    """qemu's command line; the console and the reports go to files in the node's directory."""
    home, words = node.home, [CMDLINE, *node.words]
    drives = [
        word
        for path in (node.disk.image, node.payload)
        for word in ("-drive", f"file={path},format=raw,if=virtio,cache=unsafe")
    ]
    shell = []
    if node.shell:  # systemd-debug-generator(8)
        words += ["systemd.debug_shell=1", "systemd.default_debug_tty=ttyS2", "copepod.stay"]
        shell = ["-serial", f"unix:{home}/shell,server=on,wait=off"]
    return [
        PROGRAM, *(NATIVE if node.kvm else MACHINE), "-m", MEMORY, "-nographic", "-nodefaults",
        "-no-reboot", "-snapshot", "-kernel", str(node.disk.kernel),
        "-initrd", str(node.disk.initrd), "-append", " ".join(words),
        "-serial", f"file:{home}/console.log", "-serial", f"file:{home}/reports.log", *shell,
        *drives, "-device", "virtio-rng-pci", "-nic", "none",
    ]  # fmt: skip


def boot(node: Node, limit: float) -> Iterator[dict[str, Any]]:
    """Runs the node to its power-off and yields its reports (JSON) as they come.

    RigError with the end of the console when it stops without its last word, says nothing for
    `SILENCE` seconds, or takes longer than `limit` seconds.
    """
    debian.need_command(PROGRAM, "qemu-system-x86")
    reports = node.home / "reports.log"
    reports.write_bytes(b"")
    # The disks' changes go to a file without a name; /tmp may be in memory.
    words = ["nice", "-n", "10", *argv(node)]
    machine = Daemon(words, node.home / "qemu.log", env={"TMPDIR": str(node.home)})
    try:
        with reports.open("rb") as stream:
            yield from _follow(machine, stream, limit, node)
    finally:
        machine.stop(timeout=10)


def _follow(
    machine: Daemon, stream: IO[bytes], limit: float, node: Node
) -> Iterator[dict[str, Any]]:
    began = last = time.monotonic()
    rest = b""
    while True:
        alive = machine.alive()  # asked first: what it wrote before its end is still read
        rest += stream.read()
        *lines, rest = rest.split(b"\n")
        for line in lines:
            last = time.monotonic()
            report = parse(line)
            yield report
            if report.get("done"):
                return
        now = time.monotonic()
        if not alive or (now - last > SILENCE and not node.shell) or now - began > limit:
            what = "ended early" if not alive else f"was not done after {now - began:.0f} s"
            raise RigError(f"the node {what}; the end of its console:\n{_tail(node.home)}")
        if not lines:
            select.select([], [], [], 0.2)


def parse(line: bytes) -> dict[str, Any]:
    """A report; what is none (an error of Python before the first) is passed on as a note."""
    try:
        report = json.loads(line)
    except ValueError:
        report = None
    return report if isinstance(report, dict) else {"note": line.decode(errors="replace").rstrip()}


def _tail(home: Path) -> str:
    parts = []
    for name in ("qemu.log", "console.log"):
        path = home / name
        if path.exists():
            parts += path.read_text(errors="replace").splitlines()[-25:]
    return "\n".join(parts)
