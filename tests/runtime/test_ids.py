"""Names of objects and where they live."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.runtime.ids import ObjectId, check_object_id, key_and_slot, object_key, shard_of_slot, slot_of, tag_of
from tidegate.runtime.limits import CLASS_BYTES_MAX, NAME_BYTES_MAX, SLOTS


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("alice", "C/alice"),
        ("{room}1", "room"),
        ("a{room}b", "room"),
        ("a{}b", "C/a{}b"),
        ("{}{room}", "C/{}{room}"),
        ("a{b", "C/a{b"),
        ("a}b{c", "C/a}b{c"),
        ("a}b{c}", "c"),
        ("{a}{b}", "a"),
        ("{{a}}", "{a"),
    ],
)
def test_the_tag_is_the_text_between_the_first_brace_and_the_next_if_there_is_any(name: str, tag: str) -> None:
    assert tag_of("C", name) == tag
    assert slot_of("C", name) == crc32(tag.encode()) & 16_383


def test_slots_are_those_of_the_wire_protocol_for_ever() -> None:
    """Numbers computed once by another program (`zlib.crc32` of Node); they are part of the data format."""
    assert [slot_of("Counter", name) for name in ("alice", "bob", "é", "{tag}x")] == [849, 11_176, 13_069, 14_211]


@given(st.text(st.characters(codec="utf-8"), max_size=20), st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
def test_every_object_has_a_slot_and_a_key_that_begins_with_it(class_name: str, name: str) -> None:
    slot = slot_of(class_name, name)
    key = object_key(class_name, name)
    assert key_and_slot(class_name, name) == (key, slot)
    assert 0 <= slot < SLOTS
    assert len(key) == 16
    assert int.from_bytes(key[:2], "big") == slot


def test_objects_with_one_tag_share_a_slot_and_not_a_key() -> None:
    assert slot_of("A", "{t}1") == slot_of("B", "{t}2")
    assert len({object_key("A", "{t}1"), object_key("A", "{t}2"), object_key("B", "{t}1")}) == 3


@pytest.mark.parametrize("shards", [1, 2, 8, 64, 4_096])
def test_shards_have_equal_contiguous_ranges_of_slots(shards: int) -> None:
    owners = [shard_of_slot(slot, shards) for slot in range(SLOTS)]
    assert owners == sorted(owners)
    assert all(owners.count(shard) == SLOTS // shards for shard in {0, shards // 2, shards - 1})


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("", "n"),
        ("C" * (CLASS_BYTES_MAX + 1), "n"),
        ("A/B", "n"),
        ("C", ""),
        ("C", "n" * (NAME_BYTES_MAX + 1)),
        ("C", "é" * (NAME_BYTES_MAX // 2 + 1)),
        ("C", "\ud800"),
        (1, "n"),
        ("C", None),
    ],
)
def test_what_cannot_name_an_object_is_refused_with_a_reason(class_name: object, name: object) -> None:
    assert check_object_id(class_name, name)


@pytest.mark.parametrize(
    ("class_name", "name"), [("C", "n"), ("C" * CLASS_BYTES_MAX, "é" * (NAME_BYTES_MAX // 2)), ("C", "a/b\0")]
)
def test_names_up_to_the_limits_are_good(class_name: str, name: str) -> None:
    assert check_object_id(class_name, name) is None


def test_an_object_id_reads_as_class_and_name() -> None:
    assert str(ObjectId("Counter", "alice")) == "Counter/alice"
