"""What a client tries again, when, in which order, and what it tells in the end. Seeded worlds: `test_machine`."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from tests.support.client_machine import Machine
from tests.support.client_world import Answer
from tidegate.runtime.client.links import AskTopology
from tidegate.runtime.client.machine import NO_SLOT
from tidegate.runtime.client.retries import OVERLOADED_FREE, OVERLOADED_SHARE, PAUSE_S, RESETS_MAX
from tidegate.runtime.client.terms import other_terms
from tidegate.runtime.errors import LEAVING, CallError, DeadlineExceeded, Moved, ObjectReset, Overloaded, ShardLost, Unavailable
from tidegate.runtime.wire.encoding import decode_any
from tidegate.runtime.wire.protocol import ERROR, NO_RAW, OK, encode
from tidegate.runtime.wire.supervisor_messages import Topology


def options_of(row: list[Any]) -> dict[str, Any]:
    options: dict[str, Any] = row[5]
    return options


def retrying(**options: Any) -> Machine:
    return Machine(retries=True, **options)


def refusal(call_id: int, error: CallError) -> tuple[int, int, Any]:
    return (call_id, ERROR, error.to_wire())


def test_what_a_lost_router_may_have_passed_on_is_sent_again_under_its_key_with_the_time_that_is_left() -> None:
    machine = retrying(direct=False, timeout=30.0)
    first, second = machine.call(1), machine.call(2)
    ((_, rows),) = machine.sent()
    assert [options_of(row) for row in rows] == [{"answered": 1, "key": "test.1"}, {"answered": 1, "key": "test.2"}]
    machine.core.link_lost(1, 10.0)
    machine.core.link_connected(2, 10.0)
    machine.core.check_invariants()
    ((link, rows),) = machine.sent(10.0)
    assert (link, [row[4] for row in rows]) == (2, [[1], [2]])
    assert options_of(rows[0]) == {"deadline_ms": 19_900, "answered": 1, "key": "test.1"}
    machine.answer(2, (1, OK, "one"), (2, OK, "two"))
    assert (first.answers, second.answers) == (["one"], ["two"])


def test_a_call_lost_with_its_worker_goes_through_the_router_before_those_made_later() -> None:
    machine = retrying()
    first = machine.call(1)
    machine.sent()
    machine.core.link_connected(2, 0.0)
    machine.sent()
    second = machine.call(2)
    machine.core.link_lost(2, 0.0)
    assert not first.done()
    ((link, rows),) = machine.sent()
    assert (link, [row[4] for row in rows]) == (1, [[1], [2]])
    machine.answer(1, (1, OK, 1), (2, OK, 2))
    assert (first.answers, second.answers) == ([1], [2])


def test_what_may_have_run_is_not_sent_again_where_the_service_keeps_no_keys_or_the_caller_does_not_want_it() -> None:
    for machine, retry in ((retrying(direct=False), None), (retrying(direct=False), False)):
        machine.core.keys_told(kept=retry is False)
        answer = Answer()
        terms = other_terms(machine.terms, None, retry, None)
        machine.core.call(answer, NO_SLOT, "C", "a", "m", NO_RAW, decode_any, terms, 0.0)
        machine.sent()
        machine.core.link_lost(1, 0.0)
        assert isinstance(answer.answers[0], ShardLost)


def test_a_reply_that_the_service_dropped_as_unread_is_asked_for_again_under_its_key_and_told_where_there_is_none() -> None:
    dropped = Overloaded("the client does not read its replies", outcome="unknown", retry_after_ms=1_000)
    machine = retrying(direct=False)
    kept, plain = machine.call(1), Answer()
    terms = other_terms(machine.terms, None, False, None)
    machine.core.call(plain, NO_SLOT, "C", "b", "m", NO_RAW, decode_any, terms, 0.0)
    machine.sent()
    machine.answer(1, refusal(1, dropped), refusal(2, dropped))
    assert plain.answers[0].outcome == "unknown"
    assert not kept.done()
    machine.core.handle_timer(2.0)
    ((_, rows),) = machine.sent(2.0)
    assert [(row[0], options_of(row)["key"]) for row in rows] == [(1, "test.1")]
    machine.answer(1, (1, OK, "it"))
    assert kept.answers == ["it"]


def test_a_refused_call_waits_a_moment_and_later_ones_to_its_object_wait_with_it_but_no_others() -> None:
    machine = retrying(direct=False)
    first = machine.call(1)
    machine.sent()
    machine.answer(1, refusal(1, Unavailable("draining")))
    second, other = machine.call(2), machine.call(3, name="b")
    assert [[row[4] for row in rows] for _, rows in machine.sent()] == [[[3]]]
    assert machine.core.statistics().calls_held == 2
    due = machine.core.next_deadline()
    assert due == PAUSE_S
    machine.core.handle_timer(due)
    ((_, rows),) = machine.sent(due)
    assert [row[4] for row in rows] == [[1], [2]]
    machine.answer(1, (1, OK, 1), (2, OK, 2), (3, OK, 3))
    assert (first.answers, second.answers, other.answers) == ([1], [2], [3])
    assert machine.core.statistics().calls_held == 0


def test_pauses_grow_to_a_bound_and_the_last_failure_is_told_with_what_was_tried() -> None:
    machine = retrying(direct=False, timeout=5.0)
    answer = machine.call(1)
    now, pauses = 0.0, []
    while not answer.done():
        machine.sent(now)
        machine.answer(1, refusal(1, Unavailable("worker 0 drains")), now=now)
        if not answer.done():
            pauses.append(machine.core.next_deadline() - now)
            now = machine.core.next_deadline()
            machine.core.handle_timer(now)
    assert pauses == pytest.approx([0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0, 1.0])
    (error,) = answer.answers
    assert isinstance(error, Unavailable)
    assert (str(error), error.outcome) == ("worker 0 drains; tried 10 times", "not_executed")


def test_who_is_told_to_come_back_after_its_time_is_told_so_at_once() -> None:
    machine = retrying(direct=False, timeout=5.0)
    answer = machine.call(1)
    machine.sent()
    machine.answer(1, refusal(1, Unavailable("the object is refused for 300 s", details={"retry_after_ms": 300_000})))
    assert str(answer.answers[0]) == "the object is refused for 300 s"


def test_an_overloaded_service_is_asked_again_when_it_has_said_when_and_not_by_everybody() -> None:
    machine = retrying(direct=False)
    silent = machine.call(0)
    machine.sent()
    machine.answer(1, refusal(1, Overloaded("full", details={"retry_after_ms": 0})))
    assert isinstance(silent.answers[0], Overloaded), "no hint, no second try"
    answers = [machine.call(number, name=f"n{number}") for number in range(500)]
    machine.sent()
    full = Overloaded("full", details={"retry_after_ms": 500})
    machine.answer(1, *[refusal(call_id, full) for call_id in range(2, 502)])
    kept = sum(not answer.done() for answer in answers)
    assert kept == math.ceil(OVERLOADED_FREE + OVERLOADED_SHARE * 502)
    assert machine.core.next_deadline() == pytest.approx(0.625), "a quarter later at most"


def test_a_call_whose_object_is_reset_again_and_again_is_told_so_soon() -> None:
    machine = retrying(direct=False)
    answer, now = machine.call(1), 0.0
    for _ in range(RESETS_MAX + 1):
        assert not answer.done()
        machine.core.handle_timer(now)
        machine.sent(now)
        machine.answer(1, refusal(1, ObjectReset("aborted")), now=now)
        now = machine.core.next_deadline()
    (error,) = answer.answers
    assert isinstance(error, ObjectReset)
    assert str(error) == "aborted; tried 4 times"


def test_a_call_that_was_refused_is_not_sent_again_once_a_later_one_has_run() -> None:
    machine = retrying(direct=False)
    first, second = machine.call(1), machine.call(2)
    machine.sent()
    machine.answer(1, refusal(1, Unavailable("full")))
    machine.core.handle_timer(1.0)
    assert machine.sent(1.0) == [], "the second may still be refused, too"
    machine.answer(1, (2, OK, 2), now=1.0)
    machine.core.handle_timer(machine.core.next_deadline())
    assert second.answers == [2]
    assert machine.sent(1.0) == []
    assert str(first.answers[0]) == "full; tried once, and not again, because a later call to the object may have run"


def test_a_call_that_is_not_answered_in_its_last_try_may_have_run_in_an_earlier_one() -> None:
    machine = retrying(direct=False, timeout=2.0)
    answer = machine.call(1)
    machine.sent()
    machine.core.link_lost(1, 0.0)
    machine.core.link_connected(2, 1.0)
    machine.sent(1.0)
    machine.answer(2, (1, ERROR, DeadlineExceeded("it was not started in time").to_wire()), now=1.9)
    (error,) = answer.answers
    assert isinstance(error, DeadlineExceeded)
    assert error.outcome == "unknown"
    assert "before with shard_lost: the connection to tcp://router was lost" in str(error)


def test_calls_wait_for_a_service_that_was_there_before_until_their_timeout_and_for_a_stranger_for_five_seconds() -> None:
    for connected, connect_timeout, refused_at in ((True, None, 30.0), (False, None, 5.0), (True, 7.0, 7.0)):
        machine = retrying(direct=False, connected=connected, connect_timeout=connect_timeout)
        if connected:
            machine.core.link_lost(1, 0.0)
        answer = machine.call(1)
        machine.sent()
        now = 0.0
        while not answer.done():
            now = machine.core.next_deadline()
            machine.core.handle_timer(now)
        assert now == refused_at
        assert answer.answers[0].outcome == "not_executed"


def test_what_has_waited_to_be_sent_tells_the_service_what_is_left_of_its_time() -> None:
    """Else it would run, and keep others waiting, after its caller has given up."""
    machine = retrying(direct=False, timeout=30.0)
    machine.core.link_lost(1, 0.0)
    machine.call(1, timeout=10.0)
    machine.call(2, timeout=10.0, name="b")
    machine.call(3, name="c")  # Names no timeout, so that the service is told of none.
    machine.core.link_connected(2, 6.0)
    ((_, rows),) = machine.sent(6.0)
    assert [options_of(row).get("deadline_ms") for row in rows] == [3_900, 3_900, None]
    machine.answer(2, refusal(1, Unavailable("draining")), now=7.0)
    machine.call(4, timeout=2.0, now=7.0)
    machine.core.handle_timer(7.0 + PAUSE_S)
    machine.call(5, timeout=2.0, now=7.0 + PAUSE_S)
    ((_, rows),) = machine.sent(7.0 + PAUSE_S)
    assert [options_of(row)["deadline_ms"] for row in rows] == [2_881, 1_900, 1_900]  # Rounded up.
    assert [options_of(row)["key"] for row in rows] == ["test.1", "test.4", "test.5"]


def test_questions_to_the_service_are_asked_again_without_a_key() -> None:
    machine = retrying(direct=False)
    machine.core.call(Answer(), NO_SLOT, "", "", "status", NO_RAW, decode_any, None, 0.0)
    assert [[len(row) for row in rows] for _, rows in machine.sent()] == [[4]]
    machine.core.link_lost(1, 0.0)
    machine.core.link_connected(2, 0.0)
    assert [[row[3] for row in rows] for _, rows in machine.sent()] == [["status"]]


def test_the_service_is_told_below_which_number_every_call_is_answered_and_never_too_much() -> None:
    machine = retrying(direct=False)
    slow = machine.call(0)
    machine.sent()
    told = []
    for number in range(2, 400):
        machine.call(number)
        ((_, rows),) = machine.sent()
        told.append(options_of(rows[0])["answered"])
        assert options_of(rows[0])["key"] == f"test.{number}"
        if number == 200:
            machine.answer(1, (1, OK, 0))
        machine.answer(1, (number, OK, number))
    assert slow.answers == [0]
    assert told[:199] == [1] * 199
    assert told[-1] > 300
    assert all(answered <= number for number, answered in enumerate(told, 2))


def test_a_direct_client_asks_for_the_topology_when_its_worker_drains() -> None:
    machine = retrying()
    machine.call(1)
    machine.sent()
    machine.core.take_effects()
    machine.core.link_connected(2, 5.0)
    machine.sent(5.0)
    machine.answer(2, refusal(1, Unavailable("the service is stopping")), now=5.0)
    assert machine.core.take_effects() == [AskTopology()]
    machine.core.topology_received(Topology(2, (0,), (None,)), set(), 5.0)
    machine.core.handle_timer(5.0 + PAUSE_S)
    assert [link for link, _ in machine.sent(5.1)] == [1]


def test_10_000_calls_to_as_many_objects_of_a_worker_that_drains_are_held_and_sent_again_in_no_time() -> None:
    machine = retrying()
    answers = [Answer() for _ in range(10_000)]
    for number, answer in enumerate(answers):
        name = f"n{number}"
        machine.core.call(answer, machine.core.slot_of("C", name), "C", name, "m", NO_RAW, decode_any, None, 0.0)
    machine.sent()
    machine.core.link_connected(2, 0.0)
    assert sum(len(rows) for _, rows in machine.sent()) == 10_000
    began = time.process_time()
    for call_id in range(1, 10_001):  # The worst case: each answered by a message of its own.
        machine.core.message_received(2, encode([refusal(call_id, Unavailable("draining"))]), 0.0)
    assert machine.core.statistics().calls_held == 10_000
    machine.core.handle_timer(1.0)
    assert sum(len(rows) for _, rows in machine.sent(1.0)) == 10_000
    assert time.process_time() - began < 5  # A third of a second.


def test_nothing_more_is_sent_to_a_router_that_says_it_leaves_and_all_of_it_goes_out_on_the_next_connection() -> None:
    machine = retrying(direct=False)
    first, second = machine.call(1), machine.call(2, name="b")
    machine.sent()
    machine.answer(1, refusal(1, Unavailable("the service is stopping", details=LEAVING)))
    third = machine.call(3, name="c")
    machine.core.handle_timer(1.0)
    assert machine.sent(1.0) == []
    machine.answer(1, (2, OK, "answered still"))
    assert second.answers == ["answered still"]
    machine.core.link_lost(1, 1.0)
    machine.core.link_connected(2, 1.0)
    machine.core.check_invariants()
    ((link, rows),) = machine.sent(1.0)
    assert (link, sorted(row[4] for row in rows)) == (2, [[1], [3]])
    machine.answer(2, (1, OK, "one"), (3, OK, "three"))
    assert (first.answers, third.answers) == (["one"], ["three"])


def test_nothing_more_is_sent_to_a_worker_that_says_it_leaves_not_to_its_other_slots_either() -> None:
    machine = retrying()
    machine.call(1)
    machine.sent()
    machine.core.link_connected(2, 0.0)
    machine.sent()
    machine.answer(2, (1, ERROR, Moved("the worker is being replaced", details=LEAVING).to_wire()))
    machine.call(2, name="b")
    assert {link for link, _ in machine.sent()} == {1}
