"""How the engine is set up, as plain data: what goes into the cache's key and into the config.

It refuses settings that the engine would answer with a panic, which ends the process.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from copepod import errors
from copepod.values import dataclass, replace

if TYPE_CHECKING:
    from copepod.engine.objects import Engine

MIB = 1 << 20
DEFAULT_STACK = MIB
MIN_STACK = 64 << 10
MAX_STACK = 64 * MIB
# Our names of the proposals that can be switched off, and the config setters they stand for.
FEATURES = {
    "exceptions": "wasm_exceptions",
    "function-references": "wasm_function_references",
    "gc": "wasm_gc",
    "memory64": "wasm_memory64",
    "multi-memory": "wasm_multi_memory",
    "relaxed-simd": "wasm_relaxed_simd",
    "simd": "wasm_simd",
    "tail-call": "wasm_tail_call",
    "threads": "wasm_threads",
}
# Switching the first off takes the second along: the engine panics on the second alone.
_NEEDED_BY = {"function-references": "gc", "simd": "relaxed-simd"}
_STRATEGIES = {"cranelift": 1, "winch": 2}  # enum of wasmtime/config.h
_PROFILERS = {"none": 0, "jitdump": 1, "perfmap": 3}


@dataclass(frozen=True, slots=True)
class Profile:
    """Settings of an engine.

    `tier`, `disabled`, `fuel` and `epoch` change the code that is made, so they are in the key;
    `stack` (bytes), `profiling` and `parallel` are of one process only.
    """

    tier: str = "cranelift"
    disabled: tuple[str, ...] = ()
    fuel: bool = False
    epoch: bool = False
    stack: int = DEFAULT_STACK
    profiling: str = "none"
    parallel: bool = True

    def __post_init__(self) -> None:
        if self.tier not in _STRATEGIES:
            raise errors.InvalidArgument(f"there is no compiler {self.tier!r}")
        if self.profiling not in _PROFILERS:
            raise errors.InvalidArgument(f"there is no profiling {self.profiling!r}")
        if not MIN_STACK <= self.stack <= MAX_STACK:
            raise errors.InvalidArgument(f"a wasm stack of {self.stack} bytes is not in 64Ki..64Mi")
        unknown = sorted(set(self.disabled) - FEATURES.keys())
        if unknown:
            raise errors.InvalidArgument(f"there is no wasm feature {unknown[0]!r}")
        closed = set(self.disabled) | {_NEEDED_BY.get(name, name) for name in self.disabled}
        object.__setattr__(self, "disabled", tuple(sorted(closed)))

    def at(self, tier: str) -> Profile:
        """The same settings for another compiler."""
        return replace(self, tier=tier)

    def key(self) -> str:
        """Names the folder of the cache whose code this profile may run; loads no library.

        It holds the library's version and build id, the settings that change code and the CPU's
        features. Raises errors.Internal when the engine is not installed.
        """
        settings = f"{self.tier} {self.disabled} {self.fuel} {self.epoch}"
        return _key(self.tier, settings)

    def engine(self) -> Engine:
        """Makes an engine; the first one installs signal handlers, so never in the shim."""
        from copepod.engine import capi, objects

        lib = capi.library()
        config = lib.wasm_config_new()
        lib.wasmtime_config_strategy_set(config, _STRATEGIES[self.tier])
        lib.wasmtime_config_parallel_compilation_set(config, self.parallel)
        lib.wasmtime_config_consume_fuel_set(config, self.fuel)
        lib.wasmtime_config_epoch_interruption_set(config, self.epoch)
        # The engine wants the stack for asynchronous calls, which we never make, to be larger.
        lib.wasmtime_config_async_stack_size_set(config, self.stack + MIB)
        lib.wasmtime_config_max_wasm_stack_set(config, self.stack)
        lib.wasmtime_config_profiler_set(config, _PROFILERS[self.profiling])
        # WASI 0.3 can't be served through the C API, so nothing needs the machinery under it.
        lib.wasmtime_config_wasm_component_model_async_set(config, False)
        lib.wasmtime_config_concurrency_support_set(config, False)
        for name in self.disabled:
            getattr(lib, f"wasmtime_config_{FEATURES[name]}_set")(config, False)
        return objects.Engine(config)


@functools.cache
def _key(tier: str, settings: str) -> str:
    from copepod.digest import sha256
    from copepod.engine import capi

    machine = os.uname().machine
    text = f"{settings} {capi.build_id(capi.find_library())} {_cpu()}"
    return f"{capi.VERSION}-{machine}-{tier}-{sha256(text.encode()).hexdigest()[:16]}"


def _cpu() -> str:
    """The CPU's feature bits, in the form that the kernel gives to udev: one short read."""
    try:
        with open("/sys/devices/system/cpu/modalias") as file:
            return file.read().strip()
    except OSError:
        with open("/proc/cpuinfo") as file:
            return file.read(8192)
