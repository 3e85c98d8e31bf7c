"""The options of a call, and the head of a batch."""

from __future__ import annotations

import math

import msgspec

from tidegate.runtime.client.terms import Numbering, Terms, other_terms
from tidegate.runtime.wire.protocol import Options

decode = msgspec.msgpack.Decoder(Options).decode


def test_a_session_says_the_same_for_longer_when_more_calls_are_in_flight() -> None:
    numbering = Numbering("s")
    numbering.renew(1_000, 990, in_flight=0)
    assert numbering.head == (0, "", "s", "keys", (990,))
    assert numbering.changes_at == 1_064
    numbering.renew(1_000, 1_000, in_flight=8_000)
    assert numbering.changes_at == 2_064


def test_a_call_of_a_session_that_is_sent_once_more_names_its_key_itself() -> None:
    numbering = Numbering("s")
    numbering.renew(1_000, 990, in_flight=0)
    terms = Terms(5.0, is_told=False, retries=True)
    assert terms.options is None
    options = numbering.options_again(995, terms, 2.0)
    assert options is not None
    assert decode(options) == Options(key="s.995", answered=990, deadline_ms=1_900)


def test_other_terms_keep_what_is_not_named_and_are_made_once() -> None:
    terms = Terms(5.0, is_told=False, retries=True)
    assert other_terms(terms, 1.0, None, None) is other_terms(terms, 1.0, None, None)
    plain = other_terms(terms, None, False, None)
    assert (plain.timeout, plain.in_session, plain.options, plain.retries) == (5.0, False, None, False)
    named = other_terms(terms, None, None, "order-17")
    assert (named.in_session, named.retries) == (False, True)
    assert named.options is not None
    assert decode(named.options) == Options(key="order-17")


def test_a_timeout_that_is_none_is_not_told_and_neither_in_a_second_try() -> None:
    terms = Terms(math.inf, is_told=True, retries=False)
    assert terms.options is None
    assert Numbering("s").options_again(7, terms, math.inf) is None
