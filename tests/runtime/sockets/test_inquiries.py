"""Calls that a worker has had for long: those it has lost are answered, those it has are left alone."""

from __future__ import annotations

from typing import Any

import msgspec

from tidegate.runtime.limits import INQUIRY_CALLS_MAX, INQUIRY_PATIENCE, WORKER_AHEAD_CALLS
from tidegate.runtime.sockets.inflight import InFlight
from tidegate.runtime.sockets.inquiries import Inquiries
from tidegate.runtime.wire.protocol import ERROR, OK, Origin, Reply, Request

ORIGIN = Origin(b"client", envelope=None, json=False, single=False, requests=1)


class Books:
    def __init__(self, calls: int) -> None:
        self.worker = InFlight(0)
        self.worker.came_up("here", 0.0)
        self.inquiries = Inquiries(self.worker)
        self.next = 0
        self.take(calls)

    def take(self, calls: int) -> None:
        for _ in range(calls):
            self.worker.add(self.next, Request(f"id {self.next}", "C", "a", "m"), ORIGIN, 10)
            self.next += 1
        self.worker.take_bodies()

    def ask(self) -> list[int] | None:
        question = self.inquiries.ask(self.next)
        if question is None:
            return None
        [[self.number, cls, name, method, [tokens]]] = msgspec.msgpack.decode(question)
        assert (cls, name, method) == ("", "", "unknown_calls")
        return list(tokens)

    def answer(self, *unknown: int, status: int = OK) -> list[Any]:
        raw = msgspec.Raw(msgspec.msgpack.encode(unknown if status == OK else {"code": "unavailable"}))
        lost = self.inquiries.reply(Reply(self.number, status, raw))
        assert lost is not None
        self.worker.check_invariants()
        return [call[1] for call in lost]


def test_only_calls_that_were_there_at_the_question_before_are_asked_for() -> None:
    books = Books(3)
    assert books.ask() is None
    books.take(2)
    assert books.ask() == [0, 1, 2]
    for _ in range(INQUIRY_PATIENCE):
        assert books.ask() is None, "one question at a time"
    assert books.answer() == []
    assert books.ask() == [0, 1, 2, 3, 4]


def test_a_call_is_lost_when_its_worker_does_not_know_it_twice() -> None:
    books = Books(3)
    books.ask()
    books.ask()
    assert books.answer(0, 1) == []
    assert books.ask() == [0, 1, 2]
    books.worker.answered(0)  # Its reply was on its way.
    assert books.answer(0, 1) == ["id 1"]
    assert list(books.worker.unanswered) == [2]
    assert books.ask() == [2]


def test_a_call_that_is_known_in_between_is_not_lost() -> None:
    books = Books(1)
    books.ask()
    for unknown in ([0], [], [0], []):
        assert books.ask() == [0]
        assert books.answer(*unknown) == []


def test_a_worker_that_refuses_to_say_loses_nothing() -> None:
    books = Books(1)
    books.ask()
    for _ in range(4):
        assert books.ask() == [0]
        assert books.answer(status=ERROR) == []


def test_a_question_that_got_lost_is_asked_again_and_a_late_answer_to_it_means_nothing() -> None:
    books = Books(1)
    books.ask()
    assert books.ask() == [0]
    first = books.number
    for _ in range(INQUIRY_PATIENCE):
        assert books.ask() is None
    assert books.ask() == [0]
    assert books.inquiries.reply(Reply(first, OK, msgspec.Raw(b"\x91\x00"))) is None
    assert books.answer(0) == []
    assert books.ask() == [0]
    assert books.answer(0) == ["id 0"]


def test_another_process_is_asked_anew_and_one_that_is_down_is_not_asked() -> None:
    books = Books(1)
    books.ask()
    books.ask()
    books.answer(0)
    books.worker.take_lost(1.0)
    assert books.ask() is None
    books.worker.came_up("there", 2.0)
    books.take(1)
    books.ask()
    assert books.ask() == [1]
    assert books.answer(1) == []


def test_of_very_many_calls_each_has_its_turn() -> None:
    books = Books(2 * INQUIRY_CALLS_MAX + 5)
    books.ask()
    seen: list[int] = []
    for _ in range(3):
        seen += books.ask() or []
        books.answer()
    assert seen == list(range(2 * INQUIRY_CALLS_MAX + 5))


def test_other_replies_are_no_answers() -> None:
    books = Books(1)
    assert books.inquiries.reply(Reply(0, OK, msgspec.Raw(b"\x90"))) is None
    books.ask()
    books.ask()
    assert books.inquiries.reply(Reply("x", OK, msgspec.Raw(b"\x90"))) is None
    assert books.inquiries.reply(Reply(-99, OK, msgspec.Raw(b"\x90"))) is None


def test_calls_that_wait_in_the_lines_of_their_clients_are_not_asked_for_and_the_others_are() -> None:
    books = Books(3)
    books.worker.take_bodies_in_turn()
    books.ask()
    for _ in range(2 * WORKER_AHEAD_CALLS):
        books.worker.add(books.next, Request(f"id {books.next}", "C", "a", "m"), ORIGIN, 10)
        books.next += 1
    books.worker.take_bodies_in_turn()
    assert books.worker.has_unsent()
    books.ask()
    asked = books.ask()
    assert asked is None or max(asked) < 3 + WORKER_AHEAD_CALLS
    books.answer(0)
    asked = books.ask()
    assert asked is not None
    assert max(asked) == 2 + WORKER_AHEAD_CALLS
    assert books.answer(0) == ["id 0"]
