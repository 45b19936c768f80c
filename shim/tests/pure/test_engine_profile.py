"""Engine settings: what is refused before the engine would panic, and what is in the key."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from copepod import errors
from copepod.engine.profile import FEATURES, Profile


def test_key_changes_with_what_changes_code() -> None:
    profiles = [
        Profile(),
        Profile(tier="winch"),
        Profile(fuel=True),
        Profile(epoch=True),
        Profile(disabled=("gc",)),
    ]
    assert len({profile.key() for profile in profiles}) == len(profiles)
    assert Profile(stack=2 << 20, profiling="perfmap", parallel=False).key() == Profile().key()
    assert Profile(disabled=("gc", "threads")).key() == Profile(disabled=("threads", "gc")).key()
    assert Profile().key().startswith(f"50.0.1-{os.uname().machine}-cranelift-")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tier": "llvm"}, "no compiler 'llvm'"),
        ({"profiling": "vtune"}, "no profiling 'vtune'"),
        ({"stack": 0}, "64Ki..64Mi"),
        ({"stack": 1 << 40}, "64Ki..64Mi"),
        ({"disabled": ("gc", "magic")}, "no wasm feature 'magic'"),
    ],
)
def test_refusals(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=sentence):
        Profile(**settings)  # type: ignore[arg-type]  # the table is of many types


def test_no_settings_make_the_engine_panic() -> None:
    """The engine answers a bad config with abort(); every subset of the proposals is tried."""
    sets = [
        names
        for count in range(len(FEATURES) + 1)
        for names in itertools.combinations(sorted(FEATURES), count)
    ]
    pid = os.fork()
    if pid == 0:
        try:
            for tier, names in itertools.product(("cranelift", "winch"), sets):
                Profile(tier=tier, disabled=names).engine().close()
            for stack in (64 << 10, 64 << 20):
                Profile(stack=stack, fuel=True, epoch=True).engine().close()
            Profile(profiling="perfmap").engine().close()
            Path(f"/tmp/perf-{os.getpid()}.map").unlink(missing_ok=True)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
