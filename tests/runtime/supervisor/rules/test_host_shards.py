"""runtime/supervisor/rules/host_shards.py: which worker of a host has which shard of its cluster, and who is told what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.runtime.supervisor.rules.host_shards import HostShards
from tidegate.runtime.wire.supervisor_messages import Owned, OwnShards

SHARDS = 8


def opened(workers: int = 2, target: frozenset[int] | None = None) -> HostShards:
    """Workers that have said what they own."""
    host = HostShards(SHARDS, workers, target)
    for worker in range(workers):
        host.said(worker, Owned(0, host.open(worker)))
    return host


def serving(host: HostShards) -> list[int | None]:
    return [host.serving(shard) for shard in range(SHARDS)]


def test_all_shards_are_dealt_as_without_a_cluster() -> None:
    assert serving(HostShards(SHARDS, 3)) == [0, 1, 2, 0, 1, 2, 0, 1]


def test_a_shard_that_is_to_go_is_served_by_nobody_and_held_until_it_is_let_go() -> None:
    host = opened()
    host.set_target(range(1, SHARDS))
    assert host.serving(0) is None
    assert host.orders([0, 1], 5.0) == [(0, OwnShards(1, (2, 4, 6), 5.0))]
    assert host.orders([0, 1], 5.0) == [], "it is no news"
    host.said(0, Owned(0, (0, 2, 4, 6)))
    host.said(0, Owned(1, (0, 2, 4, 6), busy=(0,)))
    assert 0 in host.owned & host.held
    host.said(0, Owned(1, (2, 4, 6)))
    assert 0 not in host.owned | host.held


def test_a_report_from_before_the_order_says_nothing_of_what_was_let_go() -> None:
    host = opened(target=frozenset({0, 1}))
    host.set_target({0, 1, 2})
    ((worker, order),) = host.orders([0, 1], 5.0)
    host.said(worker, Owned(order.number, (worker,), busy=(2,)))
    host.set_target({0, 1})
    host.orders([0, 1], 5.0)
    host.said(worker, Owned(order.number, (worker,)))
    assert 2 in host.held, "it may have come to have it meanwhile"
    host.said(worker, Owned(order.number + 1, (worker,)))
    assert 2 not in host.held


def test_a_shard_comes_to_be_served_when_its_worker_has_it() -> None:
    host = opened(target=frozenset({0}))
    host.set_target({0, 5})
    assert host.serving(5) is None
    assert host.orders([0, 1], 5.0) == [(1, OwnShards(1, (5,), 5.0))]
    host.said(1, Owned(1, (), busy=(5,)))
    assert host.serving(5) is None
    host.said(1, Owned(1, (5,)))
    assert host.serving(5) == 1


def test_between_workers_of_a_host_a_shard_goes_by_way_of_nobody() -> None:
    host = opened(target=frozenset({0, 2, 1}))
    host.set_target({1})
    host.orders([0, 1], 5.0)
    host.said(0, Owned(1, ()))
    host.set_target({1, 3, 5})
    assert {host.of(0), host.of(1)} == {frozenset({1, 5}), frozenset({3})}
    host = opened(target=frozenset(range(4)))
    host.set_target({0, 2})
    assert [host.of(worker) for worker in (0, 1)] == [{0}, frozenset()], "worker 0 has shard 2 still"
    assert [worker for worker, _ in host.orders([0, 1], 5.0)] == [0, 1]
    host.said(0, Owned(2, (0,)))
    assert host.of(1) == {2}
    assert [(worker, order.shards) for worker, order in host.orders([0, 1], 5.0)] == [(1, (2,))]


def test_what_is_to_be_had_next_is_read_by_the_worker_that_will_have_it_and_is_not_served() -> None:
    host = opened(target=frozenset({0, 1}))
    host.set_target({0, 1}, ahead={4})
    assert host.orders([0, 1], 5.0) == [(0, OwnShards(1, (0,), 5.0, (4,)))]
    assert host.target == {0, 1}
    assert host.serving(4) is None
    assert 4 in host.held
    host.said(0, Owned(1, (0,), busy=(4,), reads=(0, 4)))
    assert host.reads == {4}
    assert host.ready == frozenset()
    host.said(0, Owned(1, (0,), ready=(4,)))
    assert host.ready == {4}
    assert host.owned == {0, 1}
    assert host.serving(4) is None
    assert 4 not in host.held
    host.set_target({0, 1, 4})
    assert host.orders([0, 1], 5.0) == [(0, OwnShards(2, (0, 4), 5.0))]
    assert host.ready == frozenset()


def test_a_shard_that_is_being_read_is_no_other_workers() -> None:
    host = opened(target=frozenset({0, 1, 3}))
    host.set_target({0, 1, 3}, ahead={2})
    host.orders([0, 1], 5.0)
    host.said(0, Owned(1, (0,), busy=(2,)))
    host.set_target({0, 2})
    host.orders([0, 1], 5.0)
    host.set_target({0}, ahead={2})
    host.orders([0, 1], 5.0)
    host.check_invariants()
    assert host.ahead_of(0) | host.ahead_of(1) <= {2}
    assert 2 not in host.ahead_of(1), "worker 0 may use its file"


def test_calls_of_a_shard_that_its_worker_cannot_have_go_there_for_the_reason() -> None:
    host = opened()
    host.said(0, Owned(0, (0, 2, 4), stopped={6: "it is damaged"}))
    assert host.serving(6) == 0
    assert host.stopped == {6: "it is damaged"}
    assert 6 not in host.owned


def test_of_a_worker_that_has_ended_nothing_is_held_and_its_calls_wait_for_the_next() -> None:
    host = opened()
    host.gone(0)
    assert host.held == {1, 3, 5, 7}
    assert host.serving(0) == 0
    host.set_target(range(2, SHARDS))
    assert host.serving(0) is None
    assert host.open(0) == (2, 4, 6)
    assert host.serving(2) == 0
    assert host.held >= {2, 4, 6}


def test_a_shard_that_the_cluster_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="the cluster has 8 shards, and not 8"):
        HostShards(SHARDS, 2).set_target({8})


@given(
    st.integers(1, 3),
    st.lists(
        st.tuples(
            st.sampled_from(["target", "say", "die", "open"]),
            st.frozensets(st.integers(0, 7)),
            st.frozensets(st.integers(0, 7)),
            st.integers(0, 2),
        )
    ),
)
def test_two_workers_never_may_have_one_shard_and_in_the_end_each_has_what_was_dealt_to_it(
    workers: int, events: list[tuple[str, frozenset[int], frozenset[int], int]]
) -> None:
    host = opened(workers)
    heard: dict[int, list[OwnShards]] = {worker: [] for worker in range(workers)}
    has = {worker: host.of(worker) for worker in range(workers)}
    reads: dict[int, frozenset[int]] = dict.fromkeys(range(workers), frozenset())
    number = dict.fromkeys(range(workers), 0)
    there = set(range(workers))

    def order() -> None:
        for worker, each in host.orders(sorted(there), 1.0):
            heard[worker].append(each)

    def say(worker: int) -> None:
        if worker in there:
            for each in heard[worker]:
                has[worker], number[worker] = frozenset(each.shards), each.number
                reads[worker] = frozenset(each.ahead)
            heard[worker].clear()
            host.said(worker, Owned(number[worker], tuple(has[worker]), tuple(reads[worker])))

    for what, target, ahead, which in events:
        worker = which % workers
        if what == "target":
            host.set_target(target, ahead)
        elif what == "say":
            say(worker)
        elif what == "die":
            host.gone(worker)
            heard[worker].clear()
            has[worker], reads[worker], number[worker] = frozenset(), frozenset(), 0
            there.discard(worker)
        elif worker not in there:
            has[worker] = frozenset(host.open(worker))
            there.add(worker)
        order()
        host.check_invariants()
        used = [shard for each in there for shard in has[each] | reads[each]]
        assert len(set(used)) == len(used), "two processes use the file of one shard"
    host.set_target(host.target)
    for _ in range(3):
        for worker in range(workers):
            if worker not in there:
                has[worker] = frozenset(host.open(worker))
                there.add(worker)
            say(worker)
        order()
    for worker in range(workers):
        say(worker)
    assert host.owned == host.target
    assert {shard: host.serving(shard) for shard in host.target} == {
        shard: worker for worker in range(workers) for shard in has[worker]
    }
    counts = [len(each) for each in has.values()]
    assert max(counts) - min(counts) <= 1
