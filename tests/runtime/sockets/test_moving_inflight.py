"""Calls in flight to where shards come and go: what was not taken comes back as it was, in order; the rest is as with others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.runtime.sockets.test_inflight import JSON, PLAIN, decoded, request
from tidegate.runtime.errors import LEAVING, CallError, Moved, ObjectReset, Unavailable
from tidegate.runtime.limits import WORKER_AHEAD_CALLS
from tidegate.runtime.sockets.moving_inflight import HostInFlight, MovingInFlight
from tidegate.runtime.wire.protocol import ERROR, OK, Reply


def up(kind: type[MovingInFlight] = HostInFlight) -> MovingInFlight:
    host = kind(3)
    host.came_up("tcp://b:1#1.1.0", 0.0)
    return host


def told(token: int, error: CallError, *, json: bool = False) -> Reply:
    encode = msgspec.json.encode if json else msgspec.msgpack.encode
    return Reply(token, ERROR, msgspec.Raw(encode(error.to_wire())))


def result(token: int) -> Reply:
    return Reply(token, OK, msgspec.Raw(msgspec.msgpack.encode(1)))


@pytest.mark.parametrize("json", [False, True])
@pytest.mark.parametrize("in_turn", [False, True])
def test_what_was_not_taken_comes_back_in_the_order_in_which_it_was_sent(json: bool, in_turn: bool) -> None:
    host, count = up(), WORKER_AHEAD_CALLS + 8 if in_turn else 8
    for token in range(count):
        host.add(token, request(f"call {token}", json=json), JSON if json else PLAIN, 10)
    sent = [row[0] for row in decoded(host.take_bodies_in_turn()) if isinstance(row[0], int)]
    host.check_invariants()
    assert sent[:8] == list(range(8))
    error = Moved("not here")
    replies = [told(4, error, json=json), told(1, error, json=json), result(2)]
    for_callers, refused = host.sort(replies)
    assert [reply.id for reply in for_callers] == [2]
    assert [(call[1], each.id, each.name) for call, each in refused] == [("call 1", "call 1", "n"), ("call 4", "call 4", "n")]
    assert host.answered(2) is not None
    host.check_invariants()
    assert host.bytes == (count - 3) * 10


@pytest.mark.parametrize(
    ("error", "of_host", "of_worker"),
    [
        (Moved("m"), True, True),
        (Unavailable("u", details=LEAVING), True, False),
        (Unavailable("u"), False, False),
        (ObjectReset("r"), False, False),
        (Moved("m", outcome="unknown"), False, False),
    ],
)
@pytest.mark.parametrize("kind", [HostInFlight, MovingInFlight])
def test_only_what_was_certainly_not_executed_is_sent_elsewhere(
    kind: type[MovingInFlight], error: CallError, of_host: bool, of_worker: bool
) -> None:
    """A worker of this host that is about to stop is waited for by who stops it."""
    host, is_back = up(kind), of_host if kind is HostInFlight else of_worker
    host.add(0, request("a"), PLAIN, 10)
    host.take_bodies()
    for_callers, refused = host.sort([told(0, error)])
    assert (len(for_callers), len(refused)) == (0, 1) if is_back else (1, 0)


def test_answers_that_are_none_of_ours_go_the_way_of_those_of_workers() -> None:
    host = up()
    host.add(0, request("a"), PLAIN, 10)
    host.take_bodies()
    strange: list[Any] = [Reply("read 1", OK, msgspec.Raw(b"\xc0")), told(99, Moved("m")), Reply(0, ERROR, msgspec.Raw(b"\xc1"))]
    assert host.sort(strange) == (strange, [])


def test_nothing_is_kept_of_calls_that_are_over() -> None:
    host = up()
    for token in range(3):
        host.add(token, request(token, deadline_ms=5), PLAIN, 10)
        host.add_deadline(token, 0.0, 5)
    host.take_bodies()
    host.answered(0)
    host.check_invariants()
    assert len(host.take_expired(10.0)) == 2
    host.check_invariants()
    host.add(3, request(3), PLAIN, 10)
    host.take_bodies()
    assert len(host.take_lost(1.0)) == 1
    host.check_invariants()
