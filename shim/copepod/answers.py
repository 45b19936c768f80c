"""Names and protobuf bytes that the launcher and the shim's clean-up share.

It imports nothing: the launcher pays for every import at every start and removal of a container.
"""

from __future__ import annotations

RUNTIME = "io.containerd.copepod.v1"
STATE_FILE = "copepod.state"
"""The file in a bundle from which a stranger can free the container (`container.record`)."""


def delete_response(pid: int, status: int, seconds: int, nanos: int) -> bytes:
    """Gives containerd.task.v2.DeleteResponse{pid=1, exit_status=2, exited_at=3} in bytes."""
    exited_at = b"\x08" + varint(seconds) + b"\x10" + varint(nanos)
    head = b"\x08" + varint(pid) + b"\x10" + varint(status)
    return head + b"\x1a" + varint(len(exited_at)) + exited_at


def varint(value: int) -> bytes:
    """Gives a non-negative integer in protobuf's base-128 form."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
