"""The library's linker and instance of components, owned as in objects.py.

It decides nothing: what a component may import and which function starts it is component.py's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from copepod import errors
from copepod.engine import capi, objects


class ComponentLinker(objects.Owned):
    """Names that a component may import."""

    def __init__(self, engine: objects.Engine) -> None:
        lib = capi.library()
        pointer = lib.wasmtime_component_linker_new(engine.pointer)
        super().__init__(pointer, "wasmtime_component_linker_delete")
        lib.wasmtime_component_linker_allow_shadowing(pointer, True)
        self._callbacks: list[Any] = []  # the library calls them: they live as long as it does

    def define_wasi(self) -> None:
        """Defines WASI 0.2 and outgoing wasi:http."""
        lib = capi.library()
        capi.check(lib.wasmtime_component_linker_add_wasip2(self.pointer))
        capi.check(lib.wasmtime_component_linker_add_wasi_http(self.pointer))

    def define(self, interface: str, name: str, function: Callable[[int], int | None]) -> None:
        """Adds a function of ours without a result to an interface.

        `function(values)` gets the address of the arguments and gives None or an error's address.
        It must not raise.
        """

        def call(_data: int, _context: int, _type: int, values: int, *_rest: int) -> int | None:
            return function(values)

        lib, callback, inner = capi.library(), capi.COMPONENT_FUNCTION(call), ctypes.c_void_p()
        self._callbacks.append(callback)
        where, what = interface.encode(), name.encode()
        root = lib.wasmtime_component_linker_root(self.pointer)
        capi.check(
            lib.wasmtime_component_linker_instance_add_instance(
                root, where, len(where), ctypes.byref(inner)
            )
        )
        error = lib.wasmtime_component_linker_instance_add_func(
            inner, what, len(what), callback, None, None
        )
        lib.wasmtime_component_linker_instance_delete(inner)
        lib.wasmtime_component_linker_instance_delete(root)
        capi.check(error)

    def instantiate(self, store: objects.Store, module: objects.Module) -> ComponentInstance:
        """Makes the instances inside and runs their start functions. Raises EngineError."""
        instance = (ctypes.c_uint64 * 2)()
        capi.check(
            capi.library().wasmtime_component_linker_instantiate(
                self.pointer, store.context, module.pointer, instance
            )
        )
        return ComponentInstance(store, instance)


class ComponentInstance:
    """A running component; it lives as long as its store."""

    def __init__(self, store: objects.Store, instance: ctypes.Array[ctypes.c_uint64]) -> None:
        self._store, self._instance = store, instance

    def call(self, path: list[str]) -> bool:
        """Calls a function that takes nothing, by the names that lead to it.

        Gives False when its result is the error of a `result`. Raises EngineError for a trap,
        errors.InvalidArgument when there is no such function.
        """
        lib, function = capi.library(), self._find(path)
        results = self._results(function, path[-1])
        value = capi.ComponentValue()
        capi.check(
            lib.wasmtime_component_func_call(
                function, self._store.context, None, 0, ctypes.byref(value), results
            )
        )
        failed = results and value.kind == capi.COMPONENT_RESULT and not value.value
        if results:
            lib.wasmtime_component_val_delete(ctypes.byref(value))
        return not failed

    def _find(self, path: list[str]) -> ctypes.Array[ctypes.c_uint64]:
        lib, function = capi.library(), (ctypes.c_uint64 * 4)()
        index: int | None = None
        for name in path:
            what = name.encode()
            parent, index = (
                index,
                lib.wasmtime_component_instance_get_export_index(
                    self._instance, self._store.context, index, what, len(what)
                ),
            )
            if parent:
                lib.wasmtime_component_export_index_delete(parent)
            if not index:
                raise errors.InvalidArgument(f"the component exports no {name!r}")
        found = lib.wasmtime_component_instance_get_func(
            self._instance, self._store.context, index, function
        )
        lib.wasmtime_component_export_index_delete(index)
        if not found:
            raise errors.InvalidArgument(f"the component's {path[-1]!r} is not a function")
        return function

    def _results(self, function: ctypes.Array[ctypes.c_uint64], name: str) -> int:
        lib, result = capi.library(), (ctypes.c_uint64 * 2)()
        kind = lib.wasmtime_component_func_type(function, self._store.context)
        params = lib.wasmtime_component_func_type_param_count(kind)
        has_result = lib.wasmtime_component_func_type_result(kind, result)
        if has_result:
            lib.wasmtime_component_valtype_delete(result)
        lib.wasmtime_component_func_type_delete(kind)
        if params:
            raise errors.InvalidArgument(f"the component's {name!r} takes arguments")
        return 1 if has_result else 0
