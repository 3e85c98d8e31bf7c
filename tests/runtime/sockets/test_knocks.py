"""What somebody without a key may take of a service before he is greeted."""

from __future__ import annotations

import random

from tidegate.runtime.limits import (
    KNOCK_ADDRESSES_MAX,
    KNOCK_BARRED_MAX,
    KNOCK_BARRED_S,
    KNOCK_BYTES_MAX,
    KNOCKS_AT_ONCE,
    KNOCKS_MAX,
    KNOCKS_PER_S,
)
from tidegate.runtime.sockets.knocks import GREETED_BYTES, Knocks, place_of


def test_an_address_may_come_so_often_at_once_and_then_slowly_and_is_barred_for_a_while() -> None:
    knocks = Knocks()
    assert [knocks.came(fd, "a", 0.0) for fd in range(KNOCKS_AT_ONCE + 2)] == [*[None] * KNOCKS_AT_ONCE, 256, 257]
    assert (knocks.turned_out, knocks.barred) == (2, {"a": KNOCK_BARRED_S})
    assert knocks.came(1_000, "b", 0.0) is None
    assert knocks.came(1_001, "a", 1.1 / KNOCKS_PER_S) is None
    assert not knocks.no_longer_barred(KNOCK_BARRED_S - 0.1)
    assert knocks.no_longer_barred(KNOCK_BARRED_S)
    assert knocks.barred == {}


def test_who_is_greeted_costs_his_address_nothing() -> None:
    knocks = Knocks()
    for fd in range(10 * KNOCKS_AT_ONCE):
        assert knocks.came(fd, "a", 0.0) is None
        assert knocks.said(fd, 900, GREETED_BYTES)
        assert knocks.waiting == ()


def test_who_says_much_before_he_is_greeted_is_turned_out_and_who_says_it_after_that_is_not() -> None:
    knocks = Knocks()
    assert [knocks.came(fd, "a", 0.0) for fd in (1, 2)] == [None, None]
    assert knocks.said(1, KNOCK_BYTES_MAX, 64)
    assert not knocks.said(1, KNOCK_BYTES_MAX + 1, 234)
    assert knocks.said(2, 1 << 30, GREETED_BYTES)
    assert (knocks.waiting, knocks.turned_out) == ((), 1)


def test_all_addresses_together_have_a_bound_which_bars_nobody() -> None:
    knocks = Knocks()
    assert all(knocks.came(fd, f"{fd}", 0.0) is None for fd in range(KNOCKS_MAX))
    assert knocks.came(5_000, "late", 0.0) == 5_000
    assert knocks.barred == {}
    knocks.left(0)
    assert knocks.came(5_000, "late", 0.0) is None


def test_where_all_places_are_taken_the_address_that_has_most_of_them_gives_way() -> None:
    knocks = Knocks()
    attackers = KNOCKS_MAX // KNOCKS_AT_ONCE
    assert all(knocks.came(fd, f"{fd % attackers}", 0.0) is None for fd in range(KNOCKS_MAX))
    assert [knocks.came(5_000 + n, f"late {n}", 0.0) for n in range(attackers + 1)] == [*range(attackers), attackers]
    assert (len(knocks.waiting), knocks.turned_out) == (KNOCKS_MAX, attackers + 1)
    assert [knocks.came(6_000, f"{n}", 5.0) for n in range(2)] == [6_000, 6_000]  # They have most themselves.
    assert all(knocks.said(5_000 + n, 900, GREETED_BYTES) for n in range(attackers + 1))


def test_a_network_of_ipv6_counts_as_one_address() -> None:
    assert place_of("2001:db8:1:2:3:4:5:6") == place_of("2001:db8:1:2::1") == "2001:db8:1:2::/64"
    assert place_of("2001:db8:1:3::1") != place_of("2001:db8:1:2::1")
    assert [place_of(each) for each in ("192.0.2.1", "::1", "fe80::1%lo")] == ["192.0.2.1", "::1", "fe80::1"]


def test_very_many_addresses_take_no_more_memory_than_the_bounds() -> None:
    knocks = Knocks()
    chance = random.Random(1)
    for step in range(60_000):
        now = step * 0.000_1
        address = f"{chance.randrange(100)}" if step % 2 else f"{chance.randrange(50_000)}"
        if knocks.came(step, address, now) == step:
            continue
        chance.choice((knocks.left, lambda fd: knocks.said(fd, 0, GREETED_BYTES), lambda fd: None))(step)
        assert len(knocks.waiting) <= KNOCKS_MAX
        assert sum(knocks._numbers.values()) == len(knocks.waiting)
    assert len(knocks.barred) <= KNOCK_BARRED_MAX
    assert len(knocks._buckets) <= KNOCK_ADDRESSES_MAX
