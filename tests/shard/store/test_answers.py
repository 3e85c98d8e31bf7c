"""Answers kept for keys: against a model, over checkpoints, crashes and replays."""

from __future__ import annotations

from itertools import product
from random import Random
from typing import Any

import msgspec
import pytest

from tidegate.shard.store.answers import (
    ANSWER_BYTES,
    FLOOR_BYTES,
    FLOORS_SHARE,
    SESSION_BYTES,
    AnswerLimits,
    AnswerTable,
    decode_answers,
)
from tidegate.shard.store.interface import Answer

OBJECTS = tuple(f"{index:032x}" for index in range(3))
SESSIONS = ("one", "two", "Three-3_")


def answer(group: str, key: int | str, answered: int = 0, *, result: Any = 7, since_s: int = 1_000) -> Answer:
    raw = msgspec.msgpack.encode(result)
    return Answer(group, key, answered, 5, 0, msgspec.Raw(raw), len(raw), since_s)


def as_logged(answers: list[Answer]) -> list[Answer]:
    """As a log gives them back."""
    return decode_answers(msgspec.Raw(msgspec.msgpack.encode(answers)))


def found(table: AnswerTable) -> dict[tuple[str, Any], bytes]:
    return {(name, key): bytes(kept.result) for name, group in table.groups.items() for key, kept in group.rows.items()}


def floors(table: AnswerTable) -> dict[str, int]:
    """Of all that is known of sessions."""
    return {name: each.floor for name, each in (table.groups | table.floors).items() if each.floor}


class Rows:
    """The rows of the state, as checkpoints leave them."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}

    def save(self, table: AnswerTable) -> None:
        for key, raw in table.take_changes().items():
            if raw is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = raw

    def load(self, limits: AnswerLimits | None = None) -> AnswerTable:
        table = AnswerTable(*(() if limits is None else (limits,)))
        table.load(sorted(self.rows.items()))
        table.check_invariants()
        return table


def test_what_a_session_says_has_arrived_is_freed_at_once() -> None:
    table = AnswerTable()
    for number in range(10):
        table.apply([answer("one", number, max(0, number - 1))])
    assert sorted(table.groups["one"].rows) == [8, 9]
    assert table.groups["one"].floor == 8
    assert table.dropped == 0
    table.check_invariants()


def test_what_was_freed_before_the_checkpoint_costs_the_state_nothing() -> None:
    table = AnswerTable()
    for number in range(1_000):
        table.apply([answer("one", number, number)])
    changes = table.take_changes()
    assert len(changes) == 2, "the newest answer and the session"
    assert table.take_changes() == {}


def test_rows_that_were_freed_since_leave_the_state_with_the_next_checkpoint() -> None:
    table, state = AnswerTable(), Rows()
    table.apply([answer("one", number) for number in range(5)])
    state.save(table)
    assert len(state.rows) == 6
    table.apply([answer("one", 5, answered=4)])
    state.save(table)
    assert found(state.load()) == found(table) == {("one", 4): b"\x07", ("one", 5): b"\x07"}
    assert len(state.rows) == 3


def test_calls_that_a_call_has_made_are_freed_with_it() -> None:
    table = AnswerTable()
    table.apply([answer("one", "3~abc"), answer("one", "3~def"), answer("one", "4~abc"), answer("one", 3)])
    table.apply([answer("one", 9, answered=4)])
    assert sorted(map(str, table.groups["one"].rows)) == ["4~abc", "9"]
    table.check_invariants()


def test_an_answer_takes_the_place_of_its_mark_in_memory_and_in_the_state() -> None:
    table, state = AnswerTable(), Rows()
    table.apply([answer("one", 1, result="started")])
    state.save(table)
    table.apply([answer("one", 1, result="ended")])
    state.save(table)
    assert found(state.load()) == {("one", 1): msgspec.msgpack.encode("ended")}
    assert len(state.rows) == 2


def test_of_one_object_so_many_answers_are_kept_the_newest() -> None:
    table = AnswerTable(AnswerLimits(per_object=3))
    table.apply([answer(OBJECTS[0], f"k{index}") for index in range(10)] + [answer(OBJECTS[1], "k")])
    assert list(table.groups[OBJECTS[0]].rows) == ["k7", "k8", "k9"]
    assert list(table.groups[OBJECTS[1]].rows) == ["k"]
    assert table.dropped == 7
    table.check_invariants()


def test_the_bound_of_an_object_is_none_of_a_session() -> None:
    table = AnswerTable(AnswerLimits(per_object=3))
    table.apply([answer("one", index) for index in range(10)])
    assert len(table.groups["one"].rows) == 10


def test_beyond_the_bound_in_bytes_the_oldest_leave_whosever_they_are() -> None:
    table = AnswerTable(AnswerLimits(bytes_max=5 * ANSWER_BYTES + 5 + SESSION_BYTES))
    for index in range(4):
        table.apply([answer("one", index), answer(OBJECTS[0], f"k{index}")])
    assert table.bytes <= table.limits.bytes_max
    assert {key for _, key in found(table)} == {"k1", 2, "k2", 3, "k3"}
    assert table.dropped == 3
    assert table.groups["one"].floor == 2, "a number whose answer was dropped is not new"
    table.check_invariants()


def test_what_is_too_old_leaves_and_a_session_that_is_used_stays() -> None:
    table = AnswerTable(AnswerLimits(kept_s=100))
    table.apply([answer("one", 1, since_s=1_000), answer("two", 1, since_s=1_000), answer(OBJECTS[0], "k", since_s=1_000)])
    table.apply([answer("one", 2, since_s=1_090)])
    table.apply([answer("one", 3, since_s=1_150)])
    assert sorted(found(table)) == [("one", 2), ("one", 3)]
    assert sorted(table.groups) == ["one"]
    assert table.groups["one"].floor == 2
    assert table.dropped == 0, "what is too old was kept for as long as was promised"
    table.check_invariants()


def test_a_session_that_is_gone_leaves_the_state_too() -> None:
    table, state = AnswerTable(AnswerLimits(kept_s=100)), Rows()
    table.apply([answer("one", 1, since_s=1_000)])
    state.save(table)
    table.apply([answer("two", 1, since_s=2_000)])
    state.save(table)
    assert sorted(state.load().groups) == ["two"]
    assert len(state.rows) == 2


def test_a_session_that_leaves_for_lack_of_room_leaves_its_floor_until_it_is_too_old() -> None:
    limits = AnswerLimits(kept_s=100, bytes_max=FLOORS_SHARE * 2 * FLOOR_BYTES)
    table, state = AnswerTable(limits), Rows()
    table.apply([answer("one", 3, 2, since_s=1_000), answer("one", 5, 2, since_s=1_000)])
    table.apply([answer("two", 1, since_s=1_010, result="x" * (limits.bytes_max - 2 * SESSION_BYTES - FLOOR_BYTES - 10))])
    assert sorted(table.groups) == ["two"]
    assert table.dropped == 2
    state.save(table)
    for each in (table, state.load(limits)):
        session = each.session("one")
        assert session is not None
        assert (session.floor, session.newest) == (6, 5), "no number that may have run is new"
        each.check_invariants()
    again = state.load(limits)
    again.apply([answer("one", 8, 2, since_s=1_020)])
    assert again.groups["one"].floor == 6, "it is back"
    again.check_invariants()
    table.apply([answer("new", 1, since_s=1_105)])
    assert table.session("one") is None, "it was too old"
    assert table.session("two") is not None
    table.check_invariants()
    state.save(table)
    assert "one" not in state.load(limits).groups


def test_of_floors_so_many_are_kept_those_of_the_newest_and_the_others_are_counted() -> None:
    limits = AnswerLimits(bytes_max=FLOORS_SHARE * 10 * FLOOR_BYTES)
    table, state = AnswerTable(limits), Rows()
    for index in range(100):
        table.apply([answer(f"s{index}", 1, since_s=1_000 + index)])
        table.check_invariants()
    known = [index for index in range(100) if table.session(f"s{index}") is not None]
    assert known == list(range(known[0], 100))
    gone = len(known) - len(table.groups)
    assert gone == 10
    assert table.dropped == (100 - table.count) + (100 - len(known)), "answers, and floors"
    state.save(table)
    assert len(state.rows) == len(known) + table.count


def test_floors_that_are_left_go_along_with_their_sessions_into_another_table() -> None:
    limits = AnswerLimits(bytes_max=FLOORS_SHARE * 10 * FLOOR_BYTES)
    table, other = AnswerTable(limits), AnswerTable()
    for index in range(30):
        table.apply([answer(f"s{index}", 7, since_s=1_000 + index)])
    assert "s15" not in table.groups
    other.take_over([table], lambda name: True)
    other.check_invariants()
    session = other.session("s15")
    assert session is not None
    assert session.floor == 8


def test_a_number_that_jumps_far_does_not_cost_a_walk_through_all_between() -> None:
    table = AnswerTable()
    table.apply([answer("one", 1), answer("one", "1~x"), answer("one", 10**17, answered=10**17)])
    assert sorted(found(table)) == [("one", 10**17)]
    table.check_invariants()


SMALL_WORLD = [
    answer("one", 0), answer("one", 1, 1), answer("one", 2, 1), answer("one", "1~a", 1), answer(OBJECTS[0], "k"),
    answer(OBJECTS[0], "k", result="again"),
]  # fmt: skip


@pytest.mark.parametrize("length", [4])
def test_every_order_of_commits_checkpoints_and_crashes_of_a_small_world_ends_alike(length: int) -> None:
    """A checkpoint in between, of which the rows alone, or the rows and what came before again, or all once more is replayed."""
    runs = 0
    for steps in product(range(len(SMALL_WORLD)), repeat=length):
        for saved_after, replayed_from in ((2, 2), (2, 1), (2, 0), (3, 3), (1, 0)):
            table, state = AnswerTable(), Rows()
            log: list[list[Answer]] = []
            for at, step in enumerate(steps):
                if at == saved_after:
                    state.save(table)
                (again,) = as_logged([SMALL_WORLD[step]])
                log.append([again])
                table.apply(as_logged([again]))
            recovered = state.load()
            for answers in log[replayed_from:]:
                recovered.apply(as_logged(answers))
            recovered.check_invariants()
            table.check_invariants()
            assert floors(recovered) == floors(table), (steps, saved_after, replayed_from)
            assert found(recovered) == found(table), (steps, saved_after, replayed_from)
            state.save(recovered)
            assert found(state.load()) == found(table)
            runs += 1
    assert runs == 5 * len(SMALL_WORLD) ** length


class Model:
    """What should be kept, as simple as can be: no limits."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, Any], bytes] = {}
        self.answered: dict[str, int] = {}

    def apply(self, each: Answer) -> None:
        if each.group in SESSIONS:
            self.answered[each.group] = max(self.answered.get(each.group, 0), each.answered)
        self.kept[each.group, each.key] = bytes(each.result)
        for group, key in list(self.kept):
            number = int(str(key).partition("~")[0]) if group in SESSIONS else 0
            if number < self.answered.get(group, 0):
                del self.kept[group, key]


@pytest.mark.parametrize("seed", range(30))
def test_it_keeps_what_a_simple_model_keeps_over_checkpoints_and_crashes(seed: int) -> None:
    rng = Random(seed)
    table, state, model = AnswerTable(), Rows(), Model()
    log: list[list[Answer]] = []
    newest = dict.fromkeys(SESSIONS, 0)
    for _ in range(400):
        commit = []
        for _ in range(rng.randrange(1, 5)):
            if rng.random() < 0.3:
                commit.append(answer(rng.choice(OBJECTS), f"k{rng.randrange(20)}", result=rng.random()))
                continue
            session = rng.choice(SESSIONS)
            newest[session] += rng.choice((0, 1, 1, 1, 50))
            number: int | str = max(0, newest[session] - rng.randrange(6))
            answered = max(0, newest[session] - rng.randrange(2, 40))
            if rng.random() < 0.3:
                number = f"{number}~{rng.choice('ab')}"
            commit.append(answer(session, number, answered, result=rng.random()))
        for each in commit:
            model.apply(each)
        log.append(as_logged(commit))
        table.apply(commit)
        assert found(table) == model.kept
        table.check_invariants()
        if rng.random() < 0.1:
            state.save(table)
            log = log[len(log) - rng.randrange(3) :] if rng.random() < 0.5 else []
        if rng.random() < 0.05:
            table = state.load()
            for answers in log:
                table.apply(as_logged(answers))
            assert found(table) == model.kept
            table.check_invariants()


@pytest.mark.parametrize("seed", range(10))
def test_under_any_limits_it_keeps_its_bounds_and_what_is_dropped_is_counted(seed: int) -> None:
    rng = Random(seed)
    limits = AnswerLimits(rng.choice((1, 5, 1_000)), rng.choice((5, 50, 10_000)), rng.choice((2_000, 8_000, 100_000)))
    table, state = AnswerTable(limits), Rows()
    now_s = 1_000
    for number in range(500):
        now_s += rng.choice((0, 0, 1, 10))
        if rng.random() < 0.5:
            table.apply([answer(rng.choice(OBJECTS), f"k{rng.randrange(100)}", since_s=now_s, result="x" * rng.randrange(300))])
        else:
            table.apply([answer(f"s{rng.randrange(20)}", number, max(0, number - 200), since_s=now_s)])
        table.check_invariants()
        assert table.bytes <= limits.bytes_max
        oldest_s = min((kept.since_s for group in table.groups.values() for kept in group.rows.values()), default=now_s)
        assert oldest_s >= now_s - limits.kept_s
        if rng.random() < 0.1:
            state.save(table)
            again = state.load(limits)
            assert found(again) == found(table)
            assert floors(again) == floors(table)
