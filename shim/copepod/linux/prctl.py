"""prctl(2), personality(2) and keyctl(2): attributes of the calling process.

It holds numbers and calls, no policy.
"""

from __future__ import annotations

import ctypes
import errno
import os

from copepod.linux import libc

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_IS_SET = 1
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

KEYCTL_JOIN_SESSION_KEYRING = 1


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """prctl(2) with whole numbers."""
    result = libc.named("prctl")(option, a, b, c, d)
    if result < 0:
        raise libc.fail()
    return result


def set_name(name: str) -> None:
    """PR_SET_NAME: what ps(1) shows; the kernel keeps 15 bytes."""
    data = ctypes.create_string_buffer(os.fsencode(name)[:15])
    prctl(PR_SET_NAME, ctypes.addressof(data))


def personality(persona: int) -> None:
    """personality(2)."""
    if libc.named("personality")(persona) < 0:
        raise libc.fail()


def join_session_keyring(name: str) -> None:
    """A session keyring of its own: keyrings have no namespace (session-keyring(7)).

    A kernel without keyrings, and a quota that is used up, leave the inherited one in place.
    """
    try:
        number = libc.number_of("keyctl")
        libc.syscall(number, KEYCTL_JOIN_SESSION_KEYRING, os.fsencode(name))
    except KeyError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EDQUOT, errno.EPERM):
            raise
