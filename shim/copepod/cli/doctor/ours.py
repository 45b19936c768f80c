"""Checks of Copepod's own parts: configuration, zygote, cache, engine, and a real container.

The last one leaves containerd as it found it: its image and container are gone afterwards.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

from copepod import errors
from copepod.cli import cache as cache_command
from copepod.cli import ctr
from copepod.cli.doctor.context import Context, Finding
from copepod.cli.image import command, files, oci
from copepod.cli.node import runtime
from copepod.container import cgroup_tree
from copepod.image.cache import Cache

_NAMESPACE = "copepod-doctor"
_TEXT = b"copepod is well\n"


def probe_module() -> bytes:
    """A wasm module that prints one line and exits with 0, put together by hand.

    Core spec, binary format: types, two imports of WASI preview 1, one function, one page of
    memory with an iovec at 0 and the text at 16.
    """
    types = b"\x03\x60\x04\x7f\x7f\x7f\x7f\x01\x7f\x60\x01\x7f\x00\x60\x00\x00"
    imports = b"\x02" + b"".join(
        _name("wasi_snapshot_preview1") + _name(name) + bytes((0, kind))
        for name, kind in (("fd_write", 0), ("proc_exit", 1))
    )
    exports = b"\x02" + _name("memory") + b"\x02\x00" + _name("_start") + b"\x00\x02"
    # fd_write(1, 0, 1, 8); drop; proc_exit(0)
    body = b"\x00\x41\x01\x41\x00\x41\x01\x41\x08\x10\x00\x1a\x41\x00\x10\x01\x0b"
    memory = (16).to_bytes(4, "little") + len(_TEXT).to_bytes(4, "little") + bytes(8) + _TEXT
    data = b"\x01\x00\x41\x00\x0b" + bytes((len(memory),)) + memory
    sections = (
        (1, types),
        (2, imports),
        (3, b"\x01\x02"),
        (5, b"\x01\x00\x01"),
        (7, exports),
        (10, b"\x01" + bytes((len(body),)) + body),
        (11, data),
    )
    return b"\0asm\1\0\0\0" + b"".join(
        bytes((number, len(content))) + content for number, content in sections
    )


def _name(text: str) -> bytes:
    return bytes((len(text),)) + text.encode()


def zygote(context: Context) -> Iterator[Finding]:
    """The fork server; nothing depends on it but speed."""
    path = f"{context.settings.state_dir}/zygote.sock"
    if context.answers(str(context.system.path(path)), packets=True):
        yield Finding("ok", "zygote", f"answers on {path}")
    elif context.system.exists("/run/systemd/system"):
        yield Finding(
            "warn",
            "zygote",
            "not running: containers start, but slower",
            "systemctl enable --now copepod-zygote.socket",
        )
    else:
        yield Finding(
            "warn", "zygote", "not running (no systemd here): containers start, but slower"
        )


def cache(context: Context) -> Iterator[Finding]:
    """The compiled modules: whose they are, and how much room they take."""
    folder = context.settings.cache_dir
    path = context.system.path(folder)
    try:
        found = os.stat(path)
    except FileNotFoundError:
        yield Finding("ok", "cache", f"{folder} is made when the first module is compiled")
        return
    if found.st_uid != 0 or found.st_mode & 0o077:
        yield Finding(
            "fail",
            "cache",
            f"{folder} is not root's alone: what lies there runs in containers, so it is not used",
            f"chown root:root {folder} and chmod 0700",
        )
        return
    entries = Cache(str(path), context.settings.cache_max_bytes).ls()
    text = f"{len(entries)} compiled modules, {cache_command.total(entries)} in {folder}"
    if context.room(path) < 256 << 20:
        yield Finding("warn", "cache", f"{text}; the disk is almost full", "make room there")
    else:
        yield Finding("ok", "cache", text)


def engine(context: Context) -> Iterator[Finding]:
    """The wasm engine compiles a module of ours, in a process of its own."""
    try:
        seen = context.describe(probe_module())
    except (errors.Error, OSError) as error:
        yield Finding(
            "fail",
            "engine",
            f"the self-test failed: {error}",
            "install the package again; Copepod's engine needs glibc 2.28 and x86-64 or arm64",
        )
        return
    if seen.problem:
        yield Finding(
            "fail", "engine", f"the self-test failed: {seen.problem}", "install the package again"
        )
    else:
        yield Finding("ok", "engine", "wasmtime compiles and links a module")


def tidy(context: Context) -> None:
    """Removes what containerd leaves of a namespace: the control group above its containers, and
    an empty folder of each plugin that had some."""
    top = context.system.path("/sys/fs/cgroup")
    groups = [*top.glob(_NAMESPACE), *top.glob(f"*/{_NAMESPACE}")]
    cgroup_tree.remove_paths([str(group) for group in groups])
    for key in ("root", "state"):
        folder = context.dump.get(key)
        for left in context.system.path(folder).glob(f"*/{_NAMESPACE}") if folder else ():
            try:
                left.rmdir()
            except OSError:  # another doctor's container is in there
                pass


def container(context: Context) -> Iterator[Finding]:
    """A wasm container made, run and removed by this node's containerd."""
    node = context.node
    if node is None or not node.pid or context.system.euid() != 0:
        why = "containerd is not running" if node is None or not node.pid else "needs root"
        yield Finding("skip", "container", f"no container was tried: {why}")
        return
    program = context.system.which("ctr")
    beside = os.path.join(os.path.dirname(node.binary), "ctr")
    if context.system.exists(beside):
        program = beside
    if program is None:
        yield Finding("skip", "container", "no container was tried: there is no ctr on PATH")
        return
    client = ctr.Ctr(context.system, node, (program,), _NAMESPACE)
    name = f"doctor-{secrets.token_hex(4)}"
    image = f"copepod.local/{name}:latest"
    try:
        made = oci.image(
            [oci.Module("app.wasm", probe_module())], oci.Settings(), [files.host_platform()]
        )
        command.load(client, made, image, unpack=True)
        answer = client.run("run", "--rm", "--runtime", runtime.TYPE, image, name, timeout=60)
    except errors.Error as error:
        yield Finding("fail", "container", str(error), "look at containerd's journal")
        return
    finally:
        client.run("images", "rm", image)
        client.run("namespaces", "rm", _NAMESPACE)
        tidy(context)
    if answer.ok and _TEXT.decode() in answer.out:
        yield Finding("ok", "container", "a wasm container was made, ran and was removed")
    else:
        yield Finding(
            "fail",
            "container",
            f"a wasm container did not run: {answer.reason()}",
            "look at containerd's journal",
        )
