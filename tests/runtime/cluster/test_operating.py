"""runtime/cluster/operating.py: what a command does about servers that refuse for a moment. The commands themselves:
`tests/runtime/cli/commands/test_cluster.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Literal

import msgspec
import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from tidegate.runtime.cluster import operating
from tidegate.runtime.cluster.bucket import PlacementRecord
from tidegate.runtime.cluster.membership import listen
from tidegate.runtime.cluster.nats_servers import NatsServers
from tidegate.runtime.cluster.operating import asked, is_written
from tidegate.runtime.cluster.records import ClusterPlacement, empty_placement
from tidegate.runtime.errors import OperatorError
from tidegate.shard.replicated import snapshot_wishes
from tidegate.shard.replicated.founding import find_or_found
from tidegate.shard.store.snapshots import SnapshotSaid, SnapshotWish

UNAVAILABLE = nats.js.errors.ServiceUnavailableError(503, "JetStream system temporarily unavailable", 10008)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    with NatsServers(tmp_path_factory.mktemp("nats"), servers=1) as started:
        yield started


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    """Which keep placements."""
    with NatsServers(tmp_path_factory.mktemp("three")) as started:
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


@pytest.mark.parametrize("is_stored", [False, True])
def test_where_the_answer_to_a_write_is_lost_it_is_looked_whether_it_was_stored(
    servers: NatsServers, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    """And then it is written once, and told as done."""
    cluster = f"lost-{is_stored}".lower()
    find_or_found(servers.urls, cluster, 2)
    replace, tries, stored = PlacementRecord.replace, list[int](), list[bool]()

    async def replace_and_lose(self: PlacementRecord, placement: ClusterPlacement, revision: int) -> bool:
        tries.append(revision)
        if is_stored or len(tries) > 1:
            stored.append(await replace(self, placement, revision))
        if len(tries) == 1:
            raise nats.errors.TimeoutError
        return stored[-1]

    async def write(client: Client) -> tuple[bool, ClusterPlacement]:
        record = PlacementRecord(client, cluster, 2)
        placement, revision = await record.read()
        wanted = msgspec.structs.replace(placement, owners=("a", "b"))
        monkeypatch.setattr(PlacementRecord, "replace", replace_and_lose)
        is_done = await is_written(client, record, wanted, revision)
        return is_done, (await record.read())[0]

    is_done, placement = asked(servers.urls, "test", write)
    assert is_done
    assert placement.owners == ("a", "b")
    assert stored == [True]
    assert len(tries) == (1 if is_stored else 2)


def test_a_write_of_which_nobody_can_say_whether_it_was_stored_is_not_made_twice(
    servers: NatsServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = list[int]()

    async def lose(self: PlacementRecord, placement: ClusterPlacement, revision: int) -> bool:
        tries.append(revision)
        raise nats.errors.TimeoutError

    async def write(client: Client) -> bool:
        return await is_written(client, PlacementRecord(client, "unknown", 2), empty_placement(2), 7)

    monkeypatch.setattr(operating, "PASSING_S", 0.0)
    monkeypatch.setattr(PlacementRecord, "replace", lose)
    monkeypatch.setattr(PlacementRecord, "read", lambda self: _times_out())
    with pytest.raises(OperatorError, match="whether it was changed is not known"):
        asked(servers.urls, "test", write)
    assert tries == [7]


async def _times_out() -> None:
    raise nats.errors.TimeoutError


def test_a_wish_for_snapshots_goes_on_where_it_could_not_be_said_for_a_moment(
    server: NatsServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the same wish; and what it listened to is left when it ends."""
    monkeypatch.setattr(snapshot_wishes, "AGAIN_S", 0.02)
    wishes, heard, failures = list[SnapshotWish](), list[SnapshotSaid](), 3

    async def wish(client: Client) -> list[SnapshotSaid]:
        nonlocal failures
        publish = client.publish

        async def answer(message: Msg) -> None:
            wishes.append(snapshot_wishes.decode_wish(message.data))
            state: Literal["begun", "kept"] = "begun" if len(wishes) == 1 else "kept"
            await publish(message.reply, snapshot_wishes.encode_said(SnapshotSaid(wishes[-1].shard, state)))

        async def publish_or_not(subject: str, *args: Any, **more: Any) -> None:
            nonlocal failures
            if wishes and failures:
                failures -= 1
                raise nats.errors.OutboundBufferLimitError
            await publish(subject, *args, **more)

        await client.subscribe(snapshot_wishes.wishes_of("test"), cb=answer)
        monkeypatch.setattr(client, "publish", publish_or_not)
        before = len(client._subs)
        said = await snapshot_wishes.wish_for_snapshots(client, "test", [3], heard.append, 60.0)
        assert len(client._subs) == before
        return said

    assert [each.state for each in asked(server.urls, "test", wish)] == ["kept"]
    assert failures == 0
    assert len({each.id for each in wishes}) == 1
    assert [each.state for each in heard] == ["begun", "kept"]


def test_a_wish_that_can_be_said_no_longer_is_not_begun_anew_as_another(
    servers: NatsServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_or_found(servers.urls, "wished", 2)
    monkeypatch.setattr(snapshot_wishes, "AGAIN_S", 0.02)
    monkeypatch.setattr(operating, "PASSING_S", 0.2)
    publish, wishes = Client.publish, list[SnapshotWish]()

    async def publish_once(client: Client, subject: str, payload: bytes = b"", *args: Any, **more: Any) -> None:
        if subject == snapshot_wishes.wishes_of("wished"):
            wishes.append(snapshot_wishes.decode_wish(payload))
            if len(wishes) > 1:
                raise nats.errors.OutboundBufferLimitError
        await publish(client, subject, payload, *args, **more)

    monkeypatch.setattr(Client, "publish", publish_once)
    with pytest.raises(OperatorError, match="outbound buffer limit exceeded"):
        operating.take_snapshots(servers.urls, "wished", [0], lambda said: None)
    assert len(wishes) > 2
    assert len({each.id for each in wishes}) == 1


def test_what_was_measured_is_not_measured_again_where_a_read_after_it_is_refused(
    servers: NatsServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_or_found(servers.urls, "measured", 2)
    read, listened, refusals = PlacementRecord.read, list[float](), 3

    async def note(client: Client, cluster: str, for_s: float, *more: Any) -> Any:
        listened.append(for_s)
        return await listen(client, cluster, 0.0, *more)

    async def refuse_first(record: PlacementRecord) -> Any:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise UNAVAILABLE
        return await read(record)

    monkeypatch.setattr(operating, "listen", note)
    monkeypatch.setattr(PlacementRecord, "read", refuse_first)
    found, _ = operating.balance_load(servers.urls, "measured", 7.0)
    assert (found.moves, refusals) == ((), 0)
    assert listened == [7.0, operating.LISTEN_S]
