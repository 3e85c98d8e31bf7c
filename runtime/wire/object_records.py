"""The form in which objects travel between services: records one after another, as JSON lines or as MessagePack.

For each object: `{"object": "Class/name", "alarm_ms": Unix time or null}`, then `{"key": …, "value": …}` for each key, in byte
order, then `{"end": "Class/name", "keys": how many}`. In JSON values are as `plain_json` has them; in MessagePack they are as
they are. Keys that a reader does not know it passes over. Objects follow one another.

What could not be written to its end has `{"broken_off": why}` there.

Guarantee: what ends before an `end`, or has another number of keys, is no whole object, and is told; so is what was broken off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Literal

import msgspec

from tidegate.runtime.limits import VALUE_BYTES_MAX
from tidegate.runtime.wire.plain_json import GROWTH_MAX, from_plain, to_plain

Form = Literal["json", "msgpack"]
FORMS: tuple[Form, ...] = ("json", "msgpack")
READ_BYTES = 1 << 20
RECORD_BYTES_MAX = (GROWTH_MAX + 1) * VALUE_BYTES_MAX
"""Of one record: a value, as JSON has it, and room to spare."""


class Head(msgspec.Struct):
    object: str
    alarm_ms: int | None = None


class Pair(msgspec.Struct):
    key: str
    value: Any


class ObjectEnd(msgspec.Struct):
    end: str
    keys: int


class BrokenOff(msgspec.Struct):
    """The writer could not go on. Whoever reads is told by a ValueError."""

    broken_off: str


Record = Head | Pair | ObjectEnd


def encoder(form: Form) -> Callable[[Record | BrokenOff], bytes]:
    """Values of a Pair are as `plain_json` has them."""
    if form == "json":
        return lambda record: msgspec.json.encode(record) + b"\n"

    def packed(record: Record | BrokenOff) -> bytes:
        if isinstance(record, Pair):
            record = Pair(record.key, from_plain(record.value))
        return msgspec.msgpack.encode(record)

    return packed


def read_records(file: BinaryIO) -> Iterator[Record]:
    """Of either form: JSON begins with a brace. Raises ValueError, which says what is wrong and where."""
    first = file.read(1)
    if not first:
        raise ValueError("it is empty")
    decode, pieces = (_json, _lines(file, first)) if first == b"{" else (msgspec.msgpack.decode, _packed(file, first))
    for number, piece in enumerate(pieces, 1):
        try:
            found = decode(piece)
            yield _record(found, is_json=first == b"{")
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            raise ValueError(f"record {number}: {error}") from None


def _json(piece: bytes) -> Any:
    return msgspec.json.decode(piece)


def _record(found: Any, *, is_json: bool) -> Record:
    if not isinstance(found, dict):
        raise ValueError("a record is an object")
    if "key" in found and "value" in found:
        pair = msgspec.convert(found, Pair)
        return pair if is_json else Pair(pair.key, to_plain(found["value"]))
    if "object" in found:
        return msgspec.convert(found, Head)
    if "end" in found:
        return msgspec.convert(found, ObjectEnd)
    if "broken_off" in found:
        raise ValueError(f"what wrote this could not go on: {msgspec.convert(found, BrokenOff).broken_off}")
    raise ValueError("it begins no object, is no key and ends none")


def _lines(file: BinaryIO, first: bytes) -> Iterator[bytes]:
    line = first + file.readline(RECORD_BYTES_MAX)
    while line:
        if len(line) > RECORD_BYTES_MAX:
            raise ValueError(f"a line has more than {RECORD_BYTES_MAX} bytes")
        if line.strip():
            yield line
        line = file.readline(RECORD_BYTES_MAX + 1)


def _packed(file: BinaryIO, first: bytes) -> Iterator[bytes]:
    """MessagePack values, one after another."""
    rest, is_over = first, False
    while True:
        size = None if not rest else size_of_packed(rest)
        if size is not None:
            yield rest[:size]
            rest = rest[size:]
            continue
        if is_over and not rest:
            return
        more = file.read(READ_BYTES)
        is_over = not more
        if is_over and rest:
            raise ValueError("it ends in the middle of a record")
        if len(rest) > RECORD_BYTES_MAX:
            raise ValueError(f"a record has more than {RECORD_BYTES_MAX} bytes")
        rest += more


def size_of_packed(data: bytes) -> int | None:
    """Of the value that the bytes begin with; None: it does not end in them."""
    at, left = 0, 1
    while left:
        if at >= len(data):
            return None
        code = data[at]
        at += 1
        left -= 1
        if code <= 0x7F or code >= 0xE0 or code in (0xC0, 0xC2, 0xC3):
            continue
        if code <= 0x8F:
            left += 2 * (code & 0x0F)
        elif code <= 0x9F:
            left += code & 0x0F
        elif code <= 0xBF:
            at += code & 0x1F
        elif code in _FIXED:
            at += _FIXED[code]
        elif code in _SIZED:
            width, per, extra = _SIZED[code]
            if at + width > len(data):
                return None
            count = int.from_bytes(data[at : at + width], "big")
            at += width
            if per:
                left += per * count
            else:
                at += count + extra
        else:
            raise ValueError(f"the byte {code:#04x} is no MessagePack")
    return at if at <= len(data) else None


_FIXED = {
    0xCA: 4,
    0xCB: 8,
    0xCC: 1,
    0xCD: 2,
    0xCE: 4,
    0xCF: 8,
    0xD0: 1,
    0xD1: 2,
    0xD2: 4,
    0xD3: 8,
    0xD4: 2,
    0xD5: 3,
    0xD6: 5,
    0xD7: 9,
    0xD8: 17,
}
_SIZED = {
    0xC4: (1, 0, 0),
    0xC5: (2, 0, 0),
    0xC6: (4, 0, 0),
    0xC7: (1, 0, 1),
    0xC8: (2, 0, 1),
    0xC9: (4, 0, 1),
    0xD9: (1, 0, 0),
    0xDA: (2, 0, 0),
    0xDB: (4, 0, 0),
    0xDC: (2, 1, 0),
    0xDD: (4, 1, 0),
    0xDE: (2, 2, 0),
    0xDF: (4, 2, 0),
}
"""By first byte: how wide the size is, how many values each counts, how many bytes come beside those."""


def whole_objects(records: Iterable[Record]) -> Iterator[tuple[Head, Iterator[Pair]]]:
    """Each object with its keys, which are to be used up before the next. Raises ValueError for what is no whole object."""
    source = iter(records)

    def pairs(head: Head) -> Iterator[Pair]:
        count = 0
        for record in source:
            if isinstance(record, Pair):
                count += 1
                yield record
            elif isinstance(record, ObjectEnd) and record.end == head.object and record.keys == count:
                return
            else:
                raise ValueError(f"{head.object} is not whole: after {count} keys comes {record}")
        raise ValueError(f"{head.object} is not whole: it ends after {count} keys")

    for record in source:
        if not isinstance(record, Head):
            raise ValueError(f"no object begins with {record}")
        yield record, pairs(record)
