"""Our table of C functions against the wheel's own binding, and against what the room calls."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import pytest

from copepod import errors
from copepod.engine import capi, component_objects, symbols

_LETTERS = {
    ctypes.c_bool: "b",
    ctypes.c_uint8: "B",
    ctypes.c_ubyte: "B",
    ctypes.c_int32: "i",
    ctypes.c_uint32: "I",
    ctypes.c_int64: "l",
}


@pytest.fixture(scope="module")
def theirs() -> Any:
    return pytest.importorskip("wasmtime._bindings")


def _letter(kind: Any, ours: str) -> str:
    if kind is None:
        return "v"
    if kind is ctypes.c_size_t:  # the same type as c_uint64 here: both letters are right
        return ours if ours in "zL" else "z"
    if kind in _LETTERS:
        return _LETTERS[kind]
    return ours if ours in "ps" else "p"


@pytest.mark.parametrize("name", sorted(symbols.SIGNATURES))
def test_signature_is_the_wheels(theirs: Any, name: str) -> None:
    function, signature = getattr(theirs, f"_{name}"), symbols.SIGNATURES[name]
    assert len(function.argtypes) == len(signature) - 1
    kinds = (function.restype, *function.argtypes)
    assert "".join(map(_letter, kinds, signature)) == signature


def test_structures_have_the_wheels_sizes(theirs: Any) -> None:
    assert ctypes.sizeof(capi.Extern) == ctypes.sizeof(theirs.wasmtime_extern_t)
    assert ctypes.sizeof(capi.ByteVec) == ctypes.sizeof(theirs.wasm_byte_vec_t)
    assert ctypes.sizeof(theirs.wasmtime_val_raw_t) == capi.RAW_VALUE_SIZE
    assert ctypes.sizeof(capi.ComponentValue) == ctypes.sizeof(theirs.wasmtime_component_val_t)
    assert capi.ComponentValue.value.offset == theirs.wasmtime_component_val_t.of.offset
    for name in ("wasmtime_instance_t", "wasmtime_func_t", "wasmtime_component_instance_t"):
        assert ctypes.sizeof(getattr(theirs, name)) == 16
    assert ctypes.sizeof(theirs.wasmtime_component_func_t) == 32


def test_every_function_of_the_table_is_called_somewhere() -> None:
    room = Path(component_objects.__file__).parent
    text = "".join(path.read_text() for path in room.glob("*.py") if path.name != "symbols.py")
    built = {
        f"{prefix}_{end}"
        for prefix in ("wasmtime_module", "wasmtime_component")
        for end in ("serialize", "deserialize", "deserialize_file", "delete", "imports", "exports")
    }
    built |= {
        f"{prefix}{side}{end}"
        for side in ("import", "export")
        for prefix, end in (
            ("wasm_", "type_name"),
            ("wasm_", "type_type"),
            ("wasm_", "type_vec_delete"),
            ("wasmtime_component_type_", "_count"),
            ("wasmtime_component_type_", "_nth"),
        )
    }
    called = set(re.findall(r"\bwas[mi]\w+", text)) | built
    called |= {f"wasmtime_config_{name}_set" for name in re.findall(r'"(wasm_\w+)"', text)}
    assert set(symbols.SIGNATURES) - called == set()


def test_the_library_of_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "wasmtime" / "linux-x86_64" / "_libwasmtime.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"")
    (tmp_path / "wasmtime-49.0.0.dist-info").mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.setattr("os.uname", lambda: type("uname", (), {"machine": "x86_64"}))
    with pytest.raises(errors.Internal, match=r"not of wasmtime 50\.0\.1"):
        capi.find_library()
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(errors.Internal, match="is not installed"):
        capi.find_library()


def test_build_id_is_the_librarys_digest() -> None:
    assert re.fullmatch("[0-9a-f]{40}", capi.build_id(capi.find_library()))


def test_a_missing_function_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(symbols.SIGNATURES, "wasmtime_of_tomorrow", "v")
    with pytest.raises(errors.Internal, match="wasmtime_of_tomorrow"):
        capi.Library(capi.find_library())
