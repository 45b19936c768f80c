"""Compiled code becomes a running guest: mapped, linked, run to its exit code.

Runs in the container process only: the first engine installs signal handlers. A module that
imports what we don't provide is refused at `link`, before any of its code has run.
"""

from __future__ import annotations

import os

from copepod import errors
from copepod.engine import artifact, capi, component, guest, listen, objects, wasi
from copepod.engine.guest import Loaded, Options, Ready
from copepod.engine.imports import Imports
from copepod.engine.limits import Preopen
from copepod.engine.preview1 import MODULE as _P1
from copepod.engine.profile import Profile
from copepod.engine.profiled import Unmade
from copepod.values import replace

__all__ = ["Loaded", "Options", "Ready", "Unusable", "link", "load"]

# Keeps the number of a listening socket's descriptor free of the engine's own.
_PLACEHOLDER = Preopen("/", "", writable=False)
_KINDS = ("function", "global", "table", "memory", "tag")  # wasm_externkind_t


class Unusable(errors.DataLoss):
    """The compiled file is not what this engine can run: treat it as a miss and compile again."""


class Ahead:
    """An engine made before it is known what it is to run: for the code that is most likely.

    `link` makes what a core module imports, too, which a component has no use for.
    """

    def __init__(self, profile: Profile, tier: str) -> None:
        _quiet()
        capi.pin_name_lookup()
        self._profile = replace(profile, parallel=False)
        self._tier = tier
        self._engine: objects.Engine | None = None
        if profile.profiling == "none":
            self._engine = self._profile.at(tier).engine()
        self._imports: Imports | None = None

    def link(self) -> None:
        """Makes the imports, too."""
        if self._engine is not None:
            self._imports = Imports(self._engine)

    def take(self, tier: str) -> tuple[objects.Engine, Imports | None]:
        """Gives an engine for code of this tier; what was made, if it fits, once."""
        made, self._engine = self._engine, None
        imports, self._imports = self._imports, None
        if made is not None and tier == self._tier:
            return made, imports
        _free(made, imports)
        return self._profile.at(tier).engine(), None


def _free(engine: objects.Engine | None, imports: Imports | None) -> None:
    if imports is not None:
        imports.linker.close()
    if engine is not None:
        engine.close()


def load(fd: int, kind: str, profile: Profile, ahead: Ahead | None = None) -> Loaded:
    """Maps the compiled file `fd` shared; the compiler is the one that its trailer names.

    /proc of the host has to be reachable, so call it before pivot_root. `fd` may be closed
    after; `ahead` is of the same profile. Raises Unusable when the file is torn, of another kind
    or of another engine.
    """
    trailer = artifact.read(fd)
    if trailer is None or trailer.kind != kind:
        raise Unusable(f"the compiled file is torn or not a {kind}'s: it has to be compiled again")
    profile = profile.at(trailer.tier)
    if trailer.key != profile.key():
        raise Unusable(f"the compiled file is for engine {trailer.key}, not {profile.key()}")
    if profile.profiling != "none":
        _quiet()
        capi.pin_name_lookup()
        capi.library()
        return Unmade(os.pread(fd, trailer.length, 0), kind, profile)
    engine, imports = (ahead or Ahead(profile, trailer.tier)).take(trailer.tier)
    try:
        module = objects.Module.deserialize_file(engine, f"/proc/self/fd/{fd}", kind)
    except capi.EngineError as error:
        _free(engine, imports)
        reason = " ".join(error.message.split())
        raise Unusable(f"the engine does not take the compiled file: {reason}") from None
    return Loaded(engine, module, profile, imports)


def _quiet() -> None:
    """The engine's own knobs are environment variables of the process, not of the guest.

    RUST_BACKTRACE would put the host's frames into messages, RUST_LOG its log on the guest's
    stderr. One worker thread is enough for the runtime under WASI; its default is one per core.
    """
    for name in ("RUST_BACKTRACE", "RUST_LIB_BACKTRACE", "RUST_LOG", "WASMTIME_BACKTRACE_DETAILS"):
        os.environ.pop(name, None)
    os.environ["TOKIO_WORKER_THREADS"] = "1"


def link(loaded: Loaded, options: Options) -> Ready:
    """Finds every import and the entry; no guest code runs. Call it after pivot_root.

    Raises errors.InvalidArgument naming what is missing.
    """
    if isinstance(loaded, Unmade):
        loaded = loaded.made()
    if loaded.kind == "component":
        return component.link(loaded, options)
    knobs = options.knobs
    entry, results = _entry(loaded.module, options.entry or knobs.entry)
    imports = loaded.imports or Imports(loaded.engine)
    linker, exit_code = imports.linker, imports.exit_code
    store = guest.store(loaded, knobs)
    env, preopens, connected = options.env, knobs.preopens, None
    if knobs.listen:
        sockets = listen.bind(knobs.listen)
        env = [*env, f"LISTEN_FDS={len(sockets)}"]  # sd_listen_fds(3), which starts at 3 too
        preopens = (*[_PLACEHOLDER] * len(sockets), *preopens)
        connected = listen.connect(loaded.engine, linker, store, sockets)
    try:
        pre = linker.instantiate_pre(loaded.module)
    except capi.EngineError as error:
        raise errors.InvalidArgument(_missing(loaded.module, linker, store, error)) from None
    store.set_wasi(wasi.config(options.args, env, options.cwd, preopens))

    def call() -> int:
        instance = pre.instantiate(store)
        if connected:
            connected(instance)
        try:
            for name, count in entry:
                values = instance.call(name, count)
        except capi.EngineError as error:
            exit_code.over = True  # a dump may take longer than what is left of the time
            if knobs.coredump and exit_code.code is None and error.exit_status is None:
                guest.dump(knobs.coredump, options.args[0], error, instance)
            raise
        return values[0] & 0xFF if results else 0

    return Ready(call, loaded, knobs, exit_code)


def _entry(module: objects.Module, wanted: str | None) -> tuple[list[tuple[str, int]], int]:
    """The exports to call, in order, each with its count of results, and the last one's count."""
    functions = {item.name: item for item in module.exports() if item.kind == capi.EXTERN_FUNC}
    name = wanted or "_start"
    item = functions.get(name)
    if item is None:
        raise errors.InvalidArgument(_no_entry(name, wanted, sorted(functions)))
    if item.params or len(item.results) > 1 or any(kind != capi.I32 for kind in item.results):
        raise errors.InvalidArgument(
            f"the export {name!r} can't be an entry: that takes nothing and gives nothing or an "
            "i32, the exit code"
        )
    calls = [(name, len(item.results))]
    if name != "_start" and "_initialize" in functions and name != "_initialize":
        calls.insert(0, ("_initialize", 0))
    return calls, len(item.results)


def _no_entry(name: str, wanted: str | None, functions: list[str]) -> str:
    shown = ", ".join(functions[:10]) + (", ..." if len(functions) > 10 else "")
    have = f"it exports {shown}" if functions else "it exports no function"
    if wanted:
        return f"the module exports no function {name!r} to start with; {have}"
    if functions:
        return (
            "the module exports no function '_start': it is a library, not a command; name one "
            f"to call as path#name; {have}"
        )
    return f"the module exports no function '_start', so there is nothing to run; {have}"


def _missing(
    module: objects.Module, linker: objects.Linker, store: objects.Store, error: capi.EngineError
) -> str:
    missing = [
        f"{item.module}.{item.name} ({_KINDS[item.kind] if item.kind < 5 else 'item'})"
        for item in module.imports()
        if linker.get(store, item.module, item.name) is None
    ]
    if not missing:
        return f"an import of the module does not fit: {' '.join(error.message.split())}"
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return (
        f"the module imports {', '.join(missing[:3])}{more}, which Copepod does not provide: it "
        f"provides WASI preview 1 ({_P1})"
    )
