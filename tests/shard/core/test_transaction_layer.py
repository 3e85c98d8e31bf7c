"""What a transaction has written: invisible outside until it is merged, and merged in one step."""

from __future__ import annotations

import pytest

from tests.support.storage_world import StorageWorld
from tidegate.shard.core.transaction_layer import Layer
from tidegate.shard.core.values import ABSENT, MISS


def put(layer: Layer, key: str, value: int, *, confirmed: bool = True) -> None:
    layer.write(key, bytes([value]), value, confirmed=confirmed)


def world_with(**values: int) -> StorageWorld:
    world = StorageWorld()
    for key, value in values.items():
        world.put(key, value)
    world.commit()
    return world


def test_a_layer_answers_for_what_it_has_written_and_leaves_the_rest_to_those_below() -> None:
    layer = Layer(None)
    put(layer, "a", 1)
    layer.delete("b", confirmed=True)
    assert layer.find("a") == 1
    assert layer.find("b") is ABSENT
    assert layer.find("c") is MISS
    layer.clear(confirmed=True)
    assert layer.find("a") is ABSENT
    assert layer.find("c") is ABSENT


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [None, 1, 2, 3, 10])
def test_a_scan_sees_the_cache_through_all_layers_and_counts_its_limit_after_them(reverse: bool, limit: int | None) -> None:
    world = world_with(a=1, b=1, c=1, d=1, f=1)
    outer = Layer(None)
    inner = Layer(outer)
    outer.delete("a", confirmed=True)
    outer.delete("b", confirmed=True)
    put(outer, "c", 2)
    put(inner, "e", 3)
    inner.delete("d", confirmed=True)
    put(inner, "b", 3)
    expected = [("b", 3), ("c", 2), ("e", 3), ("f", 1)]
    if reverse:
        expected.reverse()
    assert inner.scan(world.cache, None, None, reverse=reverse, limit=limit) == expected[:limit]
    assert inner.scan(world.cache, "c", "f", reverse=False, limit=limit) == [("c", 2), ("e", 3)][:limit]


def test_a_cleared_layer_hides_everything_below_it_and_not_what_was_written_after() -> None:
    world = world_with(a=1, b=1)
    outer = Layer(None)
    put(outer, "c", 1)
    inner = Layer(outer)
    inner.clear(confirmed=True)
    put(inner, "b", 2)
    assert inner.scan(world.cache, None, None, reverse=False, limit=None) == [("b", 2)]
    inner.merge_into(outer)
    outer.merge_into(world.cache)
    assert world.list() == {"b": 2}
    world.commit()
    assert list(world.durable()) == ["b"]


def test_nothing_is_visible_or_dirty_before_the_merge() -> None:
    world = world_with(a=1)
    layer = Layer(None)
    put(layer, "a", 2)
    assert world.get("a") == 1
    assert not world.output_gate.can_cut
    layer.merge_into(world.cache)
    assert world.get("a") == 2
    assert world.output_gate.can_cut


@pytest.mark.parametrize(("confirmed", "held"), [((False, False), False), ((False, True), True), ((True, False), True)])
def test_one_confirmed_write_among_unconfirmed_ones_holds_messages_after_the_merge(
    confirmed: tuple[bool, bool], held: bool
) -> None:
    world = world_with(a=1)
    layer = Layer(None)
    put(layer, "a", 2, confirmed=confirmed[0])
    put(layer, "b", 2, confirmed=confirmed[1])
    layer.merge_into(world.cache)
    assert world.held is held


def test_a_transaction_that_leaves_everything_as_it_was_causes_no_commit() -> None:
    world = world_with(a=1)
    layer = Layer(None)
    put(layer, "a", 2)
    put(layer, "a", 1)
    put(layer, "b", 1)
    layer.delete("b", confirmed=True)
    layer.merge_into(world.cache)
    assert not world.output_gate.can_cut
