"""A heap full of holes, before and after: what is allocated then lies at its end."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.pure

# In a process of its own, whose heap nobody else needs.
PROGRAM = """
import ctypes, sys
sys.path[:0] = {path!r}
from copepod.linux import heap, libc
size = ctypes.c_size_t
malloc = libc.function("malloc", size, restype=size)
free = libc.function("free", ctypes.c_void_p, restype=None)
info = libc.function("mallinfo2", restype=heap.mallinfo2)
sizes = [24, 100, 200, 1000, 5000, 40000]
places = [malloc(size) for _ in range(200) for size in sizes]
end = max(places)
for place in places[::2]:
    free(place)
assert any(malloc(size) < end for size in sizes)
holes = info().fordblks - info().keepcost
taken = heap.plug()
left = info().fordblks - info().keepcost
assert left * 10 < holes, (holes, left)
assert taken * 2 > holes, (holes, taken)
behind = sum(malloc(size) > end for size in sizes for _ in range(50))
assert behind > 290, behind  # the interpreter itself frees something now and then
assert heap.plug() < taken // 10
"""


def test_nothing_is_allocated_in_a_hole_any_more() -> None:
    code = PROGRAM.format(path=sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
