"""Device rules: the version 1 lines and the version 2 program say the same as the OCI rules."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copepod import errors
from copepod.container import devices
from copepod.container.devices import ANY, Rules
from copepod.spec_resources import DeviceRule

pytestmark = pytest.mark.pure

DENY_ALL = DeviceRule(allow=False, access="rwm")


def run(code: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """What the kernel would answer: an interpreter for the few instructions in use."""
    word = sum(devices._ACCESS[letter] for letter in access) << 16 | devices._TYPES[kind]
    context = {0: word, 4: major, 8: minor}
    registers = [0] * 11
    insns = [struct.unpack_from("=BBhi", code, at) for at in range(0, len(code), 8)]
    at = 0
    while True:
        op, regs, offset, constant = insns[at]
        target, source = regs & 15, regs >> 4
        assert constant >= 0  # comparisons extend the sign
        at += 1
        match op:
            case 0x61:
                assert source == 1
                registers[target] = context[offset]
            case 0xB4:
                registers[target] = constant
            case 0xBC:
                registers[target] = registers[source]
            case 0x54:
                registers[target] &= constant
            case 0x74:
                registers[target] >>= constant
            case 0x55:
                at += offset if registers[target] != constant else 0
            case 0x5D:
                at += offset if registers[target] != registers[source] else 0
            case 0x15:
                at += offset if registers[target] == constant else 0
            case 0x95:
                return bool(registers[0])
            case _:
                raise AssertionError(f"unknown instruction {op:#x}")


def answer(rules: Rules, kind: str, major: int, minor: int, access: str) -> bool:
    """The meaning of the outcome, told without a program."""
    for key, words in rules.exceptions.items():
        if key[0] != kind or key[1] not in (ANY, major) or key[2] not in (ANY, minor):
            continue
        if rules.allow and words & set(access):
            return False
        if not rules.allow and set(access) <= words:
            return True
    return rules.allow


ACCESS = st.sets(st.sampled_from("rwm"), min_size=1).map("".join)
NUMBER = st.sampled_from([None, 0, 1, 3, 5, 136, 200])
RULE = st.builds(
    DeviceRule,
    allow=st.booleans(),
    type=st.sampled_from(["a", "b", "c", ""]),
    major=NUMBER,
    minor=NUMBER,
    access=ACCESS,
)


@given(
    st.lists(RULE, max_size=8),
    st.sampled_from("bc"),
    st.sampled_from([0, 1, 3, 5, 136, 200]),
    st.sampled_from([0, 1, 2, 3, 9]),
    ACCESS,
)
def test_the_program_means_the_rules(
    spec: list[DeviceRule], kind: str, major: int, minor: int, access: str
) -> None:
    try:
        rules = devices.rules(spec)
    except errors.InvalidArgument:
        return
    code = devices.program(rules)
    assert run(code, kind, major, minor, access) == answer(rules, kind, major, minor, access)


@given(st.lists(RULE, max_size=8), st.lists(RULE, max_size=8))
def test_an_update_leads_to_the_new_rules(one: list[DeviceRule], two: list[DeviceRule]) -> None:
    try:
        old, new = devices.rules(one), devices.rules(two)
    except errors.InvalidArgument:
        return
    state = Rules(allow=True)
    for before, after in ((None, old), (old, new), (new, new)):
        for file, line in devices.v1_writes(before, after):
            _kernel(state, file, line)
        assert (state.allow, state.exceptions) == (after.allow, after.exceptions)
    assert devices.v1_writes(new, new) == []


def _kernel(state: Rules, file: str, line: str) -> None:
    """What devcgroup_update_access() does with a line."""
    allow = file == "devices.allow"
    if line == "a":
        state.allow, state.exceptions = allow, {}
        return
    kind, numbers, access = line.split()
    major, minor = (ANY if n == "*" else int(n) for n in numbers.split(":"))
    key = (kind, major, minor)
    if allow != state.allow:
        state.exceptions.setdefault(key, set()).update(access)
    elif rest := state.exceptions.pop(key, set()) - set(access):
        state.exceptions[key] = rest


def test_default_devices_are_open_and_disks_are_not() -> None:
    code = devices.program(devices.rules([DENY_ALL]))
    assert run(code, "c", 1, 3, "rw")  # null
    assert run(code, "c", 136, 7, "rw")  # a terminal
    assert run(code, "b", 8, 0, "m")  # a node may be made
    assert not run(code, "b", 8, 0, "r")  # but not opened
    assert not run(code, "c", 10, 229, "rw")  # fuse


def test_no_rules_deny_too() -> None:
    assert not run(devices.program(devices.rules(())), "b", 8, 0, "r")


def test_privileged() -> None:
    rules = devices.rules([DENY_ALL, DeviceRule(allow=True, access="rwm")])
    assert rules.allow
    assert rules.exceptions == {}
    assert run(devices.program(rules), "b", 8, 0, "rwm")


def test_a_denied_part_denies_the_whole() -> None:
    spec = [DeviceRule(True, "a", None, None, "rwm"), DeviceRule(False, "b", 8, None, "w")]
    code = devices.program(devices.rules(spec))
    assert run(code, "b", 8, 1, "r")
    assert not run(code, "b", 8, 1, "rw")


def test_a_number_that_no_device_has() -> None:
    with pytest.raises(errors.InvalidArgument, match="is no device number"):
        devices.rules([DeviceRule(True, "c", 1 << 31, 0, "r")])


def test_a_hole_in_a_wildcard_is_refused() -> None:
    spec = [DeviceRule(True, "c", 10, None, "rw"), DeviceRule(False, "c", 10, 229, "w")]
    with pytest.raises(errors.InvalidArgument, match=r"'c 10:229 w' makes a hole in 'c 10:\* rw'"):
        devices.rules(spec)


@pytest.mark.parametrize(
    "rule", [DeviceRule(True, "p", 1, 2, "r"), DeviceRule(True, "c", 1, 2, "x")]
)
def test_nonsense_is_refused(rule: DeviceRule) -> None:
    with pytest.raises(errors.InvalidArgument, match="is not a device rule"):
        devices.rules([rule])
