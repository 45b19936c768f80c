"""Which file gets what text, by containerd's version and flavour.

Nothing is written here: a plan is old and new bytes of files, and how the result is to be tried.

1.6 and 1.7 edit the root file: an imported file replaces the whole CRI table there, so that runc's
options and the registries would be lost. Even in the root file the first runtime that is declared
replaces the built-in runc, which is then declared as well. 2.x merges, and gets a drop-in; it is
written in the root file's `version` (2.3 refuses a higher one) and `imports` has to lead to it.
k3s, RKE2 and MicroK8s generate the root file from a template at every start: that one is edited,
unless the generated file imports a directory (k3s and RKE2 with containerd 2).
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from copepod import errors
from copepod.cli.node import check, runtime, tomltext
from copepod.cli.node.detect import K3S, MICROK8S, PLAIN, RKE2, Containerd
from copepod.cli.system import System

# The first releases whose templates may say {{ template "base" . }}: September 2023.
_BASE_TEMPLATE = {24: 17, 25: 13, 26: 8, 27: 5, 28: 1}
_BASE = '{{ template "base" . }}\n'


@dataclass(frozen=True, slots=True)
class Change:
    """A file's bytes before and after; None means that there is no file."""

    path: str
    before: bytes | None
    after: bytes | None


@dataclass(frozen=True, slots=True)
class Plan:
    """All that an installation changes, and how it is judged."""

    changes: tuple[Change, ...]
    target: str  # the file that holds our table
    wanted: dict[str, Any]
    trial: str | None  # the text to dump instead of the root file, where that is generated later
    before: dict[str, Any]  # the dump to compare with
    by_hand: str = ""  # the file where an administrator has already written the runtime

    @property
    def empty(self) -> bool:
        """True when nothing has to be written."""
        return not self.changes


def make(system: System, node: Containerd, shim: str | None) -> Plan:
    """The plan that makes `node` know the runtime; `shim` as in runtime.settings.

    Raises errors.FailedPrecondition when CRI is switched off or containerd refuses its present
    configuration, errors.InvalidArgument when a file is broken or holds another `copepod`.
    """
    wanted = runtime.settings(shim)
    if node.version < (1, 6, 0):
        raise errors.FailedPrecondition(
            f"{node.title} is too old for Copepod: install containerd 1.6 or newer"
        )
    data = system.read(node.config)
    root = tomltext.parse(data, node.config) if data is not None else {}
    before = check.dump(system, node, node.config)
    if check.cri_disabled(root) or check.cri_disabled(before):
        raise errors.FailedPrecondition(
            f'{node.config} switches the CRI plugin off (disabled_plugins = ["cri"], the default '
            "of Docker's containerd packages), so no kubelet can use this containerd: take "
            '"cri" out of the list, or replace the file by what `containerd config default` '
            "prints, and try again; `copepod run` and `ctr run` need no configuration"
        )
    if node.flavour == PLAIN:
        make_one = _drop_in if node.version >= (2, 0, 0) else _main_file
        return make_one(system, node, root, before, wanted)
    if node.flavour in (K3S, RKE2) and (folder := _imported_folder(node, root)):
        return _file_in(system, node, folder, root, before, wanted)
    return _template(system, node, root, before, wanted)


def _version(root: Mapping[str, Any]) -> int:
    """A file without `version` is version 1, on containerd 2 too (which migrates it)."""
    version = root.get("version", 1)
    if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version <= 9:
        raise errors.InvalidArgument(f"version = {version!r} is no version of a containerd file")
    return version or 1


def _header(version: int) -> str:
    return "" if version == 1 else f"version = {version}\n"


def _block(
    text: str, name: str, version: int, wanted: Mapping[str, Any], others: Mapping[str, Any]
) -> str | None:
    """`text` with our block at its end, `others` re-declared in it.

    None when an administrator's own table, outside the block, already does all that is wanted.
    """
    bare = tomltext.remove_block(text)
    doc = tomltext.parse(bare.encode(), name)
    declared = runtime.runtimes(doc, version)
    if runtime.NAME in declared:
        if runtime.serves(declared[runtime.NAME], wanted):
            return None
        raise _another(name)
    tables = {key: runtime.prune(table) for key, table in others.items() if key not in declared}
    new = tomltext.append_block(bare, runtime.to_toml(version, {**tables, runtime.NAME: wanted}))
    try:
        tomltext.parse(new.encode(), name)
    except errors.InvalidArgument as error:
        raise errors.InvalidArgument(
            f"{name} writes the CRI plugin's tables as inline tables or dotted keys, to which "
            "nothing can be added; write them as [plugins...] tables and try again"
        ) from error
    return new


def _another(name: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        f"{name} already declares a runtime {runtime.NAME!r} that is not what Copepod needs; "
        "remove it or give it the keys that `copepod node install --print` prints"
    )


def _text(data: bytes | None, name: str) -> str:
    return tomltext.decode(data or b"", name)


def _main_file(
    system: System,
    node: Containerd,
    root: dict[str, Any],
    before: dict[str, Any],
    wanted: dict[str, Any],
) -> Plan:
    """1.6 and 1.7: the file whose CRI table wins, which is the last one imported that has one."""
    path, doc = node.config, root
    for name in _imported(system, node.config, root):
        imported = tomltext.parse(system.read(name) or b"", name)
        if runtime.plugin(_version(imported)) in imported.get("plugins", {}):
            path, doc = name, imported
    data = system.read(path)
    version = _version(doc) if data is not None else 2
    text = _text(data, path) if data is not None else _header(version)
    others = {key: item for key, item in runtime.runtimes(before).items() if key != runtime.NAME}
    new = _block(text, path, version, wanted, others)
    return _plan(path, data, new, wanted, before)


def _imported(system: System, config: str, root: Mapping[str, Any]) -> list[str]:
    names = []
    for pattern in root.get("imports") or ():
        names += system.glob(os.path.join(os.path.dirname(config), str(pattern)))
    return [name for name in names if name != config]


def _drop_in(
    system: System,
    node: Containerd,
    root: dict[str, Any],
    before: dict[str, Any],
    wanted: dict[str, Any],
) -> Plan:
    """2.x: a file of our own, in the directory that is imported already if there is one."""
    folder = _imported_folder(node, root)
    if folder:
        return _file_in(system, node, folder, root, before, wanted)
    data = system.read(node.config)
    if data is None:
        root = {"version": before.get("version", 2)}
    path = f"{os.path.dirname(node.config)}/conf.d/copepod.toml"
    plan = _file_in(system, node, os.path.dirname(path), root, before, wanted)
    text = _text(data, node.config) if data is not None else _header(_version(root))
    if path in (root.get("imports") or ()) or plan.by_hand:
        return plan
    new = tomltext.add_import(text, path)
    expected = {**root, "imports": [*(root.get("imports") or ()), path]}
    if tomltext.parse(new.encode(), node.config) != expected:
        raise errors.InvalidArgument(
            f"{node.config}: an entry {path} could not be added to `imports` safely; add it by "
            "hand and try again"
        )
    changes = (*plan.changes, Change(node.config, data, new.encode()))
    return Plan(changes, plan.target, wanted, None, before)


def _imported_folder(node: Containerd, root: Mapping[str, Any]) -> str | None:
    """The directory of a 2.x file's first import that takes every *.toml."""
    if node.version < (2, 0, 0):
        return None
    for pattern in root.get("imports") or ():
        full = os.path.join(os.path.dirname(node.config), str(pattern))
        folder, name = os.path.split(full)
        if fnmatch.fnmatchcase("copepod.toml", name) and not set("*?[") & set(folder):
            return folder
    return None


def _file_in(
    system: System,
    node: Containerd,
    folder: str,
    root: Mapping[str, Any],
    before: dict[str, Any],
    wanted: dict[str, Any],
) -> Plan:
    path = f"{folder}/copepod.toml"
    version = _version(root)
    data = system.read(path)
    there = runtime.runtimes(before).get(runtime.NAME)
    own = _text(data, path)
    if there is not None and not tomltext.find_block(own):
        if not runtime.serves(there, wanted):
            raise _another(f"{node.config} or a file that it imports")
        return Plan((), node.config, wanted, None, before, by_hand=node.config)
    text = _header(version)
    if data and not tomltext.find_block(own):
        text = own  # an administrator's own copepod.toml
    new = _block(text, path, version, wanted, {})
    return _plan(path, data, new, wanted, before)


def _template(
    system: System,
    node: Containerd,
    root: dict[str, Any],
    before: dict[str, Any],
    wanted: dict[str, Any],
) -> Plan:
    """k3s, RKE2, MicroK8s: the template, tried by its effect on the file generated last."""
    path = template_path(node)
    generated = system.read(node.config)
    version = _version(root) if generated is not None else (3 if node.version >= (2, 0, 0) else 2)
    data = system.read(path)
    if data is None:
        if node.flavour == MICROK8S:
            raise errors.NotFound(f"{path} is missing: is MicroK8s installed completely?")
        _require_base_template(node)
    text = _text(data, path) if data is not None else _BASE
    bare = tomltext.remove_block(_text(generated, node.config))
    declared = runtime.runtimes(tomltext.parse(bare.encode(), node.config), version)
    if runtime.NAME in declared:
        if not runtime.serves(declared[runtime.NAME], wanted):
            raise _another(path)
        return Plan((), path, wanted, None, before, by_hand=path)
    built_in = {
        key: runtime.prune(item)
        for key, item in runtime.runtimes(before).items()
        if node.version < (2, 0, 0) and key != runtime.NAME and key not in declared
    }
    tried = runtime.to_toml(version, {**built_in, runtime.NAME: wanted})
    # Before the first start nothing is generated: the template brings what it brings.
    body = tried if generated is not None else runtime.to_toml(version, {runtime.NAME: wanted})
    new = tomltext.append_block(tomltext.remove_block(text), body)
    trial = tomltext.append_block(bare or _header(version), tried)
    return _plan(path, data, new, wanted, before, trial)


def template_path(node: Containerd) -> str:
    """The template that a distribution's root file is made from."""
    folder = os.path.dirname(node.config)
    if node.flavour == MICROK8S:
        return f"{folder}/containerd-template.toml"
    return f"{folder}/config{'-v3' if node.version >= (2, 0, 0) else ''}.toml.tmpl"


def _require_base_template(node: Containerd) -> None:
    major, minor, patch = node.distribution
    if (major, minor) != (0, 0) and (minor < 24 or patch < _BASE_TEMPLATE.get(minor, 0)):
        raise errors.FailedPrecondition(
            f"{node.flavour} {major}.{minor}.{patch} has no base template to extend (releases "
            f"since September 2023 have): copy {node.config} to {template_path(node)} and try "
            "again, or upgrade"
        )


def _plan(
    path: str,
    data: bytes | None,
    new: str | None,
    wanted: dict[str, Any],
    before: dict[str, Any],
    trial: str | None = None,
) -> Plan:
    if new is None:
        return Plan((), path, wanted, None, before, by_hand=path)
    if new.encode() == data:
        return Plan((), path, wanted, trial, before)
    return Plan((Change(path, data, new.encode()),), path, wanted, trial, before)
