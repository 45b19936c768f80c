"""A seccomp profile becomes a BPF program, by libseccomp (pyseccomp); runs in a child of the shim.

It checks nothing that container/seccomp.py has checked. What it adds to libseccomp's program is
runc's answer to system calls that are newer than the profile: "there is no such call".
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Any

from copepod.errors import InvalidArgument

if TYPE_CHECKING:
    from copepod.spec import Seccomp, SeccompArg

# <linux/bpf_common.h>, <linux/seccomp.h>
_LD_ABS = 0x20
_JEQ = 0x15
_JGT = 0x25
_JGE = 0x35
_JA = 0x05
_RET = 0x06
_ARCH_OFFSET = 4
_NR_OFFSET = 0
_RET_ERRNO = 0x00050000
_X32_BIT = 0x40000000
_KNOWN_ERROR = -1  # __NR_SCMP_ERROR of <seccomp.h>
_MANY = 32  # rules from which a binary tree pays, and older libseccomp survives it
# SCMP_ARCH_ name -> AUDIT_ARCH_ value; x32 shares x86_64's and has a bit in its numbers.
_AUDIT = {
    "X86": 0x40000003,
    "X86_64": 0xC000003E,
    "X32": 0xC000003E,
    "ARM": 0x40000028,
    "AARCH64": 0xC00000B7,
    "S390": 0x00000016,
    "S390X": 0x80000016,
    "PPC64LE": 0xC0000015,
    "RISCV64": 0xC00000F3,
    "LOONGARCH64": 0xC0000102,
}
_NATIVE = {
    "x86_64": "X86_64",
    "aarch64": "AARCH64",
    "s390x": "S390X",
    "ppc64le": "PPC64LE",
    "riscv64": "RISCV64",
    "loongarch64": "LOONGARCH64",
}


def program(profile: Seccomp) -> bytes:
    """Gives the instructions. Raises InvalidArgument, or ImportError without libseccomp."""
    library = _library()
    arches = _arches(library, profile)
    default = _action(library, profile.default_action, profile.default_errno_ret)
    made = library.SyscallFilter(default)
    for arch in arches:
        if made.exist_arch(arch) is False or arch != library.system_arch():
            _add_arch(made, arch)
    if len(profile.syscalls) + sum(len(rule.names) for rule in profile.syscalls) > _MANY:
        _optimise(library, made)
    made.set_attr(library.Attr.CTL_NNP, 0)
    _add_rules(library, made, profile, default)
    return _stub(library, profile) + _export(made)


def _library() -> Any:
    try:
        import pyseccomp
    except (ImportError, RuntimeError) as error:
        raise InvalidArgument(
            f"the profile can't be compiled, libseccomp is missing (install libseccomp2): {error}"
        ) from None
    return pyseccomp


def _arches(library: Any, profile: Seccomp) -> list[int]:
    arches = []
    for name in profile.architectures:
        number = getattr(library.Arch, name.removeprefix("SCMP_ARCH_"), None)
        if not name.startswith("SCMP_ARCH_") or number is None:
            raise InvalidArgument(f"there is no architecture {name!r}")
        arches.append(number)
    return arches


def _add_arch(made: Any, arch: int) -> None:
    try:
        made.add_arch(arch)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise


def _optimise(library: Any, made: Any) -> None:
    try:
        made.set_attr(getattr(library.Attr, "CTL_OPTIMIZE", 8), 2)
    except OSError:
        pass  # a libseccomp older than 2.5


def _action(library: Any, name: str, number: int | None) -> int:
    word = name.removeprefix("SCMP_ACT_")
    value = errno.EPERM if number is None else number
    if word in ("ERRNO", "TRACE"):
        made: int = getattr(library, word)(value)
        return made
    plain: int = library.KILL_THREAD if word == "KILL" else getattr(library, word)
    return plain


def _add_rules(library: Any, made: Any, profile: Seccomp, default: int) -> None:
    for rule in profile.syscalls:
        action = _action(library, rule.action, rule.errno_ret)
        if action == default:
            continue  # libseccomp refuses a rule that says what happens anyway
        for name in rule.names:
            number = library.resolve_syscall(library.Arch.NATIVE, name)
            if number == _KNOWN_ERROR:
                continue  # profiles name calls that this libseccomp or machine does not have
            for conditions in _conditions(library, rule.args):
                try:
                    made.add_rule(action, number, *conditions)
                except OSError as error:
                    raise InvalidArgument(f"the rule for {name}: {error.strerror}") from None


def _conditions(library: Any, args: tuple[SeccompArg, ...]) -> list[list[Any]]:
    """All of them have to hold; but several about one argument are alternatives, as in runc, since
    libseccomp takes only one for each argument of a rule."""
    made = [
        library.Arg(
            one.index,
            getattr(library, one.op.removeprefix("SCMP_CMP_")),
            one.value,
            one.value_two,
        )
        for one in args
    ]
    if len({one.index for one in args}) == len(args):
        return [made]
    return [[one] for one in made]


def _export(made: Any) -> bytes:
    fd = os.memfd_create("bpf", os.MFD_CLOEXEC)
    with open(fd, "w+b", buffering=0) as file:
        made.export_bpf(file)
        return os.pread(fd, 1 << 20, 0)


def _stub(library: Any, profile: Seccomp) -> bytes:
    """Newer calls than any that the profile names do not exist, instead of being forbidden: the C
    library falls back then. Only where the default is to refuse."""
    if profile.default_action in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"):
        return b""
    newest: dict[int, dict[bool, int]] = {}
    for name in {*profile.architectures, _native()}:
        word = name.removeprefix("SCMP_ARCH_")
        arch, audit = getattr(library.Arch, word, None), _AUDIT.get(word)
        if arch is None or audit is None:
            continue
        numbers = (
            library.resolve_syscall(arch, call) for rule in profile.syscalls for call in rule.names
        )
        last = max((number for number in numbers if number >= 0), default=-1)
        if last >= 0:
            newest.setdefault(audit, {})[word == "X32"] = last
    blocks = [_block(audit, lasts) for audit, lasts in newest.items()]
    if not blocks:
        return b""
    return _instruction(_LD_ABS, _ARCH_OFFSET) + b"".join(blocks)


def _native() -> str:
    return f"SCMP_ARCH_{_NATIVE.get(os.uname().machine, '')}"


def _block(audit: int, lasts: dict[bool, int]) -> bytes:
    """For one architecture: after it, the accumulator holds the architecture again, so that the
    next block, and libseccomp's program after the last, can go on."""
    refuse = _instruction(_RET, _RET_ERRNO | errno.ENOSYS)
    body = [_instruction(_LD_ABS, _NR_OFFSET)]
    plain, x32 = lasts.get(False, -1), lasts.get(True, -1)
    if audit == _AUDIT["X86_64"]:
        # x32's numbers have a bit of their own: judge each kind by its own last number.
        high = [_instruction(_JGT, x32, 0, 1), refuse] if x32 >= 0 else []
        low = [_instruction(_JGT, plain, 0, 1), refuse] if plain >= 0 else []
        body += [_instruction(_JGE, _X32_BIT, 0, len(high) + 1), *high]
        body += [_instruction(_JA, len(low)), *low]
    else:
        body += [_instruction(_JGT, plain, 0, 1), refuse]
    body.append(_instruction(_LD_ABS, _ARCH_OFFSET))
    return _instruction(_JEQ, audit, 0, len(body)) + b"".join(body)


def _instruction(code: int, k: int, jt: int = 0, jf: int = 0) -> bytes:
    """struct sock_filter"""
    return struct.pack("=HBBI", code, jt, jf, k)
