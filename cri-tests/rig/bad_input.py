"""Broken images and impossible requests: each must end in one clear sentence and leave nothing.

It makes them and says what the sentence must name; the words around that are the shim's affair.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rig import guests, images, oci
from rig.oci import Entry, Image
from rig.runs import Runner
from rig.shell import Done

HOST = "bad.copepod.test"
NO_MODULE = f"{HOST}/no-module:1"
NOT_WASM = f"{HOST}/not-wasm:1"
TRUNCATED = f"{HOST}/truncated:1"
IMPORTING = f"{HOST}/importing:1"
PRECOMPILED = f"{HOST}/precompiled:1"
PRECOMPILED_LAYER = f"{HOST}/precompiled:layer"
TAMPERED = f"{HOST}/tampered:1"


@dataclass(frozen=True, slots=True)
class Bad:
    """A request that must fail: its name, what does it, and the words of which one must be said.

    `since` is the containerd whose ctr can ask for it.
    """

    name: str
    ask: Callable[[Runner], Done]
    says: tuple[str, ...]
    layers: bool = False
    since: tuple[int, ...] = ()


def catalogue(*, layers: bool) -> list[Image]:
    """The broken images."""
    whole = guests.wasm_c().read_bytes()
    found = [
        Image(NO_MODULE, (oci.tar_layer([Entry("readme", b"nothing to run\n")]),)),
        images.rootfs_wasm(NOT_WASM, b"this is a text, not a module\n"),
        images.rootfs_wasm(TRUNCATED, whole[: len(whole) // 2]),
        images.rootfs_wasm(IMPORTING, guests.importing("env", "nobody_has_this")),
        images.rootfs_wasm(PRECOMPILED, guests.precompiled()),
    ]
    if layers:
        # Same program, other bytes: a custom section makes its digest unknown to every cache.
        found.append(images.layer_wasm(TAMPERED, whole + b"\x00\x05\x04note"))
        found.append(images.layer_wasm(PRECOMPILED_LAYER, guests.precompiled()))
    return found


def _plain(
    image: str, *flags: str, args: tuple[str, ...] = (images.MODULE,)
) -> Callable[[Runner], Done]:
    return lambda runner: runner.run(image, *args, flags=flags)


def _tampered(runner: Runner) -> Done:
    """Turns one bit of the stored blob over, which containerd does not look at again."""
    digest = oci.digest(guests.wasm_c().read_bytes() + b"\x00\x05\x04note")
    blobs = runner.node.settings.root / "io.containerd.content.v1.content" / "blobs"
    path = blobs / digest.replace(":", "/")
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return runner.run(TAMPERED, images.MODULE)


MISSING = "type=bind,src=/no/such/source,dst=/data,options=rbind:ro"
CASES = (
    Bad("no module found", _plain(NO_MODULE, args=("/absent.wasm",)), ("absent.wasm",)),
    Bad("not wasm", _plain(NOT_WASM), ("not a wasm", "neither", "wasm", "exec format")),
    Bad(
        "truncated wasm", _plain(TRUNCATED), ("truncated", "unexpected end", "not valid", "invalid")
    ),
    Bad("an import nobody provides", _plain(IMPORTING), ("nobody_has_this",)),
    Bad("precompiled module", _plain(PRECOMPILED), ("precompiled",)),
    Bad("precompiled layer", _plain(PRECOMPILED_LAYER), ("precompiled",), layers=True),
    Bad("wrong digest", _tampered, ("digest",), layers=True),
    Bad(
        # One that is merely missing is made, as runc does.
        "cwd that cannot be",
        _plain(images.C_ROOTFS, "--cwd", "/guest.wasm/dir", args=(images.MODULE, "hello")),
        ("/guest.wasm/dir",),
    ),
    Bad(
        "unknown user",
        _plain(images.C_ROOTFS, "--user", "nosuchuser", args=(images.MODULE, "hello")),
        ("no users found",),
        since=(1, 7),
    ),
    Bad(
        "mount source that does not exist",
        _plain(images.C_ROOTFS, "--mount", MISSING, args=(images.MODULE, "hello")),
        ("/no/such/source",),
    ),
)
