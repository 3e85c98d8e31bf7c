"""Chance that is the same each time."""

from __future__ import annotations

import random
import secrets
import uuid

from tidegate.testing.chance import fixed_chance


def drawn() -> list[object]:
    return [random.random(), random.randrange(100), secrets.token_hex(4), uuid.uuid4(), random.SystemRandom().random()]


def test_what_is_drawn_follows_from_the_seed() -> None:
    with fixed_chance("a"):
        one = drawn()
    with fixed_chance("a"):
        same = drawn()
    with fixed_chance("b"):
        other = drawn()
    assert one == same
    assert not set(one) & set(other)


def test_nothing_drawn_afterwards_depends_on_it() -> None:
    random.seed(7)
    undisturbed = [random.random() for _ in range(3)]
    random.seed(7)
    with fixed_chance("a"):
        drawn()
    assert [random.random() for _ in range(3)] == undisturbed
    assert uuid.uuid4() != uuid.uuid4()
