"""What a pod may ask of the engine by annotation, and what its node sets and caps, as plain data.

An unknown or malformed key is refused with its name, and so is a value above the node's ceiling.
Sources of a value, first wins: the pod's annotation, the node's [guest] table, the default here.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from copepod import errors
from copepod.engine import profile
from copepod.engine.profile import Profile
from copepod.values import dataclass, replace

PREFIX = "copepod.dev/"
MIB = 1 << 20
MAX_FUEL = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Preopen:
    """A folder that the guest may use: `path` in the container, `name` in the guest."""

    path: str
    name: str
    writable: bool = True


ROOT = Preopen("/", "/")


@dataclass(frozen=True, slots=True)
class Knobs:
    """Everything that can be set for a guest; None is "no limit of ours".

    `memory` (bytes) bounds each linear memory, `time_limit` (seconds) the guest's life.
    """

    memory: int | None = None
    table_elements: int | None = None
    tables: int | None = None
    instances: int | None = None
    fuel: int | None = None
    time_limit: float | None = None
    stack: int = profile.DEFAULT_STACK
    disabled: tuple[str, ...] = ()
    preopens: tuple[Preopen, ...] = (ROOT,)
    network: bool = True
    listen: tuple[tuple[str, int], ...] = ()
    entry: str | None = None
    coredump: str | None = None
    profiling: str = "none"
    compiler: str = "tiered"

    def profile(self) -> Profile:
        """The engine's settings that follow; its tier is "cranelift", see `tiers`."""
        return Profile(
            disabled=self.disabled,
            fuel=self.fuel is not None,
            epoch=self.time_limit is not None,
            stack=self.stack,
            profiling=self.profiling,
        )

    def tiers(self) -> tuple[str, ...]:
        """The compilers whose code may run, the best first; the last one compiles a miss."""
        return ("cranelift", "winch") if self.compiler == "tiered" else (self.compiler,)


class Knob(NamedTuple):
    """One line of the table in docs/: how its text is read and how values are compared."""

    field: str
    read: Callable[[str], object]
    ceiling: bool
    meaning: str


_UNITS = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def quantity(text: str) -> int:
    """A number of bytes as Kubernetes writes it: 1000, 64Ki, 1.5Gi, 10M."""
    found = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)(k|[MGT]|[KMGT]i|)", text)
    value = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if not 0 < value < 1 << 62:
        raise ValueError("a size such as 64Mi or 1Gi is needed")
    return value


def _stack(text: str) -> int:
    value = quantity(text)
    if not profile.MIN_STACK <= value <= profile.MAX_STACK:
        raise ValueError("a size from 64Ki to 64Mi is needed")
    return value


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > 1 << 32:
        raise ValueError("a whole number is needed")
    return int(text)


def _fuel(text: str) -> int:
    if not re.fullmatch("[0-9]{1,19}", text) or not 0 < int(text) <= MAX_FUEL:
        raise ValueError("a whole number above 0 is needed")
    return int(text)


def duration(text: str) -> float:
    """A time in seconds, written as 500ms, 30s, 5m or 1h."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h)", text)
    value = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if value < 0.001:
        raise ValueError("a time such as 500ms, 30s or 5m is needed")
    return value


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError("on or off is needed")
    return text == "on"


def _choice(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)} is needed")
        return text

    return read


def features(text: str) -> tuple[str, ...]:
    """The proposals that "gc=off,threads=off" switches off."""
    off = set()
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name not in profile.FEATURES:
            raise ValueError(f"{name!r} is none of {', '.join(profile.FEATURES)}")
        if not _switch(value):
            off.add(name)
    return tuple(sorted(off))


def preopens(text: str) -> tuple[Preopen, ...]:
    """Folders as "/data:ro,/srv/in:/in:ro,/tmp": path, the guest's name for it, ro or rw."""
    found = []
    for part in text.split(",") if text.strip() else ():
        words = part.strip().split(":")
        writable = words[-1] != "ro"
        if len(words) > 1 and words[-1] in ("ro", "rw"):
            words.pop()
        if len(words) > 2 or not words[0].startswith("/") or not words[-1] or "\0" in part:
            raise ValueError(f"{part.strip()!r} is not PATH[:NAME][:ro|:rw] with an absolute path")
        found.append(Preopen(words[0], words[-1], writable))
    return tuple(found)


def addresses(text: str) -> tuple[tuple[str, int], ...]:
    """Addresses to listen on as "8080,127.0.0.1:9000,[::1]:9000"."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(?:(\[[0-9a-fA-F:.]+\]|[0-9.]*):)?([0-9]{1,5})", part.strip())
        host = (match[1] or "").strip("[]") if match else ""
        if not match or not 0 < int(match[2]) < 65536 or not _is_address(host):
            raise ValueError(f"{part.strip()!r} is not PORT, IPv4:PORT or [IPv6]:PORT")
        found.append((host, int(match[2])))
    return tuple(found)


def _is_address(host: str) -> bool:
    """Whether it is an address, or "" for all: anything else would be looked up as a name."""
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host or "0.0.0.0")
    except OSError:
        return False
    return True


def _text(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("a text is needed")
    return text


def _path(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise ValueError("an absolute path in the container is needed")
    return text


KNOBS = {
    "memory": Knob("memory", quantity, True, "bytes of each linear memory; growing past it fails"),
    "table-elements": Knob("table_elements", _count, True, "elements of each table"),
    "tables": Knob("tables", _count, True, "tables in all"),
    "instances": Knob("instances", _count, True, "core instances in all"),
    "fuel": Knob("fuel", _fuel, True, "instructions, about; the guest ends when they are used up"),
    "time-limit": Knob("time_limit", duration, True, "time from the start; the guest ends after"),
    "stack": Knob("stack", _stack, True, "bytes of the wasm call stack"),
    "wasm-features": Knob("disabled", features, False, "proposals, on or off"),
    "preopens": Knob("preopens", preopens, False, "folders that the guest sees"),
    "network": Knob("network", _switch, False, "wasi:sockets and name look-up"),
    "listen": Knob("listen", addresses, False, "listening sockets for preview 1, from fd 3 on"),
    "entry": Knob("entry", _text, False, "the export to call instead of _start"),
    "coredump": Knob("coredump", _path, False, "where a wasm coredump goes after a trap"),
    "profiling": Knob(
        "profiling", _choice("none", "perfmap", "jitdump"), False, "symbols of compiled code"
    ),
    "compiler": Knob(
        "compiler",
        _choice("tiered", "cranelift", "winch"),
        False,
        "tiered starts on Winch's code and takes Cranelift's next time",
    ),
}


class Node(NamedTuple):
    """The node's [guest] table, read: `defaults` for pods that say nothing, `ceilings` for all."""

    defaults: Mapping[str, object]
    ceilings: Mapping[str, object]


NO_NODE = Node({}, {})


def node(table: Mapping[str, object], name: str = "config.toml") -> Node:
    """Reads a [guest] table: knobs as in annotations, and in [guest.max] the ceilings of numbers,
    `network = "off"` and `wasm-features` that no pod may switch on.

    Raises errors.InvalidArgument with the key.
    """
    highest = table.get("max", {})
    if not isinstance(highest, dict):
        raise errors.InvalidArgument(f"{name}: guest.max must be a table")
    defaults = {
        key: _read(key, value, f"{name}: guest.{key}")
        for key, value in table.items()
        if key != "max"
    }
    ceilings = {}
    for key, value in highest.items():
        where = f"{name}: guest.max.{key}"
        if key in KNOBS and not KNOBS[key].ceiling and key not in ("network", "wasm-features"):
            raise errors.InvalidArgument(f"{where}: this has no ceiling")
        ceilings[key] = _read(key, value, where)
    return Node(defaults, ceilings)


def _read(key: str, value: object, where: str) -> object:
    if key not in KNOBS:
        raise errors.InvalidArgument(f"{where}: there is no such key")
    try:
        return KNOBS[key].read(str(value).strip() if not isinstance(value, bool) else "")
    except ValueError as error:
        raise errors.InvalidArgument(f"{where}: {error}, it is {value!r}") from None


def parse(
    annotations: Mapping[str, str],
    of_node: Node = NO_NODE,
    *,
    container: str = "",
    cgroup_memory: int | None = None,
    others: frozenset[str] = frozenset(),
) -> Knobs:
    """Gives a guest's knobs from its annotations; `others` are keys that other rooms read.

    All containers of a pod see the pod's annotations: `KEY.NAME` is for the one that is called
    NAME, and `container` is what this one is called. `cgroup_memory` is its memory limit in bytes:
    memory's default, less what the process around the guest needs. Raises errors.InvalidArgument
    with the key.
    """
    asked: dict[str, object] = dict(of_node.defaults)
    own: dict[str, object] = {}
    for full, value in annotations.items():
        key, _, name = full.removeprefix(PREFIX).partition(".")
        if full.startswith(PREFIX) and key not in others:
            found = _read(key, value, f"annotation {full}")
            if name in ("", container):
                (own if name else asked)[key] = found
    asked |= own
    for key, highest in of_node.ceilings.items():
        asked[key] = _capped(key, asked.get(key), highest)
    fields: dict[str, Any] = {KNOBS[key].field: value for key, value in asked.items()}
    knobs = Knobs(**fields)
    if knobs.listen and not knobs.network:
        raise errors.InvalidArgument(f"{PREFIX}listen: the guest's network is off")
    if cgroup_memory is not None:
        room = guest_share(cgroup_memory)
        knobs = replace(knobs, memory=min(knobs.memory or room, room))
    return knobs


def _capped(key: str, value: object, highest: object) -> object:
    if key == "network":
        if value is True and highest is False:
            raise errors.PermissionDenied(f"{PREFIX}{key}: this node has it off for all pods")
        return highest if value is None else value
    if key == "wasm-features":
        return tuple(sorted({*_texts(value), *_texts(highest)}))
    if value is None:
        default = getattr(Knobs(), KNOBS[key].field)
        return highest if default is None else min(default, highest)
    if isinstance(value, (int, float)) and isinstance(highest, (int, float)) and value > highest:
        raise errors.InvalidArgument(
            f"{PREFIX}{key}: {value} is above this node's ceiling of {highest}"
        )
    return value


def _texts(value: object) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else ()


def guest_share(cgroup_memory: int) -> int:
    """What of a control group's memory the guest may use, in bytes.

    The process around it needs about 8 MiB of its own, and some more with the guest's size.
    """
    return max(cgroup_memory - 12 * MIB - cgroup_memory // 32, cgroup_memory // 2)
