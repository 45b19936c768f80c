"""What Copepod's runtime looks like in containerd's CRI configuration, in each file version.

It makes and reads tables; files belong to `plan`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from copepod.cli.node.tomltext import quote

NAME = "copepod"
TYPE = "io.containerd.copepod.v1"
SHIM = "containerd-shim-copepod-v1"
ANNOTATIONS = ("copepod.dev/*",)

# The CRI plugin's id by the file's `version`; a file without one is version 1 (containerd
# docs/PLUGINS.md). 2.x moved the runtimes to a plugin of their own.
_PLUGINS = {1: "cri", 2: "io.containerd.grpc.v1.cri"}
_PLUGIN_V3 = "io.containerd.cri.v1.runtime"


def plugin(version: int) -> str:
    """The id of the plugin that holds the runtimes in a file of `version`."""
    return _PLUGINS.get(version, _PLUGIN_V3)


def settings(shim: str | None = None) -> dict[str, Any]:
    """Our runtime's table; `shim` is the shim's absolute path where containerd can't find it."""
    table: dict[str, Any] = {"runtime_type": TYPE}
    if shim:
        table["runtime_path"] = shim
    table["pod_annotations"] = list(ANNOTATIONS)
    table["container_annotations"] = list(ANNOTATIONS)
    return table


def runtimes(config: Mapping[str, Any], version: int | None = None) -> dict[str, Any]:
    """The runtimes of a parsed file or dump; {} when it says nothing of them.

    Without `version` every known plugin id is looked at: a dump is written in the daemon's own
    version, not in the file's.
    """
    names = [plugin(version)] if version else [_PLUGIN_V3, *_PLUGINS.values()]
    for name in names:
        table: Any = config
        for key in ("plugins", name, "containerd", "runtimes"):
            table = table.get(key) if isinstance(table, Mapping) else None
        if isinstance(table, Mapping):
            return dict(table)
    return {}


def is_ours(table: object) -> bool:
    """True when a runtime's table leads to Copepod's shim, whoever wrote it."""
    return isinstance(table, Mapping) and table.get("runtime_type") == TYPE


def serves(table: object, wanted: Mapping[str, Any]) -> bool:
    """True when a table holds all that `wanted` asks for; more is the administrator's affair."""
    return isinstance(table, Mapping) and all(table.get(key) == wanted[key] for key in wanted)


def to_toml(version: int, tables: Mapping[str, Mapping[str, Any]]) -> str:
    """TOML text that declares `tables` (by runtime name) for a file of `version`."""
    lines: list[str] = []
    base = f"plugins.{_key(plugin(version))}.containerd.runtimes"
    for name, table in tables.items():
        _write(lines, f"{base}.{_key(name)}", table)
    return "\n".join(lines)


def _write(lines: list[str], header: str, table: Mapping[str, Any]) -> None:
    if lines:
        lines.append("")
    lines.append(f"[{header}]")
    lines.extend(
        f"  {_key(key)} = {_value(value)}"
        for key, value in table.items()
        if not isinstance(value, Mapping)
    )
    for key, value in table.items():
        if isinstance(value, Mapping):
            _write(lines, f"{header}.{_key(key)}", value)


def _key(name: str) -> str:
    bare = name.replace("-", "").replace("_", "")
    return name if bare.isascii() and bare.isalnum() else quote(name)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    return quote(str(value))


def prune(value: Any) -> Any:
    """A parsed value without its empty parts: "", 0, false, [] and {} are what a missing key is."""
    if isinstance(value, Mapping):
        kept = {key: prune(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in ("", 0, False, [], {}, None)}
    return value
