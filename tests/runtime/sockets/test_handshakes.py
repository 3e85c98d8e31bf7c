"""Counting strangers, in every order in which the library may tell of connections."""

from __future__ import annotations

import random

from tidegate.runtime.sockets.handshakes import Handshakes


def test_who_closes_before_the_greeting_is_a_stranger_and_who_closes_after_it_is_none() -> None:
    handshakes = Handshakes()
    handshakes.accepted(7)
    assert handshakes.closed(7)
    handshakes.accepted(7)
    handshakes.succeeded()
    assert not handshakes.closed(7)
    assert handshakes.strangers == 1


def test_who_leaves_in_the_middle_of_the_greeting_is_no_stranger_and_who_is_closed_then_is_one() -> None:
    handshakes = Handshakes()
    handshakes.accepted(1)
    handshakes.accepted(2)
    assert not handshakes.failed(1, left=True)
    assert handshakes.failed(2, left=False)
    assert handshakes.strangers == 1


def test_a_client_that_leaves_while_others_are_being_greeted_is_counted_right_in_the_end() -> None:
    handshakes = Handshakes()
    handshakes.accepted(1)
    handshakes.accepted(2)
    handshakes.succeeded()  # Of 1, but that is not told.
    handshakes.closed(1)
    handshakes.succeeded()
    assert handshakes.strangers == 0
    assert not handshakes.closed(2)
    assert handshakes.strangers == 0


def test_in_any_order_the_number_of_strangers_is_right_when_all_is_settled() -> None:
    for seed in range(2_000):
        rng = random.Random(seed)
        handshakes, strangers = Handshakes(), 0
        free, under_way, clients = list(range(6)), dict[int, bool](), list[int]()
        for _ in range(rng.randrange(40)):
            move = rng.randrange(3)
            if move == 0 and free:
                under_way[fd := free.pop()] = rng.random() < 0.5
                handshakes.accepted(fd)
            elif move == 1 and under_way:
                fd, speaks = under_way.popitem() if rng.random() < 0.5 else next(iter(under_way.items()))
                under_way.pop(fd, None)
                if speaks:
                    clients.append(fd)
                    handshakes.succeeded()
                else:
                    how = rng.randrange(3)
                    free.append(fd)
                    if how == 0:
                        handshakes.closed(fd)
                    else:
                        handshakes.failed(fd, left=how == 2)
                    strangers += how < 2
            elif move == 2 and clients:
                free.append(fd := clients.pop(rng.randrange(len(clients))))
                handshakes.closed(fd)
        for fd in under_way:
            handshakes.closed(fd)
        for fd in clients:
            handshakes.closed(fd)
        assert handshakes.strangers == strangers + len(under_way), seed
