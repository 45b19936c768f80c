"""SHA-256 of what is short, such as names: without hashlib, whose OpenSSL takes 6 ms of a shim's
start to load and a megabyte of its memory, and is three times as fast for what is long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:
        from _sha2 import sha256  # Python 3.12 and newer
    except ImportError:
        try:
            from _sha256 import sha256
        except ImportError:  # a Python that was built to leave all hashes to OpenSSL
            from hashlib import sha256

__all__ = ["sha256"]
