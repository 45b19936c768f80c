"""Plain classes of values: the part of `dataclasses` that Copepod uses, without generated code.

The standard module compiles six functions for every class, 0.6 ms each time a process imports it;
a shim has a hundred such classes and has to be up in a tenth of a second. Here they share their
methods. It refuses everything that isn't used: order, keyword-only fields, inheritance of fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


class Factory:
    """A default that is made anew for each object."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def field(*, default_factory: Callable[[], T]) -> T:
    """Gives a field's default as the result of a call, as `dataclasses.field` does."""
    return Factory(default_factory)  # type: ignore[return-value]  # the class keeps it apart


@dataclass_transform(field_specifiers=(field,))
def dataclass(*, frozen: bool = False, slots: bool = True) -> Callable[[type[T]], type[T]]:
    """Makes a class of values of its annotations, in their order; always with slots.

    `frozen` objects refuse assignment and can be hashed. Objects are equal if they are of one
    class and their values are.
    """

    def make(cls: type[T]) -> type[T]:
        if not slots:
            raise TypeError(f"{cls.__name__}: a class of values has slots")
        names = tuple(cls.__dict__.get("__annotations__", ()))  # noqa: RUF063  # its own ones only
        namespace = {
            name: value
            for name, value in cls.__dict__.items()
            if name not in names and name not in ("__dict__", "__weakref__")
        }
        namespace |= _FROZEN if frozen else _MUTABLE
        namespace |= {
            "__slots__": names,
            "__match_args__": names,
            "__defaults": {name: cls.__dict__[name] for name in names if name in cls.__dict__},
        }
        made: type[T] = type(cls)(cls.__name__, cls.__bases__, namespace)  # type: ignore[misc]
        # The slots' own descriptors: they set a value where __setattr__ refuses to.
        setattr(made, "__setters", tuple((name, made.__dict__[name].__set__) for name in names))
        return made

    return make


def replace(value: T, **changes: Any) -> T:
    """Gives a copy of a value with some fields changed."""
    old = {name: changes.pop(name, getattr(value, name)) for name in _names(value)}
    return type(value)(**old, **changes)


def _names(value: object) -> tuple[str, ...]:
    return type(value).__match_args__  # type: ignore[attr-defined,no-any-return]


def _values(value: object) -> Iterator[object]:
    return (getattr(value, name) for name in _names(value))


def _init(self: Any, *args: Any, **given: Any) -> None:
    cls = type(self)
    setters, defaults = getattr(cls, "__setters"), getattr(cls, "__defaults")
    if len(args) > len(setters):
        raise TypeError(f"{cls.__name__} takes {len(setters)} values, {len(args)} were given")
    for (_, put), value in zip(setters, args):  # noqa: B905  # the rest comes by name
        put(self, value)
    for name, put in setters[len(args) :]:
        if name in given:
            put(self, given.pop(name))
        elif name in defaults:
            value = defaults[name]
            put(self, value.make() if type(value) is Factory else value)
        else:
            raise TypeError(f"{cls.__name__} needs a value for {name!r}")
    if given:
        raise TypeError(f"{cls.__name__} has no field {next(iter(given))!r} to set by name")
    check = getattr(cls, "__post_init__", None)
    if check is not None:
        check(self)


def _eq(self: object, other: object) -> Any:
    if type(self) is not type(other):
        return NotImplemented
    return all(a == b for a, b in zip(_values(self), _values(other), strict=True))


def _repr(self: object) -> str:
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in _names(self))
    return f"{type(self).__name__}({shown})"


def _hash(self: object) -> int:
    return hash((type(self), *_values(self)))


def _refuse(self: object, name: str, *_: object) -> None:
    raise AttributeError(f"{type(self).__name__} is frozen: {name!r} can't be changed")


def _getstate(self: object) -> tuple[object, ...]:
    return tuple(_values(self))


def _setstate(self: Any, state: tuple[object, ...]) -> None:
    for (_, put), value in zip(getattr(type(self), "__setters"), state, strict=True):
        put(self, value)


_MUTABLE: dict[str, Any] = {
    "__init__": _init,
    "__eq__": _eq,
    "__repr__": _repr,
    "__hash__": None,
    "__getstate__": _getstate,  # for copy.copy and copy.deepcopy, which hypothesis uses
    "__setstate__": _setstate,
}
_FROZEN = _MUTABLE | {"__hash__": _hash, "__setattr__": _refuse, "__delattr__": _refuse}
