"""`tidegate cluster`, without a host: what it says of servers and of a cluster that nobody serves. With hosts:
`tests/service/test_cluster_hosts.py`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.nats_cluster import ask
from tests.support.service import COUNTER, ROOT, processes_with_files_in
from tests.support.service import ask as ask_service
from tests.support.waiting import wait_until
from tidegate.runtime.addresses import free_port
from tidegate.runtime.cli.cli import main
from tidegate.runtime.cluster.nats_servers import NatsServers
from tidegate.runtime.cluster.operating import change
from tidegate.runtime.cluster.records import Beat, ClusterPlacement, Loss, PlacedHost
from tidegate.shard.replicated import servers as servers_module
from tidegate.shard.replicated.founding import find_or_found

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


def test_the_doctor_looks_at_every_server_and_stream(
    servers: NatsServers, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(servers, "doctor") == 1
    said = capsys.readouterr().out
    assert "no host is there: nothing is served" in said
    assert "stream" not in said.partition("not looked at")[0]
    settings = ask(servers, f"STREAM.INFO.{NAME}-0001")["config"]
    assert "error" not in ask(servers, f"STREAM.UPDATE.{NAME}-0001", {**settings, "max_msgs": 5})
    try:
        monkeypatch.setattr(servers_module, "START_S", 1.0)
        place = ",".join([*servers.urls[:2], "nats://127.0.0.1:9"])
        assert main(["cluster", "doctor", "--json", "--cluster", f"{place}/{NAME}"]) == 1
        found = {each["where"]: each["what"] for each in json.loads(capsys.readouterr().out)}
        assert "server nats://127.0.0.1:9" in found
        assert "it could lose what it has confirmed: max_msgs is 5" in found[f"stream {NAME}-0001"]
    finally:
        ask(servers, f"STREAM.UPDATE.{NAME}-0001", settings)


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
        wait_until(lambda: log.read_text().count("is ready on") == 2, "two hosts", 60, seen=log.read_text)
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
