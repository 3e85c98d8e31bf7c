"""Which calls are made, and of which objects."""

from __future__ import annotations

import collections
from random import Random

from tidegate.runtime.chaos.calls.workload import SHARES, Roster, Workload
from tidegate.runtime.chaos.verdict.models import MODELS


def test_every_call_is_one_that_the_model_of_its_object_knows() -> None:
    roster, workload = Roster(), Workload(Roster(), Random(1), 0, keys=False)
    seen: collections.Counter[str] = collections.Counter()
    for _ in range(5_000):
        call = workload.next_call()
        cls, name, method, args = call
        seen[cls] += 1
        assert name in roster.now(cls)
        if cls in MODELS:
            model, state = MODELS[cls]
            _, result = model(state, (method, args))
            workload.seen(call, result)
        else:
            assert method == "transfer"
            assert args[0] in roster.now(cls)
            assert args[0] != name
    assert seen.keys() == SHARES.keys()


def test_no_two_calls_of_any_callers_write_the_same_value() -> None:
    written = []
    for caller in range(3):
        workload = Workload(Roster(), Random(caller), caller, keys=True)
        for _ in range(2_000):
            _, _, method, args = workload.next_call()
            if method in ("swap", "put", "compare_and_swap"):
                written.append(args[-1])
    assert len(written) == len(set(written)) > 1_000


def test_there_are_as_many_objects_of_a_class_as_are_asked_for_and_none_is_forgotten() -> None:
    roster = Roster()
    few = list(roster.now("Bulk"))
    assert roster.at_least("Bulk", 3) == few[:3]
    assert roster.now("Bulk") == few
    many = roster.at_least("Bulk", len(few) + 5)
    assert many[: len(few)] == few
    assert len(set(many)) == len(few) + 5
    assert roster.at_least("Bulk", len(few) + 5) == many == roster.now("Bulk") == roster.names["Bulk"]


def test_an_object_that_is_retired_has_a_successor_and_is_not_forgotten() -> None:
    roster = Roster()
    first = roster.now("Register")[3]
    roster.retire("Register", first)
    second = roster.now("Register")[3]
    roster.retire("Register", second)
    assert [first, second, roster.now("Register")[3]] == ["register-3", "register-3.1", "register-3.2"]
    assert {first, second} < set(roster.names["Register"])
    assert first not in roster.now("Register")
