"""seccomp on a real kernel: profiles of the spec are in force, in every process and thread."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import struct
from pathlib import Path
from typing import Any

import pytest

from copepod import errors
from copepod import spec as s
from copepod.container import seccomp, seccomp_compile, spawn
from fakes import walls
from fakes.walls import cri, nothing_is_left, read, run  # noqa: F401

pyseccomp = pytest.importorskip("pyseccomp", reason="libseccomp2 is not installed")
pytestmark = walls.needs

X86_64, I386, NATIVE = 0xC000003E, 0x40000003, pyseccomp.system_arch()
ALLOW, ERRNO, KILL_THREAD = 0x7FFF0000, 0x00050000, 0
on_x86_64 = pytest.mark.skipif(NATIVE != X86_64, reason="numbers of x86_64 are used")


def all_calls() -> list[str]:
    """Every system call that libseccomp knows here: as many as a runtime's default lists."""
    names = []
    for number in range(462):
        try:
            names.append(pyseccomp.resolve_syscall(NATIVE, number).decode())
        except ValueError:
            continue
    return names


def profile(*rules: dict[str, Any], denied: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    allowed = [name for name in all_calls() if name not in denied]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": allowed, "action": "SCMP_ACT_ALLOW"}, *rules],
        **more,
    }


def parsed(document: dict[str, Any]) -> s.Seccomp:
    wanted = s.parse(json.dumps({"linux": {"seccomp": document}}).encode()).linux.seccomp
    assert wanted is not None
    return wanted


def judge(program: bytes, nr: int, args: tuple[int, ...] = (), arch: int = X86_64) -> int:
    """Runs a filter as the kernel would (seccomp(2), struct seccomp_data)."""
    data = struct.pack("=IIQ6Q", nr, arch, 0, *args, *(0,) * (6 - len(args)))
    code = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        op, jt, jf, k = code[at]
        at += 1
        if op == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif op == 0x06:
            return int(k)
        elif op == 0x05:
            at += k
        elif op == 0x54:
            accumulator &= k
        else:
            taken = {
                0x15: accumulator == k,
                0x25: accumulator > k,
                0x35: accumulator >= k,
                0x45: bool(accumulator & k),
            }[op]
            at += jt if taken else jf


@on_x86_64
def test_newer_calls_do_not_exist_and_older_ones_are_forbidden() -> None:
    names = {name: pyseccomp.resolve_syscall(X86_64, name) for name in ("mkdir", "openat2")}
    wanted = parsed(profile(denied=("mkdir",)))
    program = seccomp_compile.program(wanted)
    assert judge(program, names["openat2"]) == ALLOW
    assert judge(program, names["mkdir"]) == ERRNO | 1
    assert judge(program, 4000) == ERRNO | 38
    assert judge(program, 0x40000000 | 4000) == ERRNO | 38
    assert judge(program, 0x40000000 | names["mkdir"]) == ERRNO | 1
    assert judge(program, 39, arch=I386) == ERRNO | 1  # mkdir there
    assert judge(program, 4000, arch=I386) == ERRNO | 38
    assert judge(program, 3, arch=0xC00000B7) == KILL_THREAD  # an architecture of another machine


@on_x86_64
def test_without_x32_its_calls_are_not_there() -> None:
    wanted = parsed({**profile(), "architectures": ["SCMP_ARCH_X86_64"]})
    assert judge(seccomp_compile.program(wanted), 0x40000001) in (KILL_THREAD, ERRNO | 38)


@on_x86_64
def test_arguments_actions_and_numbers() -> None:
    nr = {name: pyseccomp.resolve_syscall(X86_64, name) for name in ("socket", "clone", "kill")}
    rules: list[dict[str, Any]] = [
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}],
        },
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 95,
            "args": [
                {"index": 0, "value": 0x10, "valueTwo": 0x10, "op": "SCMP_CMP_MASKED_EQ"},
                {"index": 1, "value": 7, "op": "SCMP_CMP_GT"},
            ],
        },
        {
            "names": ["kill"],
            "action": "SCMP_ACT_KILL_PROCESS",
            "args": [
                {"index": 1, "value": 9, "op": "SCMP_CMP_EQ"},
                {"index": 1, "value": 15, "op": "SCMP_CMP_EQ"},
            ],
        },
        {"names": ["no_such_call"], "action": "SCMP_ACT_TRAP"},
    ]
    document = {
        **profile(*rules, denied=tuple(nr)),
        "defaultAction": "SCMP_ACT_TRACE",
        "defaultErrnoRet": 7,
    }
    program = seccomp_compile.program(parsed(document))
    trace = 0x7FF00000 | 7
    assert judge(program, nr["socket"], (2,)) == ALLOW
    assert judge(program, nr["socket"], (40,)) == trace
    assert judge(program, nr["clone"], (0x11, 8)) == ERRNO | 95
    assert judge(program, nr["clone"], (0x01, 8)) == trace
    assert judge(program, nr["clone"], (0x11, 7)) == trace
    assert judge(program, nr["kill"], (1, 9)) == 0x80000000
    assert judge(program, nr["kill"], (1, 15)) == 0x80000000  # alternatives about one argument
    assert judge(program, nr["kill"], (1, 10)) == trace


@pytest.mark.parametrize("nnp", [True, False])
def test_it_is_in_force(nnp: bool) -> None:
    wanted = profile(denied=("mkdir", "mkdirat"))
    text = "mkdir /tmp/x; echo $?; cat /proc/self/status"
    found = run(cri("sh", "-c", text, linux__seccomp=wanted, process__noNewPrivileges=nnp)).out
    assert found.startswith("mkdir: can't create directory '/tmp/x': Operation not permitted\n1\n")
    fields = dict(re.findall(r"^(\w+):\s*(.*)$", found, re.MULTILINE))
    assert (fields["Seccomp"], fields["Seccomp_filters"]) == ("2", "1")
    assert fields["NoNewPrivs"] == str(int(nnp))


def test_a_call_that_kills() -> None:
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}
    spec = cri("mkdir", "/tmp/x", linux__seccomp=profile(rule, denied=("mkdir", "mkdirat")))
    assert run(spec).code == 128 + signal.SIGSYS


def test_exec_has_it_too() -> None:
    async def scenario() -> str:
        bundle = walls.Bundle(cri("sleep", "1000", linux__seccomp=profile(denied=("mkdir",))))
        order = bundle.order()
        init = await spawn.create(order, walls.no_module)
        await init.start()
        try:
            return (await walls.joined(bundle, order, init, "mkdir", "/tmp/x")).out
        finally:
            init.kill(signal.SIGKILL)
            walls.ended(init)
            bundle.close()

    assert "Operation not permitted" in asyncio.run(scenario())


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"listenerPath": "/run/x"}, errors.Unimplemented, "listenerPath"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, errors.Unimplemented, "defaultAction"),
        ({"defaultAction": "SCMP_ACT_NONE"}, errors.InvalidArgument, "no action 'SCMP_ACT_NONE'"),
        ({"architectures": ["SCMP_ARCH_VAX"]}, errors.InvalidArgument, "SCMP_ARCH_VAX"),
        ({"flags": ["SECCOMP_FILTER_FLAG_X"]}, errors.InvalidArgument, "no flag"),
        (
            {
                "syscalls": [
                    {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"op": "LIKE"}]}
                ]
            },
            errors.InvalidArgument,
            "syscalls[0].args: there is no operator 'LIKE'",
        ),
    ],
)
def test_a_profile_that_means_nothing(
    change: dict[str, Any], kind: type[errors.Error], words: str
) -> None:
    with pytest.raises(kind) as caught:
        asyncio.run(seccomp.compiled(parsed({**profile(), **change})))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("said", "bits"), [({}, 4), ({"flags": []}, 0), ({"flags": ["SECCOMP_FILTER_FLAG_LOG"]}, 2)]
)
def test_flags_that_are_said_and_that_are_not(said: dict[str, Any], bits: int) -> None:
    assert seccomp.flags(parsed({**profile(), **said})) == bits


def test_a_program_is_compiled_once_and_a_torn_file_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seccomp, "KEPT", str(tmp_path / "kept"))
    seccomp._programs.clear()
    wanted = parsed(profile(denied=("uname",)))
    program, flags = asyncio.run(seccomp.compiled(wanted))
    assert flags == 4
    (file,) = (tmp_path / "kept").iterdir()
    assert file.read_bytes().startswith(program)
    assert file.stat().st_mode & 0o777 == 0o600
    seccomp._programs.clear()
    monkeypatch.setattr(seccomp, "_in_child", lambda _: pytest.fail("it is compiled again"))
    assert asyncio.run(seccomp.compiled(wanted)) == (program, 4)
    monkeypatch.undo()
    monkeypatch.setattr(seccomp, "KEPT", str(tmp_path / "kept"))
    seccomp._programs.clear()
    file.write_bytes(file.read_bytes()[:-1])
    assert asyncio.run(seccomp.compiled(wanted)) == (program, 4)
    seccomp._programs.clear()


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_others_are_served_while_a_profile_is_compiled() -> None:
    async def scenario() -> int:
        work = asyncio.ensure_future(seccomp._in_child(parsed(profile(denied=("uname",)))))
        turns = 0
        while not work.done():
            await asyncio.sleep(0)
            turns += 1
        assert work.result()
        return turns

    before = children()
    assert asyncio.run(scenario()) > 10
    assert children() == before


def test_a_compiler_that_hangs_or_is_not_wanted_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp_compile, "program", lambda _: signal.pause())
    monkeypatch.setattr(seccomp, "_PATIENCE", 0.2)
    before, wanted = children(), parsed(profile())
    with pytest.raises(errors.InvalidArgument, match="not compiled after"):
        asyncio.run(seccomp._in_child(wanted))

    async def scenario() -> None:
        work = asyncio.ensure_future(seccomp._in_child(wanted))
        await asyncio.sleep(0)  # it has forked and waits
        assert children() != before
        work.cancel()
        await asyncio.wait([work])
        assert work.cancelled()

    asyncio.run(scenario())
    assert children() == before
