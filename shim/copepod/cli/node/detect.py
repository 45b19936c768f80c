"""Which containerd serves this node: its flavour, version, configuration file, socket and unit.

It reads processes and files and runs `--version`; it changes nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from copepod import errors
from copepod.cli.system import Process, System

PLAIN, K3S, RKE2, MICROK8S = "containerd", "k3s", "rke2", "microk8s"
FLAVOURS = (PLAIN, K3S, RKE2, MICROK8S)

_ETC = "/etc/containerd/config.toml"
_RANCHER = "/var/lib/rancher/{}/agent/etc/containerd/config.toml"
_SNAP_ARGS = "/var/snap/microk8s/current/args"
_SOCKETS = {
    PLAIN: "/run/containerd/containerd.sock",
    K3S: "/run/k3s/containerd/containerd.sock",
    RKE2: "/run/k3s/containerd/containerd.sock",
    MICROK8S: "/var/snap/microk8s/common/run/containerd.sock",
}
_VERSION = re.compile(r"(?:^|\s)v?(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Containerd:
    """One containerd of this node, as the other rooms of the tool need to know it."""

    flavour: str
    version: tuple[int, int, int]
    version_text: str  # as the program prints it
    binary: str  # what the next start runs, and what validates a configuration now
    config: str  # the root file that it loads; for k3s, RKE2 and MicroK8s a generated one
    address: str
    pid: int = 0  # 0: not running
    started: float = 0.0
    path: str = ""  # PATH of the running daemon: where it looks for shims
    distribution: tuple[int, int, int] = (0, 0, 0)  # k3s's or RKE2's own version
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """How a person calls it."""
        name = {PLAIN: "containerd", K3S: "k3s", RKE2: "RKE2", MICROK8S: "MicroK8s"}[self.flavour]
        text = ".".join(str(part) for part in self.version)
        return f"containerd {text}" if self.flavour == PLAIN else f"{name} with containerd {text}"


def parse_version(text: str) -> tuple[int, int, int] | None:
    """The first x.y.z in what `--version` printed, "v", "~ds1" and "-k3s1" ignored."""
    match = _VERSION.search(text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def flavour_of(process: Process) -> str:
    """The flavour that a running containerd belongs to, told by its own paths."""
    words = " ".join((process.exe, *process.argv))
    for name in (K3S, RKE2):
        if f"/rancher/{name}/" in words:
            return name
    return MICROK8S if "/microk8s/" in words else PLAIN


def find(system: System, flavour: str | None = None, config: str | None = None) -> Containerd:
    """The containerd to work on: the running one, else the installed one.

    `flavour` and `config` are the user's own choice and win over what is found. Raises
    errors.NotFound when there is none, errors.InvalidArgument when several are equally likely.
    """
    running = _running(system, flavour, config)
    if running is not None:
        return _describe(system, flavour_of(running), running, config)
    for name in [flavour] if flavour else [K3S, RKE2, MICROK8S, PLAIN]:
        if _binary(system, name):
            return _describe(system, name, None, config)
    wanted = f"no {flavour}" if flavour else "no containerd"
    raise errors.NotFound(
        f"{wanted} on this node: none is running, none is on PATH, and neither k3s, RKE2 nor "
        "MicroK8s is installed; install containerd 1.6 or newer first"
    )


def _running(system: System, flavour: str | None, config: str | None) -> Process | None:
    """The running containerd that counts.

    Docker's own child (its configuration is below /run/docker) is never the node's. A Kubernetes
    distribution's wins over a plain one, which next to it serves only Docker.
    """
    found = []
    for process in system.processes("containerd"):
        own = _option(process, "--config", "-c")
        if own and "/run/docker/" in own:
            continue
        if flavour and flavour_of(process) != flavour:
            continue
        if config and (own or _ETC) != config:
            continue
        found.append(process)
    bundled = [process for process in found if flavour_of(process) != PLAIN]
    usual = [process for process in found if (_option(process, "--config", "-c") or _ETC) == _ETC]
    candidates = bundled or usual or found
    if len({(flavour_of(one), _option(one, "--config", "-c")) for one in candidates}) > 1:
        names = ", ".join(f"{flavour_of(one)} (process {one.pid})" for one in candidates)
        raise errors.InvalidArgument(
            f"several containerds run on this node: {names}; choose one with --containerd "
            "or --config"
        )
    if candidates is found and found and not config:
        own = _option(found[0], "--config", "-c")
        raise errors.InvalidArgument(
            f"the containerd that runs here (process {found[0].pid}) has a configuration of its "
            f"own: if it is this node's, say so with --config {own}"
        )
    return candidates[0] if candidates else None


def _option(process: Process, *names: str) -> str | None:
    """The value of a flag in a command line, in both spellings that Go's flags take."""
    for index, word in enumerate(process.argv):
        name, equals, value = word.partition("=")
        if name in names:
            if equals:
                return value
            return process.argv[index + 1] if index + 1 < len(process.argv) else None
    return None


def _binary(system: System, flavour: str) -> str | None:
    """The containerd program of an installed flavour that isn't running."""
    if flavour == PLAIN:
        return system.which("containerd")
    if flavour == MICROK8S:
        name = "/snap/microk8s/current/bin/containerd"
        return name if system.exists(name) else None
    base = f"/var/lib/rancher/{flavour}"
    for name in (f"{base}/data/current/bin/containerd", f"{base}/bin/containerd"):
        if system.exists(name):
            return name
    data = system.path(f"{base}/data")
    newest = sorted(data.glob("*/bin/containerd"), key=lambda one: one.stat().st_mtime)
    return "/" + str(newest[-1].relative_to(system.root)) if newest else None


def _describe(
    system: System, flavour: str, process: Process | None, config: str | None
) -> Containerd:
    binary = process.exe if process else _binary(system, flavour) or "containerd"
    if process and not system.exists(binary):  # upgraded since: what the next start finds
        binary = _binary(system, flavour) or binary
    # k3s and RKE2 hold one multi-call program that goes by its name.
    if os.path.basename(binary) != "containerd":
        binary = os.path.join(os.path.dirname(binary), "containerd")
    answer = system.run([binary, "--version"], timeout=20)
    version = parse_version(answer.out)
    if not answer.ok or version is None:
        raise errors.FailedPrecondition(
            f"{binary} --version does not tell a version: {answer.reason()}"
        )
    own = _option(process, "--config", "-c") if process else None
    return Containerd(
        flavour=flavour,
        version=version,
        version_text=answer.out.strip(),
        binary=binary,
        config=config or own or _config(flavour),
        address=(_option(process, "--address", "-a") if process else None) or _SOCKETS[flavour],
        pid=process.pid if process else 0,
        started=process.started if process else 0.0,
        path=process.path if process else "",
        distribution=_distribution(system, flavour),
        notes=_notes(system, flavour, process, version),
    )


def _config(flavour: str) -> str:
    if flavour == MICROK8S:
        return f"{_SNAP_ARGS}/containerd.toml"
    return _ETC if flavour == PLAIN else _RANCHER.format(flavour)


def _distribution(system: System, flavour: str) -> tuple[int, int, int]:
    if flavour not in (K3S, RKE2):
        return (0, 0, 0)
    for program in (flavour, f"/usr/local/bin/{flavour}", f"/opt/{flavour}/bin/{flavour}"):
        answer = system.run([program, "--version"], timeout=20)
        if answer.ok and (version := parse_version(answer.out)):
            return version
    return (0, 0, 0)


def _notes(
    system: System, flavour: str, process: Process | None, version: tuple[int, int, int]
) -> tuple[str, ...]:
    notes = []
    if process and flavour == PLAIN:
        live = parse_version(system.run([f"/proc/{process.pid}/exe", "--version"], timeout=20).out)
        if live and live != version:
            notes.append(
                f"containerd {'.'.join(map(str, live))} still runs although "
                f"{'.'.join(map(str, version))} is installed; the configuration is written for "
                "the installed one"
            )
    if system.exists("/kind/version"):
        notes.append(
            "this is a kind node: what is installed here is gone when the cluster is made anew"
        )
    if system.exists("/var/lib/minikube"):
        notes.append(
            "this is a minikube node: `minikube start` writes containerd's configuration again; "
            "run `copepod node install` after it"
        )
    if system.exists("/etc/k0s") or system.exists("/run/k0s"):
        notes.append(
            "k0s keeps its own containerd: put what `copepod node install --print` prints into "
            "/etc/k0s/containerd.d/copepod.toml"
        )
    return tuple(notes)
