"""SHA-256 of modules in root file systems: worked out once for each file of the node, remembered.

A container's root is a new mount each time, with the same files below it: the kernel shows their
inode numbers and their times, of which nobody can set that of the last change (inode(7)). What is
remembered is a name for code in the cache and nothing else: a file that is unknown, or of a file
system that makes its times up, is read whole.

A container that runs may have mounts of its own making, an overlay of a FUSE file system for
instance, whose files show whatever it likes: what is run in there later is remembered for that
container alone (`owner`).

A file that may be written to while it is read, or was a moment before, is not remembered: what was
read could be one state of it and the name another's.
"""

from __future__ import annotations

import os
import time

from copepod.digest import sha256
from copepod.linux import mount

FOLDER = "digests"
MAX = 4096  # files remembered; past it all are forgotten

_EDGE = 4096
# statfs(2): file systems whose inodes are the kernel's own. Others (FUSE, network) may show what
# they like.
_KERNELS_OWN = {0x794C7630: "overlay", 0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs"}
_OVERLAY = 0x794C7630
_SECOND = 1_000_000_000
# Nanoseconds; the kernel's times move on in steps of up to 10 ms (inode(7), CONFIG_HZ).
_SETTLED = 50_000_000


def identify(root: str, fd: int, owner: str = "") -> str:
    """Works the digest of the file out and has the cache at `root` know it, where it stands for
    nothing but what was read. `owner`: for whom alone, where not for everybody."""
    changed, name = os.fstat(fd).st_ctime_ns, _name(fd, owner)
    settled = time.time_ns() - changed > _SETTLED
    digest = work_out(fd)
    if name and settled and _name(fd, owner) == name:
        _remember(root, name, digest)
    return digest


def work_out(fd: int) -> str:
    """Gives the digest (hex) of the file's bytes."""
    from hashlib import sha256 as fast

    state = fast()
    # One small buffer: fresh memory costs a page fault for each page of the file.
    buffer = bytearray(1 << 17)
    view, position = memoryview(buffer), 0
    while count := os.preadv(fd, [buffer], position):
        state.update(view[:count])
        position += count
    return state.hexdigest()


def recall(root: str, fd: int, owner: str = "") -> str:
    """Gives the digest of the file if the cache at `root` knows it for `owner`, else ""."""
    name = _name(fd, owner)
    if not name:
        return ""
    path = f"{root}/{FOLDER}/{name}"
    try:
        # Only root makes links that are root's.
        return os.readlink(path) if os.lstat(path).st_uid == os.geteuid() else ""
    except OSError:
        return ""


def _remember(root: str, name: str, digest: str) -> None:
    """Where the cache can't be written to nothing is remembered."""
    folder = f"{root}/{FOLDER}"
    try:
        for path in (root, folder):  # the mode is that of the last folder alone
            os.makedirs(path, mode=0o700, exist_ok=True)
        known = os.listdir(folder)
        if len(known) >= MAX:
            for other in known:
                os.unlink(f"{folder}/{other}")
        staged = f"{folder}/.{name}-{os.getpid()}"
        os.symlink(digest, staged)
        os.rename(staged, f"{folder}/{name}")
    except OSError:
        pass


def _name(fd: int, owner: str) -> str:
    """What tells this file and this state of it from all others; "" where nothing can."""
    found = os.fstat(fd)
    # Times that come out of an archive and not from the kernel are whole seconds, or all the same.
    made_up = not found.st_ctime_ns % _SECOND or found.st_ctime_ns == found.st_mtime_ns
    kind = mount.fstype(fd)
    if made_up or kind not in _KERNELS_OWN:
        return ""
    # A disk that comes with a pod may hold any inode with any time: it names its own files only.
    # An overlay has another device number in each container.
    place = "" if kind == _OVERLAY else f"{found.st_dev:x}"
    edges = os.pread(fd, _EDGE, 0) + os.pread(fd, _EDGE, max(0, found.st_size - _EDGE))
    numbers = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    who = [sha256(owner.encode()).hexdigest()[:32]] if owner else []
    words = [*who, _KERNELS_OWN[kind] + place, *(f"{number:x}" for number in numbers)]
    return "-".join([*words, sha256(edges).hexdigest()[:32]])
