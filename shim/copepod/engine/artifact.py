"""The file that holds compiled code: the engine's own bytes and, behind them, a trailer of ours.

The trailer says what the code is (kind, tier, engine key, digest of the source) and when it was
written; code whose trailer doesn't fit is refused before the engine sees it, because the engine
runs what it maps and checks only the version and the settings.
"""

from __future__ import annotations

import os
from functools import cache
from typing import NamedTuple

# 256 bytes: magic, kind, tier, length, digest of the code, digest of the source, boot id, engine
# key. The engine reads an ELF file by its headers and doesn't mind what follows it (tested).
SIZE = 256
MAGIC = b"copepod\1"
KINDS = ("core", "component")
TIERS = ("cranelift", "winch")
KEY_SIZE = 96
_BOOT_AT = 96


class Trailer(NamedTuple):
    """What a compiled file says of itself; `digest` and `source` are raw SHA-256."""

    kind: str
    tier: str
    length: int
    digest: bytes
    source: bytes
    boot: bytes
    key: str


def pack(trailer: Trailer) -> bytes:
    """The trailer's bytes, SIZE of them."""
    head = MAGIC + bytes((KINDS.index(trailer.kind), TIERS.index(trailer.tier))) + bytes(6)
    body = trailer.length.to_bytes(8, "little") + bytes(8) + trailer.digest + trailer.source
    key = trailer.key.encode().ljust(KEY_SIZE, b"\0")
    return (head + body + trailer.boot + key).ljust(SIZE, b"\0")


def unpack(data: bytes) -> Trailer | None:
    """What `pack` packed; None for anything else."""
    if len(data) != SIZE or data[:8] != MAGIC or data[8] >= len(KINDS) or data[9] >= len(TIERS):
        return None
    try:
        key = data[112 : 112 + KEY_SIZE].rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError:
        return None
    length = int.from_bytes(data[16:24], "little")
    kind, tier = KINDS[data[8]], TIERS[data[9]]
    return Trailer(kind, tier, length, data[32:64], data[64:96], data[96:112], key)


def read(fd: int) -> Trailer | None:
    """The trailer at the end of an open file; None when it has none or isn't as long as it says."""
    size = os.fstat(fd).st_size
    if size <= SIZE:
        return None
    trailer = unpack(os.pread(fd, SIZE, size - SIZE))
    return trailer if trailer and trailer.length == size - SIZE else None


@cache
def boot_id() -> bytes:
    """This boot of the kernel, 16 bytes (random(4), /proc/sys/kernel/random/boot_id)."""
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return bytes.fromhex(file.read().decode().strip().replace("-", ""))


def append(fd: int, code: memoryview, *, kind: str, tier: str, source: bytes, key: str) -> None:
    """Writes code and trailer to an empty file. Raises OSError (ENOSPC, EROFS, EDQUOT)."""
    from hashlib import sha256

    digest = sha256(code).digest()
    trailer = Trailer(kind, tier, len(code), digest, source, boot_id(), key)
    for part in (code, memoryview(pack(trailer))):
        at = 0
        while at < len(part):
            at += os.write(fd, part[at : at + (1 << 24)])


def intact(fd: int, trailer: Trailer) -> bool:
    """Whether the code is what was written, read whole: about 0.6 ms for each MB."""
    from hashlib import sha256

    digest, at = sha256(), 0
    while at < trailer.length:
        chunk = os.pread(fd, min(1 << 20, trailer.length - at), at)
        if not chunk:
            return False
        digest.update(chunk)
        at += len(chunk)
    return digest.digest() == trailer.digest


def stamp_boot(fd: int, length: int) -> None:
    """Says in the trailer that the code was found intact in this boot."""
    os.pwrite(fd, boot_id(), length + _BOOT_AT)
