"""The rules of the router: every small world of calls, replies, losses and time, and each rule by name."""

from __future__ import annotations

import bisect
import itertools
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import msgspec
import pytest

from tidegate.router.machine import RouterMachine
from tidegate.runtime.errors import Moved
from tidegate.runtime.ids import slot_of
from tidegate.runtime.limits import (
    DEADLINE_GRACE_S,
    LARGE_BYTES,
    TURN_REQUESTS_MAX,
    WAIT_DOWN_S,
    WAIT_START_S,
    WORKER_AHEAD_CALLS,
)
from tidegate.runtime.sockets.inflight import InFlight
from tidegate.runtime.sockets.moving_inflight import MovingInFlight
from tidegate.runtime.wire.protocol import ERROR, OBJECT_CALLS, OK, Message, Origin, Reply, parse_body, parts_of
from tidegate.runtime.wire.slots import SlotTable
from tidegate.runtime.wire.supervisor_messages import Parked, Topology, Waited

OWNERS = (0, 1, 0, 1)


def topology(*endpoints: str | None, epoch: int = 1, owners: tuple[int, ...] = OWNERS, down: tuple[int, ...] = ()) -> Topology:
    return Topology(epoch, owners, endpoints, down)


def names_of_worker(worker: int, count: int) -> list[str]:
    table = SlotTable(topology(None, None))
    return [name for name in map(str, range(1_000)) if table.worker_of("C", name) == worker][:count]


class Net:
    """A machine with ears: what was answered, and what each worker was sent."""

    def __init__(self, *endpoints: str | None, nobody: int | None = None, **bounds: Any) -> None:
        self.answers: list[tuple[Origin, Any, int, Any]] = []
        began = msgspec.structs.replace(topology(*endpoints), nobody=nobody)
        self.machine = RouterMachine(began, self._reply, **bounds)
        self.sent: dict[int, list[list[Any]]] = {0: [], 1: []}

    def _reply(self, origin: Origin, request_id: int | str, status: int, result: Any) -> None:
        self.answers.append((origin, request_id, status, result))

    def call(self, *requests: list[Any], now: float = 0.0, json: bool = False, client: bytes = b"client") -> Message:
        encode = msgspec.json.encode if json else msgspec.msgpack.encode
        message = parse_body(client, encode(list(requests)))
        assert not message.refused
        self.machine.handle(message, now)
        self.machine.check_invariants()
        return message

    def send(self) -> dict[int, list[list[Any]]]:
        """Hands out what the workers that are up get, as the shell does at the end of a turn."""
        for worker in self.machine.workers:
            if worker.endpoint is not None:
                for body in worker.take_bodies_in_turn():
                    decode = msgspec.json.decode if body[:1] == b"[" else msgspec.msgpack.decode
                    self.sent[worker.worker] += decode(body)
        self.machine.check_invariants()
        return self.sent

    def reply(self, worker: int, token: int, result: Any = None) -> None:
        raw = msgspec.Raw(msgspec.msgpack.encode(result))
        self.machine.replied(self.machine.workers[worker], [Reply(token, OK, raw)])
        self.machine.check_invariants()

    def error(self, index: int = -1) -> tuple[Any, str, str]:
        """Id, code and outcome of an answer that must be an error."""
        _, request_id, status, error = self.answers[index]
        assert status == 1, self.answers[index]
        return request_id, error["code"], error["outcome"]


@pytest.mark.parametrize("method", OBJECT_CALLS)
@pytest.mark.parametrize("json", [False, True])
def test_what_is_for_operators_on_the_machine_is_refused_for_every_client(method: str, json: bool) -> None:
    for name in ("C/a", ""):
        net = Net("a", "b")
        net.call([7, "", name, method], json=json)
        assert net.error()[1:] == ("unauthorized", "not_executed")
        assert not any(net.send().values())


STEPS = ("call", "json call", "timed call", "turn", "reply", "lose", "new process", "up", "park", "hold", "let go", "40 s later")


class Story:
    """One worker's calls through every kind of event; each call must be answered exactly once, truthfully."""

    def __init__(self) -> None:
        self.net = Net(None, None)
        self.now = 0.0
        self.calls = self.incarnation = self.epoch = 0
        self.up = False
        self.answered_by_worker: list[int] = []

    def step(self, step: str) -> None:
        net = self.net
        if step.endswith("call"):
            options = [[], {"deadline_ms": 30_000}] if step == "timed call" else []
            net.call([self.calls, "C", NAME, "m", *options], now=self.now, json=step == "json call")
            self.calls += 1
        elif step == "turn":
            net.send()
        elif step == "reply":
            tokens = [row[0] for row in net.sent[0] if row[0] in net.machine.workers[0].unanswered]
            if tokens:
                self.answered_by_worker.append(net.machine.workers[0].unanswered[tokens[0]][1])  # type: ignore[arg-type]  # ints here
                net.reply(0, tokens[0])
                net.reply(0, tokens[0])  # Twice: the second must reach nobody.
        elif step == "40 s later":
            self.now += 40
            net.machine.handle_timer(self.now)
        elif step == "park":
            net.machine.park(0, 1, self.now)
        elif step in ("hold", "let go"):
            net.machine.hold(self.now, on=step == "hold")
        else:
            self.up = step != "lose"
            if step == "new process" or (step == "up" and net.machine.endpoint_of(0) is None):
                self.incarnation += 1
            self.epoch += 1
            endpoint = f"worker-0.{self.incarnation}" if self.up else None
            net.machine.topology_changed(topology(endpoint, None, epoch=self.epoch), self.now)
        net.machine.check_invariants()
        for said in net.machine.take_said():
            assert isinstance(said, Waited) or not net.machine.workers[0].has_sent()

    def finish(self) -> None:
        net = self.net
        net.machine.give_up()
        answered = Counter(request_id for _, request_id, _, _ in net.answers)
        assert answered == Counter(range(self.calls)), "not exactly once"
        tokens = [row[0] for row in net.sent[0]]
        assert len(tokens) == len(set(tokens)), "sent twice"
        assert tokens == sorted(tokens), "out of order"
        for _, request_id, status, result in net.answers:
            if status == OK:
                assert request_id in self.answered_by_worker
            else:
                seen = request_id in tokens  # Tokens equal ids here: both count the calls from 0.
                assert result["outcome"] == ("unknown" if seen else "not_executed"), result
        assert net.machine.unanswered() == 0


NAME = names_of_worker(0, 1)[0]


@pytest.mark.parametrize("first", STEPS)
def test_every_call_is_answered_exactly_once_with_the_right_outcome_in_every_small_world(first: str) -> None:
    length = 4 if os.environ.get("TIDEGATE_FULL") else 3
    for steps in itertools.product(STEPS, repeat=length):
        story = Story()
        for step in ("up", "call", first, *steps):
            story.step(step)
        story.finish()


def test_calls_to_a_worker_that_is_being_replaced_wait_for_its_successor_and_what_it_has_is_answered() -> None:
    net = Net("a", "b")
    other = names_of_worker(1, 1)[0]
    net.call([1, "C", NAME, "m"])
    net.send()
    net.machine.park(0, 3, 1.0)
    net.call([2, "C", NAME, "m"], [3, "C", other, "m"], now=1.0)
    assert [row[2] for row in net.send()[0]] == [NAME]
    assert [row[2] for row in net.sent[1]] == [other]
    assert net.machine.take_said() == []
    net.reply(0, net.sent[0][0][0], "first")
    assert net.machine.take_said() == [Parked(0, 3)]
    assert net.machine.take_said() == [], "once"
    net.call([4, "C", NAME, "m"], now=1.5)
    net.machine.topology_changed(topology(None, "b", epoch=2), 2.0)
    net.machine.topology_changed(topology("a2", "b", epoch=3), 2.25)
    assert net.machine.take_said() == [Waited(0, 2, 1_250.0)]
    assert [row[2] for row in net.send()[0]] == [NAME] * 3
    assert [answer[1:3] for answer in net.answers] == [(1, OK)]


def test_clients_are_not_sent_to_a_worker_that_is_being_replaced() -> None:
    net = Net("a", "b")
    net.machine.park(0, 1, 0.0)
    net.call([1, "", "", "topology"])
    endpoints = {shard["worker"]: shard["endpoint"] for shard in net.answers[-1][3]["shards"]}
    assert endpoints == {0: None, 1: "b"}


def test_while_calls_are_held_no_worker_gets_any_and_then_all_of_them() -> None:
    net = Net("a", "b")
    other = names_of_worker(1, 1)[0]
    net.machine.hold(1.0, on=True)
    net.call([1, "C", NAME, "m"], [2, "C", other, "m"], now=1.0)
    assert net.send() == {0: [], 1: []}
    net.machine.park(0, 1, 1.0)
    net.machine.hold(1.2, on=False)
    assert [len(rows) for rows in net.send().values()] == [0, 1]


def test_a_router_that_drains_refuses_at_once_what_waits_for_a_worker_that_nobody_will_start() -> None:
    net = Net(None, "b")
    net.call([1, "C", NAME, "m"])
    net.machine.start_drain()
    assert net.error() == (1, "unavailable", "not_executed")
    assert net.answers[-1][3]["leaving"] is True
    assert net.machine.unanswered() == 0


def test_a_call_goes_to_the_worker_that_owns_its_slot() -> None:
    net = Net("a", "b")
    rows = [[i, "C", name, "m", [i], {"key": "k"}] for i, name in enumerate(["x", "y", "{tag}1", "{tag}2", "{}", "a{b"])]
    net.call(*rows)
    sent = net.send()
    assert sum(map(len, sent.values())) == len(rows)
    for worker, worker_rows in sent.items():
        for _, cls, name, _, _, _ in worker_rows:
            assert OWNERS[slot_of(cls, name) * 4 // 16_384] == worker


def test_arguments_and_options_arrive_as_they_were_sent() -> None:
    net = Net("a", "b")
    net.call([1, "C", NAME, "m", {"by": "name"}, {"traceparent": "t"}], ["two", "C", NAME, "m"])
    assert [row[1:] for row in net.send()[0]] == [
        ["C", NAME, "m", {"by": "name"}, {"traceparent": "t"}],
        ["C", NAME, "m", None, None],
    ]


def test_equal_ids_of_different_clients_are_answered_apart() -> None:
    net = Net("a", "b")
    one = net.call([1, "C", NAME, "m"], client=b"one")
    two = net.call([1, "C", NAME, "m"], client=b"two")
    tokens = [row[0] for row in net.send()[0]]
    net.reply(0, tokens[1], "second")
    net.reply(0, tokens[0], "first")
    assert [(origin, request_id) for origin, request_id, _, _ in net.answers] == [(two.origin, 1), (one.origin, 1)]


def test_an_unknown_token_is_counted_and_answers_nobody() -> None:
    net = Net("a", "b")
    for token in (0, 99):
        net.reply(0, token)
    net.machine.replied(net.machine.workers[0], [Reply("text", OK, msgspec.Raw(b"\xc0")), Reply(None, OK, msgspec.Raw(b"\xc0"))])
    assert net.answers == []
    assert net.machine.statistics()["stray_replies"] == 4


def test_beyond_the_bound_on_calls_a_call_is_answered_overloaded_and_not_sent() -> None:
    net = Net("a", "b", calls_max=4)
    net.call(*[[i, "C", NAME, "m"] for i in range(3)])
    assert net.error() == (2, "overloaded", "not_executed")
    assert len(net.send()[0]) == 2
    net.reply(0, net.sent[0][0][0])
    net.call([3, "C", NAME, "m"])
    assert len(net.send()[0]) == 3


def test_calls_errors_and_how_long_answers_took_are_counted() -> None:
    net = Net("a", None, calls_max=4)
    net.call([0, "C", NAME, "m"], [1, "C", NAME, "m"], now=10.0)
    net.call(*[[i, "C", NAME, "m"] for i in range(2, 6)], [7, "C", "", "m"], now=10.5)
    tokens = [row[0] for row in net.send()[0]]
    replies = [Reply(token, OK, msgspec.Raw(b"\x01")) for token in tokens]
    net.machine.replied(net.machine.workers[0], replies, 11.0)
    counts = net.machine.counts()
    assert counts["router_calls"] == [((), 2)]
    assert dict(counts["router_errors"]) == {("overloaded",): 4, ("bad_request",): 1}
    ((_, answers),) = counts["router_answer_seconds"]
    assert isinstance(answers, list)
    assert (sum(answers[:-1]), answers[-1]) == (2, 2.0)
    net.machine.topology_changed(topology(None, None, epoch=2), 12.0)
    assert counts["router_calls_in_flight"] == [((), 0)]


def test_one_client_cannot_have_all_calls_of_a_worker_nor_keep_it_busy_for_itself() -> None:
    net = Net("a", "b", calls_max=20_000)
    for start in range(0, 20_000, 1_000):
        net.call(*[[start + i, "C", NAME, "m"] for i in range(1_000)], client=b"greedy")
        net.send()
    assert net.error() == (19_999, "overloaded", "not_executed")
    assert len(net.answers) == 10_000
    net.call(*[["polite", "C", NAME, "m"] for i in range(10)], client=b"polite")
    assert len(net.answers) == 10_000, "there is room for another"
    sent = len(net.send()[0])
    assert sent <= 2 * WORKER_AHEAD_CALLS, "the others wait where their clients take turns"
    assert net.machine.workers[0].has_unsent()
    for row in list(net.sent[0]):
        if row[3] == "ping":
            net.reply(0, row[0])
    tokens = {token for token, call in net.machine.workers[0].unanswered.items() if call[1] == "polite"}
    assert tokens <= {row[0] for row in net.send()[0][sent : sent + 2 * TURN_REQUESTS_MAX]}
    while net.machine.workers[0].has_unsent():
        net.reply(0, next(row[0] for row in reversed(net.sent[0]) if row[3] == "ping"))
        net.send()
    calls = [row[0] for row in net.sent[0] if row[3] == "m"]
    assert len(calls) == len(set(calls)) == 10_010
    assert [token for token in calls if token not in tokens] == sorted(set(calls) - tokens), "each client's in order"
    assert net.machine.statistics()["stray_replies"] == 0


def test_beyond_the_bound_on_bytes_a_call_is_answered_overloaded_whether_or_not_the_worker_is_up() -> None:
    for endpoint in ("a", None):
        net = Net(endpoint, "b", bytes_max=30_000)
        for i in range(3):
            net.call([i, "C", NAME, "m", [b"x" * 6_000]])
        assert [answer[1] for answer in net.answers] == [2]
        assert net.error() == (2, "overloaded", "not_executed")


def test_a_worker_at_its_bound_does_not_stop_calls_to_another() -> None:
    net = Net("a", "b", calls_max=1)
    other = names_of_worker(1, 1)[0]
    net.call([1, "C", NAME, "m"], [2, "C", NAME, "m"], [3, "C", other, "m"])
    assert len(net.send()[1]) == 1


def test_a_call_for_a_worker_that_is_down_waits_and_goes_out_when_it_is_back() -> None:
    net = Net(None, "b")
    net.call([1, "C", NAME, "m"], now=1.0)
    assert net.send()[0] == []
    assert net.machine.next_deadline() == 1.0 + WAIT_START_S
    net.machine.topology_changed(topology("a", "b", epoch=2), 2.0)
    assert len(net.send()[0]) == 1
    assert net.machine.next_deadline() is None
    assert net.answers == []


def test_a_call_that_waited_too_long_is_unavailable_and_one_past_its_deadline_says_so() -> None:
    net = Net(None, "b")
    net.call([1, "C", NAME, "m"], [2, "C", NAME, "m", None, {"deadline_ms": 100}], now=0.0)
    assert net.machine.next_deadline() == 0.1
    net.machine.handle_timer(0.1)
    assert net.error() == (2, "deadline_exceeded", "not_executed")
    net.machine.handle_timer(WAIT_START_S)
    assert net.error() == (1, "unavailable", "not_executed")


def test_what_is_said_of_a_worker_that_does_not_listen_is_true() -> None:
    """One that is being started is waited for as long as recovery may take; one that fails again and again is down."""
    net = Net(None, "b")
    net.call([1, "C", NAME, "m"], now=0.0)
    net.machine.handle_timer(WAIT_START_S)
    assert net.answers[0][3]["message"] == "worker 0 is still being started"
    net.machine.topology_changed(topology(None, "b", epoch=2, down=(0,)), WAIT_START_S)
    net.call([2, "C", NAME, "m"], now=WAIT_START_S)
    net.machine.handle_timer(WAIT_START_S + WAIT_DOWN_S)
    assert net.error() == (2, "unavailable", "not_executed")
    assert net.answers[1][3]["message"] == "worker 0 is down"


@pytest.mark.parametrize("json", [False, True])
def test_a_call_whose_worker_says_nothing_is_answered_just_after_its_deadline_and_a_late_reply_is_dropped(json: bool) -> None:
    net = Net("a", "b")
    net.call([1, "C", NAME, "m", [], {"deadline_ms": 100}], [2, "C", NAME, "m"], json=json)
    assert net.machine.timer_is_late
    tokens = [row[0] for row in net.send()[0]]
    assert net.machine.next_deadline() == 0.1 + DEADLINE_GRACE_S
    net.machine.handle_timer(0.1 + DEADLINE_GRACE_S)
    assert net.error() == (1, "deadline_exceeded", "unknown")
    assert net.machine.next_deadline() is None
    net.machine.replied(net.machine.workers[0], [Reply(token, 0, msgspec.Raw(b"\x01")) for token in tokens])
    assert [answer[1] for answer in net.answers] == [1, 2]
    statistics = net.machine.statistics()
    assert (statistics["overdue"], statistics["stray_replies"], statistics["in_flight_bytes"]) == (1, 1, [0, 0])


def test_options_that_cannot_be_read_are_refused_when_the_call_has_to_wait() -> None:
    net = Net(None, "b")
    net.call([1, "C", NAME, "m", None, {"deadline_ms": "soon"}], [2, "C", NAME, "m", None, [1]])
    assert [net.error(0)[1], net.error(1)[1]] == ["bad_request", "bad_request"]


@pytest.mark.parametrize("body", [
    b'[1,"C","%s","m",[],{"deadline_ms":5,"\xe9":1}]' % NAME.encode(),
    msgspec.msgpack.encode([1, "C", NAME, "m", [], {"deadline_ms": 5, "_": 1}]).replace(b"\xa1_", b"\xa1\xe9"),
])  # fmt: skip
def test_an_option_whose_name_is_no_text_is_refused_where_options_are_written_again(body: bytes) -> None:
    net = Net("a", "b")
    message = parse_body(b"client", body)
    assert len(message.requests) == 1
    net.machine.handle(message, 0.0)
    assert net.error() == (1, "bad_request", "not_executed")
    net.machine.check_invariants()


@pytest.mark.parametrize("number", [10**400, -(10**400)])
def test_a_deadline_that_no_clock_can_reach_is_refused_and_takes_no_other_call_along(number: int) -> None:
    net = Net("a", "b")
    net.call([1, "C", NAME, "m"], [2, "C", NAME, "m", [], {"deadline_ms": number}], [3, "C", NAME, "m"], json=True)
    assert net.error() == (2, "bad_request", "not_executed")
    assert len(net.send()[0]) == 2
    assert len(net.answers) == 1


def test_calls_that_a_lost_worker_may_have_seen_are_answered_unknown_and_the_unsent_wait_for_its_successor() -> None:
    net = Net("a", "b")
    net.call([1, "C", NAME, "m"])
    net.send()
    net.call([2, "C", NAME, "m"])
    net.machine.topology_changed(topology(None, "b", epoch=2), 1.0)
    assert [answer[1] for answer in net.answers] == [1]
    assert net.error() == (1, "shard_lost", "unknown")
    assert net.machine.next_deadline() == 1.0 + WAIT_START_S
    net.machine.topology_changed(topology("a2", "b", epoch=3), 2.0)
    assert len(net.send()[0]) == 2


def test_a_new_process_under_a_new_endpoint_is_a_loss_even_if_the_supervisor_never_said_down() -> None:
    net = Net("a", "b")
    net.call([1, "C", NAME, "m"])
    net.send()
    net.machine.topology_changed(topology("a2", "b", epoch=2), 0.0)
    assert net.error() == (1, "shard_lost", "unknown")


def test_the_same_topology_again_disturbs_nothing() -> None:
    net = Net("a", "b")
    net.call([1, "C", NAME, "m"])
    net.send()
    net.machine.topology_changed(topology("a", "b", epoch=2), 0.0)
    assert net.answers == []


def test_what_waits_follows_its_shard_to_another_worker() -> None:
    net = Net(None, "b")
    net.call([1, "C", NAME, "m"], [2, "C", NAME, "m"], now=0.0)
    net.call([3, "C", NAME, "m"], now=0.0, json=True)
    net.machine.topology_changed(topology(None, "b", epoch=2, owners=(1, 1, 1, 1)), 1.0)
    assert [row[2] for row in net.send()[1]] == [NAME] * 3
    net.machine.check_invariants()
    for row in net.sent[1]:
        net.reply(1, row[0])
    assert [answer[1] for answer in net.answers] == [1, 2, 3]


@pytest.mark.parametrize("json", [False, True])
def test_a_deadline_stays_when_what_waits_follows_its_shard_to_another_worker(json: bool) -> None:
    net = Net(None, None)
    for number in range(2):
        net.call([number, "C", NAME, "m", [], {"deadline_ms": 1_000}], now=0.0, json=json)
    net.machine.topology_changed(topology(None, None, epoch=2, owners=(1, 1, 1, 1)), 0.25)
    net.machine.topology_changed(topology(None, "b", epoch=3, owners=(1, 1, 1, 1)), 0.75)
    assert [row[5]["deadline_ms"] for row in net.send()[1]] == [250, 250]


def test_what_waits_for_another_worker_than_at_first_is_answered_at_its_first_deadline() -> None:
    net = Net(None, None)
    net.call([7, "C", NAME, "m", [], {"deadline_ms": 1_000}], now=0.0)
    net.machine.topology_changed(topology(None, None, epoch=2, owners=(1, 1, 1, 1)), 0.9)
    net.machine.handle_timer(0.99)
    assert not net.answers
    assert net.machine.next_deadline() == pytest.approx(1.0)
    net.machine.handle_timer(1.001)
    assert net.error() == (7, "deadline_exceeded", "not_executed")


@pytest.mark.parametrize("json", [False, True])
@pytest.mark.parametrize("where", ["_refuse", "_answer_system", "add_deadline"])
def test_a_fault_of_ours_leaves_what_is_neither_taken_nor_answered_under_its_own_id(
    where: str, json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: Any) -> None:
        raise RuntimeError("a fault of ours")

    net = Net("a", "b")
    net.call([0, "", "", "ping"], [1, "C", NAME, "m"], json=json)
    wrong: dict[str, list[Any]] = {
        "_refuse": [5, "C", "", "m"],
        "_answer_system": [5, "", "", "ping"],
        "add_deadline": [5, "C", NAME, "m", [], {"deadline_ms": 1}],
    }
    monkeypatch.setattr(InFlight if where == "add_deadline" else RouterMachine, where, fault)
    encode = msgspec.json.encode if json else msgspec.msgpack.encode
    rows = [[3, "C", NAME, "m"], [0, "C", f"{{{NAME}}}", "m"], wrong[where], [1, "C", NAME, "m"], [2, "C", NAME, "m"]]
    message = parse_body(b"client", encode(rows))
    with pytest.raises(RuntimeError):
        net.machine.handle(message, 0.0)
    left = [1, 2] if where == "add_deadline" else [5, 1, 2]
    assert [request.id for request in message.requests] == left
    sent = sorted(row[0] for rows in net.send().values() for row in rows)
    for token in sent:
        net.reply(0 if token in net.machine.workers[0].unanswered else 1, token)
    answered = [answer[1] for answer in net.answers]
    assert sorted(answered[2:] + left) == [0, 1, 2, 3, 5], "each is answered once, by a worker or by who finds it left"


def test_a_call_without_a_name_is_a_bad_request() -> None:
    net = Net("a", "b")
    net.call([1, "C", "", "m"])
    assert net.error() == (1, "bad_request", "not_executed")


def deep_call(depth: int, *, json: bool) -> Message:
    """Two calls in one message, the first with so many arrays in each other."""
    deep = b"[" * depth + b"]" * depth if json else b"\x91" * depth + b"\xc0"
    codec: Any = msgspec.json if json else msgspec.msgpack
    message = parse_body(b"client", codec.encode([[1, "C", NAME, "m", msgspec.Raw(deep)], [2, "C", NAME, "m"]]))
    return next(part for part in parts_of(message, TURN_REQUESTS_MAX) if part.requests or part.refused)


def on_a_small_stack(run: Callable[[], None]) -> None:
    """Since Python 3.14 the stack says how deeply one may nest: on one of the usual size deeper than a small message can be.
    Before that a number did, whatever the stack: Python 3.13 ends on a small one."""
    usual = threading.stack_size(1 << 20 if sys.version_info >= (3, 14) else 0)
    try:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(run).result()
    finally:
        threading.stack_size(usual)


@pytest.mark.parametrize("json", [False, True])
def test_arguments_nested_too_deeply_are_refused_and_the_rest_of_the_batch_is_not(json: bool) -> None:
    def run() -> None:
        net = Net("a", "b")
        # Deep enough to be dangerous, not so deep that it cannot be read here. How deep that is, the version of Python says.
        unreadable = bisect.bisect_left(range(2_000_000), True, key=lambda depth: bool(deep_call(depth, json=json).refused))
        readable = deep_call(unreadable - 10, json=json)
        assert not readable.refused
        net.machine.handle(readable, 0.0)
        assert net.error() == (1, "bad_request", "not_executed")
        assert len(net.send()[0]) == 1
        net.machine.handle(deep_call(unreadable + 10, json=json), 0.0)  # The one that was refused before.
        assert len(net.send()[0]) == 2

    on_a_small_stack(run)


def test_the_calls_of_a_large_message_share_none_with_those_of_others_however_deeply_they_are_nested() -> None:
    net = Net("a", "b")
    message = deep_call(10, json=False)
    message.size = LARGE_BYTES
    net.call([3, "C", NAME, "m"])
    net.machine.handle(message, 0.0)
    net.call([4, "C", NAME, "m"])
    bodies = [msgspec.msgpack.decode(body) for body in net.machine.workers[0].take_bodies_in_turn()]
    assert [[net.machine.workers[0].unanswered[row[0]][1] for row in body] for body in bodies] == [[3], [1, 2], [4]]


def test_system_calls_are_answered_at_once() -> None:
    net = Net("a", None)
    net.machine.status_changed({"workers": 2, "classes": {"C": {"methods": {}}}})
    net.call(*[[method, "", "", method] for method in ("ping", "topology", "classes", "status")])
    answers = {request_id: result for _, request_id, status, result in net.answers if status == OK}
    assert answers["ping"] == "pong"
    shard = answers["topology"]["shards"][1]
    assert shard == {"shard": 1, "slots": [4_096, 8_191], "worker": 1, "endpoint": None, "stream": None}
    assert answers["classes"] == {"C": {"methods": {}}}
    assert answers["status"]["workers"] == 2
    assert answers["status"]["router"]["in_flight"] == [0, 0]
    assert "classes" not in answers["status"]
    for result in answers.values():
        msgspec.json.encode(result)
        msgspec.msgpack.encode(result)


def test_an_unknown_system_call_is_an_unknown_method() -> None:
    net = Net("a", "b")
    net.call([1, "", "", "shutdown"])
    assert net.error() == (1, "unknown_method", "not_executed")


def test_while_draining_new_calls_are_unavailable_and_old_ones_are_answered() -> None:
    net = Net("a", "b")
    net.call([1, "C", NAME, "m"])
    net.send()
    net.machine.start_drain()
    net.call([2, "C", NAME, "m"], [3, "", "", "ping"])
    assert net.error(0) == (2, "unavailable", "not_executed")
    assert net.answers[1][1:] == (3, OK, "pong")
    assert net.machine.unanswered() == 1
    net.reply(0, net.sent[0][0][0])
    assert net.machine.unanswered() == 0


def test_giving_up_answers_everything_and_says_what_may_have_run() -> None:
    net = Net("a", None)
    net.call([1, "C", NAME, "m"], [2, "C", names_of_worker(1, 1)[0], "m"])
    net.send()
    net.call([3, "C", NAME, "m"])
    assert net.machine.give_up() == 3
    outcomes = {request_id: error["outcome"] for _, request_id, _, error in net.answers}
    assert outcomes == {1: "unknown", 2: "not_executed", 3: "not_executed"}


def test_a_call_that_its_worker_has_lost_is_answered_and_leaves_the_books_and_one_that_it_has_stays() -> None:
    net = Net("a", "b")
    net.call([1, "C", NAME, "m"], [2, "C", NAME, "m"])
    net.send()
    assert net.machine.ask_about_old_calls() == [], "they are not old"
    for unknown in ([0], [0]):
        [(worker, question)] = net.machine.ask_about_old_calls()
        assert worker == 0
        [[number, *_]] = msgspec.msgpack.decode(question)
        net.reply(0, number, unknown)
    assert net.error() == (1, "internal", "unknown")
    assert list(net.machine.workers[0].unanswered) == [1]
    assert (net.machine.statistics()["forgotten"], net.machine.statistics()["stray_replies"]) == (1, 0)
    net.reply(0, 0)
    assert net.machine.statistics()["stray_replies"] == 1


def test_of_a_client_that_is_crowded_nothing_is_started_any_more_and_its_workers_are_told_once() -> None:
    crowded: set[bytes] = set()
    net = Net("a", "b", crowded=crowded)
    names = [*names_of_worker(0, 2), *names_of_worker(1, 1)]
    net.call(*[[number, "C", name, "m"] for number, name in enumerate(names)])
    net.call([7, "C", names[0], "m"], client=b"polite")
    assert net.machine.refuse_for_crowded() == []
    tokens = {row[2]: row[0] for row in net.send()[0] + net.send()[1][:1] if row[0] != 3}
    net.call([3, "C", names[0], "m"])
    crowded.add(b"client")
    told = {worker: msgspec.msgpack.decode(body) for worker, body in net.machine.refuse_for_crowded()}
    assert net.error() == (3, "overloaded", "not_executed"), "no worker has seen it"
    assert net.answers[-1][3]["retry_after_ms"] > 0
    assert {worker: (row[1:4], sorted(row[4][0])) for worker, (row,) in told.items()} == {
        0: (["", "", "refuse_calls"], sorted(tokens[name] for name in names[:2])),
        1: (["", "", "refuse_calls"], [tokens[names[2]]]),
    }
    net.reply(0, told[0][0][0], 2)
    assert net.machine.statistics()["stray_replies"] == 0
    assert net.machine.refuse_for_crowded() == []
    for name in names:
        net.reply(names.index(name) // 2, tokens[name])
    crowded.clear()
    net.machine.crowded_no_longer(b"client")
    net.call([4, "C", names[0], "m"])
    crowded.add(b"client")
    assert net.machine.refuse_for_crowded() == [], "it waits here, and is refused here"
    assert net.error() == (4, "overloaded", "not_executed")


@pytest.mark.parametrize("json", [False, True])
def test_calls_of_a_session_reach_their_workers_with_the_keys_that_their_ids_are(json: bool) -> None:
    net = Net("a", "b")
    names = [names_of_worker(worker, 1)[0] for worker in (0, 1)]
    rows: list[Any] = [[0, "", "client-1", "keys", [3]]]
    rows += [[number, "C", name, "m"] for number, name in enumerate(names, 5)] + [["x", "C", names[0], "m"]]
    net.machine.handle(parse_body(b"client", (msgspec.json.encode if json else msgspec.msgpack.encode)(rows)), 0.0)
    assert net.error() == ("x", "bad_request", "not_executed")
    sent = net.send()
    assert [[row[1:4] for row in sent[worker]] for worker in (0, 1)] == [[["C", name, "m"]] for name in names]
    assert [sent[worker][0][5] for worker in (0, 1)] == [{"key": f"client-1.{n}", "answered": 3} for n in (5, 6)]
    net.machine.check_invariants()


def test_calls_of_a_shard_that_nobody_has_wait_and_are_told_why_when_that_takes_too_long() -> None:
    net = Net("a", "b")
    net.machine.topology_changed(Topology(2, (2, 2, 2, 2), ("a", "b", None), nobody=2), 0.0)
    net.call([1, "C", NAME, "m"], now=0.0)
    net.machine.topology_changed(Topology(3, (1, 1, 1, 1), ("a", "b", None), nobody=2), 0.5)
    assert [row[2] for row in net.send()[1]] == [NAME]
    net.reply(1, net.sent[1][0][0])
    net.machine.topology_changed(Topology(4, (2, 2, 2, 2), ("a", "b", None), nobody=2), 1.0)
    net.call([2, "C", NAME, "m"], now=1.0)
    net.machine.handle_timer(net.machine.next_deadline() or 0.0)
    assert net.error() == (2, "unavailable", "not_executed")
    assert "on its way from one worker to another" in str(net.answers[-1])


# Other hosts

NOBODY, HOST, OTHER_HOST = 1, 2, 3


def of_hosts(*hosts: str | None, owner: int = HOST, epoch: int = 2) -> Topology:
    return Topology(epoch, (0, owner, 0, owner), ("w0", None, *hosts), nobody=NOBODY)


def name_elsewhere() -> str:
    return names_of_worker(1, 1)[0]


def hosts_net(topology_now: Topology, *, is_door: bool = False) -> Net:
    net = Net("w0", None, nobody=NOBODY, is_door=is_door)
    net.machine.topology_changed(topology_now, 0.0)
    net.sent |= {index: [] for index in range(len(topology_now.endpoints))}
    return net


def moved(net: Net, host: int, token: int, *, json: bool = False) -> None:
    machine = net.machine
    raw = msgspec.Raw((msgspec.json if json else msgspec.msgpack).encode(Moved("not here").to_wire()))
    machine.moving_replied(cast("MovingInFlight", machine.workers[host]), [Reply(token, ERROR, raw)], 1.0)
    machine.check_invariants()


def test_a_call_to_an_object_of_another_host_goes_there() -> None:
    net = hosts_net(of_hosts("tcp://b"))
    net.call([7, "C", name_elsewhere(), "m"])
    ((token, *_),) = net.send()[HOST]
    net.machine.moving_replied(
        cast("MovingInFlight", net.machine.workers[HOST]), [Reply(token, OK, msgspec.Raw(msgspec.msgpack.encode(5)))], 1.0
    )
    assert [answer[1:3] for answer in net.answers] == [(7, OK)]


def test_a_call_that_came_too_late_for_its_host_goes_to_the_next_one() -> None:
    net = hosts_net(of_hosts("tcp://b", "tcp://c"))
    net.call([7, "C", name_elsewhere(), "m"], [8, "C", name_elsewhere(), "m"])
    first, second = (row[0] for row in net.send()[HOST])
    net.machine.topology_changed(of_hosts("tcp://b", "tcp://c", owner=OTHER_HOST, epoch=3), 0.5)
    moved(net, HOST, first)
    moved(net, HOST, second)
    assert [row[2] for row in net.send()[OTHER_HOST]] == [name_elsewhere()] * 2
    assert net.answers == []


def test_a_call_that_its_host_has_no_longer_waits_until_it_is_known_who_has_it() -> None:
    net = hosts_net(of_hosts("tcp://b", "tcp://c"))
    net.call([7, "C", name_elsewhere(), "m"])
    moved(net, HOST, net.send()[HOST][0][0])
    assert net.send()[HOST] == net.sent[HOST][:1], "it is not asked again and again"
    net.machine.topology_changed(of_hosts("tcp://b", None), 1.5)
    assert net.send()[HOST] == net.sent[HOST][:1], "nor because a connection has gone, or come up"
    net.machine.topology_changed(of_hosts("tcp://b", "tcp://c", owner=OTHER_HOST, epoch=3), 2.0)
    assert len(net.send()[OTHER_HOST]) == 1
    assert net.answers == []


def test_what_waits_for_the_next_host_is_answered_at_its_deadline() -> None:
    net = hosts_net(of_hosts("tcp://b"))
    net.call([7, "C", name_elsewhere(), "m", [], {"deadline_ms": 500}], now=0.75)
    moved(net, HOST, net.send()[HOST][0][0])
    deadline = net.machine.next_deadline()
    assert deadline == 1.25
    net.machine.handle_timer(deadline)
    assert net.error() == (7, "deadline_exceeded", "not_executed")


@pytest.mark.parametrize("json", [False, True])
def test_what_a_call_has_waited_is_taken_off_its_deadline_once_however_often_it_is_sent_on(json: bool) -> None:
    net = hosts_net(of_hosts(None, None))
    net.call([7, "C", name_elsewhere(), "m", [], {"deadline_ms": 1_000}], now=0.25, json=json)
    net.machine.topology_changed(of_hosts("tcp://b", None, epoch=3), 0.75)
    ((token, *_, options),) = net.send()[HOST]
    assert options["deadline_ms"] == 500
    moved(net, HOST, token, json=json)
    assert net.machine.next_deadline() == pytest.approx(1.25)
    net.machine.topology_changed(of_hosts("tcp://b", "tcp://c", owner=OTHER_HOST, epoch=4), 1.125)
    ((token, *_, options),) = net.send()[OTHER_HOST]
    assert (options["deadline_ms"], options["due_s"]) == (125, 1.25)


def test_calls_in_flight_to_a_host_that_is_lost_may_have_been_executed_and_others_wait() -> None:
    net = hosts_net(of_hosts("tcp://b"))
    net.call([7, "C", name_elsewhere(), "m"])
    net.send()
    net.machine.topology_changed(of_hosts(None, epoch=3), 1.0)
    assert net.error() == (7, "shard_lost", "unknown")
    net.call([8, "C", name_elsewhere(), "m"], now=1.0)
    net.machine.topology_changed(of_hosts("tcp://b again", epoch=4), 2.0)
    assert len(net.send()[HOST]) == 2


def test_a_door_passes_nothing_on_to_another_host() -> None:
    net = hosts_net(of_hosts(None), is_door=True)
    net.call([7, "C", name_elsewhere(), "m"])
    assert net.error() == (7, "moved", "not_executed")
    net = hosts_net(of_hosts(None, owner=NOBODY), is_door=True)
    net.call([7, "C", name_elsewhere(), "m"])
    assert net.answers == [], "it may be on its way here"
    net.machine.topology_changed(of_hosts(None, epoch=3), 1.0)
    assert net.error() == (7, "moved", "not_executed")


def test_a_call_that_was_sent_before_it_was_known_that_its_shard_leaves_the_worker_is_sent_on() -> None:
    net = hosts_net(of_hosts("tcp://b"))
    name = names_of_worker(0, 1)[0]
    net.call([7, "C", name, "m"])
    moved(net, 0, net.send()[0][0][0])
    assert net.answers == []
    net.machine.topology_changed(Topology(3, (HOST,) * 4, ("w0", None, "tcp://b"), nobody=NOBODY), 2.0)
    assert [row[2] for row in net.send()[HOST]] == [name]


def test_a_router_that_stops_sends_nothing_on() -> None:
    net = hosts_net(of_hosts("tcp://b"))
    net.call([7, "C", name_elsewhere(), "m"])
    token = net.send()[HOST][0][0]
    net.machine.start_drain()
    moved(net, HOST, token)
    assert net.error() == (7, "unavailable", "not_executed")


def test_a_door_gives_back_what_its_worker_has_not_taken() -> None:
    net = hosts_net(of_hosts(None), is_door=True)
    assert type(net.machine.workers[0]) is InFlight


def test_clients_are_not_told_where_hosts_hear_each_other() -> None:
    net = hosts_net(of_hosts("tcp://b"))
    net.call([7, "", "", "topology"])
    assert [(row["worker"], row["endpoint"]) for row in net.answers[0][3]["shards"]] == [(0, "w0"), (HOST, None)] * 2
