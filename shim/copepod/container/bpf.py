"""bpf(2) for one purpose: a device program attached to a control group.

It knows no rules, keeps no state, and is imported only on version 2 machines (ctypes costs 3 ms).
"""

from __future__ import annotations

import ctypes
import errno
import os

_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361}
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH = 5, 8, 9
_PROG_TYPE_CGROUP_DEVICE, _CGROUP_DEVICE = 15, 6
_ALLOW_MULTI, _REPLACE = 1 << 1, 1 << 2
_TRIES = 30  # the verifier gives up with EAGAIN when a signal arrives


class _Load(ctypes.Structure):
    """The head of union bpf_attr for BPF_PROG_LOAD; the kernel takes the rest as zero."""

    _fields_ = [
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
    ]


class _Attach(ctypes.Structure):
    """The part of union bpf_attr for BPF_PROG_ATTACH and BPF_PROG_DETACH."""

    _fields_ = [
        ("target_fd", ctypes.c_uint32),
        ("attach_bpf_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("replace_bpf_fd", ctypes.c_uint32),
    ]


def _bpf(command: int, attr: ctypes.Structure) -> int:
    number = _SYS_BPF.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(_TRIES):
        got: int = libc.syscall(
            ctypes.c_long(number),
            ctypes.c_int(command),
            ctypes.byref(attr),
            ctypes.c_uint(ctypes.sizeof(attr)),
        )
        if got >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    if got < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return got


def load(instructions: bytes) -> int:
    """Loads a device program and gives its descriptor (close-on-exec, as bpf(2) makes all)."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    # Which licence a program states decides only which helpers it may call; this one calls none.
    words = ctypes.create_string_buffer(b"Apache-2.0")
    attr = _Load(
        prog_type=_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt=len(instructions) // 8,
        insns=ctypes.addressof(code),
        license=ctypes.addressof(words),
    )
    try:
        return _bpf(_PROG_LOAD, attr)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
    # Before 5.11 programs count against RLIMIT_MEMLOCK, per user: many containers fill it.
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    return _bpf(_PROG_LOAD, attr)


def attach(group_fd: int, program_fd: int, *, replaces: int = -1) -> None:
    """Attaches to the group of the directory descriptor, in the place of `replaces` if given.

    Programs of others (systemd's) stay: all must allow. Kernels before 5.6 can't replace, so the
    old one goes after the new one has come.
    """
    attr = _Attach(
        target_fd=group_fd,
        attach_bpf_fd=program_fd,
        attach_type=_CGROUP_DEVICE,
        attach_flags=_ALLOW_MULTI,
    )
    if replaces < 0:
        _bpf(_PROG_ATTACH, attr)
        return
    attr.attach_flags, attr.replace_bpf_fd = _ALLOW_MULTI | _REPLACE, replaces
    try:
        _bpf(_PROG_ATTACH, attr)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        attr.attach_flags, attr.replace_bpf_fd = _ALLOW_MULTI, 0
        _bpf(_PROG_ATTACH, attr)
        old = _Attach(target_fd=group_fd, attach_bpf_fd=replaces, attach_type=_CGROUP_DEVICE)
        _bpf(_PROG_DETACH, old)
