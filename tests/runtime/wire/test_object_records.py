"""Objects as they travel: both forms say the same, and what is cut or changed is told."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given

from tests.runtime.wire.test_plain_json import VALUES
from tidegate.runtime.limits import VALUE_BYTES_MAX
from tidegate.runtime.wire.object_records import (
    FORMS,
    RECORD_BYTES_MAX,
    BrokenOff,
    Form,
    Head,
    ObjectEnd,
    Pair,
    Record,
    encoder,
    read_records,
    size_of_packed,
    whole_objects,
)
from tidegate.runtime.wire.plain_json import GROWTH_MAX, to_plain

RECORDS: list[Record] = [
    Head("Shop/alice", 5),
    Pair("k", {"$bytes": "eQ=="}),
    Pair("l", None),
    ObjectEnd("Shop/alice", 2),
    Head("Shop/b/c"),
    ObjectEnd("Shop/b/c", 0),
]


def read_all(records: Iterable[Record]) -> None:
    for _, pairs in whole_objects(records):
        list(pairs)


def written(form: Form, records: list[Record] = RECORDS) -> bytes:
    return b"".join(map(encoder(form), records))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_read_as_whole_objects(form: Form) -> None:
    assert list(read_records(io.BytesIO(written(form)))) == RECORDS
    found = [(head.object, head.alarm_ms, [(pair.key, pair.value) for pair in pairs]) for head, pairs in whole_objects(RECORDS)]
    assert found == [("Shop/alice", 5, [("k", {"$bytes": "eQ=="}), ("l", None)]), ("Shop/b/c", None, [])]


@pytest.mark.parametrize("form", FORMS)
def test_what_is_cut_anywhere_is_told(form: Form) -> None:
    data = written(form)
    for end in range(len(data)):
        whole = _is_whole(form, data[:end])
        with contextlib.nullcontext() if whole else pytest.raises(ValueError, match=r"not whole|record|empty|middle"):
            read_all(read_records(io.BytesIO(data[:end])))


def _is_whole(form: Form, data: bytes) -> bool:
    """A cut between two objects, or before the last line's end."""
    return data in (written(form, RECORDS[:4]), written(form).rstrip(b"\n"), written(form, RECORDS[:4]).rstrip(b"\n"))


def test_the_largest_line_that_a_value_makes_is_read_and_no_larger_one() -> None:
    largest = Pair("k", "x" * (GROWTH_MAX * VALUE_BYTES_MAX))
    assert list(read_records(io.BytesIO(written("json", [largest])))) == [largest]
    with pytest.raises(ValueError, match="a line has more than"):
        list(read_records(io.BytesIO(written("json", [Pair("k", "x" * RECORD_BYTES_MAX)]))))


@pytest.mark.parametrize("data", [b"[]\n", b"{}\n", b'{"object": 3}\n', b"\xc1", b'{"key": 1, "value": 2}\n', b"x" * 10])
def test_what_is_no_record_is_told(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"record|MessagePack|middle"):
        list(read_records(io.BytesIO(data)))


def test_a_key_out_of_place_and_a_wrong_count_are_told() -> None:
    wrong: list[list[Record]] = [
        [Pair("k", 1)],
        [Head("A/a"), Pair("k", 1), ObjectEnd("A/a", 2)],
        [Head("A/a"), ObjectEnd("A/b", 0)],
        [Head("A/a"), Head("A/b")],
    ]
    for records in wrong:
        with pytest.raises(ValueError, match=r"not whole|begins"):
            read_all(records)


@given(VALUES)
def test_the_size_of_a_packed_value_is_known_once_it_is_there(value: Any) -> None:
    raw = msgspec.msgpack.encode(value)
    assert size_of_packed(raw + b"\xc0") == len(raw)
    assert size_of_packed(raw[:-1]) is None
    record = Pair("k", to_plain(msgspec.msgpack.decode(raw)))
    assert list(read_records(io.BytesIO(encoder("msgpack")(record)))) == [record]


@pytest.mark.parametrize("form", FORMS)
def test_what_could_not_be_written_to_its_end_says_so_between_objects_too(form: Form) -> None:
    encode = encoder(form)
    records: list[Record | BrokenOff] = [Head("Shop/a"), ObjectEnd("Shop/a", 0), BrokenOff("the worker is gone")]
    with pytest.raises(ValueError, match="record 3: what wrote this could not go on: the worker is gone"):
        list(read_records(io.BytesIO(b"".join(map(encode, records)))))
