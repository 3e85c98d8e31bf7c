"""What one host makes of what it hears; what several make of each other is simulated in `tests/sim/test_membership.py`."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tidegate.runtime.cluster.machine import (
    AHEAD_BEATS,
    BEAT_S,
    CLAIM_BEATS,
    DOUBT_BEATS,
    FORGET_BEATS,
    FORGET_LOSS_BEATS,
    HOSTS_MAX,
    LOST_BEATS,
    SETTLE_BEATS,
    TAKE_BEATS,
    MemberMachine,
)
from tidegate.runtime.cluster.placement import next_placement
from tidegate.runtime.cluster.records import (
    Beat,
    ClusterPlacement,
    Loss,
    PlacedHost,
    decode_beat,
    decode_placement,
    empty_placement,
    encode,
)

SHARDS = 4


def test_the_load_of_a_host_is_said_with_its_next_beat_and_is_no_news_that_hurries() -> None:
    me = member()
    said = me.beat()
    me.load_is({3: 2.5, 0: 1 / 3})
    assert not me.has_news_since(said)
    assert me.beat().loads == {0: 0.33, 3: 2.5}
    assert decode_beat(encode(me.beat())).loads == {0: 0.33, 3: 2.5}
    for wrong in (b"-1", b"1e99", b'"x"'):
        with pytest.raises(msgspec.MsgspecError):
            decode_beat(encode(me.beat()).replace(b"0.33", wrong))


def beat_of(id: str, number: int = 1, **more: object) -> Beat:
    return msgspec.structs.replace(Beat(id, f"run-{id}", number, number, f"host {id}", f"tcp://{id}:1"), **more)


def member(id: str = "a") -> MemberMachine:
    return MemberMachine(beat_of(id, 0), SHARDS)


def passes(machine: MemberMachine, beats: int) -> None:
    """So many own beats come back."""
    for _ in range(beats):
        machine.heard(machine.beat())


def placed(owners: str, *hosts: str, **more: object) -> ClusterPlacement:
    there = {id: PlacedHost(f"host {id}", 1, f"run-{id}") for id in hosts or set(owners)}
    return msgspec.structs.replace(ClusterPlacement(tuple(owners), there), **more)


def test_a_host_alone_takes_everything_once_it_has_heard_itself() -> None:
    machine = member()
    machine.read(empty_placement(SHARDS), 0)
    assert machine.proposal() is None
    passes(machine, SETTLE_BEATS)
    following = machine.proposal()
    assert following is not None
    assert following.owners == ("a",) * SHARDS
    assert machine.target == frozenset()
    assert machine.read(following, 1)
    assert machine.target == frozenset(range(SHARDS))
    assert not machine.read(following, 1)


def test_a_host_that_hears_nothing_of_itself_takes_nobody_for_lost() -> None:
    machine = member()
    machine.read(placed("aabb"), 1)
    machine.heard(beat_of("b", serves=(2, 3)))
    passes(machine, LOST_BEATS - 1)
    for _ in range(100):
        machine.beat()
    assert list(machine.live()) == ["a", "b"]
    passes(machine, 1)
    assert list(machine.live()) == ["a"]
    assert machine.homes() == {}
    following = machine.proposal()
    assert following is not None
    assert following.owners == ("a",) * SHARDS


def test_beats_that_come_back_together_after_a_pause_are_heard_beside_those_of_others() -> None:
    machine = member()
    machine.heard(beat_of("b"))
    late = [machine.beat() for _ in range(LOST_BEATS - 1)]
    for each in late:
        machine.heard(each)
    machine.heard(beat_of("b", 2))
    passes(machine, LOST_BEATS - 1)
    assert list(machine.live()) == ["a", "b"]


def test_hosts_of_the_placement_are_waited_for_at_a_start() -> None:
    machine = member()
    machine.read(placed("aabb"), 1)
    passes(machine, LOST_BEATS - 1)
    assert machine.proposal() is None
    passes(machine, 1)
    assert machine.proposal() is not None


def test_who_says_goodbye_is_replaced_at_once_and_is_not_lost() -> None:
    machine = member()
    machine.read(placed("aabb"), 1)
    machine.heard(beat_of("b", serves=(2, 3)))
    passes(machine, LOST_BEATS - 1)
    assert machine.proposal() is None
    machine.heard(beat_of("b", 2, gone=True))
    following = machine.proposal()
    assert following is not None
    assert (following.owners, following.losses) == (("a",) * SHARDS, {})


def test_a_host_that_is_about_to_stop_waits_for_those_only_that_could_take_its_shards() -> None:
    machine = member()
    machine.read(placed("aabb"), 1)
    machine.owns({0, 1})
    assert not machine.hands_over(), "nobody else is there"
    machine.heard(beat_of("b", serves=(2, 3)))
    assert machine.hands_over()
    machine.retires(4.0)
    passes(machine, SETTLE_BEATS)
    following = machine.proposal()
    assert following is not None
    assert following.owners == ("b",) * SHARDS
    machine.heard(beat_of("b", 2, serves=(2, 3), leaving=True))
    assert not machine.hands_over(), "it stops, too"
    machine.heard(beat_of("b", 3, serves=(2, 3)))
    machine.owns(())
    assert not machine.hands_over()


def test_after_its_goodbye_a_host_says_nothing_else() -> None:
    machine = member()
    machine.read(placed("aaaa"), 1)
    machine.owns({0})
    assert machine.last_word().gone
    assert (machine.beat().gone, machine.word().serves) == (True, ())


def test_others_write_only_if_those_before_them_do_not() -> None:
    machine = member("b")
    machine.read(placed("abab"), 1)
    machine.heard(beat_of("a", serves=(0, 2)))
    machine.heard(beat_of("c"))
    passes(machine, SETTLE_BEATS)
    assert machine.proposal() is None, "it is the turn of a"
    passes(machine, 2)
    machine.heard(beat_of("a", 2, serves=(0, 2)))
    machine.heard(beat_of("c", 2))
    assert machine.proposal() is not None


def test_a_shard_is_claimed_when_its_owner_has_given_it() -> None:
    machine = member()
    machine.heard(beat_of("b", serves=(0, 1)))
    machine.read(placed("aabb", "a", "b"), 1)
    assert machine.target == frozenset()
    machine.heard(beat_of("b", 2, serves=(1,), gives=(0,)))
    assert machine.target == frozenset(), "it is not given before it says so"
    machine.heard(beat_of("b", 3, serves=(1,)))
    assert machine.target == {0}


def test_a_shard_that_is_not_given_is_claimed_in_the_end() -> None:
    machine = member()
    machine.heard(beat_of("b", serves=(0, 1)))
    machine.read(placed("aabb", "a", "b"), 1)
    assert machine.ahead == {0, 1}
    assert machine.has_read({0, 1})
    for number in range(2, TAKE_BEATS + 1):
        passes(machine, 1)
        machine.heard(beat_of("b", number, serves=(0, 1)))
        assert machine.target == frozenset()
    passes(machine, 1)
    assert machine.target == {0, 1}


def test_a_shard_is_given_when_the_next_host_has_read_what_there_is() -> None:
    machine = member()
    machine.read(placed("aaaa"), 1)
    machine.owns(range(SHARDS))
    machine.heard(beat_of("b", ready=()))
    machine.read(placed("aabb"), 2)
    passes(machine, 1)
    assert machine.target == frozenset(range(SHARDS)), "calls are answered meanwhile"
    assert machine.word().serves == (0, 1, 2, 3)
    machine.heard(beat_of("b", 2, ready=(3,)))
    assert machine.target == {0, 1, 2}
    machine.heard(beat_of("b", 3, serves=(2,), ready=()))
    assert machine.target == {0, 1}, "it has claimed it, and shut this one out"
    assert machine.word().gives == (2, 3)


def hears(machine: MemberMachine, beats: int, **b: Any) -> None:
    """So many own beats come back, and host b says with each what is given."""
    for _ in range(beats):
        passes(machine, 1)
        machine.heard(beat_of("b", machine.newest_echo + 2, **b))


def keeps_for_b(**b: Any) -> MemberMachine:
    """It has everything, and host b should have shard 3."""
    machine = member()
    machine.read(placed("aaaa"), 1)
    machine.owns(range(SHARDS))
    machine.heard(beat_of("b", **b))
    machine.read(placed("aaab", "a", "b"), 2)
    return machine


def test_a_shard_is_not_kept_for_ever_for_a_host_that_does_not_say_that_it_reads() -> None:
    machine = keeps_for_b(ready=())
    hears(machine, AHEAD_BEATS - 1, ready=())
    assert machine.target == frozenset(range(SHARDS))
    hears(machine, 1, ready=())
    assert machine.target == {0, 1, 2}


def test_a_shard_is_kept_as_long_as_the_next_host_says_that_it_reads() -> None:
    machine = keeps_for_b(ready=(), reads=(3,))
    hears(machine, 2 * AHEAD_BEATS, ready=(), reads=(3,))
    assert machine.target == frozenset(range(SHARDS))
    hears(machine, AHEAD_BEATS - 1, ready=())
    assert machine.target == frozenset(range(SHARDS)), "it is waited for anew"
    machine.heard(beat_of("b", machine.newest_echo + 9, ready=(3,)))
    assert machine.target == {0, 1, 2}


def test_each_host_that_is_to_have_a_shard_next_is_waited_for_anew() -> None:
    machine = keeps_for_b(ready=())
    hears(machine, AHEAD_BEATS - 1, ready=())
    machine.heard(beat_of("c", ready=()))
    machine.read(placed("aaac", "a", "b", "c"), 3)
    passes(machine, 2)
    assert machine.target == frozenset(range(SHARDS))


@pytest.mark.parametrize(("within_s", "beats"), [(4.0, 2), (1.0, 0), (1.9, 0)])
def test_a_host_that_stops_keeps_shards_for_a_part_of_its_time(within_s: float, beats: int) -> None:
    machine = keeps_for_b(ready=(), reads=(3,))
    hears(machine, 1, ready=(), reads=(3,))
    machine.retires(within_s)
    assert beats * BEAT_S <= within_s / 4
    for _ in range(beats):
        assert machine.target == frozenset(range(SHARDS))
        hears(machine, 1, ready=(), reads=(3,))
    hears(machine, 1, ready=(), reads=(3,))
    assert machine.target == {0, 1, 2}


def test_a_shard_that_it_reads_or_cannot_read_is_not_claimed_against_its_owner() -> None:
    machine = member()
    machine.heard(beat_of("b", serves=(0,)))
    machine.read(placed("aabb", "a", "b"), 1)
    assert machine.has_read((), {0})
    assert machine.beat().reads == (0,)
    hears(machine, 2 * AHEAD_BEATS, serves=(0,))
    assert 0 not in machine.target
    assert machine.has_read({0}, ())
    hears(machine, TAKE_BEATS - 1, serves=(0,))
    assert 0 not in machine.target
    hears(machine, 1, serves=(0,))
    assert 0 in machine.target
    machine = member()
    machine.heard(beat_of("b", serves=(0,)))
    machine.read(placed("aabb", "a", "b"), 1)
    machine.has_read((), {0})
    machine.heard(beat_of("b", 2))
    assert 0 in machine.target, "nobody has it any longer"


def test_what_is_to_be_had_is_read_while_another_host_serves_or_gives_it() -> None:
    machine = member()
    machine.heard(beat_of("b", serves=(0, 1)))
    machine.read(placed("aabb", "a", "b"), 1)
    assert machine.target == frozenset()
    assert machine.ahead == {0, 1}
    said = machine.beat()
    assert said.ready == ()
    assert machine.has_read({0})
    assert not machine.has_read({0})
    assert machine.has_news_since(said)
    assert machine.beat().ready == (0,)
    machine.heard(beat_of("b", 2, serves=(1,), gives=(0,)))
    assert machine.ahead == {0, 1}
    assert machine.beat().ready == (0,)
    machine.heard(beat_of("b", 3, serves=(1,)))
    assert machine.target == {0}
    assert machine.ahead == {1}
    assert machine.beat().ready == ()


def test_what_was_not_read_is_claimed_against_its_owner_only_when_he_should_have_given_it_all_the_same() -> None:
    machine = member()
    machine.heard(beat_of("b", serves=(0,)))
    machine.read(placed("aabb", "a", "b"), 1)
    for number in range(2, AHEAD_BEATS + TAKE_BEATS + 1):
        passes(machine, 1)
        machine.heard(beat_of("b", number, serves=(0,)))
        assert 0 not in machine.target
    passes(machine, 1)
    assert 0 in machine.target


def test_who_gives_a_shard_is_waited_for_however_long_its_calls_take_to_end() -> None:
    machine = member()
    machine.heard(beat_of("b", serves=(0, 1)))
    machine.read(placed("aabb", "a", "b"), 1)
    for number in range(2, 3 * TAKE_BEATS):
        passes(machine, 1)
        machine.heard(beat_of("b", number, gives=(0, 1)))
        assert machine.target == frozenset()
    machine.heard(beat_of("b", 3 * TAKE_BEATS, gives=(1,)))
    assert machine.target == {0}
    passes(machine, LOST_BEATS)
    assert machine.target == {0, 1}, "its owner is lost"


def test_nothing_is_claimed_by_a_placement_that_others_know_to_be_old() -> None:
    machine = member()
    machine.heard(beat_of("b", revision=7))
    machine.read(placed("aabb", "a", "b"), 6)
    assert machine.is_behind
    passes(machine, SETTLE_BEATS)
    assert machine.target == frozenset()
    assert machine.proposal() is None
    machine.read(placed("aabb", "a", "b"), 7)
    assert machine.target == {0, 1}


def test_a_claim_that_comes_to_no_end_begins_again() -> None:
    machine = member()
    machine.read(placed("aaaa"), 1)
    machine.owns({0, 1, 2})
    passes(machine, CLAIM_BEATS - 1)
    assert machine.target == frozenset(range(SHARDS))
    passes(machine, 1)
    assert machine.target == {0, 1, 2}
    passes(machine, 1)
    assert machine.target == frozenset(range(SHARDS))


def test_a_shard_is_kept_while_whoever_should_have_it_is_not_there() -> None:
    machine = member()
    machine.read(placed("aaaa"), 1)
    machine.owns(range(SHARDS))
    machine.read(placed("aabb"), 2)
    assert machine.target == frozenset(range(SHARDS))
    machine.heard(beat_of("b"))
    assert machine.target == {0, 1}
    assert (machine.word().serves, machine.word().gives) == ((0, 1), (2, 3))


def test_calls_go_to_who_serves_and_where_two_believe_so_to_who_should() -> None:
    machine = member()
    machine.read(placed("abcc"), 1)
    machine.owns({0})
    machine.heard(beat_of("b", serves=(0, 1, 2)))
    machine.heard(beat_of("c", serves=(2,), gives=(3,)))
    assert machine.homes() == {1: "b", 2: "c"}
    assert machine.doors() == {"b": "tcp://b:1", "c": "tcp://c:1"}


def test_another_process_under_the_same_id_is_noticed() -> None:
    machine = member()
    machine.heard(beat_of("a", 7))
    assert machine.twin is None
    machine.heard(beat_of("a", 8, run="another"))
    assert machine.twin is not None


def test_lost_hosts_are_named_until_they_are_back() -> None:
    machine = member()
    machine.read(placed("aaaa", losses={"b": Loss("host b", "run-b", 1)}), 1)
    assert machine.lost() == {"b": "host b"}
    machine.heard(beat_of("b", run="another"))
    assert machine.lost() == {}
    passes(machine, SETTLE_BEATS)
    following = machine.proposal()
    assert following is not None
    assert list(following.hosts) == ["a", "b"], "one that was started again is not waited for"


def test_words_that_no_host_of_the_cluster_says_are_refused() -> None:
    machine = member()
    with pytest.raises(ValueError, match="names a shard that is none of 4"):
        machine.heard(beat_of("b", serves=(SHARDS,)))
    for number in range(HOSTS_MAX - 1):
        machine.heard(beat_of(f"b{number}"))
    with pytest.raises(ValueError, match="one host more than"):
        machine.heard(beat_of("c"))
    assert not machine.heard(beat_of("b0")), "an old word is none"
    with pytest.raises(ValueError, match="a placement of 8 shards"):
        machine.read(empty_placement(8), 1)


def test_however_many_hosts_come_and_go_there_is_room_for_the_next() -> None:
    machine = member()
    machine.read(placed("aabb"), 1)
    machine.heard(beat_of("b", gone=True))
    for number in range(HOSTS_MAX - 2):
        machine.heard(beat_of(f"c{number}", gone=number % 2 == 0))
    machine.heard(beat_of("d"))
    passes(machine, LOST_BEATS)
    for number in range(HOSTS_MAX // 2):
        machine.heard(beat_of(f"e{number}"))
    assert len(machine.live()) == HOSTS_MAX // 2 + 1
    following = machine.proposal()
    assert following is not None
    assert following.losses == {}, "b gets shards, and has said goodbye: it is not forgotten, so that it is not taken for lost"


def test_what_a_host_said_before_it_left_is_old_for_a_while_and_then_it_is_forgotten() -> None:
    machine = member()
    machine.read(placed("aaaa"), 1)
    machine.heard(beat_of("b", 5))
    machine.heard(beat_of("b", 6, gone=True))
    passes(machine, FORGET_BEATS - 1)
    assert not machine.heard(beat_of("b", 5))
    passes(machine, 1)
    assert machine._peers == {}


def test_a_lost_host_is_told_of_for_a_week_and_then_forgotten() -> None:
    machine = member()
    machine.read(placed("aaaa", losses={"b": Loss("host b", "run-b", 1)}), 1)
    passes(machine, LOST_BEATS)
    assert machine.proposal() is None
    machine._echoed += FORGET_LOSS_BEATS - LOST_BEATS - 1
    assert machine.proposal() is None
    machine._echoed += 1
    following = machine.proposal()
    assert following is not None
    assert following.losses == {}


def test_of_too_many_lost_hosts_those_are_forgotten_that_were_lost_first() -> None:
    machine = member()
    lost = {f"b{number}": Loss(f"host b{number}", "run", 1) for number in range(HOSTS_MAX)}
    machine.read(placed("aaaa", losses=lost), 1)
    passes(machine, LOST_BEATS)
    assert machine.proposal() is None
    machine.read(placed("aaaa", losses={"c": Loss("host c", "run", 1), **lost}), 2)
    following = machine.proposal()
    assert following is not None
    assert (len(following.losses), "c" in following.losses) == (HOSTS_MAX, True)


def test_a_placement_that_somebody_speaks_of_and_that_no_read_finds_is_waited_for_no_longer() -> None:
    machine = member()
    machine.heard(beat_of("b", revision=1_000))
    placement = placed("aabb", "a", "b")
    machine.read(placement, 6)
    for number in range(DOUBT_BEATS):
        assert (machine.is_behind, machine.target) == (True, frozenset())
        machine.heard(beat_of("b", number + 2, revision=1_000 + number))
        passes(machine, 1)
    assert machine.is_behind, "it was not looked for again"
    machine.read(placement, 6)
    assert not machine.is_behind
    assert machine.target == {0, 1}
    machine.heard(beat_of("b", 100, revision=6))
    machine.read(placement, 6)
    machine.heard(beat_of("b", 101, revision=7))
    assert machine.is_behind, "it is believed again, since it has been right"


def test_a_placement_whose_reads_come_late_is_waited_for_as_long_as_they_find_newer_ones() -> None:
    machine = member()
    for revision in range(1, 3 * DOUBT_BEATS):
        machine.heard(beat_of("b", revision, revision=revision + 1))
        machine.read(placed("aabb", "a", "b"), revision)
        passes(machine, 1)
        assert machine.is_behind


def test_only_where_all_reads_are_older_for_a_while_the_record_may_have_been_put_back() -> None:
    machine = member()
    machine.read(placed("aaaa"), 9)
    for _ in range(DOUBT_BEATS - 1):
        machine.read(placed("bbbb"), 3)
        passes(machine, 1)
        assert machine.put_back is None
    machine.read(placed("aaaa"), 9)
    machine.read(placed("bbbb"), 3)
    passes(machine, DOUBT_BEATS)
    assert machine.put_back == 3
    machine.was_put_back(3)
    assert machine.put_back is None
    assert not machine.read(placed("bbbb"), 3)
    assert machine.read(placed("aaaa"), 4)


def test_what_travels_is_read_as_it_was_and_other_bytes_are_refused() -> None:
    said = beat_of("a", 3, serves=(1, 2), revision=4)
    assert decode_beat(encode(said)) == said
    placement = next_placement(placed("aabb", pins={1: "b"}, draining=frozenset({"a"})), {"b": PlacedHost("b", 2, "r")}, {})
    assert decode_placement(encode(placement), SHARDS) == placement
    with pytest.raises(msgspec.ValidationError):
        decode_placement(encode(placement), 8)
    for wrong in (b"", b"{}", b"[]", encode(said).replace(b'"weight":1', b'"weight":0'), encode(said).replace(b'"a"', b'""', 1)):
        with pytest.raises(msgspec.MsgspecError):
            decode_beat(wrong)
