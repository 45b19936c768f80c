"""The trailer behind compiled code: a round trip, and everything else is None."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from copepod.engine import artifact

DIGEST = st.binary(min_size=32, max_size=32)
TRAILERS = st.builds(
    artifact.Trailer,
    kind=st.sampled_from(artifact.KINDS),
    tier=st.sampled_from(artifact.TIERS),
    length=st.integers(0, 2**63),
    digest=DIGEST,
    source=DIGEST,
    boot=st.binary(min_size=16, max_size=16),
    key=st.text("abcdef0123456789.-", max_size=artifact.KEY_SIZE),
)


@given(TRAILERS)
def test_round_trip(trailer: artifact.Trailer) -> None:
    data = artifact.pack(trailer)
    assert len(data) == artifact.SIZE
    assert artifact.unpack(data) == trailer


@given(st.binary(max_size=artifact.SIZE + 1), st.booleans())
def test_anything_else_is_none_or_a_trailer(data: bytes, magic: bool) -> None:
    data = artifact.MAGIC + data[8:] if magic else data
    trailer = artifact.unpack(data)
    assert trailer is None or trailer.kind in artifact.KINDS


def test_file_says_when_it_is_torn() -> None:
    fd, code = os.memfd_create("test"), memoryview(os.urandom(100_000))
    try:
        artifact.append(fd, code, kind="core", tier="winch", source=bytes(32), key="k")
        trailer = artifact.read(fd)
        assert trailer is not None
        assert (trailer.length, trailer.boot) == (100_000, artifact.boot_id())
        assert artifact.intact(fd, trailer)
        os.pwrite(fd, b"\0\0", 50_000)
        assert not artifact.intact(fd, trailer)
        os.ftruncate(fd, 100_000)
        assert artifact.read(fd) is None
        os.ftruncate(fd, 10)
        assert artifact.read(fd) is None
    finally:
        os.close(fd)
