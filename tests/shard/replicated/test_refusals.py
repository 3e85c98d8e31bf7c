"""shard/replicated/refusals.py. What real servers say: `tests/service/test_account_limits.py`."""

from __future__ import annotations

import pytest

from tidegate.shard.replicated.refusals import next_step, why_full


@pytest.mark.parametrize(
    ("code", "words", "setting"),
    [
        (10002, "resource limits exceeded for account", "max_file"),
        (10023, "insufficient resources", "max_file_store"),
        (10027, "maximum number of streams reached", "max_streams"),
        (0, "nats: 'Maximum Account Active Connections Exceeded'", "max_connections"),
        (0, "nats: 'Authorization Violation'", "token"),
    ],
)
def test_the_next_step_names_the_setting_whatever_the_servers_say_it_by(code: int, words: str, setting: str) -> None:
    assert setting in next_step(code, words, "wait")


def test_what_is_no_limit_has_the_next_step_of_who_asked() -> None:
    assert next_step(10008, "JetStream system temporarily unavailable", "wait") == "wait"
    assert next_step(0, "no answer", "wait") == "wait"


def test_a_full_stream_an_account_and_servers_are_told_apart() -> None:
    (full, edit), (account, _), (servers, _) = (why_full(code, "shop-0000") for code in (10077, 10002, 10023))
    assert len({full, account, servers}) == 3
    assert full == "it is full"
    assert edit == "give its stream more room: `nats stream edit shop-0000 --max-bytes=…`"
