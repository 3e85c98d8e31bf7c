"""runtime/cluster/operating.py: what a command does about servers that refuse for a moment. The commands themselves:
`tests/runtime/cli/commands/test_cluster.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client

from tidegate.runtime.cluster import operating
from tidegate.runtime.cluster.nats_servers import NatsServers
from tidegate.runtime.cluster.operating import asked
from tidegate.runtime.errors import OperatorError

UNAVAILABLE = nats.js.errors.ServiceUnavailableError(503, "JetStream system temporarily unavailable", 10008)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    with NatsServers(tmp_path_factory.mktemp("nats"), servers=1) as started:
        yield started


def refusing(*errors: Exception) -> tuple[list[Exception], Callable[[Client], Awaitable[str]]]:
    """What was asked of servers that refuse with these errors, one after the other, before they answer."""
    left = list(errors)

    async def ask(client: Client) -> str:
        assert client.is_connected
        if left:
            raise left.pop(0)
        return "answered"

    return left, ask


@pytest.mark.parametrize("error", [UNAVAILABLE, nats.errors.TimeoutError(), TimeoutError()])
def test_what_is_refused_for_a_moment_is_asked_again(server: NatsServers, error: Exception) -> None:
    _, ask = refusing(error, error, error)
    assert asked(server.urls, "test", ask) == "answered"


def test_what_is_refused_for_long_is_told_in_the_words_of_the_server(
    server: NatsServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operating, "PASSING_S", 0.0)
    left, ask = refusing(UNAVAILABLE, UNAVAILABLE)
    with pytest.raises(OperatorError, match=r"JetStream system temporarily unavailable \(10008\)") as raised:
        asked(server.urls, "test", ask)
    assert raised.value.passes
    assert len(left) == 1


@pytest.mark.parametrize(
    "error", [nats.js.errors.NotFoundError(404, "no message found", 10037), nats.js.errors.BadRequestError()]
)
def test_what_will_be_refused_again_is_told_at_once(server: NatsServers, error: Exception) -> None:
    left, ask = refusing(error, UNAVAILABLE)
    with pytest.raises(OperatorError):
        asked(server.urls, "test", ask)
    assert left == [UNAVAILABLE]
