"""Who should have which shard: rules tried on placements of every kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.runtime.cluster.placement import (
    MOVES_AT_ONCE,
    NoSuchHost,
    deal,
    drained,
    host_named,
    in_the_end,
    moved_by_hand,
    next_placement,
    rebalanced,
)
from tidegate.runtime.cluster.records import ClusterPlacement, PlacedHost, empty_placement

SHARDS = 16


def hosts(**weights: int) -> dict[str, PlacedHost]:
    return {id: PlacedHost(f"host {id}", weight, "run") for id, weight in weights.items()}


def settled(placement: ClusterPlacement, present: Mapping[str, PlacedHost]) -> ClusterPlacement:
    """Step by step, where each host does at once what it should; how many steps does not matter."""
    end = in_the_end(placement, present)
    assert next_placement(end, present, dict(enumerate(end.owners))) == end, "the placement does not come to rest"
    return end


ids = st.sampled_from("abcdef")
present_hosts = st.dictionaries(ids, st.integers(1, 8), min_size=1).map(lambda weights: hosts(**weights))
placements = st.builds(
    ClusterPlacement,
    owners=st.lists(st.one_of(st.just(""), ids), min_size=SHARDS, max_size=SHARDS).map(tuple),
    hosts=present_hosts,
    draining=st.frozensets(ids, max_size=2),
    pins=st.dictionaries(st.integers(0, SHARDS - 1), ids, max_size=4),
)


@given(placements, present_hosts)
def test_every_shard_has_a_host_that_is_there(placement: ClusterPlacement, present: dict[str, PlacedHost]) -> None:
    assert set(deal(placement, present)) <= present.keys()


@given(placements, present_hosts)
def test_no_share_would_be_smaller_after_another_move(placement: ClusterPlacement, present: dict[str, PlacedHost]) -> None:
    owners = deal(placement, present)
    takers = {id: host for id, host in present.items() if id not in placement.draining} or present
    counts = Counter(owners)
    pinned = Counter(id for shard, id in placement.pins.items() if id in takers)
    for source in takers:
        if counts[source] > pinned[source]:
            for other, host in takers.items():
                assert counts[source] / takers[source].weight <= (counts[other] + 1) / host.weight + 1e-9


@given(placements, present_hosts)
def test_what_operators_want_is_so(placement: ClusterPlacement, present: dict[str, PlacedHost]) -> None:
    owners = deal(placement, present)
    if present.keys() - placement.draining:
        assert not set(owners) & placement.draining
        for shard, id in placement.pins.items():
            if id in present and id not in placement.draining:
                assert owners[shard] == id


@given(placements, present_hosts)
def test_no_shard_moves_that_need_not(placement: ClusterPlacement, present: dict[str, PlacedHost]) -> None:
    """Whoever gets a shard gives none away but those that operators want elsewhere: nothing is exchanged."""
    owners = deal(placement, present)
    takers = {id for id in present if id not in placement.draining} or set(present)
    pinned = {shard for shard, id in placement.pins.items() if id in takers}
    free = [shard for shard in range(SHARDS) if shard not in pinned]
    gave = {
        placement.owners[shard]
        for shard in free
        if placement.owners[shard] in takers and owners[shard] != placement.owners[shard]
    }
    got = {owners[shard] for shard in free if owners[shard] != placement.owners[shard]}
    assert not gave & got


@given(placements, present_hosts)
@settings(deadline=None)
def test_it_comes_to_rest_and_every_host_comes_to_the_same(placement: ClusterPlacement, present: dict[str, PlacedHost]) -> None:
    rest = settled(placement, present)
    assert deal(rest, present) == rest.owners
    assert settled(placement, dict(reversed(present.items()))) == rest


def test_shards_of_a_lost_host_are_spread_over_the_others() -> None:
    before = settled(empty_placement(SHARDS), hosts(a=1, b=1, c=1, d=1))
    assert Counter(before.owners) == dict.fromkeys("abcd", 4)
    after = next_placement(before, hosts(a=1, b=1, d=1), dict(enumerate(before.owners)))
    assert sorted(Counter(after.owners).values()) == [5, 5, 6]
    assert all(new == old for new, old in zip(after.owners, before.owners, strict=True) if old != "c")
    assert after.losses["c"].times == 1
    assert after.losses["c"].name == "host c"


def test_a_host_that_has_said_goodbye_is_not_lost() -> None:
    before = settled(empty_placement(SHARDS), hosts(a=1, b=1))
    after = next_placement(before, hosts(a=1), {}, {"b"})
    assert set(after.owners) == {"a"}
    assert after.losses == {}


def test_a_larger_host_gets_more() -> None:
    assert Counter(settled(empty_placement(SHARDS), hosts(a=1, b=3)).owners) == {"a": 4, "b": 12}


def test_what_is_served_moves_a_few_at_a_time() -> None:
    before = settled(empty_placement(SHARDS), hosts(a=1))
    serving = dict(enumerate(before.owners))
    step = next_placement(before, hosts(a=1, b=1), serving)
    assert Counter(step.owners)["b"] == MOVES_AT_ONCE
    assert next_placement(step, hosts(a=1, b=1), serving) == step, "the next ones wait for these"
    reading = {shard for shard in serving if step.owners[shard] == "b" and serving[shard] == "a"}
    further = next_placement(step, hosts(a=1, b=1), serving, reading=reading)
    assert Counter(further.owners)["b"] == 2 * MOVES_AT_ONCE, "no call waits for those that are read first"
    moved = {shard: step.owners[shard] for shard in serving}
    assert Counter(next_placement(step, hosts(a=1, b=1), moved).owners)["b"] == 2 * MOVES_AT_ONCE


def test_what_a_host_has_that_is_about_to_stop_moves_at_once() -> None:
    present = hosts(a=1, b=1)
    before = settled(empty_placement(SHARDS), present)
    after = next_placement(before, present, dict(enumerate(before.owners)), leaving={"a"})
    assert set(after.owners) == {"b"}
    assert next_placement(after, present, dict(enumerate(after.owners)), leaving={"a", "b"}) == after, "all of them stop"


def test_a_drained_host_gives_all_and_gets_some_again_after_that() -> None:
    present = hosts(a=1, b=1)
    placement = settled(drained(settled(empty_placement(SHARDS), present), "a", on=True), present)
    assert set(placement.owners) == {"b"}
    assert Counter(settled(drained(placement, "a", on=False), present).owners) == {"a": 8, "b": 8}
    assert set(settled(drained(placement, "b", on=True), present).owners) == {"b"}, "nobody else may have them"


def test_a_shard_that_was_moved_by_hand_stays_there_and_others_make_room() -> None:
    present = hosts(a=1, b=1)
    placement = settled(empty_placement(SHARDS), present)
    for shard in range(12):
        placement = moved_by_hand(placement, shard, "a")
    placement = settled(placement, present)
    assert placement.owners == ("a",) * 12 + ("b",) * 4
    assert set(settled(placement, hosts(b=1)).owners) == {"b"}
    assert Counter(settled(rebalanced(placement), present).owners) == {"a": 8, "b": 8}


def test_who_serves_what_belongs_to_nobody_keeps_it() -> None:
    present = hosts(a=1, b=1)
    serving = dict.fromkeys(range(8), "b") | dict.fromkeys(range(8, SHARDS), "a")
    placement = next_placement(empty_placement(SHARDS), present, serving)
    assert placement.owners == ("b",) * 8 + ("a",) * 8
    assert next_placement(placement, present, serving) == placement


def test_nobody_is_there_and_nothing_changes() -> None:
    placement = settled(empty_placement(SHARDS), hosts(a=1))
    assert next_placement(placement, {}, {}) is placement


def test_a_host_is_known_by_its_name_and_by_its_id() -> None:
    placement = msgspec.structs.replace(settled(empty_placement(SHARDS), hosts(a=1, b=1)))
    assert host_named({}, placement, "host b") == host_named({}, placement, "b") == "b"
    assert host_named({"c": "host c"}, placement, "host c") == "c"
    with pytest.raises(NoSuchHost) as raised:
        host_named({}, placement, "host c")
    assert raised.value.known == ["host a", "host b"]
