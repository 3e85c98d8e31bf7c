"""What a doctor concludes from what servers, streams and hosts say of themselves."""

from __future__ import annotations

import pytest

from tidegate.runtime.cluster.diagnosis import (
    AccountLimits,
    AccountSeen,
    Findings,
    JetStreamConfig,
    JetStreamStats,
    JetStreamTold,
    Replica,
    ReplicasSeen,
    ServerInfo,
    ServerSeen,
    StreamState,
    StreamTold,
    Symptom,
    Varz,
    of_account,
    of_clocks,
    of_servers,
    of_stream,
)

GIB = 1 << 30
CAREFUL = JetStreamConfig(max_storage=10 * GIB, sync_always=True)
THREE = ReplicasSeen("n1", (Replica("n2", current=True), Replica("n3", current=True)))


def server(
    name: str = "a",
    config: JetStreamConfig | None = CAREFUL,
    *,
    stored: int = GIB,
    max_payload: int = 1 << 20,
    told: bool = True,
) -> ServerSeen:
    varz = Varz(name, JetStreamTold(config, JetStreamStats(stored))) if told else None
    return ServerSeen(
        f"server nats://{name}:4222", ServerInfo(name, "2.15.1", max_payload), varz, "http://a:8222 does not answer"
    )


def stream(bytes_max: int = -1, size: int = 0, replicas: int = 3, seen: ReplicasSeen = THREE) -> StreamTold:
    return StreamTold({"num_replicas": replicas, "max_bytes": bytes_max}, StreamState(size), seen)


def whats(symptoms: list[Symptom]) -> list[str]:
    assert all(each.next and each.where for each in symptoms)
    return [each.what for each in symptoms]


def test_servers_that_are_as_they_have_to_be_are_told_of_as_that() -> None:
    found = of_servers([server(name) for name in "abc"])
    assert (found.problems, found.unchecked) == ([], [])
    assert found.fine == ["3 of 3 servers sync before they confirm", "3 servers answer, of version 2.15.1"]


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (server(config=JetStreamConfig(sync_interval=120_000_000_000)), "syncs every 120 s, and not before it confirms"),
        (server(config=JetStreamConfig()), "syncs now and then, and not before it confirms"),
        (server(config=None), "has no JetStream"),
        (server(stored=8 * GIB), "80 % of what may be stored is stored (8.0 GiB of 10.0 GiB)"),
    ],
)
def test_what_is_wrong_with_one_server_is_said_of_that_server(wrong: ServerSeen, what: str) -> None:
    found = of_servers([server("b"), server("c"), wrong])
    (said,) = found.problems
    assert said.where == "server nats://a:4222"
    assert said.what.startswith(what)
    assert whats(found.problems)


def test_a_server_of_which_nobody_tells_is_neither_well_nor_wrong() -> None:
    found = of_servers([server(told=False)])
    assert found.problems == []
    assert whats(found.unchecked) == [
        "whether it syncs before it confirms, and how much it may store: http://a:8222 does not answer"
    ]
    assert not any("sync" in each for each in found.fine)


def test_messages_may_be_as_large_at_every_server_and_not_too_small() -> None:
    found = of_servers([server("a"), server("b", max_payload=2 << 20)])
    assert "max_payload differs (nats://a:4222: 1,048,576, nats://b:4222: 2,097,152)" in whats(found.problems)[0]
    found = of_servers([server(name, max_payload=4_096) for name in "abc"])
    assert whats(found.problems) == ["max_payload is 4,096 bytes: a group commit takes many messages, and as many syncs"]


def test_streams_of_which_every_replica_has_everything_are_well() -> None:
    assert of_stream("shop-0000", stream(), 3) == []


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (stream(replicas=1, seen=ReplicasSeen("n1")), "it has 1 replica(s) instead of 3: the loss of a server loses it"),
        (stream(seen=ReplicasSeen("", THREE.replicas)), "it has no leader: nothing can be stored"),
        (
            stream(seen=ReplicasSeen("n1", (Replica("n2", current=True), Replica("n3", offline=True)))),
            "its replica on n3 is not there",
        ),
        (
            stream(seen=ReplicasSeen("n1", (Replica("n2", lag=1_200), Replica("n3", current=True)))),
            "its replica on n2 is 1,200 messages behind",
        ),
        (
            stream(seen=ReplicasSeen("n1", (Replica("n2"), Replica("n3", current=True)))),
            "its replica on n2 does not have everything yet",
        ),
        (
            stream(GIB, GIB - 1),
            "99 % of what may be stored is stored (1,024.0 MiB of 1.0 GiB); calls are refused when it is full",
        ),
    ],
)
def test_what_is_wrong_with_a_stream_is_said_of_it(wrong: StreamTold, what: str) -> None:
    assert whats(of_stream("shop-0000", wrong, 3)) == [what]


def test_an_account_that_will_be_full_soon_is_told_of_before_it_is() -> None:
    assert of_account(AccountSeen(storage=5 * GIB)) == []
    assert of_account(AccountSeen(5 * GIB, 9, AccountLimits(10 * GIB, 10))) == []
    (full,) = whats(of_account(AccountSeen(9 * GIB, 9, AccountLimits(10 * GIB, 10))))
    assert full.startswith("90 % of what may be stored is stored")
    assert whats(of_account(AccountSeen(0, 10, AccountLimits(-1, 10))))[0].startswith("it has 10 of 10 streams")
    bounded = of_account(AccountSeen(limits=AccountLimits(max_bytes_required=True, storage_max_stream_bytes=GIB)))
    assert [each.next.split(" from ")[0] for each in bounded] == ["take max_bytes_required", "take disk_max_stream_bytes"]


def test_clocks_of_hosts_are_compared_with_each_other_and_not_with_ours() -> None:
    assert of_clocks({"a": 3_600.0}) == Findings()
    assert of_clocks({"a": 3_600.0, "b": 3_600.2}).fine == ["clocks of 2 hosts are less than 0.5 s apart"]
    (apart,) = of_clocks({"a": -0.2, "b": 3.0, "c": 0.1}).problems
    assert apart.where == "host b"
    assert apart.what.startswith("its clock is 3.2 s ahead of that of a: alarms ring by the clock of the host")
