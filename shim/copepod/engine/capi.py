"""The wasmtime wheel's shared library, bound by hand: its C functions that we use, and no more.

It keeps no policy: which module may run, with what, is profile.py's and run.py's to say. Any
version but the one below is refused, since a wrong signature is memory corruption, not an error.

Why not `import wasmtime`: it binds 762 functions and takes 40 to 55 ms; this takes about 2.
Source of every signature: the C headers of the wasmtime-c-api crate of the same version.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from typing import Any, NamedTuple

from copepod import errors
from copepod.engine.symbols import SIGNATURES

VERSION = "50.0.1"

EXTERN_FUNC, EXTERN_MEMORY = 0, 3  # wasmtime/extern.h
I32, I64 = 0, 1  # wasm_valkind_t of wasm.h
COMPONENT_RESULT = 19  # wasmtime_component_valkind_t of wasmtime/component/val.h

_TYPES: dict[str, Any] = {
    "v": None,
    "p": ctypes.c_void_p,
    "s": ctypes.c_char_p,
    "b": ctypes.c_bool,
    "B": ctypes.c_uint8,
    "i": ctypes.c_int32,
    "I": ctypes.c_uint32,
    "l": ctypes.c_int64,
    "L": ctypes.c_uint64,
    "z": ctypes.c_size_t,
}


class Layout(NamedTuple):
    """Where two things lie in a library's private wasi_config_t; see the functions that use it."""

    blocking: int  # one byte: file calls block the calling thread
    sockets: int  # three bytes: name look-up, UDP, TCP


LAYOUTS = {  # by build id, see build_id
    "e0004773ccc53f6a3a21d92517c19c3cad93c22d": Layout(24, 264),  # 50.0.1, manylinux x86_64
    "c76dd8736196354e6c02aecd8ab5c3b996065d31": Layout(24, 264),  # 50.0.1, manylinux aarch64
}


class ByteVec(ctypes.Structure):
    """wasm_byte_vec_t, and every other `wasm_*_vec_t`: a size and an address."""

    _fields_ = (("size", ctypes.c_size_t), ("data", ctypes.c_void_p))

    def text(self) -> str:
        """The bytes as text; a name from a module may hold anything, so nothing is refused."""
        return ctypes.string_at(self.data, self.size).decode("utf-8", "replace")

    def pointers(self) -> list[int]:
        """The elements of a vector of pointers."""
        if not self.size:
            return []
        return list((ctypes.c_size_t * self.size).from_address(self.data))


class Extern(ctypes.Structure):
    """wasmtime_extern_t: the kind at 0, the item at 8, 32 bytes in all."""

    _fields_ = (("kind", ctypes.c_uint8), ("item", ctypes.c_uint64 * 3))


class ComponentValue(ctypes.Structure):
    """wasmtime_component_val_t: the kind at 0, the value at 8; we read its first byte only."""

    _fields_ = (
        ("kind", ctypes.c_uint8),
        ("padding", ctypes.c_uint8 * 7),
        ("value", ctypes.c_uint8),
        ("rest", ctypes.c_uint8 * 23),
    )


# wasm_trap_t *(void *env, wasmtime_caller_t *, wasmtime_val_raw_t *args_and_results, size_t)
HOST_FUNCTION = ctypes.CFUNCTYPE(
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
)
# wasmtime_error_t *(void *data, wasmtime_context_t *, const wasmtime_component_func_type_t *,
#                    wasmtime_component_val_t *args, size_t, wasmtime_component_val_t *, size_t)
COMPONENT_FUNCTION = ctypes.CFUNCTYPE(
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_void_p,
    ctypes.c_size_t,
)
RAW_VALUE_SIZE = 16  # wasmtime_val_raw_t is a union with a v128


class Frame(NamedTuple):
    """A wasm frame of a trap: the function's number, and how far into its code it was."""

    function: int
    offset: int


class EngineError(errors.Error):
    """What the engine answered: its message, a WASI exit status if it is one, a trap's frames."""

    code = errors.INVALID_ARGUMENT

    def __init__(
        self,
        message: str,
        exit_status: int | None = None,
        frames: list[Frame] | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.exit_status, self.frames = message, exit_status, frames or []


class Library:
    """The library, opened: each function of SIGNATURES is an attribute.

    Raises errors.Internal when the file or one of the functions is missing.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            dll = ctypes.CDLL(path)
            for name, signature in SIGNATURES.items():
                function = getattr(dll, name)
                function.restype = _TYPES[signature[0]]
                function.argtypes = [_TYPES[letter] for letter in signature[1:]]
                setattr(self, name, function)
        except (OSError, AttributeError) as error:
            raise errors.Internal(f"the wasm engine {path} can't be used: {error}") from None

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name} is not in SIGNATURES")


def find_library() -> str:
    """Gives the path of the pinned wheel's library, without importing the wheel.

    Raises errors.Internal when no folder of sys.path has it in the version that we know.
    """
    machine = os.uname().machine
    for folder in sys.path:
        path = f"{folder or '.'}/wasmtime/{sys.platform}-{machine}/_libwasmtime.so"
        if os.path.exists(path):
            if os.path.isdir(f"{folder or '.'}/wasmtime-{VERSION}.dist-info"):
                return path
            raise errors.Internal(f"{path} is not of wasmtime {VERSION}, the only version known")
    raise errors.Internal(
        f"the Python package wasmtime {VERSION} for {machine} is not installed beside copepod"
    )


@functools.cache
def library() -> Library:
    """The library, opened once for the process: no thread, no signal handler (measured)."""
    return Library(find_library())


@functools.cache
def build_id(path: str) -> str:
    """Gives the GNU build id (hex) that the linker stamped on an ELF file: a digest of all of it.

    Reads one page. Raises errors.Internal when there is none. Source: elf(5), PT_NOTE.
    """
    with open(path, "rb") as file:
        head = file.read(4096)
    start = int.from_bytes(head[32:40], "little")  # e_phoff
    for at in range(start, start + 56 * int.from_bytes(head[56:58], "little"), 56):
        if int.from_bytes(head[at : at + 4], "little") == 4:  # PT_NOTE
            offset = int.from_bytes(head[at + 8 : at + 16], "little")
            size = int.from_bytes(head[offset + 4 : offset + 8], "little")
            if head[offset + 8 : offset + 16] == b"\3\0\0\0GNU\0":  # NT_GNU_BUILD_ID
                return head[offset + 16 : offset + 16 + size].hex()
    raise errors.Internal(f"{path} carries no build id: it is not the library of the wheel")


def allow_sockets(config: int) -> bool:
    """Allows a wasi_config_t name look-up, UDP and TCP; gives whether TCP and UDP are allowed.

    Since version 48 the engine denies TCP and UDP until its embedder calls two setters that its C
    API does not have (wasi_config_inherit_network only decides about addresses). They set two
    bytes that follow the one of wasi_config_allow_ip_name_lookup. They are written here only in a
    library whose build id stands in LAYOUTS, and only if that function moves the byte that it is
    known to move; everywhere else the guest is denied, as the engine's makers have it.
    """
    lib = library()
    lib.wasi_config_inherit_network(config)
    layout = LAYOUTS.get(build_id(lib.path))
    if layout is None:
        lib.wasi_config_allow_ip_name_lookup(config, True)
        return False
    flags = (ctypes.c_uint8 * 3).from_address(config + layout.sockets)
    before = list(flags)
    lib.wasi_config_allow_ip_name_lookup(config, True)
    if before != [0, 0, 0] or list(flags) != [1, 0, 0]:
        return False
    flags[1] = flags[2] = 1
    return True


@functools.cache
def pin_name_lookup() -> None:
    """Has the C library look names up by its own code only, whatever nsswitch.conf says, in this
    process and in what it forks.

    The engine calls getaddrinfo in the container, where the image's /etc/nsswitch.conf would name
    libraries of the image, native code, to be loaded into this process: the guest's way out of
    the engine. "files" and "dns" are in glibc itself since 2.34; before, they are loaded here,
    while the root is still the node's. Other C libraries (musl) have no such modules.
    """
    libc = ctypes.CDLL(None)
    configure = getattr(libc, "__nss_configure_lookup", None)
    if configure is None:
        return
    libc.gnu_get_libc_version.restype = ctypes.c_char_p
    version = tuple(map(int, libc.gnu_get_libc_version().split(b".")[:2]))
    if version < (2, 34):
        for name in ("libnss_files.so.2", "libnss_dns.so.2"):
            ctypes.CDLL(name)
    configure(b"hosts", b"files dns")


def block_in_place(config: int) -> bool:
    """Lets file calls of a new wasi_config_t, without preopens yet, block the guest's thread.

    Otherwise each goes to another thread and back: 4 to 6 times the time for opening a file, and
    threads. The engine has a setter, the C API doesn't; the byte follows the list of preopens,
    which is empty (capacity 0, a dangling address, length 0). Gives False, and changes nothing,
    in a library that is not in LAYOUTS or where this doesn't hold.
    """
    layout = LAYOUTS.get(build_id(library().path))
    if layout is None or layout.blocking < 24:
        return False
    head = (ctypes.c_uint64 * 3).from_address(config + layout.blocking - 24)
    flag = ctypes.c_uint8.from_address(config + layout.blocking)
    if (head[0], head[2], flag.value) != (0, 0, 0) or not 0 < head[1] <= 16:
        return False
    flag.value = 1
    return True


def check(error: int | None) -> None:
    """Raises EngineError for a wasmtime_error_t *, which it frees; None is success."""
    if error is None:
        return
    lib, status = library(), ctypes.c_int32()
    exited = lib.wasmtime_error_exit_status(error, ctypes.byref(status))
    failure = EngineError(
        _message(lib.wasmtime_error_message, error),
        status.value if exited else None,
    )
    lib.wasmtime_error_delete(error)
    raise failure


def check_trap(trap: int | None) -> None:
    """Raises EngineError for a wasm_trap_t *, which it frees; None is success."""
    if trap is None:
        return
    lib, out = library(), ByteVec()
    lib.wasm_trap_trace(trap, ctypes.byref(out))
    frames = [
        Frame(lib.wasm_frame_func_index(each), lib.wasm_frame_func_offset(each))
        for each in out.pointers()
    ]
    lib.wasm_frame_vec_delete(ctypes.byref(out))
    failure = EngineError(
        _message(lib.wasm_trap_message, trap).rstrip("\0"),
        frames=frames,
    )
    lib.wasm_trap_delete(trap)
    raise failure


def _message(function: Any, pointer: int) -> str:
    out = ByteVec()
    function(pointer, ctypes.byref(out))
    text = out.text()
    library().wasm_byte_vec_delete(ctypes.byref(out))
    return text


def name_at(address: int | None) -> str:
    """The text of a `wasm_name_t *` that the engine owns; "" for a null pointer."""
    return ByteVec.from_address(address).text() if address else ""


def caller_memory(caller: int) -> tuple[int, int]:
    """Address and size of the memory that the caller of a host function exports; (0, 0) if none.

    Both hold until the guest runs again.
    """
    lib, extern = library(), Extern()
    if not lib.wasmtime_caller_export_get(caller, b"memory", 6, ctypes.byref(extern)):
        return 0, 0
    return memory_at(lib.wasmtime_caller_context(caller), extern)


def memory_at(context: int, extern: Extern) -> tuple[int, int]:
    """Address and size of a memory, until the guest runs again; (0, 0) for anything else."""
    if extern.kind != EXTERN_MEMORY:
        return 0, 0
    lib = library()
    address = lib.wasmtime_memory_data(context, extern.item)
    return address or 0, lib.wasmtime_memory_data_size(context, extern.item)


def u32_at(address: int) -> int:
    """An unsigned 32-bit number in the library's or the guest's memory."""
    return ctypes.c_uint32.from_address(address).value


def u8_at(address: int) -> int:
    """A byte in the library's or the guest's memory."""
    return ctypes.c_uint8.from_address(address).value
