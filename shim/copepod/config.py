"""The node's configuration: /etc/copepod/config.toml as one frozen value.

An unknown or malformed key is an error that names it, never a silent default; a missing file is
the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from copepod import errors
from copepod.values import dataclass, field

PATH = "/etc/copepod/config.toml"


@dataclass(frozen=True, slots=True)
class Config:
    """What the node's administrator decides; every field has a default that works."""

    native: str = "allow"
    """"allow" or "deny": whether Linux programs may run in pods of this runtime."""

    state_dir: str = "/run/copepod"
    """Where the zygote listens."""

    cache_dir: str = "/var/lib/copepod/cache"
    """Where compiled modules are kept, root only."""

    cache_max_bytes: int = 2 << 30
    """The size at which the least recently used compiled modules are removed."""

    module_max_bytes: int = 512 << 20
    """The largest wasm file or layer that is compiled."""

    compile_timeout_seconds: int = 300
    """How long the compiler may take for one module."""

    compile_node_memory_bytes: int = 512 << 20
    """What compiling may take where the container has too little memory for it; one at a time."""

    toolbox_enabled: bool = True
    """Whether exec finds the node's tools where an image has none of that name."""

    toolbox_path: str = ""
    """The toolbox's module; "" is guests/toolbox.wasm beside the package."""

    guest: Mapping[str, object] = field(default_factory=dict)
    """The [guest] table as it stands: `engine.limits.node` reads it."""

    @property
    def native_allowed(self) -> bool:
        """Whether a program that isn't wasm may be executed."""
        return self.native == "allow"


_TABLES = {
    "": {"native": "native", "state_dir": "state_dir"},
    "cache": {"dir": "cache_dir", "max_bytes": "cache_max_bytes"},
    "compile": {
        "module_max_bytes": "module_max_bytes",
        "timeout_seconds": "compile_timeout_seconds",
        "node_memory_bytes": "compile_node_memory_bytes",
    },
    "toolbox": {"enabled": "toolbox_enabled", "path": "toolbox_path"},
}


def load(path: str = "") -> Config:
    """Reads `path` (or /etc/copepod/config.toml); raises errors.InvalidArgument."""
    try:
        with open(path or PATH, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        if path:
            raise errors.InvalidArgument(f"config {path}: no such file") from None
        return Config()
    except OSError as error:
        raise errors.InvalidArgument(f"config {path or PATH}: {error.strerror}") from None
    return parse(data.decode(errors="replace"), path or PATH)


def parse(text: str, name: str = PATH) -> Config:
    """Gives the configuration that `text` (TOML) holds; raises errors.InvalidArgument."""
    import tomllib

    try:
        root = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise errors.InvalidArgument(f"config {name}: not TOML: {error}") from None
    values: dict[str, Any] = {}
    for key, value in root.items():
        if key == "guest" and isinstance(value, dict):
            values["guest"] = value
        elif isinstance(value, dict):
            for sub, inner in value.items():
                field = _field(name, key, sub)
                values[field] = _checked(name, f"{key}.{sub}", field, inner)
        else:
            field = _field(name, "", key)
            values[field] = _checked(name, key, field, value)
    return Config(**values)


def _field(name: str, table: str, key: str) -> str:
    field = _TABLES.get(table, {}).get(key)
    if field is None:
        shown = f"{table}.{key}" if table else key
        raise errors.InvalidArgument(f"config {name}: unknown key {shown}")
    return field


def _checked(name: str, shown: str, field: str, value: object) -> object:
    default = getattr(Config(), field)
    if type(value) is not type(default):
        kind = {str: "a string", bool: "true or false"}.get(type(default), "a whole number")
        raise errors.InvalidArgument(f"config {name}: {shown} must be {kind}, it is {value!r}")
    if type(value) is int and value <= 0:
        raise errors.InvalidArgument(f"config {name}: {shown} must be above 0, it is {value}")
    if shown == "native" and value not in ("allow", "deny"):
        raise errors.InvalidArgument(f'config {name}: native must be "allow" or "deny"')
    return value
