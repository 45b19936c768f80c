"""seccomp profiles of the spec, compiled to BPF by libseccomp in the shim and kept by digest.

It loads no filter: the child does, with the bytes that are made here. A listener is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from copepod.spec import Seccomp


def compiled(profile: Seccomp | None) -> tuple[bytes, int]:
    """Gives (program, flags of seccomp(2)); empty for no profile."""
    if profile is None:
        return b"", 0
    return b"", 0
