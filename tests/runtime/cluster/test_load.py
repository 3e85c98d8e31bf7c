"""Which shards change places by load: it gets even, by weights, and comes to rest."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.cluster.test_machine import beat_of
from tidegate.runtime.cluster.load import EXCHANGES_AT_ONCE, WORTH, Worth, balance, exchanged, measured_load
from tidegate.runtime.cluster.placement import MOVES_AT_ONCE, deal, rebalanced
from tidegate.runtime.cluster.records import ClusterPlacement, PlacedHost, empty_placement

SHARDS = 16
ROUNDS = 60
BY_NUMBER_ONLY = Worth(0.0, 0.0)
"""Without hysteresis."""


def dealt(**weights: int) -> ClusterPlacement:
    hosts = {id: PlacedHost(f"host {id}", weight, "run") for id, weight in weights.items()}
    placement = empty_placement(SHARDS)
    return ClusterPlacement(deal(placement, hosts), hosts)


def at_rest(placement: ClusterPlacement, loads: Mapping[int, float], worth: Worth = WORTH) -> ClusterPlacement:
    for _ in range(ROUNDS):
        found = balance(placement, loads, placement.hosts, worth)
        if not found.moves:
            return placement
        placement = exchanged(placement, found.moves)
    raise AssertionError("it does not come to rest")


def test_hot_shards_of_one_host_are_spread_and_each_keeps_its_number() -> None:
    placement = dealt(a=1, b=1)
    mine = [shard for shard in range(SHARDS) if placement.owners[shard] == "a"]
    loads = {shard: 100.0 if shard in mine[:4] else 1.0 for shard in range(SHARDS)}
    first = balance(placement, loads, placement.hosts)
    assert first.before == pytest.approx(404 / 206)
    assert len(first.moves) == 2 * EXCHANGES_AT_ONCE <= MOVES_AT_ONCE
    placement = at_rest(placement, loads)
    assert balance(placement, loads, placement.hosts).before == pytest.approx(1)
    assert placement.owners.count("a") == SHARDS // 2


def test_weights_of_hosts_are_respected() -> None:
    placement = dealt(a=3, b=1)
    loads = {shard: 10.0 if placement.owners[shard] == "a" else 60.0 for shard in range(SHARDS)}
    assert placement.owners.count("b") == 4
    rested = at_rest(placement, loads)
    by_host = {id: sum(loads[shard] for shard in range(SHARDS) if rested.owners[shard] == id) for id in "ab"}
    assert by_host["a"] > 2 * by_host["b"], "three times, as near as exchanges of two come"
    even = dict.fromkeys(range(SHARDS), 10.0)
    assert balance(placement, even, placement.hosts).moves == (), "12 to 4 is even for 3 to 1"


def test_the_placement_keeps_what_was_exchanged() -> None:
    placement = dealt(a=1, b=1, c=2)
    loads = {shard: 100.0 if placement.owners[shard] == "a" else float(shard) for shard in range(SHARDS)}
    rested = at_rest(placement, loads)
    assert rested.owners != placement.owners
    assert deal(rested, rested.hosts) == rested.owners
    assert deal(rebalanced(rested), rested.hosts) == rested.owners


def test_what_is_pinned_or_drained_or_away_takes_no_part() -> None:
    placement = dealt(a=1, b=1)
    mine = [shard for shard in range(SHARDS) if placement.owners[shard] == "a"]
    loads = {mine[0]: 100.0, mine[1]: 100.0}
    pinned = ClusterPlacement(placement.owners, placement.hosts, pins=dict.fromkeys(mine[:2], "a"))
    assert balance(pinned, loads, "ab").moves == ()
    assert balance(placement, loads, "ab").moves != ()
    assert balance(placement, loads, "a").moves == ()
    drained = ClusterPlacement(placement.owners, placement.hosts, draining=frozenset("b"))
    assert balance(drained, loads, "ab").moves == ()


def test_without_load_or_hosts_nothing_moves() -> None:
    placement = dealt(a=1, b=1)
    assert balance(placement, {}, "ab").moves == ()
    assert balance(placement, {0: 9.0}, "ab").moves == ()
    assert balance(placement, {0: 900.0}, "").moves == ()
    assert balance(placement, {0: 900.0}, "ab").moves == (), "one shard alone is as hot elsewhere"


@settings(max_examples=200)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 4), min_size=1),
    st.lists(st.floats(0, 1_000), min_size=SHARDS, max_size=SHARDS),
)
def test_it_comes_to_rest_and_is_never_worse_than_before(weights: dict[str, int], rates: list[float]) -> None:
    placement, loads = dealt(**weights), dict(enumerate(rates))
    rested = at_rest(placement, loads)
    assert balance(rested, loads, rested.hosts).before <= balance(placement, loads, placement.hosts).before + 1e-9
    assert sorted(rested.owners) == sorted(placement.owners)


def came_back(worth: Worth, seed: int) -> bool:
    """Whether any shard goes back to a host that it had left, while the same load is measured again and again, by up to 3 % too
    much or too little."""
    random, placement = Random(seed), dealt(a=2, b=2, c=1)
    loads = [random.uniform(1, 50) for _ in range(SHARDS)]
    left: set[tuple[int, str]] = set()
    for _ in range(ROUNDS):
        seen = {shard: load * random.uniform(0.97, 1.03) for shard, load in enumerate(loads)}
        moves = balance(placement, seen, placement.hosts, worth).moves
        if any((move.shard, move.target) in left for move in moves):
            return True
        left.update((move.shard, move.source) for move in moves)
        placement = exchanged(placement, moves)
    return False


def test_what_is_measured_a_little_differently_each_time_sends_no_shard_to_and_fro() -> None:
    assert not any(came_back(WORTH, seed) for seed in range(100))
    assert all(came_back(BY_NUMBER_ONLY, seed) for seed in range(20)), "without hysteresis it would"


def test_a_load_is_the_mean_of_what_each_host_has_said_added_up() -> None:
    said = [
        beat_of("a", 1, loads={0: 10.0, 1: 4.0}),
        beat_of("a", 2, loads={0: 20.0}),
        beat_of("b", 1, loads={1: 6.0, 99: 1.0, -1: 1.0}),
    ]
    assert measured_load(said, SHARDS) == {0: 15.0, 1: 8.0}
