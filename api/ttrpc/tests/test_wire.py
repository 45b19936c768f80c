"""The hand-coded Request and Response against google.protobuf, in both directions."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError as ProtobufDecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from ttrpc import wire

_TYPES = {"string": 9, "bytes": 12, "int64": 3, "int32": 5}


def _message(
    file: descriptor_pb2.FileDescriptorProto, name: str, *fields: tuple[str, int, str]
) -> None:
    message = file.message_type.add(name=name)
    for field_name, number, kind in fields:
        field = message.field.add(name=field_name, number=number)
        repeated = kind.startswith("repeated ")
        kind = kind.removeprefix("repeated ")
        field.label = 3 if repeated else 1  # type: ignore[assignment]  # LABEL_REPEATED, _OPTIONAL
        if kind in _TYPES:
            field.type = _TYPES[kind]  # type: ignore[assignment]  # the enum's numbers
        else:
            field.type = 11  # type: ignore[assignment]  # TYPE_MESSAGE
            field.type_name = f".reference.{kind}"


def _reference() -> dict[str, Any]:
    """The same messages made by protobuf itself."""
    file = descriptor_pb2.FileDescriptorProto(
        name="reference.proto", package="reference", syntax="proto3"
    )
    _message(file, "KeyValue", ("key", 1, "string"), ("value", 2, "string"))
    _message(
        file,
        "Request",
        ("service", 1, "string"),
        ("method", 2, "string"),
        ("payload", 3, "bytes"),
        ("timeout_nano", 4, "int64"),
        ("metadata", 5, "repeated KeyValue"),
    )
    _message(file, "Any", ("type_url", 1, "string"), ("value", 2, "bytes"))
    _message(
        file,
        "Status",
        ("code", 1, "int32"),
        ("message", 2, "string"),
        ("details", 3, "repeated Any"),
    )
    _message(file, "Response", ("status", 1, "Status"), ("payload", 2, "bytes"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("Request", "Response")
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"reference.{name}"))
        for name in names
    }


REFERENCE = _reference()
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
METADATA = st.dictionaries(
    st.text(max_size=20), st.lists(st.text(max_size=20), min_size=1), max_size=4
)
DETAILS = st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=20)), max_size=3)

# Bytes that look like fields, so that random ones get past the first key.
KEYS = st.builds(
    lambda number, kind: wire.varint(number << 3 | kind), st.integers(0, 9), st.integers(0, 7)
)
PIECES = st.one_of(
    KEYS,
    st.integers(0, (1 << 70) - 1).map(wire.varint),
    st.binary(max_size=12),
    st.binary(max_size=6).map(lambda content: wire.varint(len(content)) + content),
    st.binary(max_size=6).map(lambda content: b"\x0a" + wire.varint(len(content)) + content),
)
ALMOST = st.lists(PIECES, max_size=8).map(b"".join)


def as_request(reference: Any) -> wire.Request:
    """What protobuf understood, in our terms."""
    metadata: dict[str, list[str]] = {}
    for pair in reference.metadata:
        metadata.setdefault(pair.key, []).append(pair.value)
    return wire.Request(
        reference.service, reference.method, reference.payload, reference.timeout_nano, metadata
    )


def as_response(reference: Any) -> wire.Response:
    """What protobuf understood, in our terms."""
    status = None
    if reference.HasField("status"):
        details = tuple((detail.type_url, detail.value) for detail in reference.status.details)
        status = wire.Status(reference.status.code, reference.status.message, details)
    return wire.Response(status, reference.payload)


@given(st.text(), st.text(), st.binary(), INT64, METADATA)
def test_request_is_understood_by_protobuf_and_by_us(
    service: str, method: str, payload: bytes, timeout: int, metadata: dict[str, list[str]]
) -> None:
    data = wire.encode_request(service, method, payload, timeout, metadata)
    expected = wire.Request(service, method, payload, timeout, metadata)
    assert as_request(REFERENCE["Request"].FromString(data)) == expected
    assert wire.decode_request(data) == expected


def test_metadata_may_be_given_as_a_single_string() -> None:
    data = wire.encode_request("s", "m", b"", 0, {"one": "a", "two": ["b", "c"]})
    assert wire.decode_request(data).metadata == {"one": ["a"], "two": ["b", "c"]}


@given(st.integers(-(1 << 31), (1 << 31) - 1), st.text(), DETAILS)
def test_status_is_understood_by_protobuf_and_by_us(
    code: int, message: str, details: list[tuple[str, bytes]]
) -> None:
    data = wire.encode_status(code, message, details)
    expected = wire.Response(wire.Status(code, message, tuple(details)), b"")
    assert as_response(REFERENCE["Response"].FromString(data)) == expected
    assert wire.decode_response(data) == expected


@given(st.binary())
def test_payload_is_understood_by_protobuf_and_by_us(payload: bytes) -> None:
    data = wire.encode_payload(payload)
    assert REFERENCE["Response"].FromString(data).payload == payload
    assert wire.decode_response(data) == wire.Response(None, payload)


@given(ALMOST)
@example(b"\x08\x01")  # a known field with another wire type is an unknown field
@example(b"\x0b\x0c")  # an empty group
@example(b"\x0b\x14")  # a group ended by another's end
@example(b"\x0c")  # an end without a start
@example(b"\x0a\x02\xff\xfe")  # a string that is not UTF-8
@example(b"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f")  # more than 64 bits in ten bytes
def test_any_request_is_read_as_protobuf_reads_it(data: bytes) -> None:
    try:
        expected = as_request(REFERENCE["Request"].FromString(data))
    except ProtobufDecodeError:
        with pytest.raises(wire.DecodeError):
            wire.decode_request(data)
    else:
        assert wire.decode_request(data) == expected


@given(ALMOST)
@example(b"\x0a\x02\x08\x05\x0a\x03\x12\x01x")  # a status in two halves is merged
def test_any_response_is_read_as_protobuf_reads_it(data: bytes) -> None:
    try:
        expected = as_response(REFERENCE["Response"].FromString(data))
    except ProtobufDecodeError:
        with pytest.raises(wire.DecodeError):
            wire.decode_response(data)
    else:
        assert wire.decode_response(data) == expected


@given(st.binary())
def test_random_bytes_raise_nothing_but_decode_error(data: bytes) -> None:
    for decode in (wire.decode_request, wire.decode_response):
        try:
            decode(data)
        except wire.DecodeError:
            pass


@pytest.mark.parametrize(
    "data",
    [b"\x0a", b"\x0a\x05abc", b"\x20", b"\x20" + b"\xff" * 11, b"\x00\x00", b"\x09123", b"\x0d12"],
    ids=["no length", "short field", "no value", "long varint", "field 0", "short 64", "short 32"],
)
def test_cut_and_impossible_messages_are_refused(data: bytes) -> None:
    with pytest.raises(wire.DecodeError):
        wire.decode_request(data)


def test_groups_in_groups_are_followed_only_so_far() -> None:
    with pytest.raises(wire.DecodeError):
        wire.decode_request(b"\x53" * 5000)


def test_a_status_without_text_or_code_is_still_a_status() -> None:
    assert wire.decode_response(b"\x0a\x00") == wire.Response(wire.Status(0), b"")


def test_a_message_that_is_no_unicode_is_sent_nevertheless() -> None:
    data = wire.encode_status(2, "bad \udc80 name")
    assert wire.decode_response(data).status == wire.Status(2, "bad ? name")
