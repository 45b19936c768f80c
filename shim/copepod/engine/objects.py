"""Engine, store, module, component, linker: the library's objects, each owned by one of ours.

Every object has `close()` (twice is fine); it decides nothing and refuses a use after close.
Nothing is closed by the garbage collector: the order of freeing is the caller's to say.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from copepod import errors
from copepod.engine import capi

# A host function: takes the caller's and the raw values' addresses, gives a trap or None.
HostFunction = Callable[[int, int], "int | None"]


class Owned:
    """A pointer that has to be given back to the library once."""

    def __init__(self, pointer: int, delete: str) -> None:
        self._pointer: int | None = pointer
        self._delete = delete

    @property
    def pointer(self) -> int:
        """The address; errors.Internal after close."""
        if self._pointer is None:
            raise errors.Internal(f"copepod: {type(self).__name__} is used after its close")
        return self._pointer

    def take(self) -> int:
        """Gives the address to a function of the library that takes ownership."""
        pointer, self._pointer = self.pointer, None
        return pointer

    def close(self) -> None:
        """Frees what the library holds."""
        if self._pointer is not None:
            getattr(capi.library(), self._delete)(self.take())


class Engine(Owned):
    """An engine made from a config, which it takes."""

    def __init__(self, config: int) -> None:
        super().__init__(capi.library().wasm_engine_new_with_config(config), "wasm_engine_delete")

    def increment_epoch(self) -> None:
        """Moves the clock of every store's deadline by one; any thread may call it."""
        capi.library().wasmtime_engine_increment_epoch(self.pointer)


class Store(Owned):
    """What an instance lives in."""

    def __init__(self, engine: Engine) -> None:
        lib = capi.library()
        pointer = lib.wasmtime_store_new(engine.pointer, None, None)
        super().__init__(pointer, "wasmtime_store_delete")
        self.context: int = lib.wasmtime_store_context(pointer)

    def set_wasi(self, config: int, *, http: bool = False) -> None:
        """Takes a wasi_config_t; `http` adds the state of outgoing wasi:http."""
        lib = capi.library()
        capi.check(lib.wasmtime_context_set_wasi(self.context, config))
        if http:
            lib.wasmtime_context_set_wasi_http(self.context)

    def limit(
        self, *, memory: int = -1, elements: int = -1, instances: int = -1, tables: int = -1
    ) -> None:
        """Caps bytes of each memory, elements of each table, and how many there are; -1 is none."""
        capi.library().wasmtime_store_limiter(self.pointer, memory, elements, instances, tables, -1)

    def set_fuel(self, fuel: int) -> None:
        """Fills the tank; the engine's profile must count fuel."""
        capi.check(capi.library().wasmtime_context_set_fuel(self.context, fuel))

    def set_deadline(self, ticks: int) -> None:
        """Interrupts the guest when the engine's epoch has moved by `ticks`."""
        capi.library().wasmtime_context_set_epoch_deadline(self.context, ticks)


class ItemType(NamedTuple):
    """An import (`module`.`name`) or export (`name`) of a core module."""

    module: str
    name: str
    kind: int
    params: tuple[int, ...]
    results: tuple[int, ...]


class Module(Owned):
    """Compiled code, a core module's or a component's (`kind`)."""

    def __init__(self, pointer: int, kind: str) -> None:
        self.kind = kind
        self.prefix = "wasmtime_module" if kind == "core" else "wasmtime_component"
        super().__init__(pointer, f"{self.prefix}_delete")

    @classmethod
    def compile(cls, engine: Engine, data: Any, size: int, kind: str) -> Module:
        """Compiles `size` bytes at `data` (bytes or an address). Raises EngineError."""
        name = "wasmtime_module_new" if kind == "core" else "wasmtime_component_new"
        return cls(_made(getattr(capi.library(), name), engine.pointer, data, size), kind)

    @classmethod
    def from_text(cls, engine: Engine, text: str) -> Module:
        """Compiles a core module of our own, written in text format."""
        lib, source, out = capi.library(), text.encode(), capi.ByteVec()
        capi.check(lib.wasmtime_wat2wasm(source, len(source), ctypes.byref(out)))
        try:
            return cls.compile(engine, out.data, out.size, "core")
        finally:
            lib.wasm_byte_vec_delete(ctypes.byref(out))

    @classmethod
    def deserialize_file(cls, engine: Engine, path: str, kind: str) -> Module:
        """Maps compiled code from a file. Raises EngineError when it is not this engine's.

        The bytes are native code: only a file that Copepod wrote may come here.
        """
        prefix = "wasmtime_module" if kind == "core" else "wasmtime_component"
        function = getattr(capi.library(), f"{prefix}_deserialize_file")
        return cls(_made(function, engine.pointer, path.encode()), kind)

    @classmethod
    def deserialize(cls, engine: Engine, data: bytes, kind: str) -> Module:
        """The same from bytes, which it copies."""
        prefix = "wasmtime_module" if kind == "core" else "wasmtime_component"
        function = getattr(capi.library(), f"{prefix}_deserialize")
        return cls(_made(function, engine.pointer, data, len(data)), kind)

    @contextmanager
    def serialized(self) -> Iterator[memoryview]:
        """The compiled bytes, in the library's own buffer, freed at the end of the block."""
        lib, out = capi.library(), capi.ByteVec()
        capi.check(getattr(lib, f"{self.prefix}_serialize")(self.pointer, ctypes.byref(out)))
        try:
            yield memoryview((ctypes.c_char * out.size).from_address(out.data)).cast("B")
        finally:
            lib.wasm_byte_vec_delete(ctypes.byref(out))

    def imports(self) -> list[ItemType]:
        """What a core module wants."""
        return self._items("import")

    def exports(self) -> list[ItemType]:
        """What a core module gives."""
        return self._items("export")

    def component_names(self, engine: Engine, side: str) -> list[str]:
        """The names that a component imports or exports (`side`) at its top level."""
        lib, names = capi.library(), []
        kind = lib.wasmtime_component_type(self.pointer)
        nth = getattr(lib, f"wasmtime_component_type_{side}_nth")
        for index in range(
            getattr(lib, f"wasmtime_component_type_{side}_count")(kind, engine.pointer)
        ):
            name, item = capi.ByteVec(), ctypes.c_void_p()
            size = ctypes.byref(name)  # the size is the first field, the address the second
            data = ctypes.byref(name, capi.ByteVec.data.offset)
            if nth(kind, engine.pointer, index, data, size, ctypes.byref(item)):
                names.append(name.text())
                lib.wasmtime_component_extern_delete(item)
        lib.wasmtime_component_type_delete(kind)
        return names

    def _items(self, side: str) -> list[ItemType]:
        lib, out, items = capi.library(), capi.ByteVec(), []
        getattr(lib, f"wasmtime_module_{side}s")(self.pointer, ctypes.byref(out))
        name_of = getattr(lib, f"wasm_{side}type_name")
        type_of = getattr(lib, f"wasm_{side}type_type")
        for item in out.pointers():
            module = lib.wasm_importtype_module(item) if side == "import" else None
            extern = type_of(item)
            function = lib.wasm_externtype_as_functype_const(extern)
            items.append(
                ItemType(
                    capi.name_at(module),
                    capi.name_at(name_of(item)),
                    lib.wasm_externtype_kind(extern),
                    _kinds(lib.wasm_functype_params(function)) if function else (),
                    _kinds(lib.wasm_functype_results(function)) if function else (),
                )
            )
        getattr(lib, f"wasm_{side}type_vec_delete")(ctypes.byref(out))
        return items


class Linker(Owned):
    """Names that a core module may import."""

    def __init__(self, engine: Engine) -> None:
        lib = capi.library()
        super().__init__(lib.wasmtime_linker_new(engine.pointer), "wasmtime_linker_delete")
        lib.wasmtime_linker_allow_shadowing(self.pointer, True)
        self._callbacks: list[Any] = []  # the library calls them: they live as long as it does

    def define_wasi(self) -> None:
        """Defines wasi_snapshot_preview1."""
        capi.check(capi.library().wasmtime_linker_define_wasi(self.pointer))

    def define(
        self, module: str, name: str, params: str, results: str, function: HostFunction
    ) -> None:
        """Defines a function of ours; types are letters, i for i32 and l for i64.

        `function(caller, values)` gets addresses (arguments in, results out, 16 bytes each) and
        gives None or a trap's address. It must not raise.
        """

        def call(_env: int, caller: int, values: int, _count: int) -> int | None:
            return function(caller, values)

        lib, callback = capi.library(), capi.HOST_FUNCTION(call)
        self._callbacks.append(callback)
        kind = lib.wasm_functype_new(
            ctypes.byref(_type_vector(params)), ctypes.byref(_type_vector(results))
        )
        where, what = module.encode(), name.encode()
        error = lib.wasmtime_linker_define_func_unchecked(
            self.pointer, where, len(where), what, len(what), kind, callback, None, None
        )
        lib.wasm_functype_delete(kind)
        capi.check(error)

    def get(self, store: Store, module: str, name: str) -> capi.Extern | None:
        """What a name stands for, if it is defined."""
        where, what, item = module.encode(), name.encode(), capi.Extern()
        found = capi.library().wasmtime_linker_get(
            self.pointer, store.context, where, len(where), what, len(what), ctypes.byref(item)
        )
        return item if found else None

    def define_item(self, store: Store, module: str, name: str, item: capi.Extern) -> None:
        """Defines something of an instance in the store."""
        where, what, place = module.encode(), name.encode(), ctypes.byref(item)
        capi.check(
            capi.library().wasmtime_linker_define(
                self.pointer, store.context, where, len(where), what, len(what), place
            )
        )

    def instantiate_pre(self, module: Module) -> InstancePre:
        """Checks every import and runs nothing. Raises EngineError for one that doesn't fit."""
        function = capi.library().wasmtime_linker_instantiate_pre
        return InstancePre(_made(function, self.pointer, module.pointer), self._callbacks)


class InstancePre(Owned):
    """A module with its imports found."""

    def __init__(self, pointer: int, callbacks: list[Any]) -> None:
        super().__init__(pointer, "wasmtime_instance_pre_delete")
        self._callbacks = callbacks  # ours may outlive the linker that was given them

    def instantiate(self, store: Store) -> Instance:
        """Makes memory and tables and runs the start function. Raises EngineError."""
        instance, trap = (ctypes.c_uint64 * 2)(), ctypes.c_void_p()
        error = capi.library().wasmtime_instance_pre_instantiate(
            self.pointer, store.context, instance, ctypes.byref(trap)
        )
        capi.check(error)
        capi.check_trap(trap.value)
        return Instance(store, instance)


class Instance:
    """A running module; it lives as long as its store."""

    def __init__(self, store: Store, instance: ctypes.Array[ctypes.c_uint64]) -> None:
        self._store, self._instance = store, instance

    def export(self, name: str) -> capi.Extern:
        """Something that the module exports; errors.InvalidArgument when it isn't there."""
        extern, what = capi.Extern(), name.encode()
        found = capi.library().wasmtime_instance_export_get(
            self._store.context, self._instance, what, len(what), ctypes.byref(extern)
        )
        if not found:
            raise errors.InvalidArgument(f"the module exports no {name!r}")
        return extern

    def memory(self, name: str) -> memoryview:
        """A memory that the module exports, until the guest runs again; empty if it has none."""
        try:
            address, size = capi.memory_at(self._store.context, self.export(name))
        except errors.InvalidArgument:
            return memoryview(b"")
        return memoryview((ctypes.c_char * size).from_address(address)).cast("B")

    def call(self, name: str, results: int) -> list[int]:
        """Calls an exported function that takes nothing; gives the raw low 64 bits of each result.

        Raises EngineError for a trap, errors.InvalidArgument when there is no such function.
        """
        extern, trap = self.export(name), ctypes.c_void_p()
        if extern.kind != capi.EXTERN_FUNC:
            raise errors.InvalidArgument(f"the module's {name!r} is not a function")
        values = (ctypes.c_uint64 * (2 * max(results, 1)))()
        error = capi.library().wasmtime_func_call_unchecked(
            self._store.context, extern.item, values, results, ctypes.byref(trap)
        )
        capi.check(error)
        capi.check_trap(trap.value)
        return list(values[0 : 2 * results : 2])


def _made(function: Any, *arguments: Any) -> int:
    """Calls a function whose last argument is where the new object's address goes."""
    out = ctypes.c_void_p()
    capi.check(function(*arguments, ctypes.byref(out)))
    if out.value is None:
        raise errors.Internal("the wasm engine gave neither an object nor an error")
    return out.value


def _kinds(vector: int) -> tuple[int, ...]:
    """The kinds in a `const wasm_valtype_vec_t *`."""
    lib = capi.library()
    pointers = capi.ByteVec.from_address(vector).pointers()
    return tuple(lib.wasm_valtype_kind(pointer) for pointer in pointers)


def _type_vector(letters: str) -> capi.ByteVec:
    """A wasm_valtype_vec_t, which wasm_functype_new empties."""
    lib, out = capi.library(), capi.ByteVec()
    kinds = [lib.wasm_valtype_new(capi.I32 if letter == "i" else capi.I64) for letter in letters]
    array = (ctypes.c_size_t * max(len(kinds), 1))(*kinds)
    lib.wasm_valtype_vec_new(ctypes.byref(out), len(kinds), array)
    return out
