"""The head of a batch: whose calls it has, and that each has a key then."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tidegate.runtime.wire.protocol import Message, Options, parse_body, parse_options
from tidegate.runtime.wire.sessions import NUMBER_MAX, Session, give_keys, head_row, is_head

CODECS = pytest.mark.parametrize("json", [False, True], ids=["msgpack", "json"])


def batch(*rows: list[Any], session: str = "s", answered: Any = 3, json: bool = False) -> Message:
    encode = msgspec.json.encode if json else msgspec.msgpack.encode
    message = parse_body(b"client", encode([[0, "", session, "keys", [answered]], *rows]))
    assert is_head(message.requests[0])
    return message


def options_of(message: Message) -> list[Options]:
    return [parse_options(request.options, json=message.origin.json) for request in message.requests]


@CODECS
def test_each_request_behind_the_head_has_its_id_as_key_beside_the_options_it_came_with(json: bool) -> None:
    rows: list[list[Any]] = [
        [5, "C", "a", "m"],
        [6, "C", "a", "m", [1], None],
        [NUMBER_MAX, "C", "a", "m", [], {"deadline_ms": 7}],
    ]
    message = batch(*rows, json=json)
    assert give_keys(message) == []
    assert options_of(message) == [
        Options(key="s.5", answered=3),
        Options(key="s.6", answered=3),
        Options(key=f"s.{NUMBER_MAX}", answered=3, deadline_ms=7),
    ]
    assert message.origin.missing == 3


@CODECS
def test_a_request_with_a_key_of_its_own_keeps_that(json: bool) -> None:
    message = batch([5, "C", "a", "m", [], {"key": "order 17"}], json=json)
    assert give_keys(message) == []
    assert options_of(message) == [Options(key="order 17")]


@CODECS
@pytest.mark.parametrize("wrong", ["five", -1, NUMBER_MAX + 1])
def test_a_request_that_the_session_cannot_have_numbered_is_refused_and_no_other(json: bool, wrong: Any) -> None:
    message = batch([5, "C", "a", "m"], [wrong, "C", "a", "m"], json=json)
    ((refused, error),) = give_keys(message)
    assert refused.id == wrong
    assert "its number" in error.message
    assert [request.id for request in message.requests] == [5]


@CODECS
def test_options_that_are_no_map_are_refused_and_no_other(json: bool) -> None:
    message = batch([5, "C", "a", "m", [], [1]], [6, "C", "a", "m"], json=json)
    ((refused, error),) = give_keys(message)
    assert refused.id == 5
    assert "options" in error.message


@CODECS
@pytest.mark.parametrize(
    ("session", "answered"), [("", 0), ("a b", 0), ("x" * 23, 0), ("é", 0), ("s", -1), ("s", 2**63), ("s", "0")]
)
def test_with_a_wrong_head_every_request_is_refused(json: bool, session: str, answered: Any) -> None:
    message = batch([5, "C", "a", "m"], [6, "C", "a", "m"], session=session, answered=answered, json=json)
    assert [refused.id for refused, _ in give_keys(message)] == [5, 6]
    assert message.requests == []


def test_the_head_that_clients_write_is_read_as_one() -> None:
    body = msgspec.msgpack.encode([head_row(Session("a-client", 17)), (18, "C", "a", "m")])
    message = parse_body(b"client", body)
    assert is_head(message.requests[0])
    assert give_keys(message) == []
    assert options_of(message) == [Options(key="a-client.18", answered=17)]


@CODECS
@pytest.mark.parametrize(
    "head",
    [[None, "", "s", "keys", [3]], [0, "", 17, "keys", [3]], [0.5, "", None, "keys"], [0, "", "s", "keys", [3], {}, 1, {}]],
)
def test_requests_behind_a_head_that_is_no_request_are_refused_since_they_would_have_no_keys(json: bool, head: list[Any]) -> None:
    encode = msgspec.json.encode if json else msgspec.msgpack.encode
    message = parse_body(b"client", encode([head, [5, "C", "a", "m"], [6, "C", "a", "m"], ["x", "C"]]))
    if message.requests:  # A head after all, in spite of what stands beside it.
        assert is_head(message.requests[0])
        assert give_keys(message) == []
        assert [options.key for options in options_of(message)] == ["s.5", "s.6"]
    else:
        assert {5, 6, "x"} <= {request_id for request_id, _ in message.refused}
        assert message.origin.missing == len(message.refused)


@CODECS
def test_a_head_whose_requests_are_all_refused_is_not_answered_either(json: bool) -> None:
    encode = msgspec.json.encode if json else msgspec.msgpack.encode
    message = parse_body(b"client", encode([[0, "", "s", "keys", [3]], [5, "C"], [6, 7]]))
    assert message.requests == []
    assert [request_id for request_id, _ in message.refused] == [5, 6]
    assert message.origin.missing == 2
