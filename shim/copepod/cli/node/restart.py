"""Restarting containerd so that it reads its configuration, and waiting until it answers.

It is called only after a person or a flag has said yes; running containers survive it.
"""

from __future__ import annotations

import time

from copepod import errors
from copepod.cli.node.detect import K3S, MICROK8S, PLAIN, RKE2, Containerd
from copepod.cli.system import System

_UNITS = {
    PLAIN: ("containerd",),
    K3S: ("k3s", "k3s-agent"),
    RKE2: ("rke2-server", "rke2-agent"),
}


def command(system: System, node: Containerd) -> list[str] | None:
    """What restarts this containerd; None when no service manager here knows it."""
    if node.flavour == MICROK8S:
        return ["snap", "restart", "microk8s.daemon-containerd"]
    if not system.exists("/run/systemd/system"):  # sd_booted(3)
        return None
    for unit in _UNITS[node.flavour]:
        if system.run(["systemctl", "is-active", "--quiet", unit], timeout=20).ok:
            return ["systemctl", "restart", unit]
    return None


def restart(system: System, node: Containerd, argv: list[str], timeout: float = 120.0) -> None:
    """Runs `argv` and waits until a new containerd listens; seconds. Raises errors.Unavailable."""
    answer = system.run(argv, timeout=timeout)
    if not answer.ok:
        raise errors.Unavailable(
            f"`{' '.join(argv)}` failed: {answer.reason()}; look at the unit's journal, and take "
            "the change back with `copepod node uninstall`"
        )
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if answers(system, node):
            return
        time.sleep(0.25)
    raise errors.Unavailable(
        f"containerd does not answer on {node.address} {timeout:g} seconds after its restart"
    )


def answers(system: System, node: Containerd) -> bool:
    """True when something accepts connections on containerd's socket."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        try:
            sock.connect(str(system.path(node.address)))
        except OSError:
            return False
    return True
