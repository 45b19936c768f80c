"""The two protobuf messages of the protocol itself, Request and Response, coded by hand.

They are five and two fields; coding them here keeps google.protobuf out of `import ttrpc`.
It refuses what protobuf refuses (encoding.proto rules: varints over ten bytes, field number 0,
strings that are not UTF-8) and skips unknown fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from .errors import Detail

Metadata = Mapping[str, str | list[str]]
"""What a caller sends along: keys in lower case, one value or several."""

_VARINT, _FIXED64, _LENGTH, _START_GROUP, _END_GROUP, _FIXED32 = range(6)
_GROUP_DEPTH_MAX = 64


class DecodeError(ValueError):
    """The bytes are not the protobuf message that they should be."""


class Request(NamedTuple):
    """What opens a stream. `timeout_nano` is relative, in nanoseconds; 0 means none."""

    service: str
    method: str
    payload: bytes = b""
    timeout_nano: int = 0
    metadata: dict[str, list[str]] = {}  # noqa: RUF012  # never written to: see decode_request


class Status(NamedTuple):
    """google.rpc.Status."""

    code: int
    message: str = ""
    details: tuple[Detail, ...] = ()


class Response(NamedTuple):
    """What ends a stream. No status, or code 0, means that the call succeeded."""

    status: Status | None
    payload: bytes = b""


def varint(value: int) -> bytes:
    """Gives a non-negative integer as a base 128 varint."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Gives the 64 bit value at `position` and the position after it."""
    result = shift = 0
    try:
        while True:
            byte = data[position]
            position += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result & 0xFFFF_FFFF_FFFF_FFFF, position
            shift += 7
            if shift > 63:
                raise DecodeError("varint is longer than ten bytes")
    except IndexError:
        raise DecodeError("message ends inside a varint") from None


def _skip(data: bytes, position: int, wire_type: int, number: int, depth: int = 0) -> int:
    if wire_type == _VARINT:
        return read_varint(data, position)[1]
    if wire_type == _FIXED64:
        position += 8
    elif wire_type == _FIXED32:
        position += 4
    elif wire_type == _LENGTH:
        length, position = read_varint(data, position)
        position += length
    elif wire_type == _START_GROUP and depth < _GROUP_DEPTH_MAX:
        return _skip_group(data, position, number, depth)
    else:
        raise DecodeError(f"field {number} has an impossible wire type {wire_type}")
    if position > len(data):
        raise DecodeError(f"message ends inside field {number}")
    return position


def _skip_group(data: bytes, position: int, group: int, depth: int) -> int:
    while True:
        key, position = read_varint(data, position)
        number, wire_type = _split(key)
        if wire_type == _END_GROUP:
            if number != group:
                raise DecodeError(f"group {group} is ended as {number}")
            return position
        position = _skip(data, position, wire_type, number, depth + 1)


def _split(key: int) -> tuple[int, int]:
    number = key >> 3
    if not 0 < number < 1 << 29:
        raise DecodeError(f"{number} is no field number")
    return number, key & 7


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Walks (number, varint value, bytes) of the varint and length-delimited fields.

    Only one of the two is meaningful: a varint comes with b"", bytes come with -1.
    """
    position, end = 0, len(data)
    while position < end:
        key = data[position]
        if key < 0x80:
            position += 1
        else:
            key, position = read_varint(data, position)
        number, wire_type = _split(key)
        if wire_type == _LENGTH:
            length, start = read_varint(data, position)
            position = start + length
            if position > end:
                raise DecodeError(f"message ends inside field {number}")
            yield number, -1, data[start:position]
        elif wire_type == _VARINT:
            value, position = read_varint(data, position)
            yield number, value, b""
        else:
            position = _skip(data, position, wire_type, number)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise DecodeError("a string is not UTF-8") from None


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | _LENGTH) + varint(len(value)) + value if value else b""


def encode_request(
    service: str, method: str, payload: bytes, timeout_nano: int, metadata: Metadata | None
) -> bytes:
    """Gives the serialized Request."""
    parts = [_field(1, service.encode()), _field(2, method.encode()), _field(3, payload)]
    if timeout_nano:
        parts.append(b"\x20" + varint(timeout_nano & 0xFFFF_FFFF_FFFF_FFFF))
    for key, values in (metadata or {}).items():
        name = _field(1, key.encode())
        for value in (values,) if isinstance(values, str) else values:
            pair = name + _field(2, value.encode())
            parts.append(b"\x2a" + varint(len(pair)) + pair)
    return b"".join(parts)


def decode_request(data: bytes) -> Request:
    """Parses a Request; DecodeError if it is none."""
    service = method = ""
    payload, timeout = b"", 0
    metadata: dict[str, list[str]] = {}
    for number, value, content in _fields(data):
        if value >= 0:
            if number == 4:
                timeout = _signed(value, 64)
        elif number == 1:
            service = _text(content)
        elif number == 2:
            method = _text(content)
        elif number == 3:
            payload = content
        elif number == 5:
            key, text = _pair(content)
            metadata.setdefault(key, []).append(text)
    return Request(service, method, payload, timeout, metadata)


def _pair(data: bytes) -> tuple[str, str]:
    key = text = ""
    for number, value, content in _fields(data):
        if value < 0 and number == 1:
            key = _text(content)
        elif value < 0 and number == 2:
            text = _text(content)
    return key, text


def encode_payload(payload: bytes) -> bytes:
    """Gives the serialized Response of a call that succeeded."""
    return b"\x12" + varint(len(payload)) + payload if payload else b""


def encode_status(code: int, message: str, details: Sequence[Detail] = ()) -> bytes:
    """Gives the serialized Response of a call that failed."""
    parts = [b"\x08" + varint(code & 0xFFFF_FFFF_FFFF_FFFF)] if code else []
    parts.append(_field(2, message.encode(errors="replace")))
    for type_url, value in details:
        content = _field(1, type_url.encode()) + _field(2, value)
        parts.append(b"\x1a" + varint(len(content)) + content)
    status = b"".join(parts)
    return b"\x0a" + varint(len(status)) + status


def decode_response(data: bytes) -> Response:
    """Parses a Response; DecodeError if it is none."""
    status: Status | None = None
    payload = b""
    for number, value, content in _fields(data):
        if value < 0 and number == 1:
            status = _decode_status(content, status or Status(0))
        elif value < 0 and number == 2:
            payload = content
    return Response(status, payload)


def _decode_status(data: bytes, before: Status) -> Status:
    # A singular message field that comes twice is merged, not replaced (protobuf encoding rules).
    code, message, details = before.code, before.message, list(before.details)
    for number, value, content in _fields(data):
        if value >= 0:
            if number == 1:
                code = _signed(value, 32)
        elif number == 2:
            message = _text(content)
        elif number == 3:
            details.append(_decode_any(content))
    return Status(code, message, tuple(details))


def _decode_any(data: bytes) -> Detail:
    type_url, content = "", b""
    for number, value, part in _fields(data):
        if value < 0 and number == 1:
            type_url = _text(part)
        elif value < 0 and number == 2:
            content = part
    return type_url, content
