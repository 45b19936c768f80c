"""Checks of containerd, of its configuration and of the pod network.

They read what containerd has; nothing is asked of a running container.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from copepod import __version__, errors
from copepod.cli.doctor.context import Context, Finding
from copepod.cli.node import command, restart, runtime
from copepod.cli.node.detect import Containerd


def containerd(context: Context) -> Iterator[Finding]:
    """Which one it is, whether it answers, what of ours it supports."""
    node = context.node
    if node is None:
        yield Finding("fail", "containerd", context.missing, "install containerd, then try again")
        return
    if node.version < (1, 6, 0):
        yield Finding("fail", "containerd", f"{node.title} is too old", "install 1.6 or newer")
        return
    if not node.pid:
        yield Finding("fail", "containerd", f"{node.title} is not running", "start it")
    elif not context.answers(str(context.system.path(node.address))):
        yield Finding(
            "fail",
            "containerd",
            f"{node.title} does not answer on {node.address}",
            "look at its journal",
        )
    else:
        yield Finding("ok", "containerd", f"{node.title} answers on {node.address}")
    for note in node.notes:
        yield Finding("warn", "containerd", note)
    yield _supported(node)


def _supported(node: Containerd) -> Finding:
    floor = {(1, 6): 25, (1, 7): 7}
    layers = node.version >= (2, 0, 0) or node.version[2] >= floor.get(node.version[:2], 1 << 30)
    parts = ["wasm files in ordinary images", *(["wasm layers and artifacts"] if layers else [])]
    if node.version >= (2, 0, 0):
        parts.append("user namespaces")
    text = f"this containerd supports {', '.join(parts)}"
    if layers:
        return Finding("ok", "images", text)
    return Finding(
        "warn",
        "images",
        f"{text}, but not wasm layers",
        "1.6.25, 1.7.7 and newer can; build images with --format image",
    )


def configuration(context: Context) -> Iterator[Finding]:
    """The runtime in containerd's configuration, loaded, and the shim where it is looked for."""
    node = context.node
    if node is None:
        return
    if context.dump_error:
        yield Finding("fail", "configuration", context.dump_error, f"repair {node.config}")
        return
    try:
        state = command.look(context.system, node)
    except errors.Error as error:
        yield Finding("fail", "configuration", str(error), f"repair {node.config}")
        return
    if state["cri_disabled"]:
        yield Finding(
            "fail",
            "configuration",
            f"{node.config} switches the CRI plugin off "
            '(disabled_plugins = ["cri"], as Docker\'s package ships it): no kubelet '
            "can use it",
            'take "cri" out of the list, then `copepod node install`',
        )
    if not state["configured"]:
        yield Finding(
            "fail",
            "configuration",
            "containerd does not know the runtime copepod",
            "run `copepod node install`",
        )
    elif state["pending"]:
        argv = restart.command(context.system, node)
        yield Finding(
            "warn",
            "configuration",
            "written, but containerd was not restarted since",
            f"run `{' '.join(argv)}`" if argv else "restart containerd",
        )
    else:
        yield Finding("ok", "configuration", f"the runtime copepod is in {state['file']}")


def shim(context: Context) -> Iterator[Finding]:
    """The program that containerd will exec: found along its own PATH, of our version."""
    node = context.node
    if node is None:
        return
    table = runtime.runtimes(context.dump).get(runtime.NAME, {})
    path = table.get("runtime_path") or context.system.which(runtime.SHIM, node.path or None)
    if not path:
        yield Finding(
            "fail",
            "shim",
            f"containerd finds no {runtime.SHIM} along its PATH ({node.path or 'not known'})",
            "install the package, or run `copepod node install --shim /path/to/it`",
        )
        return
    answer = context.system.run([path, "-v"], timeout=20)
    if not answer.ok:
        yield Finding(
            "fail",
            "shim",
            f"{path} does not run: {answer.reason()}",
            "install a Python of 3.11 or newer, and the package again",
        )
    elif __version__ not in answer.out:
        yield Finding(
            "warn",
            "shim",
            f"{path} says {answer.out.strip()!r}, this tool is {__version__}",
            "two installations: remove one",
        )
    else:
        yield Finding("ok", "shim", f"{path} runs")


def cni(context: Context) -> Iterator[Finding]:
    """Pods need a network configuration; `copepod run` and ctr do not."""
    if context.node is None or context.dump_error:
        return
    settings = _cni(context.dump)
    folder = str(settings.get("conf_dir") or "/etc/cni/net.d")
    dirs = settings.get("bin_dirs") or [settings.get("bin_dir") or "/opt/cni/bin"]
    found = [
        one
        for end in ("conf", "conflist", "json")
        for one in context.system.glob(f"{folder}/*.{end}")
    ]
    if not found:
        yield Finding(
            "warn",
            "pod network",
            f"no CNI configuration in {folder}: pods can't start",
            "install the cluster's network add-on",
        )
    elif not any(context.system.glob(f"{one}/*") for one in dirs):
        yield Finding(
            "fail",
            "pod network",
            f"no CNI plugin in {' or '.join(map(str, dirs))}",
            "install the CNI plugins, or set bin_dir in containerd's configuration",
        )
    else:
        yield Finding("ok", "pod network", f"{found[0]}")


def _cni(dump: dict[str, Any]) -> dict[str, Any]:
    plugins = dump.get("plugins", {})
    for name in ("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"):
        if settings := plugins.get(name, {}).get("cni"):
            return dict(settings)
    return {}
