"""The outer structure of an ONNX file, read without a protobuf library: fields of messages, and no more of them than
are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class WireError(ValueError):
    """The bytes are no protobuf message."""


class Field(NamedTuple):
    """`number` of the field; `value` of a number, else the bytes `start` to `end` of the file hold it."""

    number: int
    value: int
    start: int
    end: int


def fields(data: bytes, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in data[start:end]; WireError where they do not fill it exactly."""
    i = start
    while i < end:
        tag, i = varint(data, i, end)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, i = varint(data, i, end)
            yield Field(number, value, i, i)
            continue
        if kind == 2:
            size, i = varint(data, i, end)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise WireError(f"wire type {kind}")
        if size > end - i:
            raise WireError(f"a field of {size} bytes, {end - i} are left")
        yield Field(number, -1, i, i + size)
        i += size


def varint(data: bytes, i: int, end: int) -> tuple[int, int]:
    """The number that begins at byte i, and where the next one begins."""
    value = shift = 0
    while i < end and shift < 70:
        byte = data[i]
        value |= (byte & 127) << shift
        i += 1
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, i
        shift += 7
    raise WireError("a number without an end")


def text(data: bytes, field: Field) -> str:
    """A field's text; WireError if it is none, or of a kilobyte."""
    if field.value != -1 or field.end - field.start > 1000:
        raise WireError(f"field {field.number} is no name")
    try:
        return data[field.start : field.end].decode("utf-8")
    except UnicodeDecodeError as error:
        raise WireError(f"field {field.number} is no text") from error


def numbers(data: bytes, field: Field) -> list[int]:
    """Signed integers of a repeated field: one, or packed."""
    if field.value != -1:
        return [signed(field.value)]
    found, i = [], field.start
    while i < field.end:
        value, i = varint(data, i, field.end)
        found.append(signed(value))
    return found


def signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def once(found: Iterator[Field], single: frozenset[int]) -> Iterator[Field]:
    """The same fields; WireError where one of the `single` stands twice, which parsers merge, each in its own way."""
    seen: set[int] = set()
    for field in found:
        if field.number in single:
            if field.number in seen:
                raise WireError(f"field {field.number} stands twice")
            seen.add(field.number)
        yield field


def number_bytes(value: int) -> bytes:
    """A varint; `value` is not negative."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes((*found, value))


def field_bytes(number: int, value: int | str | bytes) -> bytes:
    """One field of a message: a whole number, a text, or bytes."""
    if isinstance(value, int):
        return number_bytes(number << 3) + number_bytes(value)
    content = value.encode() if isinstance(value, str) else value
    return number_bytes(number << 3 | 2) + number_bytes(len(content)) + content


def same_bytes(data: bytes, field: Field) -> bytes:
    """The same field again."""
    return field_bytes(field.number, field.value if field.value != -1 else data[field.start : field.end])
