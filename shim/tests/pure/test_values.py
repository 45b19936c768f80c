"""Classes of values behave like the standard module's, as far as they are used."""

from __future__ import annotations

import copy
import dataclasses

import pytest

from copepod import values

pytestmark = pytest.mark.pure


@values.dataclass(frozen=True, slots=True)
class Ours:
    """With a required field, defaults and a factory."""

    a: int
    b: str = "b"
    c: list[int] = values.field(default_factory=list)

    @property
    def both(self) -> str:
        """A method of its own."""
        return f"{self.a}{self.b}"


@dataclasses.dataclass(frozen=True, slots=True)
class Theirs:
    """The same by the standard module."""

    a: int
    b: str = "b"
    c: list[int] = dataclasses.field(default_factory=list)


@values.dataclass(slots=True)
class Loose:
    """May be changed."""

    a: int = 0


def test_it_holds_what_it_is_given() -> None:
    one = Ours(1, c=[2])
    assert (one.a, one.b, one.c, one.both) == (1, "b", [2], "1b")
    assert repr(one) == repr(Theirs(1, c=[2])).replace("Theirs", "Ours")
    assert Ours(1).c is not Ours(1).c
    assert Ours(1) == Ours(1) != Ours(2)
    assert Ours(1) != Theirs(1)  # type: ignore[comparison-overlap]
    assert values.replace(one, b="x") == Ours(1, "x", [2])
    assert copy.deepcopy(one) == one


def test_it_matches_by_position() -> None:
    match Ours(1, "z"):
        case Ours(a, b):
            assert (a, b) == (1, "z")


def test_frozen_is_frozen_and_hashes() -> None:
    one = Ours(1)
    with pytest.raises(AttributeError):
        one.a = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del one.a
    with pytest.raises(AttributeError):
        one.d = 2  # type: ignore[attr-defined]
    assert hash(values.replace(one, c=())) == hash(Ours(1, c=()))  # type: ignore[arg-type]
    loose = Loose()
    loose.a = 3
    assert loose == Loose(3)
    with pytest.raises(TypeError):
        hash(loose)


@pytest.mark.parametrize(
    ("args", "named"),
    [((), {}), ((1, 2, 3, 4), {}), ((1,), {"a": 1}), ((1,), {"d": 1})],
)
def test_wrong_values_are_refused(args: tuple[int, ...], named: dict[str, int]) -> None:
    with pytest.raises(TypeError):
        Ours(*args, **named)  # type: ignore[arg-type]
