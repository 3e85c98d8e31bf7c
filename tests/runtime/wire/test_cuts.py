"""Bodies of very many requests: cut into parts, they hold the same requests as whole, and a part costs its own length."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from tidegate.runtime.limits import TURN_REQUESTS_MAX
from tidegate.runtime.wire.cuts import JsonCut, PackedCut
from tidegate.runtime.wire.pieces import array_length
from tidegate.runtime.wire.protocol import Batch, join_bodies, parse_body, parse_uncopied
from tidegate.runtime.wire.sessions import Session, head_row, is_head

MANY = 3 * TURN_REQUESTS_MAX + 7


def rows(count: int = MANY, first: int = 0) -> list[list[Any]]:
    return [[number, "C", f"n{number}", "m", ["[" * (number % 50)]] for number in range(first, first + count)]


def packed(value: Any, json: bool) -> bytes:
    return (msgspec.json if json else msgspec.msgpack).encode(value)


def answered(batch: Any, size: int = 100) -> dict[Any, str]:
    """What becomes of each id."""
    assert isinstance(batch, Batch)
    found: dict[Any, str] = {}
    while not batch.is_over:
        part = batch.next_part(size)
        assert len(part.requests) <= size + 1
        for request in part.requests[len(batch.head) :]:
            assert request.id not in found
            found[request.id] = "run"
        for request_id, error in part.refused:
            found[request_id] = error.code
    return found


@pytest.mark.parametrize("json", [False, True])
@pytest.mark.parametrize("size", [2, 100, 1_024, 8_192])
def test_the_parts_of_a_batch_have_its_requests_in_order(json: bool, size: int) -> None:
    assert list(answered(parse_body(b"client", packed(rows(), json)), size).items()) == [(each, "run") for each in range(MANY)]


def test_a_batch_is_read_where_the_library_has_put_it() -> None:
    body = packed(rows(), json=False)
    message = parse_uncopied(b"client", memoryview(body))
    assert isinstance(message, Batch)
    assert message.size == len(body)
    assert list(answered(message)) == list(range(MANY))


@pytest.mark.parametrize("json", [False, True])
def test_what_a_turn_can_have_is_no_batch(json: bool) -> None:
    assert len(parse_body(b"client", packed([[n, "C", "n", "m"] for n in range(TURN_REQUESTS_MAX)], json)).requests) == 1_024


@pytest.mark.parametrize("json", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_requests_that_are_broken_are_refused_alone(json: bool, seed: int) -> None:
    draw = random.Random(seed)
    wrong = {draw.randrange(MANY) for _ in range(30)}
    broken = [[row[0], "C"] if row[0] in wrong else row for row in rows()]
    found = answered(parse_body(b"client", packed(broken, json)))
    assert found == {each: "bad_request" if each in wrong else "run" for each in range(MANY)}


@pytest.mark.parametrize("json", [False, True])
def test_a_body_that_ends_early_has_the_requests_up_to_there(json: bool) -> None:
    body = packed(rows(), json)
    ends = msgspec.json.encode(rows()[:2_000]) if json else msgspec.msgpack.encode(rows()[:2_000])
    found = answered(parse_body(b"client", body[: len(ends) + 3]))
    assert {each: found[each] for each in range(2_000)} == dict.fromkeys(range(2_000), "run")
    assert set(found) - set(range(2_000)) <= {2_000}
    assert found.get(2_000) in (None, "bad_request")


@pytest.mark.parametrize("said", [1_500, 100_000, 0xFFFF_FFFF])
def test_more_and_fewer_requests_than_the_head_has_said_are_all_answered(said: int) -> None:
    body = b"\xdd" + said.to_bytes(4) + b"".join(map(msgspec.msgpack.encode, rows()))
    found = answered(parse_body(b"client", body))
    assert found == dict.fromkeys(range(MANY), "run")


@pytest.mark.parametrize("junk", [b"\xc1", b"\xc0", b"\x91" * 50_000, b"\xc6\xff\xff\xff\xff", b"\xa5short"])
def test_bytes_that_are_no_request_take_none_with_them_but_what_they_claim(junk: bytes) -> None:
    first, last = rows(2_000), rows(1_000, first=2_000)
    body = b"\xdc\x0b\xb9" + b"".join(map(msgspec.msgpack.encode, first)) + junk + b"".join(map(msgspec.msgpack.encode, last))
    found = answered(parse_body(b"client", body))
    assert {each: found[each] for each in range(2_000)} == dict.fromkeys(range(2_000), "run")
    if len(junk) in (1, 6):
        assert found == dict.fromkeys(range(3_000), "run")


def test_the_decoder_says_where_the_rest_begins() -> None:
    """If it no longer does, requests are looked at one by one: ten times as slow."""
    cut = PackedCut(packed(rows(), json=False))
    assert cut._end_of(1_000) == len(packed(rows(1_000), json=False))


def test_a_part_may_be_larger_than_what_was_looked_at_first() -> None:
    large = [[0, "C", "n", "m", ["x" * 3_000_000]], *rows(2_000, first=1)]
    assert list(answered(parse_body(b"client", packed(large, json=False)))) == list(range(2_001))


def test_a_long_look_at_json_is_done_in_several() -> None:
    cut = JsonCut(packed([[0, "C", "n", "m", ["x"] * 100_000], *rows(10, first=1)], json=True))
    taken = []
    while not cut.is_over:
        taken.append(len(list(cut.take(5)[1])))
    assert sum(taken) == 11
    assert taken.count(0) >= 4


@pytest.mark.parametrize("json", [False, True])
def test_each_part_of_a_session_begins_with_its_head(json: bool) -> None:
    batch = parse_body(b"client", packed([head_row(Session("s", 1)), *rows()], json))
    assert isinstance(batch, Batch)
    while not batch.is_over:
        part = batch.next_part(2)
        assert not part.requests or (is_head(part.requests[0]) and 1 < len(part.requests) <= 3)


def test_a_broken_head_refuses_all_parts() -> None:
    found = answered(parse_body(b"client", packed([["x", "", 5, "keys", [1]], *rows()], json=False)))
    assert found == {"x": "bad_request"} | dict.fromkeys(range(MANY), "bad_request")


def test_a_head_in_the_middle_is_refused() -> None:
    middle = [*rows(1_500), ["head", "", "s", "keys", [1]], *rows(1_000, first=1_500)]
    found = answered(parse_body(b"client", packed(middle, json=False)), size=1_500)
    assert found.pop("head") == "bad_request"
    assert found == dict.fromkeys(range(2_500), "run")


@pytest.mark.parametrize("json", [False, True])
def test_answers_are_joined_to_as_few_bodies_as_the_limit_allows(json: bool) -> None:
    replies = [[number, 0, None] for number in range(10_000)]
    bodies = [packed(replies[at : at + 3_000], json) for at in range(0, 10_000, 3_000)]
    (joined,) = join_bodies(bodies, json=json)
    assert (msgspec.json if json else msgspec.msgpack).decode(joined) == replies
    assert json or array_length(joined) == 10_000
    large = [packed([[1, 0, "x" * (9 << 20)]], json)] * 3
    assert join_bodies(large, json=json) == large
