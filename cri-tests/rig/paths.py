"""Where the rig finds the checkout and keeps what it built.

It writes nothing into the checkout: built tools and images live in the user's cache directory.
"""

import os
from pathlib import Path

CRI_TESTS = Path(__file__).resolve().parent.parent
CHECKOUT = CRI_TESTS.parent
SHIM_DIR = CHECKOUT / "build" / "bin"
SHIM = SHIM_DIR / "containerd-shim-copepod-v1"


def cache_dir() -> Path:
    """The cache directory (XDG Base Directory Specification), made on first use."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(base) / "copepod"
    path.mkdir(parents=True, exist_ok=True)
    return path
