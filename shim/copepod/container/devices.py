"""Which devices a container may open: OCI rules as version 1 lines and as a version 2 program.

It opens and makes no device node, and it never leaves a running container without its rules: a
change is written as the difference, or swapped in as one program.
"""

from __future__ import annotations

import errno
import os
import struct

from copepod.errors import InvalidArgument, StepFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from copepod.spec_resources import DeviceRule

ANY = -1  # a major or minor that matches every number

_NUMBER_MAX = (1 << 31) - 1  # far above what a dev_t holds (makedev(3))

Key = tuple[str, int, int]  # type "c" or "b", major, minor

# What runc allows every container on top of its rules: making any node (a node alone opens
# nothing), and the devices that every container is given (config-linux.md, default devices).
DEFAULTS: tuple[tuple[Key, str], ...] = (
    (("c", ANY, ANY), "m"),
    (("b", ANY, ANY), "m"),
    (("c", 1, 3), "rwm"),  # null
    (("c", 1, 8), "rwm"),  # random
    (("c", 1, 7), "rwm"),  # full
    (("c", 5, 0), "rwm"),  # tty
    (("c", 1, 5), "rwm"),  # zero
    (("c", 1, 9), "rwm"),  # urandom
    (("c", 136, ANY), "rwm"),  # the slave ends of terminals
    (("c", 5, 2), "rwm"),  # ptmx
    (("c", 10, 200), "rwm"),  # tun: the spec has it not, but VPN containers have always got it
)


class Rules:
    """The outcome of a list of rules: a default and the exceptions from it.

    This is what both kernels can express: version 1 holds just this, and for version 2 it keeps
    the program free of rules that could be read in two ways.
    """

    def __init__(self, allow: bool = False) -> None:
        self.allow = allow
        self.exceptions: dict[Key, set[str]] = {}

    def add(self, allow: bool, key: Key | None, access: str) -> None:
        """Takes one more rule; None as the key means all devices and starts anew."""
        if key is None:
            self.allow, self.exceptions = allow, {}
            return
        if allow != self.allow:
            self.exceptions.setdefault(key, set()).update(access)
            return
        for other, granted in self.exceptions.items():
            if other != key and _covers(other, key) and granted.intersection(access):
                raise InvalidArgument(
                    f"linux.resources.devices: the rule {line(key, access)!r} makes a hole in "
                    f"{line(other, granted)!r}, which cgroups can't express: list what is meant"
                )
        if rest := self.exceptions.pop(key, set()).difference(access):
            self.exceptions[key] = rest


def _covers(wide: Key, narrow: Key) -> bool:
    return wide[0] == narrow[0] and all(
        ANY in (a, b) or a == b for a, b in zip(wide[1:], narrow[1:], strict=True)
    )


def rules(spec: Iterable[DeviceRule] | None) -> Rules:
    """The outcome of the spec's rules, in their order, followed by the defaults."""
    outcome = Rules()
    for rule in spec or ():
        outcome.add(bool(rule.allow), *_key(rule))
    for key, access in DEFAULTS:
        if outcome.allow:
            # An explicit denial of a default device stays only if everything else is allowed.
            continue
        outcome.add(True, key, access)
    return outcome


def _key(rule: DeviceRule) -> tuple[Key | None, str]:
    kind = rule.type or "a"
    access = rule.access or "rwm"
    if kind not in ("a", "b", "c") or set(access) - set("rwm"):
        raise InvalidArgument(
            f"linux.resources.devices: type {kind!r} with access {access!r} is not a device rule: "
            "the type is a, b or c, the access made of r, w and m"
        )
    if kind == "a":
        return None, access
    major = ANY if rule.major is None or rule.major < 0 else rule.major
    minor = ANY if rule.minor is None or rule.minor < 0 else rule.minor
    if max(major, minor) > _NUMBER_MAX:
        raise InvalidArgument(f"linux.resources.devices: {major}:{minor} is no device number")
    return (kind, major, minor), access


def line(key: Key, access: Iterable[str]) -> str:
    """A rule as devices.allow and devices.deny take it (cgroup-v1/devices.rst)."""
    major, minor = ("*" if number == ANY else str(number) for number in key[1:])
    return f"{key[0]} {major}:{minor} {''.join(a for a in 'rwm' if a in access)}"


def v1_writes(old: Rules | None, new: Rules) -> list[tuple[str, str]]:
    """(file, line) pairs that lead from `old` to `new`; None is a fresh group that has no rules.

    Between rules with the same default no device is lost for a moment that both allow.
    """
    add, drop = (
        ("devices.deny", "devices.allow") if new.allow else ("devices.allow", "devices.deny")
    )
    writes: list[tuple[str, str]] = []
    before: dict[Key, set[str]] = {}
    if old is None or old.allow != new.allow:
        writes.append((drop, "a"))
    else:
        before = old.exceptions
    for key, access in new.exceptions.items():
        if more := access - before.get(key, set()):
            writes.append((add, line(key, more)))
    for key, access in before.items():
        if less := access - new.exceptions.get(key, set()):
            writes.append((drop, line(key, less)))
    return writes


# The version 2 program. Instructions are struct bpf_insn of linux/bpf.h: code, registers (source in
# the high half), jump offset, constant. The context is struct bpf_cgroup_dev_ctx: access and type
# in one word, major, minor. The answer in r0: 1 allows, 0 denies.
_INSN = struct.Struct("=BBhi")
_LDX_W, _MOV32_K, _MOV32_X, _AND32_K, _RSH32_K = 0x61, 0xB4, 0xBC, 0x54, 0x74
_JNE_K, _JNE_X, _JEQ_K, _EXIT = 0x55, 0x5D, 0x15, 0x95
_TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*
_ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_*
_R0, _R1, _TYPE, _WANTED, _MAJOR, _MINOR = 0, 1, 2, 3, 4, 5


def program(outcome: Rules) -> bytes:
    """The rules as instructions of a BPF_PROG_TYPE_CGROUP_DEVICE program."""
    code = [
        _INSN.pack(_LDX_W, _TYPE | _R1 << 4, 0, 0),
        _INSN.pack(_MOV32_X, _WANTED | _TYPE << 4, 0, 0),
        _INSN.pack(_AND32_K, _TYPE, 0, 0xFFFF),
        _INSN.pack(_RSH32_K, _WANTED, 0, 16),
        _INSN.pack(_LDX_W, _MAJOR | _R1 << 4, 4, 0),
        _INSN.pack(_LDX_W, _MINOR | _R1 << 4, 8, 0),
    ]
    for key, access in outcome.exceptions.items():
        code += _exception(key, access, allow=not outcome.allow)
    code += [_INSN.pack(_MOV32_K, _R0, 0, int(outcome.allow)), _INSN.pack(_EXIT, 0, 0, 0)]
    return b"".join(code)


def _exception(key: Key, access: set[str], *, allow: bool) -> list[bytes]:
    kind, major, minor = key
    mask = sum(_ACCESS[letter] for letter in access)
    # (code, registers, constant) of the tests, each of which jumps past the verdict when it fails.
    tests = [(_JNE_K, _TYPE, _TYPES[kind])]
    if major != ANY:
        tests.append((_JNE_K, _MAJOR, major))
    if minor != ANY:
        tests.append((_JNE_K, _MINOR, minor))
    moves: list[bytes] = []
    if mask != 7:
        moves = [
            _INSN.pack(_MOV32_X, _R1 | _WANTED << 4, 0, 0),
            _INSN.pack(_AND32_K, _R1, 0, mask),
        ]
        # Allowed only if all that is wanted is allowed; denied as soon as any of it is denied.
        tests.append((_JNE_X, _R1 | _WANTED << 4, 0) if allow else (_JEQ_K, _R1, 0))
    verdict = [_INSN.pack(_MOV32_K, _R0, 0, int(allow)), _INSN.pack(_EXIT, 0, 0, 0)]
    length = len(tests) + len(moves) + len(verdict)
    code: list[bytes] = []
    for index, (test, registers, constant) in enumerate(tests):
        if index == len(tests) - 1:
            code += moves
        code.append(_INSN.pack(test, registers, length - len(code) - 1, constant))
    return code + verdict


class Program:
    """The device program of one version 2 group; `put` replaces it with no gap in between."""

    def __init__(self) -> None:
        self.fd = -1

    def put(self, group: str, outcome: Rules) -> None:
        """Loads and attaches; raises StepFailed when the kernel has no such programs."""
        from copepod.container import bpf

        directory = new = -1
        try:
            directory = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            new = bpf.load(program(outcome))
            bpf.attach(directory, new, replaces=self.fd)
        except OSError as error:
            if new >= 0:
                os.close(new)
            code = error.errno or errno.EINVAL
            text = f"cgroup: the kernel takes no device rules for {group}: {os.strerror(code)}"
            raise StepFailed("cgroup devices", code, group, text) from None
        finally:
            if directory >= 0:
                os.close(directory)
        self.close()
        self.fd = new

    def close(self) -> None:
        """Gives up the handle that a replacement needs; the program stays with the group."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
