"""The checker, on histories that are known to be right or wrong, against the search of all orders, and at scale."""

from __future__ import annotations

import itertools
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from random import Random

import pytest

from tidegate.runtime.chaos.verdict.linearizability import Invocation, Model, ObjectCheck, Undecided
from tidegate.runtime.chaos.verdict.models import MISSING, MODELS, counter, register

UNKNOWN = object()


@dataclass(frozen=True)
class Seen:
    """A call from `began` to `ended`; the result may be UNKNOWN."""

    began: float
    ended: float
    call: Invocation
    result: Hashable


def take(began: float, ended: float, result: Hashable) -> Seen:
    return Seen(began, ended, ("take", ()), result)


def swap(began: float, ended: float, value: int, result: Hashable) -> Seen:
    return Seen(began, ended, ("swap", (value,)), result)


def read(began: float, ended: float, result: Hashable) -> Seen:
    return Seen(began, ended, ("read", ()), result)


def holds(model: Model, state: Hashable, history: Sequence[Seen]) -> bool:
    check = ObjectCheck(model, state)
    events = [(seen.began, 0, number) for number, seen in enumerate(history)]
    events += [(seen.ended, 1, number) for number, seen in enumerate(history) if seen.result is not UNKNOWN]
    for _, answered, number in sorted(events):
        seen = history[number]
        if answered:
            if not check.answered(number):
                return False
        elif seen.result is UNKNOWN:
            check.began_unknown(seen.call)
        else:
            check.began(number, seen.call, seen.result)
    return True


def holds_in_some_order(model: Model, state: Hashable, history: Sequence[Seen]) -> bool:
    """By definition: every order of the answered calls and any of the unknown ones, with nothing before what had ended."""
    known = [seen for seen in history if seen.result is not UNKNOWN]
    unknown = [seen for seen in history if seen.result is UNKNOWN]
    chosen = (some for count in range(len(unknown) + 1) for some in itertools.combinations(unknown, count))
    return any(fits(model, state, order) for some in chosen for order in itertools.permutations([*known, *some]))


def fits(model: Model, state: Hashable, order: Sequence[Seen]) -> bool:
    for index, seen in enumerate(order):
        if any(later.result is not UNKNOWN and later.ended < seen.began for later in order[index + 1 :]):
            return False
        state, result = model(state, seen.call)
        if seen.result is not UNKNOWN and result != seen.result:
            return False
    return True


RIGHT = {
    "one after another": (counter, [take(0, 1, 0), take(2, 3, 1), read(4, 5, 2)]),
    "side by side, in either order": (counter, [take(0, 9, 1), take(1, 8, 0)]),
    "an unknown call that ran": (counter, [take(0, 1, 0), take(2, 3, UNKNOWN), take(4, 5, 2)]),
    "an unknown call that never ran": (counter, [take(0, 1, 0), take(2, 3, UNKNOWN), take(4, 5, 1)]),
    "an unknown call that ran much later": (counter, [take(0, 1, UNKNOWN), read(2, 3, 0), take(4, 5, 0), take(6, 7, 2)]),
    "a read beside a write sees either": (register, [swap(0, 9, 5, 0), read(1, 2, 5), read(3, 4, 5)]),
    "an unknown write that only a later answer shows to have come first": (
        register,
        [
            Seen(0.1, 0.8, ("compare_and_swap", (0, 1)), UNKNOWN),
            read(0.3, 2.5, 2),
            read(1.0, 3.0, 1),
            swap(1.2, 3.2, 2, UNKNOWN),
            read(3.3, 4.1, 2),
        ],
    ),
    "an unknown write seen, then another": (
        register,
        [swap(0, 1, 5, UNKNOWN), swap(0, 1, 6, UNKNOWN), read(2, 3, 6), read(4, 5, 5)],
    ),
}
WRONG = {
    "a number given twice": (counter, [take(0, 1, 0), take(2, 3, 0)]),
    "a number given twice, side by side": (counter, [take(0, 9, 0), take(0, 9, 0)]),
    "a number left out": (counter, [take(0, 1, 0), take(2, 3, 2)]),
    "an unknown call that ran twice": (counter, [take(0, 1, UNKNOWN), take(2, 3, 2)]),
    "an unknown call that ran before it began": (counter, [take(0, 1, 1), take(2, 3, UNKNOWN)]),
    "a confirmed write lost": (counter, [take(0, 1, 0), take(2, 3, 1), read(4, 5, 1)]),
    "an update lost": (register, [swap(0, 9, 5, 0), swap(0, 9, 6, 0), read(10, 11, 6)]),
    "a stale read": (register, [swap(0, 1, 5, 0), read(2, 3, 0)]),
    "a value read, and then the one before it": (register, [swap(0, 9, 5, 0), read(1, 2, 5), read(3, 4, 0)]),
    "a value from nowhere": (register, [swap(0, 1, 5, 0), read(2, 3, 7)]),
    "answers in the wrong order": (counter, [take(0, 1, 1), take(2, 3, 0)]),
    "an unknown write seen, gone, and seen again": (
        register,
        [swap(0, 1, 5, UNKNOWN), read(2, 3, 5), swap(4, 5, 6, 5), read(6, 7, 5)],
    ),
}


@pytest.mark.parametrize("what", RIGHT)
def test_a_history_that_has_an_order_is_right(what: str) -> None:
    model, history = RIGHT[what]
    assert holds_in_some_order(model, 0, history)
    assert holds(model, 0, history)


@pytest.mark.parametrize("what", WRONG)
def test_a_history_that_has_no_order_is_wrong(what: str) -> None:
    model, history = WRONG[what]
    assert not holds_in_some_order(model, 0, history)
    assert not holds(model, 0, history)


def random_history(random: Random, name: str) -> list[Seen]:
    """Of a few calls side by side: the results of some order, some of them then made unknown or wrong."""
    model, state = MODELS[name]
    calls: list[Seen] = []
    values = itertools.count(1)
    for _ in range(random.randint(2, 6)):
        began = random.uniform(0, 4)
        calls.append(Seen(began, began + random.uniform(0, 3), random_call(random, name, next(values)), None))
    for index in sorted(range(len(calls)), key=lambda index: random.uniform(calls[index].began, calls[index].ended)):
        seen = calls[index]
        if random.random() < 0.3 and random.random() < 0.5:
            calls[index] = Seen(seen.began, seen.ended, seen.call, UNKNOWN)
            continue
        state, result = model(state, seen.call)
        calls[index] = Seen(seen.began, seen.ended, seen.call, UNKNOWN if random.random() < 0.2 else result)
    if random.random() < 0.5:
        one, other = random.randrange(len(calls)), random.randrange(len(calls))
        wrong = calls[other].result if random.random() < 0.7 else 99
        calls[one] = Seen(calls[one].began, calls[one].ended, calls[one].call, wrong)
    return calls


def random_call(random: Random, name: str, value: int) -> Invocation:
    if name == "Counter":
        return random.choice([("take", ()), ("take", ()), ("read", ())])
    if name == "Register":
        return random.choice([("swap", (value,)), ("compare_and_swap", (random.randint(0, value), value)), ("read", ())])
    one, other = random.sample("ab", 2) if random.random() < 0.5 else random.sample("abc", 2)
    return random.choice([("put", (one, value)), ("take", (one,)), ("exchange", (one, other)), ("read", ())])


@pytest.mark.parametrize("name", ["Counter", "Register", "Shelf"])
def test_small_histories_are_judged_as_the_search_of_all_orders_judges_them(name: str) -> None:
    random, verdicts = Random(name), [0, 0]
    model, state = MODELS[name]
    for _ in range(3_000):
        history = random_history(random, name)
        expected = holds_in_some_order(model, state, history)
        assert holds(model, state, history) == expected, history
        verdicts[expected] += 1
    assert min(verdicts) > 500, "both kinds were tried"


def test_a_hundred_thousand_calls_are_judged_in_seconds() -> None:
    began_at = time.process_time()
    for _ in range(100):  # Objects, each called by eight at a time.
        check = ObjectCheck(counter, 0)
        for number in range(1_000):
            check.began(number, ("take", ()), number ^ 7)
            if number % 8 == 7:
                for each in range(number - 7, number + 1):
                    assert check.answered(each)
    assert time.process_time() - began_at < 10


def test_calls_of_unknown_outcome_add_up_for_a_whole_run_and_cost_little() -> None:
    check = ObjectCheck(counter, 0)
    for number in range(2_000):
        check.began_unknown(("take", ()))
        check.began(number, ("take", ()), number * 2 + 1)
        assert check.answered(number)
    assert check.unknown == {("take", ()): 2_000}
    assert check.states == {4_000}


def test_what_has_too_many_orders_is_said_to_be_undecided() -> None:
    check = ObjectCheck(register, 0)
    for value in range(1, 40):
        check.began_unknown(("swap", (value,)))
    check.began(0, ("read", ()), 99)
    with pytest.raises(Undecided):
        check.answered(0)


def test_a_place_with_nothing_raises_as_the_method_does() -> None:
    model, state = MODELS["Shelf"]
    check = ObjectCheck(model, state)
    check.began(1, ("take", ("a",)), MISSING)
    assert check.answered(1)
