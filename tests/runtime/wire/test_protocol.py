"""Wire protocol 1 without a socket."""

from __future__ import annotations

import contextlib
import re
import time
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegate.runtime.errors import BadRequest
from tidegate.runtime.limits import ENVELOPE_BYTES_MAX, ENVELOPE_FRAMES_MAX, FRAMES_PER_MESSAGE_MAX, MESSAGE_BYTES_MAX
from tidegate.runtime.wire.protocol import (
    NO_OPTIONS,
    NO_RAW,
    NO_RAW_JSON,
    OK,
    Malformed,
    Message,
    encode,
    encode_bodies,
    encode_json,
    encode_replies,
    is_too_deep,
    parse_body,
    parse_message,
    parse_options,
    parse_replies,
    parts_of,
    with_deadline_ms,
)

CODECS = pytest.mark.parametrize("json", [False, True], ids=["MessagePack", "JSON"])


def packed(value: Any, *, json: bool) -> bytes:
    return encode_json(value) if json else encode(value)


def read(raw: Any, *, json: bool) -> Any:
    return (msgspec.json if json else msgspec.msgpack).decode(raw)


# Requests


@CODECS
@pytest.mark.parametrize("request_id", [0, -1, 2**63, "text", ""])
def test_a_single_request_keeps_its_id_and_its_raw_parts(json: bool, request_id: int | str) -> None:
    message = parse_body(b"client", packed([request_id, "C", "n", "m", {"a": [1]}, {"key": "k"}], json=json))
    (request,) = message.requests
    assert (request.id, request.cls, request.name, request.method) == (request_id, "C", "n", "m")
    assert read(request.args, json=json) == {"a": [1]}
    assert read(request.options, json=json) == {"key": "k"}
    assert (message.origin.single, message.origin.json, message.origin.plain) == (True, json, False)


@CODECS
def test_a_batch_is_an_array_of_requests(json: bool) -> None:
    message = parse_body(b"client", packed([[i, "C", str(i), "m", [i]] for i in range(200)], json=json))
    assert [request.id for request in message.requests] == list(range(200))
    assert (message.origin.single, message.origin.plain, message.origin.missing) == (False, not json, 200)


@CODECS
def test_what_is_left_out_is_nil_and_can_be_encoded_again(json: bool) -> None:
    body = packed([[1, "C", "n", "m"], [2, "C", "n", "m", None], [3, "C", "n", "m", [], None]], json=json)
    message = parse_body(b"client", body)
    again = read(packed(message.requests, json=json), json=json)
    assert again == [[1, "C", "n", "m", None, None], [2, "C", "n", "m", None, None], [3, "C", "n", "m", [], None]]
    assert all(parse_options(request.options, json=json) == NO_OPTIONS for request in message.requests)


@CODECS
def test_later_versions_may_add_elements_to_a_request(json: bool) -> None:
    assert parse_body(b"client", packed([1, "C", "n", "m", [], {}, "more"], json=json)).requests[0].id == 1


@pytest.mark.parametrize("space", [" ", "\n\t\r ", " " * 100], ids=["one", "mixed", "many"])
def test_json_may_have_white_space_after_its_first_byte(space: str) -> None:
    message = parse_body(b"client", f'[{space}[1,"C","n","m"]{space},{space}[2,"C","n","m"]]'.encode())
    assert [request.id for request in message.requests] == [1, 2]
    assert not message.origin.single
    assert parse_body(b"client", f'[{space}1,"C","n","m"]'.encode()).origin.single


@CODECS
@pytest.mark.parametrize(
    ("request_row", "problem"),
    [([1], "length"), ([1, "C", "n"], "length"), ([1, "C", "n", 5], "str"), ([1, None, "n", "m"], "str"), ({"id": 1}, "array")],
)
def test_a_request_of_the_wrong_shape_is_answered_where_its_id_can_be_read(json: bool, request_row: Any, problem: str) -> None:
    good = [2, "C", "n", "m"]
    message = parse_body(b"client", packed([good, request_row, good], json=json))
    assert [request.id for request in message.requests] == [2, 2]
    ((request_id, error),) = message.refused
    assert request_id == 1
    assert error.code == "bad_request"
    assert re.search(problem, error.message)
    assert message.origin.missing == 3


@CODECS
@pytest.mark.parametrize("body", [[], [[]], [None, "C", "n", "m"], [1.5, "C", "n", "m"], [True, "C", "n", 1], {}, [{}]])
def test_without_an_id_there_is_nothing_to_answer(json: bool, body: Any) -> None:
    with pytest.raises(Malformed):
        parse_body(b"client", packed(body, json=json))


@pytest.mark.parametrize("byte", [byte for byte in range(256) if byte not in b"[{"])
def test_one_byte_alone_is_malformed(byte: int) -> None:
    with pytest.raises(Malformed):
        parse_body(b"client", bytes([byte]))


def test_bodies_nested_without_end_are_malformed() -> None:
    for body in (b"[" * 1_000, b"\x91" * 100_000):
        with pytest.raises(Malformed):
            parse_body(b"client", body)
    assert answered(parse_body(b"client", b"[" * 100_000)) == {}


def answered(message: Message) -> dict[int | str, str]:
    """By id: the code of its error, or that it can be run."""
    codes: dict[int | str, str] = {}
    for part in parts_of(message, 100):
        codes |= {request_id: error.code for request_id, error in part.refused}
        codes |= {request.id: "run" for request in part.requests}
    return codes


SPACES = [b" ", b"\n\t\r ", b" " * 1_000, b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"]


@pytest.mark.parametrize("space", SPACES, ids=repr)
@pytest.mark.parametrize("body", [b'[1,"C","n","m"]', b'[[1,"C","n","m"],[2,"C","n","m"]]'], ids=["single", "batch"])
def test_json_may_begin_with_white_space_and_a_byte_order_mark(body: bytes, space: bytes) -> None:
    message = parse_body(b"client", space + body)
    assert answered(message) == answered(parse_body(b"client", body))
    assert message.origin.json


FAR_TIME = b"\xc7\x0c\xff" + bytes(4) + (253_402_300_800).to_bytes(8)  # The first second of the year 10,000.
BROKEN_JSON = {
    "NaN": b"[NaN]", "infinity": b"-Infinity", "nested": b"[" * 5_000 + b"]" * 5_000, "number": b"[01]", "long": b"9" * 5_000,
    "text": b'["\xff"]', "control": b'["\n"]', "escape": b'["\\x"]', "comma": b"[1,]", "comment": b"[] // yes", "quote": b"['a']",
    "surrogate": b'["\\ud800"]',
}  # fmt: skip
BROKEN_PACKED = {
    "never used": b"\x91\xc1", "nested": b"\x91" * 5_000 + b"\xc0", "text": b"\x91\xa1\xff", "far time": b"\x91" + FAR_TIME,
    "extension": b"\x91\xc7\x01\x05\x00", "key": b"\x81\x90\x01",
}  # fmt: skip


@pytest.mark.parametrize("args", BROKEN_JSON)
def test_whatever_is_wrong_in_a_json_request_is_its_own_and_its_neighbours_run(args: str) -> None:
    broken = b'[7, "C", "n", "m", ' + BROKEN_JSON[args] + b', {"deadline_ms": "no"}]'
    assert list(answered(parse_body(b"client", broken))) == [7]
    message = parse_body(b"client", b'[[1,"C","n]","m"], ' + broken + b',["two","C","n\\"[","m",[{}]]]')
    assert answered(message) == {1: "run", "two": "run"} | answered(parse_body(b"client", broken))


@pytest.mark.parametrize("args", BROKEN_PACKED)
@pytest.mark.parametrize("place", ["args", "name", "beyond"])
def test_whatever_is_wrong_in_a_messagepack_request_is_its_own_and_its_neighbours_run(args: str, place: str) -> None:
    wrong = BROKEN_PACKED[args]
    method = [b"\xa1n", b"\xa1m"]
    rest = {"args": [*method, wrong], "name": [wrong, b"\xa1m"], "beyond": [*method, b"\xc0", b"\xc0", wrong]}
    broken = bytes([0x92 + len(rest[place])]) + b"\x07\xa1C" + b"".join(rest[place])
    alone = answered(parse_body(b"client", broken))
    assert list(alone) == [7]
    first = encode([1, "C", "n", "m", [b"x" * 300, {"a": [1.5, None, -1, 2**63, "x" * 40]}]])
    last = encode(["two", "C", "n", "m"])
    assert answered(parse_body(b"client", b"\x93" + first + broken + last)) == {1: "run", "two": "run"} | alone
    assert answered(parse_body(b"client", b"\xdc\x00\x03" + first + broken + last)) == {1: "run", "two": "run"} | alone


@CODECS
def test_a_batch_that_is_cut_is_answered_as_far_as_ids_can_be_read(json: bool) -> None:
    rows = [[number, "C", "n", "m", ["é]", {"a": [number]}]] for number in range(1, 4)]
    body, one = packed(rows, json=json), packed(rows[0], json=json)
    for length in range(len(one) * 2 + 2, len(body) - json):
        found = answered(parse_body(b"client", body[:length]))
        assert (found.pop(1), found.pop(2), found) in [("run", "run", {}), ("run", "run", {3: "bad_request"})], length
    assert found == {3: "bad_request"}


bytes_with_brackets = st.binary(max_size=30) | st.lists(st.sampled_from(list(b'[]{}",:\\1 \xc1\x91\xdd')), max_size=30).map(bytes)


@given(st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5), bytes_with_brackets)
def test_every_single_request_whose_id_can_be_read_is_answered_whatever_follows(request_id: int | str, rest: bytes) -> None:
    for body in (b"[" + encode_json(request_id) + b"," + rest, b"\x96" + encode(request_id) + rest):
        messages, malformed = parse_message([b"client", b"", body])
        assert (len(messages), malformed) == (1, 0)
        assert list(answered(messages[0])) == [request_id]
        check_is_answerable(messages[0])


@given(st.lists(st.sampled_from([*BROKEN_JSON.values(), b"[]", b"null", b'{"a":"]"}']), max_size=6))
def test_in_a_json_batch_every_request_is_judged_alone(args: list[bytes]) -> None:
    rows = [b'[%d,"C","n","m",%s]' % (number, arg) for number, arg in enumerate(args)]
    body = b"[[-1],%s]" % b", ".join([*rows, b'["last","C","n","m"]'])
    expected: dict[int | str, str] = {-1: "bad_request", "last": "run"}
    for row in rows:
        expected |= answered(parse_body(b"client", row))
    assert answered(parse_body(b"client", body)) == expected


@CODECS
def test_a_broken_body_of_the_greatest_size_takes_no_longer_than_many_good_requests(json: bool) -> None:
    row = encode_json([1, "C", "n", "m"]) + b"," if json else encode([1, "C", "n", "m"])
    bodies = [(b"[" if json else b"\xdd\x7f\xff\xff\xff") + row * 20_000]
    bodies.append(b"[[" + b"[]" * 200_000 if json else b"\xdd\x7f\xff\xff\xff" + b"\x91" * 400_000)
    for body in bodies:
        started = time.process_time()
        with contextlib.suppress(Malformed):
            parse_body(b"client", body)
        assert time.process_time() - started < 2


# Messages


def test_every_body_frame_is_a_message_of_its_own() -> None:
    good = encode([1, "C", "n", "m"])
    messages, malformed = parse_message([b"client", good, b"\xc1", encode_json([[2, "C", "n", "m"]]), b""])
    assert [message.requests[0].id for message in messages] == [1, 2]
    assert malformed == 2
    assert all(message.origin.envelope is None for message in messages)


def test_bodies_after_an_empty_frame_share_an_envelope_that_counts_those_which_can_be_answered() -> None:
    good = encode([1, "C", "n", "m"])
    messages, malformed = parse_message([b"client", b"", good, b"\xc1", good])
    envelopes = {message.origin.envelope for message in messages}
    assert malformed == 1
    assert len(envelopes) == 1
    (envelope,) = envelopes
    assert envelope is not None
    assert envelope.missing == 2
    assert not any(message.origin.plain for message in messages)


GOOD = encode([1, "C", "n", "m"])
HOP = b"\x00\x6b\x8b\x45\x67"


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"\x00\x00\x00\x07", b""],
        [HOP, b""],
        [HOP, HOP, b"\x00\x00\x00\x07", b""],
        [b"an id of its own", b"[1]", GOOD, b""],
        [HOP],
        [HOP, HOP],
        [b"x" * 255] * (ENVELOPE_FRAMES_MAX - 1) + [b""],
    ],
)
def test_the_frames_up_to_the_first_empty_one_and_routing_ids_of_proxies_are_an_envelope(frames: list[bytes]) -> None:
    messages, malformed = parse_message([b"client", *frames, GOOD, GOOD, b""])
    assert malformed == 1
    envelopes = {message.origin.envelope for message in messages}
    assert [envelope and envelope.frames for envelope in envelopes] == [tuple(frames)]
    assert len(messages) == 2


def test_frames_without_an_empty_one_among_them_are_bodies() -> None:
    for extra in (b"garbage", b"\x00short", b"\x01\x02\x03\x04\x05", b"\x00"):
        messages, malformed = parse_message([b"client", extra, GOOD])
        assert malformed == 1
        assert [message.origin.envelope for message in messages] == [None]


def test_an_envelope_counts_for_the_bytes_that_its_calls_keep() -> None:
    (message,), _ = parse_message([b"client", b"i" * 200, b"", GOOD])
    assert message.size == 200 + len(GOOD)


@pytest.mark.parametrize(
    "frames",
    [
        [b"client", *[b"x"] * ENVELOPE_FRAMES_MAX, b"", GOOD],
        [b"client", b"x" * (ENVELOPE_BYTES_MAX + 1), b"", GOOD],
        [b"client"],
        [b"client", b""],
        [b"client", b"", b""],
        [b"client", *[b"\x94\x01\xa1C\xa1n\xa1m"] * FRAMES_PER_MESSAGE_MAX],
        [b"client", b"x" * (MESSAGE_BYTES_MAX + 1)],
        [b"client", b"x" * (MESSAGE_BYTES_MAX // 2 + 1), b"x" * (MESSAGE_BYTES_MAX // 2)],
    ],
)
def test_messages_without_body_or_beyond_a_limit_are_dropped_and_counted(frames: list[bytes]) -> None:
    messages, malformed = parse_message(frames)
    assert messages == []
    assert malformed >= 1


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)
rows = st.lists(st.integers() | st.text(max_size=3) | anything, max_size=7)


def bodies() -> st.SearchStrategy[bytes]:
    def pack(value: Any) -> bytes:
        try:
            return encode(value)
        except (OverflowError, ValueError):
            return b"\xc1"

    def pack_json(value: Any) -> bytes:
        try:
            return encode_json(value)
        except ValueError:
            return b"["

    values = rows | st.lists(rows, max_size=4) | anything
    whole = values.map(pack) | values.map(pack_json)
    cut = st.tuples(whole, st.integers(0, 40)).map(lambda pair: pair[0][: pair[1]])
    spoiled = st.tuples(whole, st.integers(0, 40), st.integers(0, 255)).map(
        lambda triple: triple[0][: triple[1]] + bytes([triple[2]]) + triple[0][triple[1] + 1 :]
    )
    return st.binary(max_size=60) | st.binary(max_size=40).map(lambda tail: b"[" + tail) | whole | cut | spoiled


@given(st.lists(bodies(), max_size=4))
@example([b'[1,"\\ud800","n","m"]'])
@example([b'["\xed\xa0\x80","C","n","m"]'])
@example([b"\x94\x01\xa1\xff\xa1n\xa1m"])
@example([b"\xdd\xff\xff\xff\xff\x91"])
@example([b"[" + b" " * 70])
@example([b"\x95\x01\xa1C\xa1n\xa1m\x91\xc7\x0c\xff" + bytes(7) + b"\x45\xd9\x64\xb8\x00"])
def test_whatever_a_stranger_sends_is_taken_apart_or_counted(frames: list[bytes]) -> None:
    messages, malformed = parse_message([b"client", *frames])
    body_count = len(frames) - (frames[:-1].index(b"") + 1 if b"" in frames[:-1] else 0)
    assert len(messages) + malformed == max(body_count, 1)
    for message in messages:
        check_is_answerable(message)


def check_is_answerable(message: Message) -> None:
    """Everything a parsed message leads to can be encoded: forwarded, refused, replied to, in its own codec."""
    json = message.origin.json
    assert message.requests or message.refused
    assert message.origin.missing == len(message.requests) + len(message.refused)
    for request in message.requests:
        f"{request.cls}/{request.name}".encode()
        try:
            parse_options(request.options, json=json)
        except BadRequest:
            pass
    if message.requests:
        assert len(parse_body(b"client", packed(message.requests, json=json)).requests) == len(message.requests)
    replies: list[tuple[int | str, int, Any]] = [(request.id, OK, request.args) for request in message.requests]
    replies += [(request_id, 1, error.to_wire()) for request_id, error in message.refused]
    (body,) = encode_bodies(replies, json=json, single=False)
    assert [reply.id for reply in parse_replies(body)] == [row[0] for row in replies]


# Options


@CODECS
@pytest.mark.parametrize("options", [[1], "x", 7, {"deadline_ms": "soon"}, {"key": 5}, {"key": "k" * 65}, {"traceparent": 1}])
def test_options_of_unknown_types_are_a_bad_request(json: bool, options: Any) -> None:
    with pytest.raises(BadRequest, match="options"):
        parse_options(msgspec.Raw(packed(options, json=json)), json=json)


@pytest.mark.parametrize("options", ['{"deadline_ms": %d}', '{"chain": [["C/n", [%d]]]}'])
@pytest.mark.parametrize("number", [10**400, -(10**400), 2**64])
def test_numbers_that_nothing_can_reckon_with_are_a_bad_request_in_options(options: str, number: int) -> None:
    with pytest.raises(BadRequest, match="options"):
        parse_options(msgspec.Raw((options % number).encode()), json=True)


@CODECS
def test_options_are_read_and_unknown_ones_ignored(json: bool) -> None:
    options = parse_options(msgspec.Raw(packed({"deadline_ms": 5, "key": "é" * 32, "new": []}, json=json)), json=json)
    assert (options.deadline_ms, options.key, options.traceparent) == (5, "é" * 32, None)
    assert parse_options(NO_RAW_JSON if json else NO_RAW, json=json) is NO_OPTIONS
    assert parse_options(msgspec.Raw(packed(None, json=json)), json=json) == NO_OPTIONS


@given(st.binary(max_size=30), st.booleans())
def test_options_never_raise_anything_but_bad_request(raw: bytes, json: bool) -> None:
    try:
        parse_options(msgspec.Raw(raw), json=json)
    except BadRequest:
        pass


@CODECS
def test_another_deadline_leaves_the_other_options_as_they_were(json: bool) -> None:
    raw = msgspec.Raw(packed({"deadline_ms": 5, "key": "k", "new": [1, {"a": None}]}, json=json))
    assert read(with_deadline_ms(raw, 3, json=json), json=json) == {"deadline_ms": 3, "key": "k", "new": [1, {"a": None}]}


@CODECS
@pytest.mark.parametrize("depth", [10, 500, 800])
def test_ordinary_nesting_is_not_too_deep(json: bool, depth: int) -> None:
    raw = b"[" * depth + b"]" * depth if json else b"\x91" * depth + b"\xc0"
    assert not is_too_deep(msgspec.Raw(raw), json=json)


@CODECS
def test_what_is_not_too_deep_can_be_read_from_a_deeper_stack_inside_a_batch(json: bool) -> None:
    def from_deeper(frames: int, body: bytes) -> Message:
        return from_deeper(frames - 1, body) if frames else parse_body(b"client", body)

    verdicts = set()
    for depth in (*range(700, 1_100, 5), 1_000_000):
        raw = msgspec.Raw(b"[" * depth + b"]" * depth if json else b"\x91" * depth + b"\xc0")
        too_deep = is_too_deep(raw, json=json)
        verdicts.add(too_deep)
        if not too_deep:
            body = packed([[1, "C", "n", "m", raw], [2, "C", "n", "m"]], json=json)
            assert len(from_deeper(30, body).requests) == 2
    assert verdicts == {False, True}


# Replies


@CODECS
@pytest.mark.parametrize("single", [False, True])
def test_replies_are_read_as_they_were_written(json: bool, single: bool) -> None:
    body = encode_replies([(7, OK, msgspec.Raw(packed([1, "x"], json=json)))], json=json, single=single)
    (reply,) = parse_replies(body)
    assert (reply.id, reply.status) == (7, OK)
    assert read(reply.result, json=json) == [1, "x"]


@CODECS
def test_no_replies_are_no_replies(json: bool) -> None:
    assert parse_replies(encode_replies([], json=json, single=False)) == []


@given(bodies())
def test_replies_never_raise_anything_but_malformed(body: bytes) -> None:
    try:
        parse_replies(body)
    except Malformed:
        pass


@CODECS
def test_a_result_that_cannot_be_encoded_becomes_an_error_and_the_others_stay(json: bool) -> None:
    rows = [(1, OK, "fine"), (2, OK, object()), (3, OK, 5)]
    replies = [reply for body in encode_bodies(rows, json=json, single=False) for reply in parse_replies(body)]
    assert [(reply.id, reply.status) for reply in replies] == [(1, 0), (2, 1), (3, 0)]
    error = read(replies[1].result, json=json)
    assert (error["code"], error["outcome"], error["type"]) == ("exception", "executed", "TypeError")
    assert "cannot be sent" in error["message"]


@pytest.mark.parametrize(("value", "json"), [(2**64, False), (-(2**63) - 1, False), ("\ud800", False), ("\ud800", True)])
def test_a_result_that_no_message_can_carry_is_the_fault_of_its_method(value: Any, json: bool) -> None:
    (body,) = encode_bodies([(1, OK, value)], json=json, single=True)
    (reply,) = parse_replies(body)
    error = read(reply.result, json=json)
    assert (error["code"], error["outcome"], error["type"]) == ("exception", "executed", "TypeError")
    assert "the result cannot be sent" in error["message"]


def test_replies_too_large_together_are_split_and_one_too_large_alone_becomes_an_error() -> None:
    large = b"x" * (7 << 20)
    bodies = encode_bodies([(i, OK, large) for i in range(5)] + [(5, OK, b"x" * (17 << 20))], json=False, single=False)
    assert all(len(body) <= MESSAGE_BYTES_MAX for body in bodies)
    replies = [reply for body in bodies for reply in parse_replies(body)]
    assert [(reply.id, reply.status) for reply in replies] == [(i, 0) for i in range(5)] + [(5, 1)]
    assert read(replies[5].result, json=False)["code"] == "too_large"
