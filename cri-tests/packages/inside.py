"""Runs a program in another root, in a mount namespace of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rig.shell import Done, run

_ENTER = """
set -e
mount --bind "$ROOT" "$ROOT"
mkdir -p "$ROOT/tmp"
mount -t tmpfs tmpfs "$ROOT/tmp"
for path in /proc /dev $SHARED; do
    mkdir -p "$ROOT$path"
    mount --rbind "$path" "$ROOT$path"
done
for path in $SHARED; do
    mount -o remount,bind,ro "$ROOT$path"
done
exec chroot "$ROOT" "$@"
"""


def call(
    root: Path,
    argv: Sequence[str | Path],
    *,
    shared: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
    timeout: float = 300.0,
) -> Done:
    """Runs it; folders in `shared` are where they are outside, and read-only."""
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh", *argv]
    more = {"ROOT": str(root), "SHARED": " ".join(map(str, shared)), **(env or {})}
    return run(["nice", *words], env=more, timeout=timeout, check=False)
