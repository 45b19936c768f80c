"""What containerd itself makes of a configuration: `containerd config dump`, compared.

It is the judge of every change: a dump after must be the dump before and Copepod's runtime.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from typing import Any

from copepod import errors
from copepod.cli.node import runtime
from copepod.cli.node.detect import Containerd
from copepod.cli.system import Result, System

_CRI_IDS = {"cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"}


def dump(system: System, node: Containerd, config: str) -> dict[str, Any]:
    """The configuration that containerd has with the root file `config`.

    Without that file containerd runs on its defaults, and so these are the answer. Raises
    errors.FailedPrecondition with containerd's own sentence when it refuses the file.
    """
    if system.exists(config):
        answer = system.run([node.binary, "-c", str(system.path(config)), "config", "dump"])
    else:
        answer = system.run([node.binary, "config", "default"])
    return _parsed(answer, node, config)


def dump_text(system: System, node: Containerd, text: str, beside: str) -> dict[str, Any]:
    """As `dump`, of a file that would hold `text` and stand next to `beside`.

    It has to stand there since relative `imports` are looked up from the file's directory.
    """
    trial = f"{os.path.dirname(beside)}/.copepod-trial.toml"
    system.write(trial, text.encode())
    try:
        return dump(system, node, trial)
    finally:
        system.remove(trial)


def _parsed(answer: Result, node: Containerd, config: str) -> dict[str, Any]:
    if not answer.ok:
        raise errors.FailedPrecondition(f"{node.binary} refuses {config}: {answer.reason()}")
    try:
        return tomllib.loads(answer.out)
    except tomllib.TOMLDecodeError as error:
        raise errors.FailedPrecondition(
            f"`{node.binary} config dump` printed no valid TOML for {config}: {error}"
        ) from error


def cri_disabled(config: Mapping[str, Any]) -> bool:
    """True when a parsed file or dump turns the CRI plugin off, as Docker's packages do."""
    return bool(_CRI_IDS & set(config.get("disabled_plugins") or ()))


def compare(
    before: Mapping[str, Any], after: Mapping[str, Any], wanted: Mapping[str, Any] | None
) -> str | None:
    """What is wrong with the dump `after` as a sentence's end; None when all is well.

    `wanted` is our table, or None when it has to be gone. All else has to be the same, but for
    `imports`, which lists the files themselves.
    """
    ours = runtime.runtimes(after).get(runtime.NAME)
    if wanted is None and ours is not None:
        return f"the runtime {runtime.NAME} is still there"
    if wanted is not None and not runtime.serves(ours, wanted):
        return (
            f"the runtime {runtime.NAME} does not come out as written (another file that is "
            "imported later may replace the table)"
        )
    changed = _difference(_rest(before), _rest(after), "")
    return f"{changed} would change" if changed else None


def _rest(config: Mapping[str, Any]) -> Any:
    def without(value: Any, path: tuple[str, ...]) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {
            key: without(item, (*path, key))
            for key, item in value.items()
            if not (path[-1:] == ("runtimes",) and key == runtime.NAME)
            and not (not path and key in ("imports", "version"))
        }

    return runtime.prune(without(config, ()))


def _difference(one: Any, other: Any, path: str) -> str | None:
    """The path of the first value that differs."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in [*one, *(key for key in other if key not in one)]:
            mine, its = one.get(key), other.get(key)
            if isinstance(mine, Mapping) or isinstance(its, Mapping):
                mine, its = mine or {}, its or {}
            if found := _difference(mine, its, f"{path}{key}."):
                return found
        return None
    return None if one == other else path.rstrip(".")
