"""The pause program is what its source says."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from copepod.child import pause

pytestmark = pytest.mark.pure
SOURCES = Path(pause.__file__).parent / "asm"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_code_is_the_sources(machine: str, tmp_path: Path) -> None:
    if shutil.which("clang") is None:
        pytest.skip("no clang: it assembles for every machine")
    target = tmp_path / "pause.o"
    source = SOURCES / f"pause_{machine}.S"
    command = ["clang", f"--target={machine}-linux-gnu", "-c", "-o", str(target), str(source)]
    subprocess.run(command, check=True, timeout=60)
    assert pause.image(machine).endswith(_text(target.read_bytes()))


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
