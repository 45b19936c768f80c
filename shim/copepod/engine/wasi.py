"""The WASI configuration of a container: arguments, environment, stdio, preopened folders.

It refuses what would reach the guest changed: text that is not UTF-8 or that holds a NUL byte.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from copepod import errors
from copepod.engine import capi
from copepod.engine.limits import ROOT, Preopen


def config(
    args: list[str],
    env: list[str],
    cwd: str,
    preopens: tuple[Preopen, ...] = (ROOT,),
    *,
    network: bool = False,
) -> int:
    """Gives a wasi_config_t for Store.set_wasi. Call it after pivot_root: folders are opened here.

    PWD becomes `cwd`: Go's runtime takes its working directory from there, and WASI has none.
    `network` opens all of wasi:sockets, in the network namespace of the process.
    Raises errors.InvalidArgument for text that can't be passed on and for a folder that can't
    be opened.
    """
    lib = capi.library()
    pointer: int = lib.wasi_config_new()
    try:
        _texts(pointer, args, env, cwd)
        capi.block_in_place(pointer)
        for preopen in preopens:
            _preopen(pointer, preopen)
        if network and not capi.allow_sockets(pointer):
            raise errors.FailedPrecondition(
                "TCP and UDP can't be opened to the guest: this build of the wasm engine is not "
                "one that Copepod knows; install its own, or switch the guest's network off"
            )
    except BaseException:
        lib.wasi_config_delete(pointer)
        raise
    lib.wasi_config_inherit_stdin(pointer)
    lib.wasi_config_inherit_stdout(pointer)
    lib.wasi_config_inherit_stderr(pointer)
    return pointer


def _texts(pointer: int, args: list[str], env: list[str], cwd: str) -> None:
    lib = capi.library()
    pairs = [entry.partition("=") for entry in env if not entry.startswith("PWD=")]
    names = [name for name, _, _ in pairs] + ["PWD"]
    values = [value for _, _, value in pairs] + [cwd]
    done = lib.wasi_config_set_argv(pointer, len(args), _strings("an argument", args))
    done = done and lib.wasi_config_set_env(
        pointer,
        len(names),
        _strings("the name of an environment variable", names),
        _strings("the value of an environment variable", values),
    )
    if not done:
        raise errors.Internal("the wasm engine did not take the arguments or the environment")


def _strings(what: str, texts: list[str]) -> Any:
    """A char *[] that lives as long as the object given."""
    encoded = []
    for text in texts:
        try:
            encoded.append(text.encode())
        except UnicodeEncodeError:
            raise errors.InvalidArgument(f"{what} is not valid UTF-8: {text!a}") from None
        if b"\0" in encoded[-1]:
            raise errors.InvalidArgument(f"{what} holds a NUL byte: {text!a}")
    return (ctypes.c_char_p * max(len(encoded), 1))(*encoded)


def _preopen(pointer: int, preopen: Preopen) -> None:
    lib = capi.library()
    name, path = preopen.name.encode(), os.fsencode(preopen.path)
    if lib.wasi_config_preopen_dir(pointer, path, name, preopen.writable):
        return
    try:  # the library doesn't say why
        os.close(os.open(preopen.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        why = "the wasm engine refuses it"
    except OSError as error:
        why = os.strerror(error.errno or 0)
    raise errors.InvalidArgument(f"the folder {preopen.path} can't be given to the guest: {why}")
