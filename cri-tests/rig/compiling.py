"""What compiling costs through CRI: once for many containers, a cold start, the second start.

Each row measures on modules that no cache knows: the Go guest with a section of its own appended.
"""

import ctypes
import hashlib
import json
import os
import re
import secrets
import statistics
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rig import guests, images
from rig.cri import Container, Pods
from rig.paths import CHECKOUT
from rig.shell import RigError, until

MANY = 20
ROUNDS = 5
COLD = 0.45  # of the time that the package's own compiler takes
HOST = "compiling.copepod.test"
END = 60.0
# It lives until it is removed: what still compiles for a container ends with it.
COUNTING = ("count", "1000")
_IN_CREATE = 0x100  # inotify(7)
_EVENT = struct.Struct("iIII")
# Prints how long the wasmtime package takes to compile a file as it comes, and the cache's keys of
# both tiers.
ALONE = """
import json, sys, time
import wasmtime
data = open(sys.argv[1], "rb").read()
engine = wasmtime.Engine()
began = time.monotonic()
wasmtime.Module(engine, data)
took = time.monotonic() - began
from copepod.engine.limits import Knobs
keys = {tier: Knobs().profile().at(tier).key() for tier in ("winch", "cranelift")}
print(json.dumps({"seconds": took, "keys": keys}))
"""


class Report(Protocol):
    """Where the rows go."""

    def count(self, what: str, attempt: Callable[[], str], *, show: bool = True) -> bool: ...


def rows(report: Report, pods: Pods, focus: str) -> None:
    """All rows of this module that `focus` names."""
    node = pods.node
    cache = node.home / "var" / "lib" / "copepod" / "cache"
    parts = {
        "once": (f"{MANY} containers of a new image at once compile it once", _once),
        "cold": (f"a cold start takes less than {COLD} of a compile alone", _cold),
        "tiers": ("the second start runs Cranelift's code", _tiers),
    }
    for word, (what, attempt) in parts.items():
        if re.search(focus, word):
            report.count(what, lambda one=attempt: one(pods, cache))  # type: ignore[misc]
    limits = {
        "memory limit: a failed grow, no OOM kill": _failed_grow,
        "time-limit ends an endless loop with its name": _time_limit,
        "fuel ends an endless loop with its name": _fuel,
    }
    if re.search(focus, "limits"):
        for what, one in limits.items():
            report.count(what, lambda one=one: one(pods))  # type: ignore[misc]


def _new_image(pods: Pods) -> tuple[str, str, bytes]:
    """An image that is new to every cache: its name, its module's digest and bytes."""
    name = f"{HOST}/new:{secrets.token_hex(4)}"
    # A custom section: id 0, then its length, then the length of its name and the name.
    module = guests.wasm_go().read_bytes() + b"\0\x11\x10" + name[-8:].encode() * 2
    archive = pods.node.home / "new.tar"
    images.archive(archive, [images.rootfs_wasm(name, module)])
    pods.node.import_image(archive, namespace="k8s.io")
    archive.unlink()
    return name, hashlib.sha256(module).hexdigest(), module


def _alone(pods: Pods, module: bytes) -> tuple[float, dict[str, str]]:
    """Seconds of a compile alone, and the engine keys of the two tiers."""
    file = pods.node.home / "alone.wasm"
    file.write_bytes(module)
    env = {"PYTHONPATH": f"{CHECKOUT}/shim:{CHECKOUT}/api:{CHECKOUT}/api/ttrpc"}
    said = pods.node.cell.call([sys.executable, "-c", ALONE, file], timeout=END, env=env).out
    file.unlink()
    found = json.loads(said)
    return found["seconds"], found["keys"]


@contextmanager
def _watched(folders: Sequence[Path]) -> Iterator[Callable[[], list[tuple[str, str]]]]:
    """Files that are made in folders (inotify(7)): gives (folder's name, file's name) of each."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise RigError(f"inotify_init1: {os.strerror(ctypes.get_errno())}")
    try:
        names = {
            libc.inotify_add_watch(fd, os.fsencode(folder), _IN_CREATE): folder.name
            for folder in folders
        }
        found: list[tuple[str, str]] = []

        def made() -> list[tuple[str, str]]:
            while True:
                try:
                    data = os.read(fd, 1 << 16)
                except BlockingIOError:
                    return found
                while data:
                    watch, _, _, length = _EVENT.unpack_from(data)
                    end = _EVENT.size + length
                    file = data[_EVENT.size : end].rstrip(b"\0").decode()
                    found.append((names[watch], file))
                    data = data[end:]

        yield made
    finally:
        os.close(fd)


def _idle(cache: Path, keys: dict[str, str], digest: str) -> None:
    """Waits until both compilers' code is in the cache."""
    wanted = [cache / key / f"{digest}.cwasm" for key in keys.values()]
    until("both tiers' code in the cache", lambda: all(path.exists() for path in wanted), END)


def _once(pods: Pods, cache: Path) -> str:
    """All start at the same moment; each compile that ends writes one file of its own."""
    first, digest, module = _new_image(pods)
    _, keys = _alone(pods, module)
    pod = pods.run("warm")
    pod.start("one", first, COUNTING)
    _idle(cache, keys, digest)  # now the folders to watch are there
    image, digest, _ = _new_image(pods)
    many = [pods.run(f"many-{number}") for number in range(MANY // 2)]
    waiting = [one.create(name, image, COUNTING) for one in many for name in ("a", "b")]
    node = pods.node
    with _watched([cache / key for key in keys.values()]) as made:
        argvs = [node.cell.inside(node.crictl_argv("start", one.id)) for one in waiting]
        began = time.monotonic()
        starts = [subprocess.Popen(argv, stdout=subprocess.DEVNULL) for argv in argvs]
        codes = [start.wait(END) for start in starts]
        took = time.monotonic() - began
        assert not any(codes), codes
        for one in waiting:
            one.wait_log("line 0")
        _idle(cache, keys, digest)
        staged = Counter(key for key, name in made() if name.startswith(f".staged-{digest}"))
    for other in (*many, pod):
        other.remove()
    counts = {tier: staged[key] for tier, key in keys.items()}
    assert counts == {"winch": 1, "cranelift": 1}, counts
    return f"{counts}, all {MANY} in {took:.1f} s"


def _cold(pods: Pods, cache: Path) -> str:
    """From `crictl start` to the guest's first line, beside a compile alone, in turn."""
    pod, pairs = pods.run("cold"), []
    for number in range(ROUNDS):
        image, digest, module = _new_image(pods)
        alone, keys = _alone(pods, module)
        container = pod.create(f"one-{number}", image, COUNTING)
        began = time.monotonic()
        pods.node.crictl("start", container.id)
        container.wait_log("line 0")
        pairs.append((time.monotonic() - began, alone))
        _idle(cache, keys, digest)  # the better code is made behind it, and would disturb the next
        container.remove()
    pod.remove()
    ratio = statistics.median(cold / alone for cold, alone in pairs)
    ours, theirs = (statistics.median(side) * 1000 for side in zip(*pairs, strict=True))
    said = f"{ours:.0f} ms : {theirs:.0f} ms, {ratio:.2f} (medians of {ROUNDS})"
    assert ratio < COLD, said
    return said


def _mapped(container: Container) -> str:
    """The engine key of the cache entry that a container's process has mapped to execute."""
    maps = Path(f"/proc/{container.pid}/maps").read_text()
    found = {
        Path(line.split(maxsplit=5)[5].removesuffix(" (deleted)")).parent.name
        for line in maps.splitlines()
        if ".cwasm" in line or "/.staged-" in line
    }
    assert len(found) == 1, found
    return found.pop()


def _tiers(pods: Pods, cache: Path) -> str:
    """What /proc says is mapped: the quick code at the first start, the better at the second."""
    image, digest, module = _new_image(pods)
    _, keys = _alone(pods, module)
    tiers = {key: tier for tier, key in keys.items()}
    pod, found = pods.run("tiers"), []
    for name in ("first", "second"):
        container = pod.start(name, image, COUNTING)
        container.wait_log("line 0")
        found.append(tiers.get(_mapped(container), "?"))
        _idle(cache, keys, digest)
    pod.remove()
    assert found == ["winch", "cranelift"], found
    return f"{found[0]}, then {found[1]}"


@contextmanager
def _neighbour(
    pods: Pods, name: str, annotations: dict[str, str]
) -> Iterator[tuple[str, Container]]:
    """A container that counts, beside which something is done: it must go on. Gives the image."""
    image = f"{HOST}/guest:c"
    archive = pods.node.home / "limits.tar"
    images.archive(archive, [images.rootfs_wasm(image, guests.wasm_c().read_bytes())])
    pods.node.import_image(archive, namespace="k8s.io")
    pod = pods.run(name, annotations=annotations)
    beside = pod.start("beside", image, ["count", "20"])
    beside.wait_log("line 1")
    yield image, beside
    last = int(beside.log.split()[-1])
    beside.wait_log(f"line {last + 3}\n")
    assert beside.status["state"] == "CONTAINER_RUNNING", beside.status["state"]
    pod.remove()


def _failed_grow(pods: Pods) -> str:
    resources = {"memory_limit_in_bytes": 64 << 20}
    with _neighbour(pods, "memory", {}) as (image, beside):
        one = beside.pod.start("one", image, ["grow"], linux={"resources": resources})
        status = one.wait_exited(END)
        said = one.log
    assert (status["exitCode"], status["reason"]) == (0, "Completed"), f"{status['reason']}: {said}"
    assert re.fullmatch(r"grown \d+ MiB, then Out of memory, 1", said), said
    return f"{said}; limit 64 MiB, {status['reason']}"


def _ended(pods: Pods, key: str, value: str, says: str) -> str:
    with _neighbour(pods, key, {f"copepod.dev/{key}.one": value}) as (image, beside):
        one = beside.pod.start("one", image, ["spin"])
        status = one.wait_exited(END)
        said = one.log
    assert status["exitCode"] == 134, status["exitCode"]
    assert says in said, said
    return f"134, {said.splitlines()[0]}"


def _time_limit(pods: Pods) -> str:
    return _ended(pods, "time-limit", "1s", "it ran for its time limit of 1 s")


def _fuel(pods: Pods) -> str:
    return _ended(pods, "fuel", "100000000", "it used up its fuel of 100000000")
