"""Who is let in, and which calls of those who are may be run: without a socket."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from tidegate.runtime.errors import CallError, Unauthorized, Unavailable
from tidegate.runtime.sockets.guard import SAID_S, Guard
from tidegate.runtime.wire.access import AccessKey, Holder, Rights
from tidegate.runtime.wire.protocol import Message, Request, parse_body
from tidegate.runtime.wire.sessions import Session, head_row

WEB, REPORT = "w" * 40, "r" * 40
KEYS = (AccessKey("web", WEB, Rights(classes=("Counter",))), AccessKey("report", REPORT, Rights(read_only=True)))


def message(*rows: Any) -> Message:
    return parse_body(b"client", msgspec.msgpack.encode(list(rows)))


def judged(guard: Guard, user: str, given: Message) -> tuple[list[Any], dict[Any, CallError]]:
    refused = guard.judge(user, given)
    return [request.id for request in given.requests], {request.id: error for request, error in refused}


def test_calls_that_are_not_allowed_are_taken_out_and_the_others_stay_in_order() -> None:
    guard = Guard("s" * 40, KEYS)
    rows = [(1, "Counter", "a", "add"), (2, "Bank", "a", "add"), (3, "Counter", "b", "add"), (4, "", "", "status")]
    left, refused = judged(guard, WEB, message(*rows))
    assert left == [1, 3]
    assert {number: type(error) for number, error in refused.items()} == {2: Unauthorized, 4: Unauthorized}
    assert guard.refused_calls == 2
    assert {error.outcome for error in refused.values()} == {"not_executed"}


def test_to_refuse_a_call_costs_the_same_in_a_message_of_many() -> None:
    guard = Guard("s" * 40, KEYS)
    given = message((0, "Counter", "a", "add"))
    given.requests = [Request(number, "Bank" if number % 10 else "Counter", "a", "add") for number in range(20_000)]
    began_s = time.process_time()
    assert len(guard.judge(WEB, given)) == 18_000
    assert time.process_time() - began_s < 2.0  # 0.1 s; it took 10 s while each was looked for among the refused.
    assert [request.id for request in given.requests] == [*range(0, 20_000, 10)]


def test_names_that_a_client_makes_long_are_not_remembered() -> None:
    holder = Holder(KEYS[0], None)
    for number in range(100):
        assert holder.problem("Counter", f"{number}".zfill(1_000)) == ""
        assert "may not call" in holder.problem(f"{number}".zfill(1_000), "add")
    assert holder.problem("Counter", "add") == ""
    assert len(holder._verdicts) == 1


def test_the_head_of_a_session_is_no_call_and_goes_with_the_last_of_its_calls() -> None:
    guard = Guard("s" * 40, KEYS)
    head = head_row(Session("session", 1))
    kept = message(head, (1, "Bank", "a", "add"), (2, "Counter", "a", "add"))
    assert [request.id for request, _ in guard.judge(WEB, kept)] == [1]
    assert [request.method for request in kept.requests] == ["keys", "add"]
    empty = message(head, (1, "Bank", "a", "add"))
    assert [request.id for request, _ in guard.judge(WEB, empty)] == [1]
    assert empty.requests == []
    revoked = message(head, (1, "Counter", "a", "add"))
    assert judged(guard, "x" * 40, revoked)[0] == []
    assert empty.origin.missing == revoked.origin.missing == 1  # That of the refused call, which is answered.


def test_a_key_that_is_taken_off_the_list_is_refused_from_then_on_pings_included() -> None:
    guard = Guard("s" * 40, KEYS)
    assert guard.admits(WEB)
    assert judged(guard, WEB, message((1, "", "", "ping")))[0] == [1]
    guard.allow(KEYS[1:])
    assert not guard.admits(WEB)
    left, refused = judged(guard, WEB, message((1, "", "", "ping"), (2, "Counter", "a", "add")))
    assert (left, set(refused)) == ([], {1, 2})
    assert guard.unknown_keys == 1


def test_a_read_only_key_is_told_to_wait_until_the_marked_methods_are_known() -> None:
    guard = Guard("s" * 40, KEYS)
    call = (1, "Counter", "a", "current")
    assert isinstance(judged(guard, REPORT, message(call))[1][1], Unavailable)
    guard.told_read_only(frozenset({("Counter", "current")}))
    assert judged(guard, REPORT, message(call)) == ([1], {})
    assert isinstance(judged(guard, REPORT, message((1, "Counter", "a", "add")))[1][1], Unauthorized)
    guard.told_read_only(frozenset())
    assert isinstance(judged(guard, REPORT, message(call))[1][1], Unauthorized)


def test_a_refusal_is_said_once_a_minute_for_each_key_and_once_for_all_that_nobody_knows() -> None:
    guard = Guard("s" * 40, KEYS)
    assert [guard.is_to_be_said(WEB, at) for at in (0.0, 1.0, SAID_S - 0.1, SAID_S)] == [True, False, False, True]
    assert guard.is_to_be_said(REPORT, 1.0)
    assert [guard.is_to_be_said(public * 40, 2.0) for public in "abc"] == [True, False, False]
    assert [guard.name_of(user) for user in (WEB, "x" * 40)] == ["'web'", "a key that is not on the list"]
