"""google.protobuf.Any as containerd writes it: with bare type names.

Python's own Any.Pack puts "type.googleapis.com/" before the name, which containerd 1.6 can't
resolve, so it is not used here.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message

M = TypeVar("M", bound=Message)


def pack(message: Message) -> any_pb2.Any:
    """Gives `message` as an Any whose type_url is its full name and nothing else."""
    return any_pb2.Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def name(packed: any_pb2.Any) -> str:
    """Gives the full name of what is packed: the last part of its type_url, "" if there is none."""
    return packed.type_url.rpartition("/")[2]


def unpack(packed: any_pb2.Any, kind: type[M]) -> M:
    """Gives what is packed as a `kind`, whatever stands before the name in its type_url.

    ValueError if it is something else, or not to be parsed.
    """
    wanted = kind.DESCRIPTOR.full_name
    if name(packed) != wanted:
        raise ValueError(f"expected {wanted}, found {packed.type_url or 'an empty Any'}")
    try:
        return kind.FromString(packed.value)
    except DecodeError as error:
        raise ValueError(f"{wanted} can't be parsed: {error}") from None
