"""Every shape cuts somebody off, and nobody whom it does not mean."""

from __future__ import annotations

from random import Random

import pytest

from tidegate.runtime.chaos.faults.shapes import SHAPES, Machines, Pairs, apart, one_way

HOSTS, SERVERS, CALLERS = ["host-1", "host-2", "host-3"], ["nats-1", "nats-2", "nats-3"], "callers"
THERE = Machines(HOSTS, SERVERS, CALLERS, "nats-2")
DRAWS = 40


def hears(pairs: Pairs, machine: str) -> set[str]:
    return {other for other in THERE.all_but(machine) if (other, machine) not in pairs}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_cuts_in_one_direction_only_where_it_says_so_and_a_seed_draws_the_same_again(shape: str) -> None:
    for seed in range(DRAWS):
        pairs = SHAPES[shape](THERE, Random(seed))
        assert pairs
        assert pairs == SHAPES[shape](THERE, Random(seed))
        assert all(one != other for one, other in pairs)
        both_ways = pairs == {(receiver, sender) for sender, receiver in pairs}
        assert both_ways is not ("nobody" in shape), shape


def test_a_host_that_is_cut_off_from_all_but_its_callers_hears_them_only() -> None:
    pairs = SHAPES["a host from all but its callers"](THERE, Random(1))
    assert sorted(len(hears(pairs, host)) for host in HOSTS) == [1, 5, 5]


def test_one_half_has_most_of_the_servers() -> None:
    for seed in range(DRAWS):
        pairs = SHAPES["halves"](THERE, Random(seed))
        assert sorted(len(hears(pairs, server) & set(SERVERS)) for server in SERVERS) == [0, 1, 1]
        assert all(hears(pairs, host) & set(SERVERS) for host in HOSTS), "each half has some"


def test_a_leader_without_the_other_servers_is_heard_by_hosts() -> None:
    pairs = SHAPES["a leader from the other servers"](THERE, Random(1))
    assert hears(pairs, "nats-2") == {*HOSTS, CALLERS}


def test_both_ways_are_two_one_ways() -> None:
    assert apart("a", "bc") == one_way("a", "bc") | one_way("bc", "a")
    assert len(apart("a", "bc")) == 4
