"""Calls in flight to one worker: every small world, and the cases that matter one by one."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tidegate.runtime.limits import (
    DEADLINE_GRACE_S,
    MESSAGE_BYTES_MAX,
    TURN_REQUESTS_MAX,
    WAIT_DOWN_S,
    WAIT_START_S,
    WORKER_AHEAD_CALLS,
)
from tidegate.runtime.sockets.inflight import Expiry, InFlight
from tidegate.runtime.wire.protocol import Origin, Request, parse_options

PLAIN = Origin(b"client", envelope=None, json=False, single=False, requests=1)
JSON = Origin(b"client", envelope=None, json=True, single=False, requests=1)


def request(request_id: int | str, *, json: bool = False, **options: object) -> Request:
    codec = msgspec.json if json else msgspec.msgpack
    raw = msgspec.Raw(codec.encode(options)) if options else msgspec.Raw(codec.encode(None))
    return Request(request_id, "C", "n", "m", msgspec.Raw(codec.encode([1])), raw)


def decoded(bodies: list[bytes]) -> list[list[Any]]:
    return [row for body in bodies for row in (msgspec.json if body[:1] == b"[" else msgspec.msgpack).decode(body)]


def sent(inflight: InFlight) -> list[int]:
    """The tokens of everything handed out now, in order."""
    return [row[0] for row in decoded(inflight.take_bodies())]


STEPS = ("add", "add json", "add timed", "send", "answer oldest", "lose", "up", "park", "down", "time", "take unsent")


def every_sequence(length: int) -> Iterator[tuple[str, ...]]:
    return itertools.product(STEPS, repeat=length)


class Story:
    """Runs steps and counts what happened to each call."""

    def __init__(self, *, in_turn: bool = False) -> None:
        self.in_turn = in_turn
        self.marks: list[str] = []
        self.inflight = InFlight(0)
        self.now = 0.0
        self.added: list[int] = []
        self.given_back: Counter[int | str] = Counter()
        self.handed_out: list[int] = []

    def give_back(self, request_id: int | str) -> None:
        self.given_back[request_id] += 1

    def step(self, step: str) -> None:
        inflight = self.inflight
        if step.startswith("add"):
            json = step == "add json"
            token = len(self.added)
            self.added.append(token)
            options = {"deadline_ms": 20_000} if step == "add timed" else {}
            inflight.add(token, request(token, json=json, **options), JSON if json else PLAIN, 10)
            if inflight.endpoint is None:
                inflight.add_wait(token, self.now)
            if options:
                inflight.add_deadline(token, self.now, 20_000)
        elif step == "send":
            if inflight.endpoint is not None:
                if not self.in_turn:
                    self.handed_out += sent(inflight)
                    return
                ids = [row[0] for row in decoded(inflight.take_bodies_in_turn())]
                self.marks += [each for each in ids if isinstance(each, str)]
                self.handed_out += [each for each in ids if isinstance(each, int)]
        elif step == "answer oldest":
            if self.marks and inflight.process is not None:
                assert inflight.has_read(self.marks.pop(0))
            waiting = [token for token in self.handed_out if token in inflight.unanswered]
            if waiting and inflight.process is not None:
                call = inflight.answered(waiting[0])
                assert call is not None
                self.give_back(call[1])
                assert inflight.answered(waiting[0]) is None
        elif step == "lose":
            if inflight.process is not None:
                self.marks.clear()
                for call in inflight.take_lost(self.now):
                    assert call[1] in self.handed_out
                    self.give_back(call[1])
        elif step == "up":
            if inflight.endpoint is None:
                inflight.came_up("there", self.now)
        elif step == "park":
            inflight.park(self.now)
            assert not inflight.has_unsent()
        elif step == "down":
            inflight.set_down(self.now, is_down=not inflight.is_down)
        elif step == "time":
            self.now += 21
            for call, expiry in inflight.take_expired(self.now):
                assert (call[1] in self.handed_out) == (expiry is Expiry.SENT)
                self.give_back(call[1])
            assert (next_at := inflight.next_deadline()) is None or next_at > self.now
        else:
            for call, again in inflight.take_unsent():
                assert call[1] == again.id
                assert call[1] not in self.handed_out
                self.give_back(call[1])
        inflight.check_invariants()
        assert inflight.has_sent() == any(token in inflight.unanswered for token in self.handed_out)

    def finish(self) -> None:
        for call in self.inflight.take_all():
            self.give_back(call[1])
        assert self.given_back == Counter(self.added)
        assert self.handed_out == sorted(set(self.handed_out)), "sent twice or out of order"
        assert not self.inflight.has_unsent()
        assert self.inflight.next_deadline() is None
        assert self.inflight.bytes == 0


@pytest.mark.parametrize("first", STEPS)
def test_every_call_is_given_back_exactly_once_and_sent_at_most_once_and_in_order_in_every_small_world(first: str) -> None:
    for steps in every_sequence(4):
        story = Story()
        for step in ("up", first, *steps):
            story.step(step)
        story.finish()


@pytest.mark.parametrize("first", STEPS)
def test_the_same_holds_where_a_worker_is_sent_one_call_ahead(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("WORKER_AHEAD_CALLS", "TURN_REQUESTS_MAX", "_MARK_CALLS"):
        monkeypatch.setattr(f"tidegate.runtime.sockets.inflight.{bound}", 1)
    for steps in every_sequence(3):
        story = Story(in_turn=True)
        for step in ("up", "add", "add timed", "send", first, *steps, "send"):
            story.step(step)
        story.finish()


def test_clients_take_turns_where_a_worker_is_behind_and_each_stays_in_order() -> None:
    inflight = InFlight(0)
    inflight.came_up("there", 0.0)
    greedy = 3 * WORKER_AHEAD_CALLS
    for token in range(greedy):
        inflight.add(token, request(token), Origin(b"greedy", envelope=None, json=False, single=False, requests=1), 10)
    for token in range(greedy, greedy + 100):
        client = b"%d" % (token % 10)
        inflight.add(token, request(token), Origin(client, envelope=None, json=False, single=False, requests=1), 10)
    rows = decoded(inflight.take_bodies_in_turn())
    inflight.check_invariants()
    calls = [row[0] for row in rows if row[3] == "m"]
    assert len(calls) == WORKER_AHEAD_CALLS
    assert set(range(greedy, greedy + 100)) <= set(calls[:TURN_REQUESTS_MAX]), "who has few is served in the first turn"
    assert inflight.take_bodies_in_turn() == []
    while inflight.has_unsent():
        marks = [row[0] for row in rows if row[3] == "ping"]
        assert inflight.has_read(marks[-1]), "the newest stands for those before it"
        assert not inflight.has_read(marks[0])
        rows = decoded(inflight.take_bodies_in_turn())
        inflight.check_invariants()
        calls += [row[0] for row in rows if row[3] == "m"]
    assert [token for token in calls if token < greedy] == list(range(greedy))
    for digit in range(10):
        assert (own := [token for token in calls if token >= greedy and token % 10 == digit]) == sorted(own)


def test_what_is_small_goes_past_many_megabytes_of_others_which_are_sent_a_few_at_a_time_in_turns() -> None:
    inflight = InFlight(0)
    inflight.came_up("there", 0.0)
    origins = [Origin(client, envelope=None, json=False, single=False, requests=1) for client in (b"a", b"b", b"polite")]
    for token in range(20):
        inflight.add(token, request(token), origins[token % 2], 3 << 20)
    seen = []
    rows = decoded(inflight.take_bodies_in_turn())
    while rows:
        calls = [row[0] for row in rows if row[3] == "m"]
        assert len(calls) <= 2
        seen += calls
        inflight.add(100 + len(seen), request(100 + len(seen)), origins[2], 300)
        assert [row[0] for row in decoded(inflight.take_bodies_in_turn())] == [100 + len(seen)], "nothing has been read yet"
        inflight.check_invariants()
        for row in rows:
            assert inflight.answered(row[0]) if row[3] == "m" else inflight.has_read(row[0])
        rows = decoded(inflight.take_bodies_in_turn())
        inflight.check_invariants()
    assert seen[:6] == [0, 2, 1, 3, 4, 6], "two fit, and the clients take turns"
    assert sorted(seen) == list(range(20))


def test_calls_that_take_long_keep_no_others_from_a_worker_that_reads() -> None:
    inflight = InFlight(0)
    inflight.came_up("there", 0.0)
    for token in range(5 * WORKER_AHEAD_CALLS):
        inflight.add(token, request(token), PLAIN, 10)
        if token % 100 == 99:
            rows = decoded(inflight.take_bodies_in_turn())
            for row in rows:
                assert row[3] == "m" or inflight.has_read(row[0])
    inflight.take_bodies_in_turn()
    assert not inflight.has_unsent()
    assert len(inflight.unanswered) == 5 * WORKER_AHEAD_CALLS


@pytest.mark.parametrize("ahead", [0, 2 * WORKER_AHEAD_CALLS])
def test_calls_of_some_clients_that_no_worker_has_seen_are_given_back_and_never_sent(ahead: int) -> None:
    """With so many ahead of them they wait in the clients' lines."""
    inflight = InFlight(0)
    inflight.came_up("there", 0.0)
    for token in range(ahead):
        inflight.add(token, request(token), PLAIN, 10)
    inflight.take_bodies_in_turn()
    origins = [Origin(client, envelope=None, json=False, single=False, requests=1) for client in (b"a", b"b", b"c")]
    for token in range(ahead, ahead + 300):
        inflight.add(token, request(token), origins[token % 3], 10)
    if ahead:
        inflight.take_bodies_in_turn()
    assert len(inflight.tokens_of({b"a", b"b"})) == 200
    taken = inflight.take_unsent_of({b"a", b"b"})
    inflight.check_invariants()
    assert Counter(origin.client for origin, _, _ in taken) == {b"a": 100, b"b": 100}
    assert inflight.tokens_of({b"a", b"b"}) == []
    if ahead:
        assert inflight.has_read("read 2")
    tokens = [row[0] for row in decoded(inflight.take_bodies_in_turn()) if row[3] == "m"]
    assert [token for token in tokens if token >= ahead] == inflight.tokens_of({b"c"})
    inflight.check_invariants()


def test_codecs_alternate_in_the_order_of_the_calls() -> None:
    inflight = InFlight(0)
    for token, json in enumerate((False, True, True, False, True, False)):
        inflight.add(token, request(token, json=json), JSON if json else PLAIN, 1)
    assert [body[:1] == b"[" for body in inflight.take_bodies()] == [False, True, False, True, False]
    assert inflight.take_bodies() == []


def test_a_body_above_the_limit_on_messages_is_split() -> None:
    inflight = InFlight(0)
    inflight.came_up("there", 0.0)
    large = msgspec.Raw(msgspec.msgpack.encode([b"x" * (5 << 20)]))
    for token in range(7):
        inflight.add(token, Request(token, "C", "n", "m", large), PLAIN, 1)
    bodies = inflight.take_bodies()
    assert all(len(body) <= MESSAGE_BYTES_MAX for body in bodies)
    assert [row[0] for body in bodies for row in msgspec.msgpack.decode(body)] == list(range(7))


def test_a_great_batch_is_split_into_turns_of_the_worker() -> None:
    inflight = InFlight(0)
    for token in range(10_000):
        inflight.add(token, request(token), PLAIN, 1)
    batches = [msgspec.msgpack.decode(body) for body in inflight.take_bodies()]
    assert max(map(len, batches)) <= TURN_REQUESTS_MAX
    assert [row[0] for rows in batches for row in rows] == list(range(10_000))


def test_what_was_left_out_is_sent_as_nil_so_that_nothing_shifts() -> None:
    inflight = InFlight(0)
    inflight.add(7, Request("id", "C", "n", "m"), PLAIN, 1)
    assert [msgspec.msgpack.decode(body) for body in inflight.take_bodies()] == [[[7, "C", "n", "m", None, None]]]


@pytest.mark.parametrize("json", [False, True])
def test_the_time_waited_is_taken_off_the_deadline_and_other_options_stay(json: bool) -> None:
    inflight = InFlight(0)
    inflight.add(0, request(0, json=json, deadline_ms=3_000, key="k", later=[1, 2]), JSON if json else PLAIN, 1)
    inflight.add_wait(0, now=10.0)
    inflight.add_deadline(0, now=10.0, deadline_ms=3_000)
    inflight.came_up("there", now=11.25)
    body = inflight.take_bodies()[0]
    options = (msgspec.json if json else msgspec.msgpack).decode(body)[0][5]
    assert options == {"deadline_ms": 1_750, "key": "k", "later": [1, 2]}


def test_a_call_waits_no_longer_than_its_own_deadline_and_no_longer_than_the_router_allows() -> None:
    inflight = InFlight(0)
    for token, deadline_ms in ((0, None), (1, 2_000), (2, 600_000)):
        inflight.add(token, request(token), PLAIN, 1)
        inflight.add_wait(token, now=0.0)
        if deadline_ms is not None:
            inflight.add_deadline(token, now=0.0, deadline_ms=deadline_ms)
    assert inflight.next_deadline() == 2.0
    assert inflight.take_expired(1.99) == []
    assert [(call[1], expiry) for call, expiry in inflight.take_expired(2.0)] == [(1, Expiry.UNSENT)]
    assert inflight.next_deadline() == WAIT_START_S
    assert [(call[1], expiry) for call, expiry in inflight.take_expired(WAIT_START_S)] == [(0, Expiry.WAITED), (2, Expiry.WAITED)]
    inflight.came_up("there", WAIT_START_S + 1)
    assert inflight.take_bodies() == []


def test_a_worker_that_fails_again_and_again_is_not_waited_for_as_long_as_one_that_starts() -> None:
    inflight = InFlight(0)
    for token in range(3):
        inflight.add(token, request(token), PLAIN, 1)
        inflight.add_wait(token, now=float(token))
        if token == 1:
            inflight.set_down(10.0, is_down=True)
            assert inflight.next_deadline() == 10.0 + WAIT_DOWN_S
    assert [call[1] for call, _ in inflight.take_expired(10.0 + WAIT_DOWN_S)] == [0, 1, 2]


def test_a_call_that_its_worker_has_is_given_back_a_moment_after_its_deadline() -> None:
    inflight = InFlight(0)
    inflight.came_up("there", 0.0)
    inflight.add(0, request(0), PLAIN, 1)
    inflight.add_deadline(0, now=1.0, deadline_ms=2_000)
    assert sent(inflight) == [0]
    assert inflight.next_deadline() == 3.0 + DEADLINE_GRACE_S
    assert inflight.take_expired(3.0) == []
    assert [(call[1], expiry) for call, expiry in inflight.take_expired(3.0 + DEADLINE_GRACE_S)] == [(0, Expiry.SENT)]
    assert inflight.answered(0) is None


def test_deadlines_of_calls_that_were_answered_do_not_pile_up() -> None:
    inflight = InFlight(0)
    inflight.came_up("there", 0.0)
    for token in range(10_000):
        inflight.add(token, request(token), PLAIN, 1)
        inflight.add_deadline(token, now=0.0, deadline_ms=3_600_000)
        inflight.take_bodies()
        inflight.answered(token)
    assert len(inflight._deadlines) < 100


def test_requests_of_expired_calls_do_not_pile_up_while_the_worker_stays_down() -> None:
    inflight = InFlight(0)
    for token in range(10_000):
        inflight.add(token, request(token), PLAIN, 1)
        inflight.add_wait(token, now=float(token))
        inflight.take_expired(float(token))
    assert len(inflight.unanswered) == WAIT_START_S
    assert len(inflight.rows) < 200
    inflight.check_invariants()


def test_options_that_carry_a_deadline_are_read_as_they_were_written() -> None:
    assert parse_options(request(1, deadline_ms=5).options, json=False).deadline_ms == 5
