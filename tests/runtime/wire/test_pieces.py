"""Bodies taken apart without a decoder are what a decoder would make of them, as long as they are whole."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegate.runtime.wire.pieces import json_id, json_pieces, packed_id, packed_pieces

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)
arrays = st.lists(values, max_size=4)
SIZES = (15, 16, 31, 32, 255, 256, 70_000)
LONG: list[Any] = [*("x" * size for size in SIZES), *([0] * size for size in SIZES)]
LONG += [dict.fromkeys(map(str, range(size))) for size in SIZES]


@given(st.lists(values | st.binary(max_size=9), max_size=9))
@example(LONG)
@example([b"x" * 255, b"x" * 256, b"x" * 70_000])
@example([msgspec.msgpack.Ext(5, b"x" * size) for size in (0, 1, 2, 3, 4, 8, 16, 255, 300, 70_000)])
def test_the_pieces_of_a_messagepack_array_are_its_elements(elements: list[Any]) -> None:
    body = msgspec.msgpack.encode(elements)
    assert list(packed_pieces(body)) == [bytes(raw) for raw in msgspec.msgpack.decode(body, type=list[msgspec.Raw])]


@given(st.lists(arrays | st.dictionaries(st.text(max_size=9), values, max_size=3), max_size=4), st.sampled_from(["", "\n\t "]))
@example([LONG], " ")
def test_the_pieces_of_a_json_array_are_its_arrays_and_maps(elements: list[Any], space: str) -> None:
    body = "[" + f"{space},{space}".join(msgspec.json.encode(element).decode() for element in elements) + space + "]"
    assert list(json_pieces(body.encode())) == [bytes(raw) for raw in msgspec.json.decode(body, type=list[msgspec.Raw])]


@given(st.integers(-(2**63), 2**64 - 1) | st.text(), arrays)
def test_the_id_at_the_head_of_a_request_is_its_first_element(request_id: int | str, rest: list[Any]) -> None:
    assert packed_id(msgspec.msgpack.encode([request_id, *rest])) == request_id
    assert json_id(msgspec.json.encode([request_id, *rest])) == request_id
    assert packed_id(msgspec.msgpack.encode({"rest": rest, "id": request_id})) == request_id
    assert json_id(msgspec.json.encode({"rest": rest, "id": request_id})) == request_id


NO_IDS_JSON = [b"[", b"[1", b"[1.5,", b"[1e3,", b"[true,", b'["a', b'["\\ud800",', b"[[1],", b"{}", b"", b"[-,"]
NO_IDS = [b"", b"\x90", b"\x91", b"\x92\xc3", b"\x91\xa2x", b"\x91\xa1\xff", b"\x91\xcd\x01", b"\x80", b"\x01"]


@pytest.mark.parametrize("body", NO_IDS_JSON)
def test_what_is_no_id_in_json_is_none(body: bytes) -> None:
    assert json_id(body) is None


@pytest.mark.parametrize("body", NO_IDS)
def test_what_is_no_id_in_messagepack_is_none(body: bytes) -> None:
    assert packed_id(body) is None


@given(st.binary(max_size=200))
def test_the_pieces_of_anything_are_parts_of_it_in_order(body: bytes) -> None:
    for pieces in (list(packed_pieces(body)), list(json_pieces(body))):
        at = 0
        for piece in pieces:
            at = body.index(piece, at) + len(piece)
            assert piece
