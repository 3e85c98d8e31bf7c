"""Hosts agree who serves what, whatever happens to their beats, and come to rest when nothing more happens."""

from __future__ import annotations

import os

import pytest

from tests.sim.membership import TAKE_S, World
from tidegate.runtime.cluster.machine import AHEAD_BEATS, BEAT_S, DOUBT_BEATS, LOST_BEATS, TAKE_BEATS
from tidegate.runtime.cluster.placement import drained, moved_by_hand
from tidegate.runtime.cluster.records import empty_placement

SEEDS = 200 if os.environ.get("TIDEGATE_FULL") else 6
THREE = {"a": 2, "b": 2, "c": 4}
RESTS_S = 60.0
"""Longer than hosts that were lost a few times wait to be given shards again."""


def started(seed: int, **options: float) -> World:
    world = World(seed, THREE, **options)  # type: ignore[arg-type]  # of the chance only
    for host in world.hosts.values():
        host.start()
    world.run(15.0)
    return world


def check_rest(world: World, *, for_s: float = 20.0) -> None:
    """Each shard is served, by weight; everybody knows by whom; and nothing moves any more."""
    up = {id: host for id, host in world.hosts.items() if host.is_up}
    assert not world.unserved()
    shares = {id: count / world.hosts[id].weight for id, count in world.counts().items()}
    for id, count in world.counts().items():
        assert count / up[id].weight <= min((world.counts()[other] + 1) / up[other].weight for other in up), shares
    for host in up.values():
        homes = host.machine.homes() | dict.fromkeys(host.owned, host.id)
        assert homes == {shard: id for shard, (id, _) in world.had.items()}
    writes, claims = len(world.writes), len(world.claims)
    world.run(for_s)
    assert (len(world.writes), len(world.claims)) == (writes, claims), (world.writes[writes:], world.claims[claims:])


@pytest.mark.parametrize("seed", range(SEEDS))
def test_hosts_that_start_together_share_the_shards(seed: int) -> None:
    world = started(seed)
    check_rest(world)
    assert world.counts() == {"a": 4, "b": 4, "c": 8}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_shards_of_a_killed_host_are_served_within_five_seconds(seed: int) -> None:
    world = started(seed)
    world.hosts["c"].kill()
    world.run(5.0)
    assert not world.unserved()
    check_rest(world)
    world.hosts["c"].start()
    world.run(15.0)
    check_rest(world)
    assert world.counts()["c"] == 8


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_host_that_is_started_again_at_once_takes_its_own_shards(seed: int) -> None:
    world = started(seed)
    world.hosts["b"].kill()
    world.run(0.5)
    world.hosts["b"].start()
    world.run(5.0)
    check_rest(world)
    moved = {(shard, id) for at, shard, id in world.claims if at > 15.0}
    assert {id for _, id in moved} == {"b"}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_who_is_cut_off_or_sleeps_is_replaced_and_takes_nothing_by_force_when_it_is_back(seed: int) -> None:
    world = started(seed)
    if seed % 2:
        world.hosts["a"].asleep_until = world.now + 8.0
    else:
        world.cut.add(frozenset({"a"}))
    world.run(5.0)
    assert all(id != "a" for id, _ in world.had.values()), "others have claimed what it had"
    claims = len(world.claims)
    world.run(4.0)
    world.heal()
    world.run(LOST_BEATS * 0.5)
    assert all(id != "a" for _, _, id in world.claims[claims:]), "it is not trusted at once"
    world.run(RESTS_S)
    check_rest(world)


@pytest.mark.parametrize("read_s", [0.1, 4.0, 60.0])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_a_shard_lacks_is_read_before_it_is_given_and_nobody_waits_for_that(seed: int, read_s: float) -> None:
    world = started(seed)
    world.read_s = (read_s / 2, read_s)
    placement, revision = world.record
    world.record = (drained(placement, "c", on=True), revision + 1)
    world.run(20.0 + 2 * read_s)  # Four at a time.
    assert world.counts()["c"] == 0
    assert len(world.away_s) == 8
    assert max(world.away_s) < TAKE_S[1] + 0.1, "to claim it, and to hear of each other"


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_shard_stays_where_it_is_served_while_the_next_host_reads_or_cannot(seed: int, fails: bool) -> None:
    world = started(seed)
    if fails:
        world.unreadable = {"b"}
    else:
        world.read_s = (1e9, 1e9)
    placement, revision = world.record
    shard = placement.owners.index("a")
    world.record = (moved_by_hand(placement, shard, "b"), revision + 1)
    claims = len(world.claims)
    world.run((AHEAD_BEATS + TAKE_BEATS) * BEAT_S + 10.0)
    assert world.had[shard][0] == "a"
    assert [each for each in world.claims[claims:] if each[1] == shard] == []
    assert not world.unserved()
    if fails:
        world.unreadable.clear()
        world.run(20.0)
        assert world.had[shard][0] == "b"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_shards_of_a_host_that_dies_do_not_wait_for_what_others_read(seed: int) -> None:
    """What the four reads have begun with is read to its end; nothing else waits for them."""
    world = started(seed)
    world.read_s = (20.0, 20.0)
    placement, revision = world.record
    world.record = (drained(placement, "c", on=True), revision + 1)
    world.run(10.0)
    begun = set().union(*(host.duties.reading for host in world.hosts.values()))
    assert world.counts()["c"] == 8, "it keeps them meanwhile"
    assert len(begun) == 8
    world.hosts["b"].kill()
    world.run(5.0)
    assert set(world.unserved()) == set(), "of b, which a takes beside what it reads"
    world.hosts["c"].kill()
    world.run(5.0)
    assert set(world.unserved()) <= world.hosts["a"].duties.reading
    world.run(20.0)
    assert not world.unserved()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_reads_that_come_to_no_end_keep_no_other_shard_from_moving(seed: int) -> None:
    world = started(seed)
    world.unreadable = {"a"}
    placement, revision = world.record
    world.record = (drained(placement, "c", on=True), revision + 1)
    world.run(60.0)
    stay = {shard for shard, owner in enumerate(world.record[0].owners) if owner == "a" and world.had[shard][0] == "c"}
    assert len(stay) == world.counts()["c"] == 4
    assert world.counts() == {"a": 4, "b": 8, "c": 4}
    world.unreadable.clear()
    world.run(20.0)
    assert world.counts() == {"a": 8, "b": 8, "c": 0}


@pytest.mark.parametrize("within_s", [1.0, 4.0])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_host_that_is_about_to_stop_gives_in_its_time_whatever_the_others_have_read(seed: int, within_s: float) -> None:
    world = started(seed)
    world.read_s = (20.0, 20.0)
    world.hosts["c"].machine.retires(within_s)
    world.run(within_s)
    assert not world.hosts["c"].owned
    world.run(22.0)
    assert world.counts()["c"] == 0
    assert not world.unserved()


def test_without_the_servers_nobody_takes_anybody_for_lost() -> None:
    world = started(1)
    claims = len(world.claims)
    for id in world.hosts:
        world.cut.add(frozenset({id}))
    world.quorum = False
    world.run(30.0)
    world.heal()
    world.run(5.0)
    assert len(world.claims) == claims
    check_rest(world)


@pytest.mark.parametrize("newest", [0, 1, 2])
@pytest.mark.parametrize("is_empty", [False, True])
def test_a_record_that_is_put_back_or_made_anew_is_written_again_and_hosts_go_on(newest: int, is_empty: bool) -> None:
    world = started(1)
    world.record = (world.record[0], 50)
    world.run(2.0)
    claims = len(world.claims)
    world.record = (empty_placement(world.shards) if is_empty else world.record[0], newest)
    world.run(DOUBT_BEATS * BEAT_S + 5.0)
    assert len(world.claims) == claims, "nothing moves"
    assert world.record[1] < 10
    check_rest(world)
    world.hosts["c"].kill()
    world.run(5.0)
    assert not world.unserved()


def test_a_record_that_an_operator_deletes_is_written_again_and_no_shard_moves() -> None:
    world = started(1)
    claims, writes = len(world.claims), len(world.writes)
    world.record = (empty_placement(world.shards), world.record[1] + 1)
    world.run(10.0)
    assert (len(world.claims), len(world.writes)) == (claims, writes + 1)
    check_rest(world)


def test_who_speaks_of_a_placement_that_nobody_finds_holds_up_nothing_for_long() -> None:
    world = started(1)
    world.lies["a"] = 1_000_000
    world.run(1.0)
    world.hosts["c"].kill()
    world.run(DOUBT_BEATS * BEAT_S + 5.0)
    assert not world.unserved()
    check_rest(world)


def test_while_nothing_can_be_written_nothing_moves_and_then_it_does() -> None:
    world = started(1)
    world.quorum = False
    world.hosts["c"].kill()
    world.run(10.0)
    assert len(world.unserved()) == 8
    world.quorum = True
    world.run(2.0)
    assert not world.unserved()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_two_that_do_not_hear_each_other_do_not_play_ping_pong(seed: int) -> None:
    """The third hears both. Whoever is taken for lost gets shards again after a while that doubles each time."""
    world = started(seed)
    world.cut.add(frozenset({"a", "b"}))
    world.run(600.0)
    assert not world.unserved()
    writes = len(world.writes)
    world.run(600.0)
    assert len(world.writes) - writes <= 12
    world.heal()
    world.run(700.0)
    check_rest(world)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_after_any_trouble_all_come_to_rest(seed: int) -> None:
    world = started(seed, lost=0.1)
    chance = world.chance
    for _ in range(12):
        host = world.hosts[chance.choice("abc")]
        what = chance.choice(["kill", "start", "sleep", "cut", "pair", "quorum", "stale", "heal"])
        if what == "kill" and host.is_up and sum(each.is_up for each in world.hosts.values()) > 1:
            host.kill()
        elif what == "start" and not host.is_up:
            host.start()
        elif what == "sleep":
            host.asleep_until = world.now + chance.uniform(0.5, 10.0)
        elif what == "cut":
            world.cut.add(frozenset({host.id}))
        elif what == "pair":
            world.cut.add(frozenset(chance.sample("abc", 2)))
        elif what == "quorum":
            world.quorum = not world.quorum
        elif what == "stale":
            world.stale = 0.3
        elif what == "heal":
            world.heal()
        world.run(chance.uniform(0.2, 8.0))
    world.heal()
    for host in world.hosts.values():
        if not host.is_up:
            host.start()
    world.run(RESTS_S * 4)
    check_rest(world)
