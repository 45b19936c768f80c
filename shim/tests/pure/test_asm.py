"""The two pieces of machine code are what their sources say."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from copepod.child import pause
from copepod.linux import procfs

pytestmark = pytest.mark.pure


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_code_is_the_sources(machine: str, tmp_path: Path) -> None:
    if shutil.which("clang") is None:
        pytest.skip("no clang: it assembles for every machine")

    def assembled(room: str, name: str) -> bytes:
        source = Path(room).parent / "asm" / f"{name}_{machine}.S"
        target = tmp_path / f"{name}.o"
        command = ["clang", f"--target={machine}-linux-gnu", "-c", "-o", str(target), str(source)]
        subprocess.run(command, check=True, timeout=60)
        return _text(target.read_bytes())

    assert pause.image(machine).endswith(assembled(pause.__file__, "pause"))
    assert bytes.fromhex(procfs.CODE[machine]) == assembled(procfs.__file__, "procfs")


def _text(data: bytes) -> bytes:
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + n * size) for n in range(count)]
    for section in sections:
        place = sections[names][4] + section[0]
        if data[place : place + 6] == b".text\0":
            return data[section[4] : section[4] + section[5]]
    raise AssertionError("no .text")


def test_machines_without_one() -> None:
    assert pause.image("vax") == b""
