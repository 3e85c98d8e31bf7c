"""shard/replicated/servers.py: what the client's errors are called where operators read them."""

from __future__ import annotations

import nats.errors
import nats.js.errors
import pytest

from tidegate.shard.replicated.servers import said_by


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            nats.js.errors.ServiceUnavailableError(503, "JetStream system temporarily unavailable", 10008),
            "JetStream system temporarily unavailable (10008)",
        ),
        (
            nats.js.errors.ServiceUnavailableError(),
            "JetStream does not answer: it is not enabled there, or has no leader just now",
        ),
        (nats.errors.TimeoutError(), "there was no answer in time"),
        (TimeoutError(), "there was no answer in time"),
        (nats.errors.NoServersError(), "no servers available for connection"),
        (nats.errors.Error("nats: 'Authorization Violation'"), "'Authorization Violation'"),
        (ConnectionRefusedError(111, "Connection refused"), "[Errno 111] Connection refused"),
        (EOFError(), "EOFError"),
    ],
)
def test_an_error_is_told_in_the_words_of_the_server(error: Exception, said: str) -> None:
    assert said_by(error) == said
