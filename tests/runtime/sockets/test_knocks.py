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
from tidegate.runtime.sockets.knocks import GREETED_BYTES, Knocks


def test_an_address_may_come_so_often_at_once_and_then_slowly_and_is_barred_for_a_while() -> None:
    knocks = Knocks()
    assert [knocks.came(fd, "a", 0.0) for fd in range(KNOCKS_AT_ONCE + 2)] == [*[True] * KNOCKS_AT_ONCE, False, False]
    assert (knocks.turned_out, knocks.barred) == (2, {"a": KNOCK_BARRED_S})
    assert knocks.came(1_000, "b", 0.0)
    assert knocks.came(1_001, "a", 1.1 / KNOCKS_PER_S)
    assert not knocks.no_longer_barred(KNOCK_BARRED_S - 0.1)
    assert knocks.no_longer_barred(KNOCK_BARRED_S)
    assert knocks.barred == {}


def test_who_is_greeted_costs_his_address_nothing() -> None:
    knocks = Knocks()
    for fd in range(10 * KNOCKS_AT_ONCE):
        assert knocks.came(fd, "a", 0.0)
        assert knocks.said(fd, 900, GREETED_BYTES)
        assert knocks.waiting == ()


def test_who_says_much_before_he_is_greeted_is_turned_out_and_who_says_it_after_that_is_not() -> None:
    knocks = Knocks()
    assert [knocks.came(fd, "a", 0.0) for fd in (1, 2)] == [True, True]
    assert knocks.said(1, KNOCK_BYTES_MAX, 64)
    assert not knocks.said(1, KNOCK_BYTES_MAX + 1, 234)
    assert knocks.said(2, 1 << 30, GREETED_BYTES)
    assert (knocks.waiting, knocks.turned_out) == ((), 1)


def test_all_addresses_together_have_a_bound_which_bars_nobody() -> None:
    knocks = Knocks()
    assert all(knocks.came(fd, f"{fd % 100}", 0.0) for fd in range(KNOCKS_MAX))
    assert not knocks.came(5_000, "late", 0.0)
    assert knocks.barred == {}
    knocks.left(0)
    assert knocks.came(5_000, "late", 0.0)


def test_very_many_addresses_take_no_more_memory_than_the_bounds() -> None:
    knocks = Knocks()
    chance = random.Random(1)
    for step in range(60_000):
        now = step * 0.000_1
        address = f"{chance.randrange(100)}" if step % 2 else f"{chance.randrange(50_000)}"
        if not knocks.came(step, address, now):
            continue
        chance.choice((knocks.left, lambda fd: knocks.said(fd, 0, GREETED_BYTES), lambda fd: None))(step)
        assert len(knocks.waiting) <= KNOCKS_MAX
    assert len(knocks.barred) <= KNOCK_BARRED_MAX
    assert len(knocks._buckets) <= KNOCK_ADDRESSES_MAX
