"""The signal mask that is changed past the interpreter is the one that the interpreter sees."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copepod.linux import sigmask

pytestmark = pytest.mark.pure

NEVER = {signal.SIGKILL, signal.SIGSTOP}


def seen() -> set[int]:
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


@given(st.sets(st.sampled_from(sorted(set(signal.valid_signals()) - NEVER))))
def test_a_mask_is_what_it_is_made_of(numbers: set[int]) -> None:
    before = sigmask.set_(sigmask.of(numbers))
    try:
        assert seen() == numbers
        assert sigmask.set_(sigmask.NONE) == sigmask.of(numbers)
        assert seen() == set()
    finally:
        sigmask.set_(before)


def test_a_signal_waits_until_none_is_blocked() -> None:
    got: list[int] = []
    old = signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))
    before = seen()
    try:
        with sigmask.all_blocked():
            assert seen() == set(signal.valid_signals()) - NEVER
            os.kill(os.getpid(), signal.SIGUSR1)
            assert not got
        assert got == [signal.SIGUSR1]
        assert seen() == before
    finally:
        signal.signal(signal.SIGUSR1, old)
