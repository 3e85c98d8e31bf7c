"""`tidegate cluster`, without a host: what it says of servers and of a cluster that nobody serves. With hosts:
`tests/service/test_cluster_hosts.py`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from nats.aio.client import Client

from tests.support.nats_cluster import ask
from tests.support.service import COUNTER, ROOT, processes_with_files_in
from tests.support.service import ask as ask_service
from tests.support.waiting import wait_until
from tidegate.runtime.addresses import free_port
from tidegate.runtime.cli.cli import main
from tidegate.runtime.cluster import operating
from tidegate.runtime.cluster.membership import beats_of
from tidegate.runtime.cluster.nats_servers import NatsServers
from tidegate.runtime.cluster.operating import change
from tidegate.runtime.cluster.records import Beat, ClusterPlacement, Loss, PlacedHost, encode
from tidegate.shard.replicated import servers as servers_module
from tidegate.shard.replicated import snapshot_wishes
from tidegate.shard.replicated.founding import find_or_found
from tidegate.shard.replicated.snapshot_stream import SnapshotStream

NAME = "commands"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    with NatsServers(tmp_path_factory.mktemp("nats")) as started:
        find_or_found(started.urls, NAME, 2)
        yield started


@pytest.fixture(autouse=True)
def placement(servers: NatsServers) -> None:
    """One host has both shards, and is not there."""

    def as_new(placement: ClusterPlacement, live: Mapping[str, Beat]) -> ClusterPlacement:
        return ClusterPlacement(
            owners=("a", "a"),
            hosts={"a": PlacedHost("host-a", 2, "run")},
            losses={"b": Loss("host-b", "run", 3)},
        )

    change(servers.urls, NAME, as_new)


def run(servers: NatsServers, *arguments: str, name: str = NAME) -> int:
    return main(["cluster", *arguments, "--cluster", f"{','.join(servers.urls)}/{name}"])


def test_the_status_begins_with_what_is_wrong(servers: NatsServers, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(servers, "status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "PROBLEM host host-a: is lost; others serve its shards"
    assert "PROBLEM host host-a, which should: nobody serves shard 0, 1; calls of their objects wait" in lines
    assert "0 of 2 shards served" in lines
    assert [line.split() for line in lines if line.startswith("host-")] == [
        ["host-a", "lost", "2", "0", "2"],
        ["host-b", "lost", "0", "0", "0"],
    ]
    assert [line.split() for line in lines[-2:]] == [["0", "none", "0.0", "KiB"], ["1", "none", "0.0", "KiB"]]
    name = f"{NAME}-0001"
    settings = ask(servers, f"STREAM.INFO.{name}")["config"]
    assert ask(servers, f"STREAM.DELETE.{name}")["success"]
    try:
        assert run(servers, "status") == 0
        assert capsys.readouterr().out.splitlines()[-1] == "1      not known"
    finally:
        assert "error" not in ask(servers, f"STREAM.CREATE.{name}", settings)
    assert run(servers, "status", "--json") == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)["hosts"]] == ["host-a", "host-b"]
    assert run(servers, "hosts", "--json") == 0
    assert [each["state"] for each in json.loads(capsys.readouterr().out)] == ["lost", "lost"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("move", "0", "host-c"), "there is not one of that name or id (there are: host-a, host-b)"),
        (("move", "2", "host-a"), "the cluster has 2 shards (the last one is 1)"),
        (("move", "0", "host-a"), "host-a is not there (start it, or choose another)"),
        (("drain", "host-a"), "no other host could take its shards"),
        (("rebalance", "--by", "load", "--for", "1"), "shards are under way, or not served"),
        (("snapshot", "1", "2"), "the cluster has 2 shards (the last one is 1)"),
    ],
)
def test_what_cannot_be_is_refused_with_the_next_step(
    servers: NatsServers, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert run(servers, *arguments) == 1
    assert said in capsys.readouterr().err


def test_lost_hosts_are_forgotten(servers: NatsServers, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(servers, "rebalance", "--json") == 0
    assert json.loads(capsys.readouterr().out)["losses"] == {}
    assert run(servers, "drain", "host-a", "--off") == 0
    assert capsys.readouterr().out == "host-a may have shards again\n"


@pytest.mark.parametrize(
    ("arguments", "moves", "lines"),
    [
        (
            ("rebalance",),
            [],
            [
                "1 shard on the way, or about to go, without it",
                "no shard would move for it; from then on: shards are dealt evenly to the hosts that are there",
            ],
        ),
        (
            ("move", "0", "c"),
            [(0, "a", "c"), (1, "a", "a")],
            ["shard 0 would go from a to c", "shard 1 would stay on a"],
        ),
        (("drain", "a"), [(0, "a", "c")], ["shard 0 would go from a to c", "1 shard on the way, or about to go, without it"]),
        (("drain", "c"), [(1, "a", "a")], ["shard 1 would stay on a"]),
        (("drain", "a", "--off"), [], ["1 shard on the way, or about to go, without it", "it is so already"]),
        (
            ("move", "0", "a"),
            [],
            [
                "1 shard on the way, or about to go, without it",
                "no shard would move for it; from then on: shard 0 is to be on a",
            ],
        ),
    ],
)
def test_what_a_command_would_move_is_said_and_nothing_is_changed(
    servers: NatsServers,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    moves: list[tuple[int, str, str]],
    lines: list[str],
) -> None:
    def is_now() -> ClusterPlacement:
        return change(servers.urls, NAME, lambda placement, live: placement)

    before = is_now()
    with said_by_hosts(servers, {"a": 0, "c": 0}):
        assert run(servers, *arguments, "--dry-run") == 0
        assert capsys.readouterr().out.splitlines() == [*lines, "nothing was changed"]
        assert run(servers, *arguments, "--dry-run", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["changed"] is False
    assert said["moves"] == [{"shard": shard, "source": source, "target": target} for shard, source, target in moves]
    assert [each["shard"] for each in said["anyway"]] == ([1] if any("on the way" in line for line in lines) else [])
    assert is_now() == before


def test_what_cannot_be_would_be_refused_too(servers: NatsServers, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(servers, "move", "0", "host-a", "--dry-run") == 1
    assert "host-a is not there (start it, or choose another)" in capsys.readouterr().err


def test_a_snapshot_that_nobody_takes_is_said_with_the_next_step(
    servers: NatsServers, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_wishes, "NOBODY_S", 0.5)
    assert run(servers, "snapshot", "1") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "shard 1: FAILED: nobody who serves it has said anything for 0.5 s"
    assert "tidegate cluster status" in lines[1]
    assert lines[2] == "0 of 1 shard with a snapshot of now"
    assert run(servers, "snapshot", "--json") == 1
    assert [(each["shard"], each["state"]) for each in json.loads(capsys.readouterr().out)] == [(0, "failed"), (1, "failed")]


def test_without_a_majority_a_snapshot_is_refused_with_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_wishes, "NOBODY_S", 0.5)
    monkeypatch.setattr(operating, "PASSING_S", 0.5)
    with NatsServers(tmp_path) as lonely:
        find_or_found(lonely.urls, NAME, 1)
        for name in lonely.names[:2]:
            lonely.signal(name, signal.SIGKILL)
        assert run(lonely, "snapshot", "0") == 1
    said = capsys.readouterr()
    refused = "see that JetStream is enabled and that enough servers of the cluster run" in said.err
    assert refused or "nobody who serves it" in said.out, "a leader that is left goes on answering what it knows"
    assert "Error" not in said.err, "the name of a class is no word for operators"


def monitors(servers: NatsServers) -> tuple[str, ...]:
    return "--monitor", ",".join(servers.monitors)


def examined(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What is wrong, by where."""
    found: dict[str, str] = {}
    for each in json.loads(capsys.readouterr().out)["problems"]:
        found[each["where"]] = f"{found.get(each['where'], '')}{each['what']}; "
    return found


def test_the_doctor_looks_at_every_server_and_stream(
    servers: NatsServers, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(servers, "doctor", *monitors(servers)) == 1
    said = capsys.readouterr().out
    assert "no host is there: nothing is served" in said
    assert "stream commands" not in said
    assert "NOT LOOKED AT" not in said
    assert "fine: 3 of 3 servers sync before they confirm\n" in said
    assert "fine: 2 streams of shards have three replicas each, and lose nothing\n" in said
    settings = ask(servers, f"STREAM.INFO.{NAME}-0001")["config"]
    assert "error" not in ask(servers, f"STREAM.UPDATE.{NAME}-0001", {**settings, "max_msgs": 5})
    try:
        monkeypatch.setattr(servers_module, "START_S", 1.0)
        place = ",".join([*servers.urls[:2], "nats://127.0.0.1:9"])
        assert main(["cluster", "doctor", "--json", "--cluster", f"{place}/{NAME}"]) == 1
        found = examined(capsys)
        assert "server nats://127.0.0.1:9" in found
        assert "it could lose what it has confirmed: max_msgs is 5" in found[f"stream {NAME}-0001"]
    finally:
        ask(servers, f"STREAM.UPDATE.{NAME}-0001", settings)


def test_the_doctor_says_what_it_could_not_look_at_and_how_to_do_so(
    servers: NatsServers, capsys: pytest.CaptureFixture[str]
) -> None:
    run(servers, "doctor")
    lines = capsys.readouterr().out.splitlines()
    at = next(
        number for number, line in enumerate(lines) if line.startswith(f"NOT LOOKED AT server {servers.urls[0]}: whether it")
    )
    assert "http://127.0.0.1:8222 does not answer" in lines[at]
    assert "--monitor" in lines[at + 1]
    assert "sync_interval: always" in lines[at + 1]
    assert not any("sync before they confirm" in line for line in lines)


def test_the_doctor_names_streams_that_the_loss_of_a_server_would_lose(
    servers: NatsServers, capsys: pytest.CaptureFixture[str]
) -> None:
    shard, bucket = f"{NAME}-0000", f"KV_tidegate-{NAME}"
    settings = {name: ask(servers, f"STREAM.INFO.{name}")["config"] for name in (shard, bucket)}
    for name, config in settings.items():
        assert "error" not in ask(servers, f"STREAM.UPDATE.{name}", {**config, "num_replicas": 1})
    try:
        assert run(servers, "doctor", "--json", *monitors(servers)) == 1
        found = examined(capsys)
        assert "num_replicas is 1 instead of 3" in found[f"stream {shard}"]
        assert "1 replica(s) instead of 3" in found[f"stream {bucket}"]
    finally:
        for name, config in settings.items():
            ask(servers, f"STREAM.UPDATE.{name}", config)


def test_the_doctor_looks_at_the_stream_of_snapshots(servers: NatsServers, capsys: pytest.CaptureFixture[str]) -> None:
    stream, where = f"{NAME}-snapshots", f"stream {NAME}-snapshots"

    async def make() -> None:
        client = Client()
        await client.connect(servers.urls)
        try:
            await SnapshotStream(client, NAME).make()
        finally:
            await client.close()

    asyncio.run(make())
    try:
        run(servers, "doctor", "--json", *monitors(servers))
        assert where not in examined(capsys)
        settings = ask(servers, f"STREAM.INFO.{stream}")["config"]
        assert "error" not in ask(servers, f"STREAM.UPDATE.{stream}", {**settings, "max_age": 86_400 * 10**9, "num_replicas": 1})
        assert run(servers, "doctor", "--json", *monitors(servers)) == 1
        found = examined(capsys)[where]
        assert "it could lose snapshots: num_replicas is 1 instead of 3, max_age is 86400000000000 instead of 0" in found
    finally:
        ask(servers, f"STREAM.DELETE.{stream}")


def test_the_doctor_finds_servers_that_confirm_before_they_sync_and_have_little_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with NatsServers(tmp_path, sync_intervals=("always", '"2m"', "always")) as careless:
        find_or_found(careless.urls, NAME, 1)
        assert run(careless, "doctor", "--json", *monitors(careless)) == 1
        found = json.loads(capsys.readouterr().out)
        (wrong,) = (each for each in found["problems"] if each["where"].startswith("server "))
        assert wrong["where"] == f"server {careless.urls[1]}"
        assert wrong["what"] == "syncs every 120 s, and not before it confirms: a power cut takes what was confirmed"
        assert "sync_interval: always" in wrong["next"]
        assert found["unchecked"] == []
        settings = ask(careless, f"STREAM.INFO.{NAME}-0000")["config"]
        assert "error" not in ask(careless, f"STREAM.UPDATE.{NAME}-0000", {**settings, "max_bytes": 100_000})
        filled(careless, f"tidegate.log.{NAME}-0000", 90_000)
        assert run(careless, "doctor", "--json", *monitors(careless)) == 1
        assert "% of what may be stored is stored" in examined(capsys)[f"stream {NAME}-0000"]


def filled(servers: NatsServers, subject: str, size: int) -> None:
    async def publish() -> None:
        client = Client()
        await client.connect(servers.urls)
        try:
            await client.request(subject, bytes(size), timeout=5)
        finally:
            await client.close()

    asyncio.run(publish())


def test_the_doctor_says_which_server_is_missing_where_the_majority_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with NatsServers(tmp_path) as lonely:
        find_or_found(lonely.urls, NAME, 1)
        for name in lonely.names[:2]:
            lonely.signal(name, signal.SIGKILL)
        monkeypatch.setattr(servers_module, "START_S", 1.0)
        monkeypatch.setattr(operating, "PASSING_S", 0.5)
        assert run(lonely, "doctor", "--json", *monitors(lonely)) == 1
        found = examined(capsys)
    assert {f"server {url}" for url in lonely.urls[:2]} <= found.keys()
    assert f"server {lonely.urls[2]}" not in found
    assert len(found) > 2, "nor does the cluster answer"


def test_a_monitor_that_is_no_monitor_is_said_to_be_none(servers: NatsServers, capsys: pytest.CaptureFixture[str]) -> None:
    run(servers, "doctor", "--monitor", servers.urls[0].replace("nats://", "http://"))
    said = capsys.readouterr().out
    assert "NOT LOOKED AT" in said
    assert "does not answer" in said


def test_the_doctor_compares_the_clocks_of_the_hosts(servers: NatsServers, capsys: pytest.CaptureFixture[str]) -> None:
    with said_by_hosts(servers, {"fast": 3_600_000, "right": 0}):
        assert run(servers, "doctor", "--json", *monitors(servers)) == 1
    assert "its clock is 3,600.0 s ahead of that of right" in examined(capsys)["host fast"]
    with said_by_hosts(servers, {"one": 3_600_000, "other": 3_600_000}):
        run(servers, "doctor", *monitors(servers))
    assert "fine: clocks of 2 hosts are less than 0.5 s apart\n" in capsys.readouterr().out, "whatever that of this machine says"


@contextlib.contextmanager
def said_by_hosts(servers: NatsServers, ahead_ms: Mapping[str, int]) -> Iterator[None]:
    """Beats of hosts of these names, whose clocks are so far ahead."""
    ended = threading.Event()

    async def say() -> None:
        client = Client()
        await client.connect(servers.urls)
        try:
            while not ended.is_set():
                for name, ahead in ahead_ms.items():
                    wall_ms = time.time_ns() // 1_000_000 + ahead
                    beat = Beat(name, "run", 1, 1, name, "", wall_ms=wall_ms)
                    await client.publish(beats_of(NAME), encode(beat))
                await asyncio.sleep(0.1)
        finally:
            await client.close()

    thread = threading.Thread(target=lambda: asyncio.run(say()))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_addresses_of_monitoring_ports_are_addresses(servers: NatsServers, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(servers, "doctor", "--monitor", "file:///etc/passwd")
    assert "must be addresses such as http://a:8222" in capsys.readouterr().err


def test_a_cluster_that_is_not_there_is_named(servers: NatsServers, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(servers, "status", name="nothing") == 1
    assert "there is none of that name on these servers" in capsys.readouterr().err


def test_the_cluster_is_found_in_the_configuration_and_has_to_be_named(
    servers: NatsServers, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["cluster", "status"]) == 1
    assert "nobody has said which (name its servers: --cluster" in capsys.readouterr().err
    file = tmp_path / "tidegate.toml"
    file.write_text(f'[service]\ncluster = "{",".join(servers.urls)}/{NAME}"\n')
    assert main(["cluster", "hosts", "--config", str(file)]) == 0
    assert "host-a" in capsys.readouterr().out
    monkeypatch.setenv("TIDEGATE_SERVICE_CLUSTER", f"{','.join(servers.urls)}/nothing")
    assert main(["cluster", "hosts", "--config", str(file)]) == 1, "the variable goes before the file"


def test_a_cluster_is_tried_on_one_machine_with_one_command(tmp_path: Path) -> None:
    port = next(port for port in iter(free_port, 0) if port % 2 == 0)
    folder = tmp_path / "trial"
    command = [
        sys.executable,
        "-m",
        "tidegate",
        "cluster",
        "up",
        COUNTER,
        "--hosts",
        "2",
        "--data",
        str(folder),
        "--port",
        str(port),
    ]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT)
    try:
        wait_until(lambda: log.read_text().count("is ready on") == 2, "two hosts", 180, seen=log.read_text)
        numbers = [ask_service(f"tcp://127.0.0.1:{port + at % 2}", "Counter", "a", "get_unique_number") for at in range(4)]
        assert numbers == [0, 1, 2, 3]
        pids = processes_with_files_in(folder)
        assert pids
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
        assert processes_with_files_in(folder) == []
        assert log.read_text().startswith("tidegate cluster status --cluster nats://")
    finally:
        process.kill()
        process.wait()
