"""A WASI 0.2 component becomes a running guest: `wasi:cli/run`, with all of wasip2 under it.

It refuses, before any guest code runs, a component that is no command or that imports an
interface which the engine does not have; a function that an interface lacks shows at the start.
"""

from __future__ import annotations

import re

from copepod import errors
from copepod.engine import component_objects, guest, objects, wasi
from copepod.engine.guest import ExitCode, Loaded, Options, Ready

_VERSION = re.compile(r"@0\.2\.\d+$")
_SOCKETS, _OUTGOING = "wasi:sockets/", "wasi:http/outgoing-handler"
# The engine's name of the interface; a guest of another 0.2.x is linked to it too. The function is
# not stable yet and the engine's own is switched off, but without it a component has 0 and 1 only.
_EXIT = "wasi:cli/exit@0.2.12"
_RUN, _HTTP = "wasi:cli/run", "wasi:http/incoming-handler"
# The interfaces of WASI 0.2 that the linker of this engine has; checked by a test.
PROVIDED = frozenset(
    f"wasi:{package}/{name}"
    for package, names in {
        "cli": "environment exit stderr stdin stdout terminal-input terminal-output "
        "terminal-stderr terminal-stdin terminal-stdout",
        "clocks": "monotonic-clock wall-clock",
        "filesystem": "preopens types",
        "http": "outgoing-handler types",
        "io": "error poll streams",
        "random": "insecure insecure-seed random",
        "sockets": "instance-network ip-name-lookup network tcp tcp-create-socket udp "
        "udp-create-socket",
    }.items()
    for name in names.split()
)


def world(module: objects.Module, engine: objects.Engine) -> str:
    """Gives "command", "http" or "library", by what the component exports."""
    names = {_VERSION.sub("", name) for name in module.component_names(engine, "export")}
    if _RUN in names:
        return "command"
    return "http" if _HTTP in names else "library"


def check_imports(module: objects.Module, engine: objects.Engine) -> list[str]:
    """Gives what the component imports.

    Raises errors.InvalidArgument naming what the engine lacks.
    """
    wanted = module.component_names(engine, "import")
    missing = [name for name in wanted if not _provided(name)]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise errors.InvalidArgument(
            f"the component imports {', '.join(missing[:3])}{more}, which Copepod does not "
            "provide: it provides WASI 0.2 (wasi:cli, clocks, filesystem, http, io, random, "
            "sockets)"
        )
    return wanted


def _provided(name: str) -> bool:
    bare = _VERSION.sub("", name)
    return bare != name and bare in PROVIDED


def link(loaded: Loaded, options: Options) -> Ready:
    """Checks imports and entry. Raises errors.InvalidArgument naming what is missing."""
    knobs = options.knobs
    if knobs.coredump:
        raise errors.InvalidArgument("a component can't be dumped: its memories are not exported")
    entry = _entry(loaded, options.entry or knobs.entry)
    wanted = check_imports(loaded.module, loaded.engine)
    if not knobs.network and any(name.startswith(_OUTGOING) for name in wanted):
        raise errors.InvalidArgument(
            f"the component imports {_OUTGOING}, but its network is off: the engine has no such "
            "switch, so it can't be run"
        )
    linker = component_objects.ComponentLinker(loaded.engine)
    linker.define_wasi()
    exit_code = ExitCode()
    linker.define(_EXIT, "exit-with-code", exit_code.exit_with_code)
    sockets = knobs.network and any(name.startswith(_SOCKETS) for name in wanted)
    config = wasi.config(options.args, options.env, options.cwd, knobs.preopens, network=sockets)
    store = guest.store(loaded, knobs)
    store.set_wasi(config, http=True)

    def call() -> int:
        return 0 if linker.instantiate(store, loaded.module).call(entry) else 1

    return Ready(call, loaded, knobs, exit_code)


def _entry(loaded: Loaded, wanted: str | None) -> list[str]:
    """The way to the function: the interface's name, if it is in one, and its own."""
    names = loaded.module.component_names(loaded.engine, "export")
    if wanted:
        if wanted not in names:
            shown = ", ".join(names) or "nothing"
            raise errors.InvalidArgument(
                f"the component exports no function {wanted!r} to start with; it exports {shown}"
            )
        return [wanted]
    for name in names:
        if _VERSION.sub("", name) == _RUN and name != _RUN:
            return [name, "run"]
    if any(name.startswith(_HTTP) for name in names):
        raise errors.InvalidArgument(
            f"the component serves HTTP ({_HTTP}): it is not a command that can be run"
        )
    raise errors.InvalidArgument(
        f"the component does not export {_RUN}@0.2, so there is nothing to run; it exports "
        f"{', '.join(names) or 'nothing'}"
    )
