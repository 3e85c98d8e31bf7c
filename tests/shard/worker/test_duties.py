"""shard/worker/duties.py: whatever a worker is told and however it ends, it comes to have what it is to have."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidegate.shard.worker.duties import READS, Duties, Give, ReadAhead, Step, Take

SHARDS = st.frozensets(st.integers(0, READS + 3))


def test_what_is_lacking_is_taken_and_what_is_too_much_is_given() -> None:
    duties = Duties({0, 1}, ())
    assert duties.told({1, 2}) == [Give(0), Take(2)]
    assert duties.told({1, 2}) == [], "it is under way"
    assert duties.taken(2) == []
    assert duties.given(0) == []
    assert (duties.owned, duties.busy) == ({1, 2}, set())


def test_one_thing_is_done_to_a_shard_at_a_time() -> None:
    duties = Duties({0}, ())
    assert duties.told(()) == [Give(0)]
    assert duties.told({0}) == [], "it is being given, and nobody takes that back"
    assert duties.given(0) == [Take(0)]
    assert duties.told(()) == []
    assert duties.taken(0) == [Give(0)]


def test_what_another_host_has_claimed_is_not_asked_for_again_before_it_was_out_of_the_target() -> None:
    duties = Duties({0, 1}, ())
    assert duties.lost(0) == []
    assert duties.told({0, 1}) == []
    assert duties.refused == {0}
    assert duties.told({1}) == []
    assert duties.told({0, 1}) == [Take(0)]


def test_what_was_not_to_be_had_is_asked_for_when_it_may_be() -> None:
    duties = Duties((), {3})
    assert duties.told({3}) == []
    assert duties.again(3) == [Take(3)]
    assert duties.not_taken(3) == []
    assert duties.refused == {3}


def test_a_shard_that_is_lost_while_it_is_given_is_gone() -> None:
    duties = Duties({0}, ())
    assert duties.told(()) == [Give(0)]
    assert duties.lost(0) == []
    assert (duties.owned, duties.busy, duties.refused) == (set(), set(), set())


def test_what_is_to_be_had_next_is_read_once_and_taken_when_that_has_ended() -> None:
    duties = Duties({0}, ())
    assert duties.told({0}, ahead={1, 2}) == [ReadAhead(1), ReadAhead(2)]
    assert duties.busy == {1, 2}
    assert duties.read(1) == []
    assert (duties.ready, duties.busy) == ({1}, {2})
    assert duties.told({0}, ahead={1, 2}) == [], "it was read, or is being read"
    assert duties.told({0, 1, 2}) == [Take(1)]
    assert duties.ready == set()
    assert duties.read(2) == [Take(2)]


def test_what_is_being_given_is_read_when_it_is_gone_and_what_is_wanted_no_longer_is_forgotten() -> None:
    duties = Duties({0, 1}, ())
    assert duties.told((), ahead={0}) == [Give(0), Give(1)]
    assert duties.busy == {0, 1}
    assert duties.given(0) == [ReadAhead(0)]
    assert duties.told(()) == []
    assert duties.read(0) == []
    assert duties.ready == set()


def test_what_is_to_be_had_does_not_wait_for_the_reads_of_other_shards() -> None:
    duties = Duties((), ())
    shards = range(READS + 2)
    assert duties.told((), ahead=shards) == [ReadAhead(shard) for shard in range(READS)]
    assert duties.busy == duties.unread == set(shards), "it may begin with any of them"
    assert duties.told({READS + 1}, ahead=range(READS + 1)) == [Take(READS + 1)], "its owner has died, or has given it"
    assert duties.taken(READS + 1) == []
    assert duties.read(0) == [ReadAhead(READS)]
    assert duties.unread == set(range(1, READS + 1))


def test_what_could_not_be_read_is_not_ready_and_is_tried_again_and_keeps_no_other_from_being_read() -> None:
    duties = Duties((), ())
    duties.told((), ahead=range(READS + 1))
    assert duties.not_read(0) == [ReadAhead(READS)]
    assert (duties.ready, duties.unreadable) == (set(), {0})
    assert 0 in duties.unread & duties.busy
    assert duties.read(1) == []
    assert duties.again(0) == [ReadAhead(0)]
    assert duties.not_read(0) == []
    assert duties.told({0}, ahead=range(1, READS + 1)) == [Take(0)]
    assert duties.unreadable == set()


@given(SHARDS, st.lists(st.tuples(st.sampled_from(["told", "end", "lost"]), SHARDS, SHARDS, st.integers(0, 9), st.booleans())))
def test_in_the_end_it_has_what_it_was_told_last_but_for_what_is_not_to_be_had(
    first: frozenset[int], events: list[tuple[str, frozenset[int], frozenset[int], int, bool]]
) -> None:
    duties = Duties(first, ())
    under_way: list[Step] = []

    def end(step: Step, *, well: bool) -> None:
        under_way.remove(step)
        if isinstance(step, Take):
            under_way.extend(duties.taken(step.shard) if well else duties.not_taken(step.shard))
        elif isinstance(step, ReadAhead):
            under_way.extend(duties.read(step.shard) if well else duties.not_read(step.shard))
        else:
            under_way.extend(duties.given(step.shard))

    for what, target, ahead, number, well in events:
        if what == "told":
            under_way += duties.told(target, ahead)
        elif what == "end" and under_way:
            end(under_way[number % len(under_way)], well=well)
        elif what == "lost" and (owned := sorted(duties.owned)):
            lost = owned[number % len(owned)]
            under_way = [each for each in under_way if each != Give(lost)] + duties.lost(lost)
        duties.check_invariants()
        shards = [each.shard for each in under_way]
        assert len(set(shards)) == len(shards)
        assert set(shards) == duties.taking | duties.giving | duties.reading
    for shard in duties.unreadable.copy():
        under_way += duties.again(shard)
    while under_way:
        end(under_way[0], well=True)
        duties.check_invariants()
    assert duties.owned == duties.target - duties.refused
    assert duties.ready == duties.ahead
