"""The options of a call, byte by byte."""

from __future__ import annotations

import math

import msgspec
import pytest

from tidegate.runtime.client.terms import SESSION_NAME, Session, Terms, other_terms
from tidegate.runtime.limits import IDEMPOTENCY_KEY_BYTES_MAX
from tidegate.runtime.wire.protocol import Options

decode = msgspec.msgpack.Decoder(Options).decode


@pytest.mark.parametrize("name", ["s", "a-session_of_22-letter"])
@pytest.mark.parametrize("timeout", [None, 1.5])
def test_options_made_in_parts_are_those_that_the_service_reads_whatever_the_number(name: str, timeout: float | None) -> None:
    assert SESSION_NAME.fullmatch(name)
    terms, session = Terms(timeout or 30.0, is_told=timeout is not None, retries=True), Session(name)
    for number in (*range(1, 1_200), 99_999, 100_000, 10**9, 10**12):
        if number >= session.changes_at:
            session.renew(number, number // 2, in_flight=0)
        options = decode(terms.head + session.rest + b"%d" % number)
        assert options.key == f"{name}.{number}"
        assert len(options.key) <= IDEMPOTENCY_KEY_BYTES_MAX
        assert options.deadline_ms == (None if timeout is None else 1_400)


def test_a_session_says_the_same_for_longer_when_more_calls_are_in_flight() -> None:
    session = Session("s")
    session.renew(1_000, 1_000, in_flight=0)
    assert session.changes_at == 1_064
    session.renew(1_000, 1_000, in_flight=8_000)
    assert session.changes_at == 2_064
    session.renew(1_000, 1_000, in_flight=800_000)
    assert session.changes_at == 10_000, "numbers with a digit more need another prefix"


def test_other_terms_keep_what_is_not_named_and_are_made_once() -> None:
    terms = Terms(5.0, is_told=False, retries=True)
    assert other_terms(terms, 1.0, None, None) is other_terms(terms, 1.0, None, None)
    plain = other_terms(terms, None, False, None)
    assert (plain.timeout, plain.head, plain.options, plain.retries) == (5.0, b"", None, False)
    named = other_terms(terms, None, None, "order-17")
    assert (named.head, named.retries) == (b"", True)
    assert named.options is not None
    assert decode(named.options) == Options(key="order-17")


def test_a_timeout_that_is_none_is_not_told_and_neither_in_a_second_try() -> None:
    terms = Terms(math.inf, is_told=True, retries=False)
    assert terms.options is None
    assert Session("s").options_again(7, terms, math.inf) is None
