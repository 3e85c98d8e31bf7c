"""The callers' rules, without a socket: seeded worlds, and the cases worth a name."""

from __future__ import annotations

import math
import os
import time
from collections import Counter

import pytest

from tests.support.client_machine import WORKER, Machine
from tests.support.client_world import ROUTER, Answer, World
from tidegate.runtime.client.links import AskTopology, Close, Open
from tidegate.runtime.client.machine import AVOID_S, CONNECT_S, NO_SLOT
from tidegate.runtime.errors import DeadlineExceeded, Moved, Overloaded, ShardLost, Unavailable
from tidegate.runtime.limits import CLIENT_CALLS_MAX, CONNECT_TIMEOUT_S
from tidegate.runtime.wire.encoding import decode_any
from tidegate.runtime.wire.protocol import ERROR, NO_RAW, OK, encode
from tidegate.runtime.wire.supervisor_messages import Topology

OTHER_WORKER = "ipc://worker-1.1"
SEEDS = 20_000 if os.environ.get("TIDEGATE_FULL") else 300


def test_in_any_world_every_call_is_answered_once_and_runs_in_the_order_made() -> None:
    ways: Counter[str] = Counter()
    for seed in range(SEEDS):
        world = World(seed)
        try:
            for _ in range(150):
                world.step()
            world.settle()
            world.judge()
        except AssertionError as exc:
            raise AssertionError(f"seed {seed}: {exc}") from exc
        ways.update(world.ways)
    assert min(ways[way] for way in ("router", "direct", "moved")) > SEEDS // 20, ways


@pytest.mark.parametrize(("direct", "keys_kept"), [(True, True), (False, True), (True, False)])
def test_in_any_world_calls_that_are_tried_again_run_once_and_in_order_and_failures_are_kept_from_callers(
    *, direct: bool, keys_kept: bool
) -> None:
    ways: Counter[str] = Counter()
    for seed in range(SEEDS // 3):
        world = World(seed, direct=direct, retries=True, keys_kept=keys_kept)
        try:
            for _ in range(150):
                world.step()
            world.settle()
            world.judge()
        except AssertionError as exc:
            raise AssertionError(f"seed {seed}: {exc}") from exc
        ways.update(world.ways)
    assert min(ways[way] for way in ("unavailable", "overloaded", "object_reset")) > SEEDS // 60, ways


@pytest.mark.parametrize("seed", range(20))
def test_without_direct_routes_no_link_but_the_routers_is_ever_opened(seed: int) -> None:
    world = World(seed, direct=False)
    for _ in range(150):
        world.step()
        assert {pipe.endpoint for pipe in world.pipes.values()} <= {ROUTER}
    world.settle()
    world.judge()


def test_calls_wait_while_the_link_to_their_worker_is_made_and_go_out_together() -> None:
    machine = Machine()
    machine.call(1)
    machine.call(2)
    assert machine.sent() == []
    assert machine.core.take_effects() == [Open(2, WORKER, reconnect=False)]
    machine.core.link_connected(2, 0.0)
    assert machine.sent() == [(2, [[1, "C", "a", "m", [1]], [2, "C", "a", "m", [2]]])]


def test_a_worker_that_does_not_let_itself_be_connected_to_in_time_is_reached_through_the_router() -> None:
    machine = Machine()
    answer = machine.call()
    assert machine.sent() == []
    assert machine.core.take_effects() == [Open(2, WORKER, reconnect=False)]
    assert machine.core.next_deadline() == CONNECT_S
    machine.core.handle_timer(CONNECT_S)
    assert machine.core.take_effects() == [Close(2), AskTopology()]
    assert machine.sent() == [(1, [[1, "C", "a", "m"]])]
    machine.answer(1, (1, OK, "done"))
    assert answer.answers == ["done"]


def test_a_call_waits_for_a_connection_for_so_long_and_is_refused_unsent_each_at_its_time() -> None:
    machine = Machine(connected=False, direct=False)
    first = machine.call(1, now=0.0)
    assert machine.sent() == []
    second, hasty = machine.call(2, now=1.0), machine.call(3, now=1.0, timeout=0.5)
    assert machine.core.next_deadline() == 1.5
    machine.core.handle_timer(1.5)
    assert isinstance(hasty.answers[0], DeadlineExceeded)
    assert machine.core.next_deadline() == CONNECT_TIMEOUT_S
    machine.core.handle_timer(CONNECT_TIMEOUT_S)
    (error,) = first.answers
    assert isinstance(error, Unavailable)
    assert error.outcome == "not_executed"
    assert error.retryable
    assert error.message == f"no connection to {ROUTER} for 5 s; the call was not sent"
    assert not second.done()
    machine.core.problem = "Name or service not known"
    machine.core.handle_timer(machine.core.next_deadline())
    assert f"no connection to {ROUTER} (Name or service not known) for 5 s" in second.answers[0].message
    assert machine.core.next_deadline() == math.inf
    machine.core.link_connected(1, 9.0)
    assert machine.sent() == [], "none of them is sent later"


def test_a_call_is_sent_when_the_connection_comes_in_time_and_then_has_its_own_timeout() -> None:
    machine = Machine(connected=False, direct=False)
    answer = machine.call(1, now=0.0)
    assert machine.sent() == []
    machine.core.link_connected(1, 4.9)
    assert machine.sent() == [(1, [[1, "C", "a", "m", [1]]])]
    machine.core.handle_timer(5.0)
    assert not answer.done()
    assert machine.core.next_deadline() == 30.0


def test_calls_made_after_the_connection_was_lost_wait_for_the_next_one_for_so_long() -> None:
    machine = Machine(direct=False)
    machine.core.link_lost(1, 10.0)
    answer = machine.call(1, now=11.0)
    assert machine.sent() == []
    assert machine.core.next_deadline() == 16.0
    machine.core.handle_timer(16.0)
    assert isinstance(answer.answers[0], Unavailable)


def test_100_000_calls_that_wait_for_a_connection_are_refused_in_no_time() -> None:
    machine = Machine(connected=False, direct=False)
    answers = [Answer() for _ in range(100_000)]
    for answer in answers:
        machine.core.call(answer, NO_SLOT, "C", "a", "m", NO_RAW, decode_any, None, 0.0)
    assert machine.sent() == []
    began = time.process_time()
    machine.core.handle_timer(CONNECT_TIMEOUT_S)
    assert time.process_time() - began < 5  # Half a second; minutes when the list of what is left was made anew for each.
    assert all(isinstance(answer.answers[0], Unavailable) for answer in answers)


def test_a_route_changes_only_when_no_call_to_the_object_is_in_flight_on_the_other_one() -> None:
    machine = Machine()
    machine.core.topology_received(Topology(2, (0,), (None,)), set(), 0.0)
    machine.call(1)
    assert machine.sent() == [(1, [[1, "C", "a", "m", [1]]])]
    machine.core.topology_received(Topology(3, (0,), (WORKER,)), {WORKER}, 0.0)
    machine.call(2)
    assert machine.sent() == [(1, [[2, "C", "a", "m", [2]]])], "the first call is still on its way through the router"
    machine.answer(1, (1, OK, None), (2, OK, None))
    machine.call(3)
    assert machine.sent() == []
    opened = machine.core.take_effects()[-1]
    assert isinstance(opened, Open)
    assert opened.endpoint == WORKER
    machine.core.link_connected(opened.link, 0.0)
    assert machine.sent() == [(opened.link, [[3, "C", "a", "m", [3]]])]


def test_a_lost_worker_is_left_to_the_router_for_a_while() -> None:
    machine = Machine()
    machine.call()
    machine.sent()
    machine.core.link_lost(2, 1.0)
    machine.core.topology_received(Topology(1, (0,), (WORKER,)), {WORKER}, 1.0)
    assert machine.core.statistics().slots_direct == 0
    machine.core.topology_received(Topology(1, (0,), (WORKER,)), {WORKER}, 1.0 + AVOID_S)
    assert machine.core.statistics().slots_direct == 16_384


def test_an_older_topology_of_the_same_router_is_ignored_and_that_of_another_router_is_not() -> None:
    machine = Machine()
    machine.core.topology_received(Topology(7, (0,), (None,)), set(), 0.0)
    machine.core.topology_received(Topology(6, (0,), (WORKER,)), {WORKER}, 0.0)
    assert machine.core.statistics().slots_direct == 0
    machine.core.link_lost(1, 0.0)
    opened = [effect for effect in machine.core.take_effects() if isinstance(effect, Open)]
    machine.core.link_connected(opened[-1].link, 0.0)
    machine.core.topology_received(Topology(2, (0,), (WORKER,)), {WORKER}, 0.0)
    assert machine.core.statistics().slots_direct == 16_384


def test_the_topology_is_asked_for_again_only_while_calls_have_to_go_round_and_not_too_often() -> None:
    machine = Machine()
    machine.core.topology_received(Topology(2, (0,), (None,)), set(), 0.0)
    for now in (0.5, 0.9, 1.5, 1.6):
        machine.call(now=now)
    machine.sent()
    assert machine.core.take_effects() == [AskTopology()]


def test_a_call_expires_at_its_own_deadline_whatever_the_order_they_were_made_in() -> None:
    machine = Machine(direct=False)
    late, soon = machine.call(timeout=5.0), machine.call(timeout=1.0)
    machine.sent()
    assert machine.core.next_deadline() == 1.0
    machine.core.handle_timer(1.0)
    assert isinstance(soon.answers[0], DeadlineExceeded)
    assert soon.answers[0].outcome == "unknown"
    assert not late.done()
    assert machine.core.next_deadline() == 5.0
    machine.answer(1, (2, OK, "too late"), (1, OK, "in time"), now=2.0)
    assert late.answers == ["in time"]
    assert machine.core.statistics().replies_unexpected == 1


def test_a_call_that_expires_before_it_was_sent_never_is() -> None:
    machine = Machine(connected=False, direct=False)
    answer = machine.call(timeout=1.0)
    machine.core.handle_timer(1.0)
    assert answer.answers[0].outcome == "not_executed"
    machine.core.link_connected(1, 2.0)
    assert machine.sent() == []


def test_a_call_given_up_while_there_was_no_connection_is_not_sent_later() -> None:
    machine = Machine(connected=False, direct=False)
    given_up, wanted = machine.call(1), machine.call(2)
    given_up.answers.append("cancelled")
    machine.core.link_connected(1, 0.0)
    assert machine.sent() == [(1, [[2, "C", "a", "m", [2]]])]
    machine.answer(1, (2, OK, 2))
    assert wanted.answers == [2]


def test_the_loss_of_the_router_fails_what_was_sent_and_keeps_what_was_not() -> None:
    machine = Machine(direct=False)
    sent = machine.call(1)
    machine.sent()
    unsent = machine.call(2)
    machine.core.link_lost(1, 0.0)
    assert isinstance(sent.answers[0], ShardLost)
    assert machine.core.take_effects() == [Close(1), Open(2, ROUTER, reconnect=True)]
    machine.core.link_connected(2, 0.0)
    assert machine.sent() == [(2, [[2, "C", "a", "m", [2]]])]
    machine.answer(2, (2, OK, 2))
    assert unsent.answers == [2]


def test_more_calls_than_the_bound_are_refused_before_they_are_sent() -> None:
    machine = Machine(direct=False)
    for _ in range(CLIENT_CALLS_MAX):
        machine.core.call(Answer(), machine.core.slot_of("C", "a"), "C", "a", "m", NO_RAW, decode_any, None, 0.0)
    with pytest.raises(Overloaded) as caught:
        machine.call()
    assert caught.value.outcome == "not_executed"
    machine.core.call(Answer(), NO_SLOT, "", "", "topology", NO_RAW, decode_any, None, 0.0)  # Never refused.


def test_closing_asks_for_nothing_but_that_every_link_be_closed() -> None:
    machine = Machine(connected=False)
    machine.core.link_connected(1, 0.0)
    unsent = machine.call()
    machine.core.close()
    assert machine.core.take_effects() == [Close(1)]
    assert isinstance(unsent.answers[0], Unavailable)
    assert machine.core.next_deadline() == math.inf


def test_a_refused_call_is_not_counted_for_its_slot() -> None:
    machine = Machine()
    machine.core.close()
    with pytest.raises(Unavailable):
        machine.call()
    machine.core.check_invariants()


def test_messages_that_are_none_are_counted_and_harm_nobody() -> None:
    machine = Machine(direct=False)
    answer = machine.call()
    machine.sent()
    for body in (b"", b"\xc1", b"garbage", b"\x93\x01", encode([["x", 0, 1]]), encode([[None, 1, {}]]), encode({"a": 1})):
        machine.core.message_received(1, body, 0.0)
    machine.core.message_received(99, encode([[1, OK, 1]]), 0.0)
    assert not answer.done()
    machine.answer(1, (1, OK, 1))
    assert answer.answers == [1]


def test_calls_to_an_object_that_went_to_another_worker_wait_for_those_the_old_worker_has() -> None:
    machine = Machine()
    first = machine.call(1)
    machine.sent()
    machine.core.link_connected(2, 0.0)
    assert machine.sent() == [(2, [[1, "C", "a", "m", [1]]])]
    machine.core.topology_received(Topology(2, (1,), (WORKER, OTHER_WORKER)), {WORKER, OTHER_WORKER}, 0.0)
    machine.call(2)
    assert machine.sent() == []
    machine.answer(2, (1, OK, 1))
    assert first.answers == [1]
    assert machine.sent() == [(1, [[2, "C", "a", "m", [2]]])]


def test_a_call_refused_as_moved_is_not_sent_again_when_a_later_one_has_run() -> None:
    machine = Machine()
    first, second, third = machine.call(1), machine.call(2), machine.call(3)
    machine.sent()
    machine.core.link_connected(2, 0.0)
    assert [len(rows) for _, rows in machine.sent()] == [3]
    machine.answer(2, (1, ERROR, Moved().to_wire()))
    machine.answer(2, (2, OK, 2))
    machine.answer(2, (3, ERROR, Moved().to_wire()))
    assert isinstance(first.answers[0], Moved)
    assert first.answers[0].outcome == "not_executed"
    assert second.answers == [2]
    assert machine.sent() == [(1, [[3, "C", "a", "m", [3]]])]
    machine.answer(1, (3, OK, 3))
    assert third.answers == [3]


def test_a_call_refused_as_moved_goes_through_the_router_once_and_a_second_refusal_is_told() -> None:
    machine = Machine()
    answer = machine.call(1)
    machine.sent()
    machine.core.link_connected(2, 0.0)
    machine.sent()
    machine.answer(2, (1, ERROR, Moved().to_wire()))
    assert machine.sent() == [(1, [[1, "C", "a", "m", [1]]])]
    machine.answer(1, (1, ERROR, Moved().to_wire()))
    assert isinstance(answer.answers[0], Moved)


def test_calls_that_are_sent_late_because_their_slot_moved_tell_what_is_left_of_their_time() -> None:
    machine = Machine()
    for number in (1, 2):
        machine.call(number, timeout=10.0)
    machine.sent()
    machine.core.link_connected(2, 0.0)
    machine.sent()
    machine.answer(2, (1, ERROR, Moved().to_wire()))  # Held until the other one is answered, as are those made meanwhile.
    machine.call(3, timeout=10.0, now=1.0)
    machine.answer(2, (2, OK, 2), now=4.0)
    ((link, rows),) = machine.sent(4.0)
    assert (link, [(row[0], row[5]["deadline_ms"]) for row in rows]) == (1, [(3, 6_900)])


def test_an_unsent_call_whose_worker_cannot_be_reached_tells_what_is_left_of_its_time() -> None:
    machine = Machine()
    machine.call(1, timeout=10.0)
    machine.sent()
    machine.core.handle_timer(CONNECT_S)
    ((link, rows),) = machine.sent(CONNECT_S)
    assert (link, [row[5]["deadline_ms"] for row in rows]) == (1, [8_900])


def test_a_call_that_was_given_up_is_not_sent_again_when_it_is_refused_as_moved_or_held_while_its_slot_moves() -> None:
    machine = Machine()
    given_up, first = machine.call(1), machine.call(2)
    machine.sent()
    machine.core.link_connected(2, 0.0)
    machine.sent()
    given_up.answers.append("cancelled")
    machine.answer(2, (1, ERROR, Moved().to_wire()))
    held, wanted = machine.call(3), machine.call(4)
    held.answers.append("cancelled")
    machine.answer(2, (2, OK, 2))
    assert first.answers == [2]
    assert machine.sent() == [(1, [[4, "C", "a", "m", [4]]])]
    machine.answer(1, (4, OK, 4))
    assert wanted.answers == [4]
    assert machine.core.statistics().calls_in_flight == 0


def test_a_call_refused_as_moved_is_not_sent_again_when_the_fate_of_a_later_one_is_unknown() -> None:
    machine = Machine()
    first, second = machine.call(1), machine.call(2)
    machine.sent()
    machine.core.link_connected(2, 0.0)
    machine.sent()
    machine.answer(2, (1, ERROR, Moved().to_wire()))
    third = machine.call(3)
    machine.core.link_lost(2, 0.0)
    assert isinstance(second.answers[0], ShardLost)
    assert isinstance(first.answers[0], Moved)
    assert not third.done()
    assert machine.sent() == [(1, [[3, "C", "a", "m", [3]]])]
