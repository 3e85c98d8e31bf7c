"""`tidegate migrate` with three real nats-servers: a data directory becomes a cluster and a cluster a data directory, whatever
happens in between."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.backup_world import SHARDS, BackupWorld, known_in, small
from tests.support.damage import flip_bit, places_of_rows
from tests.support.data_directory import make_data_directory
from tests.support.nats_cluster import ask
from tests.support.service import ROOT, Serve, exchange
from tests.support.waiting import wait_until
from tidegate.runtime.cli.cli import main
from tidegate.runtime.cluster.nats_servers import NatsServers
from tidegate.runtime.data.directory import open_directory
from tidegate.runtime.errors import OperatorError
from tidegate.shard.backup.depot import FolderDepot
from tidegate.shard.migration import claimed, commits, into_cluster, out_of_cluster
from tidegate.shard.migration.commits import Sum
from tidegate.shard.offline.check import Check
from tidegate.shard.replicated.founding import find_or_found
from tidegate.shard.replicated.worker_log import WorkerLog
from tidegate.shard.store.interface import ObjectWrites, ShardCommit
from tidegate.shard.store.record import CommitRecord, encode_record

APP = str(ROOT / "tests" / "service" / "apps" / "tills.py")
NAMES = [f"till-{number}" for number in range(12)]
START_S = 60.0
KILLED_HALF_WAY = """
import os, signal, sys
from tidegate.runtime.cli.cli import main
from tidegate.shard.replicated.worker_log import WorkerLog

append, left = WorkerLog.append, 3

def append_or_be_killed(log, record):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return append(log, record)

WorkerLog.append = append_or_be_killed
sys.exit(main(sys.argv[1:]))
"""
_numbers = count()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    with NatsServers(tmp_path_factory.mktemp("nats")) as started:
        yield started


@pytest.fixture
def name() -> str:
    """Of a cluster, another one for each test."""
    return f"migrated-{next(_numbers)}"


@pytest.fixture
def place(servers: NatsServers, name: str) -> str:
    return f"{','.join(servers.urls)}/{name}"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackupWorld]:
    """A directory with objects, alarms and answers to keys, in states and in logs, that no service uses."""
    small(monkeypatch)
    monkeypatch.setattr(commits, "COMMIT_BYTES", 2_000)
    world = BackupWorld(tmp_path / "data", FolderDepot(tmp_path / "depot"), seed=5)
    world.commit(300)
    world.checkpoint()
    world.commit(100)
    world.stop()
    yield world
    world.close()


def migrate(*arguments: object) -> int:
    return main(["migrate", *map(str, arguments)])


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def files_in(folder: Path) -> dict[str, str]:
    """By name, a digest of what is in each; the lock says only who looked last."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != "lock"]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def what_is_in(data: Path) -> list[tuple[dict[bytes, bytes], frozenset[int]]]:
    """Of each shard: rows of objects and alarms, and the calls whose answers are kept."""
    return [(known.rows, known.answers) for known in (known_in(data, shard) for shard in range(SHARDS))]


def test_a_directory_goes_into_a_cluster_and_comes_back_as_it_was(
    world: BackupWorld, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, files = what_is_in(world.data), files_in(world.data)
    assert migrate(world.data, "--to", place, "--json") == 0
    there = told(capsys)
    assert (there["shards"], there["kept"]) == (SHARDS, 0)
    assert there["counts"]["objects"] == len(world.alarms)
    assert there["counts"]["alarms"] == sum(1 for alarm in world.alarms.values() if alarm is not None)
    assert files_in(world.data) == files
    assert migrate(tmp_path / "back", "--from", place, "--json") == 0
    back = told(capsys)
    assert back["digest"] == there["digest"]
    assert back["counts"]["rows"] == there["counts"]["rows"]
    assert what_is_in(tmp_path / "back") == before
    assert list(Check(tmp_path / "back", SHARDS, lambda *_: None).run()) == []
    open_directory(tmp_path / "back", SHARDS).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "data"], "nothing is left beside them"


def test_a_service_goes_on_in_a_cluster_and_then_without_one(
    serve: Serve, servers: NatsServers, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = serve(2, app=APP)
    for at, name in enumerate(NAMES):
        assert exchange(service.endpoint, "Till", name, "add", [at], {"key": f"order {at}"}) == (0, at)
    rings_at = service.call("Till", "clock", "remind", 3_600)
    assert service.stop() == 0
    assert migrate(service.data, "--to", place) == 0
    said = capsys.readouterr().out
    assert f"serve APP --cluster {place} --data EMPTY" in said
    host = serve(app=APP, data=tmp_path / "host", start=False)
    host.expect("nats: ", "a publish after message", "nothing is read behind message")
    host.launch(1, "--cluster", place)
    host.wait_for_output("is ready on", within_s=START_S)
    for at, name in enumerate(NAMES):
        again = exchange(host.endpoint, "Till", name, "add", [at], {"key": f"order {at}"})
        assert again == (0, at), "a call that is sent again is answered, and not run"
        assert host.call("Till", name, "add", 100) == at + 100
    assert host.call("Till", "clock", "reminds_at") == rings_at
    assert host.call("Till", "clock", "remind", 0.0) is not None
    wait_until(lambda: host.call("Till", "clock", "read") == 100, "the alarm")
    assert exchange(host.endpoint, "Till", "new", "add", [5], {"key": "order new"}) == (0, 5)
    assert migrate(tmp_path / "back", "--from", place) == 1
    assert "it has hosts that run: " in (refused := capsys.readouterr().err)
    assert "stop them first" in refused
    assert host.stop() == 0
    assert migrate(tmp_path / "host", "--from", place) == 1
    assert "there is data in it" in capsys.readouterr().err
    assert migrate(tmp_path / "host", "--from", place, "--yes") == 0
    assert "is kept as" in capsys.readouterr().out
    alone = serve(2, app=APP, data=tmp_path / "host")
    for at, name in enumerate(NAMES):
        assert exchange(alone.endpoint, "Till", name, "add", [at], {"key": f"order {at}"}) == (0, at)
        assert alone.call("Till", name, "read") == at + 100
    assert exchange(alone.endpoint, "Till", "new", "add", [5], {"key": "order new"}) == (0, 5)
    assert alone.call("Till", "new", "read") == 5
    assert alone.call("Till", "clock", "read") == 100
    assert alone.stop() == 0


def test_killed_it_goes_on_and_nobody_gets_in_before_it_has_ended(
    servers: NatsServers, name: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    make_data_directory(data)
    open_directory(other, 4).close()
    command = [sys.executable, "-c", KILLED_HALF_WAY, "migrate", str(data), "--to", place]
    killed = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "state" in ask(servers, f"STREAM.INFO.{name}-0000")
    with pytest.raises(OperatorError, match=r"a data directory is being put into it: .*/data on ") as refused:
        find_or_found(servers.urls, name, 4)
    assert refused.value.passes, "a host that is told to keep trying does"
    for asked in (["cluster", "status", "--cluster", place], ["migrate", str(tmp_path / "back"), "--from", place]):
        assert main(asked) == 1
        assert "a data directory is being put into it" in capsys.readouterr().err
    other_data = tmp_path / "stranger"
    make_data_directory(other_data)
    assert migrate(other_data, "--to", place) == 1
    assert f"is being put into it: {data} on " in capsys.readouterr().err
    assert migrate(data, "--to", place, "--json") == 0
    done = told(capsys)
    assert done["kept"] >= 1, "what was there already"
    assert not (tmp_path / "data.read-back").exists()
    assert find_or_found(servers.urls, name, 64).shards == 4
    assert migrate(tmp_path / "back", "--from", place, "--json") == 0
    assert told(capsys)["digest"] == done["digest"]


@pytest.mark.parametrize("appends", [0, 1, 7, 40])
def test_whatever_was_put_before_is_not_there_twice(
    world: BackupWorld,
    place: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    appends: int,
) -> None:
    append, left = WorkerLog.append, appends

    def until_it_is_killed(log: WorkerLog, record: bytes) -> int:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return append(log, record)

    before = what_is_in(world.data)
    with monkeypatch.context() as patched:
        patched.setattr(WorkerLog, "append", until_it_is_killed)
        assert migrate(world.data, "--to", place) == 130
    assert migrate(world.data, "--to", place) == 0
    assert migrate(tmp_path / "back", "--from", place) == 0
    assert what_is_in(tmp_path / "back") == before


def test_one_that_will_not_go_on_is_taken_back(
    servers: NatsServers,
    name: str,
    place: str,
    world: BackupWorld,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert migrate("--undo", place) == 0
    assert "there is none of that name" in capsys.readouterr().out
    with monkeypatch.context() as patched:
        patched.setattr(into_cluster, "sum_in_log", lambda *_: Sum())
        assert migrate(world.data, "--to", place) == 1
    assert "0 rows were read back that are not the " in capsys.readouterr().err
    with pytest.raises(OperatorError, match="a data directory is being put into it"):
        find_or_found(servers.urls, name, SHARDS)
    assert migrate("--undo", place, "--json") == 0
    assert told(capsys) == {"cluster": name, "removed": True}
    assert [ask(servers, f"STREAM.INFO.{each}")["error"]["err_code"] for each in (f"{name}-0000", f"KV_tidegate-{name}")] == [
        10059
    ] * 2
    assert find_or_found(servers.urls, name, 4).shards == 4
    assert migrate("--undo", place) == 1
    assert "none was left unfinished there" in capsys.readouterr().err
    assert "error" not in ask(servers, f"STREAM.INFO.{name}-0003")


def test_what_is_lost_on_the_way_is_noticed(
    servers: NatsServers,
    name: str,
    place: str,
    world: BackupWorld,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_one(rows: Any) -> Any:
        for objects in commits.commits_of(rows):
            del objects[-1].writes[max(objects[-1].writes)]
            yield objects

    with monkeypatch.context() as patched:
        patched.setattr(into_cluster, "commits_of", without_one)
        assert migrate(world.data, "--to", place) == 1
    assert "rows were read back that are not the " in capsys.readouterr().err
    assert migrate(world.data, "--to", place) == 0


def test_a_cluster_that_is_written_to_meanwhile_is_not_taken(
    servers: NatsServers,
    name: str,
    place: str,
    world: BackupWorld,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert migrate(world.data, "--to", place) == 0
    read = claimed.sum_in_log

    def after_a_write(at: claimed.ClusterLogs, shard: int, aside: Path) -> Sum:
        log = at.log()
        seqs: list[int] = []
        assert log.claim({shard: b""}, lambda _, record: seqs.append(1)) == {}
        writes = [ObjectWrites(b"\0" * 16, False, {"k": b"x"})]
        log.append(encode_record(CommitRecord(1, [ShardCommit(shard, len(seqs) + 1, writes)])))
        log.close()
        return read(at, shard, aside)

    monkeypatch.setattr(out_of_cluster, "sum_in_log", after_a_write)
    (tmp_path / "back").mkdir()
    assert migrate(tmp_path / "back", "--from", place) == 1
    assert "it was written to while it was read" in capsys.readouterr().err
    assert list((tmp_path / "back").iterdir()) == []


def test_what_cannot_be_is_refused_with_the_next_step(
    servers: NatsServers, name: str, place: str, world: BackupWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: object) -> str:
        assert migrate(*arguments) == 1
        return capsys.readouterr().err

    assert "there is no such directory" in refused(tmp_path / "nothing", "--to", place)
    using = open_directory(world.data, SHARDS)
    assert f"in use by the service with pid {os.getpid()} (stop it first)" in refused(world.data, "--to", place)
    using.close()
    cache = tmp_path / "cache"
    open_directory(cache, 2, "id").close()
    assert "it is a cache of the logs of a cluster" in refused(cache, "--to", place)
    assert "there is none of that name on these servers" in refused(tmp_path / "back", "--from", place)
    find_or_found(servers.urls, name, 4)
    assert "it is there already, with 4 shards (give the cluster another name)" in refused(world.data, "--to", place)
    assert ask(servers, f"STREAM.DELETE.KV_tidegate-{name}")["success"]
    log = WorkerLog(servers.urls, name, "a test")
    log.claim({0: b""}, lambda *told: None)
    log.close()
    assert "the record of its founding is not" in refused(world.data, "--to", place)
    state = world.data / "shards" / "0000" / "data.mdb"
    flip_bit(state, max(places_of_rows(state).values()), 1)
    assert "see `tidegate check " in refused(world.data, "--to", f"{place}-2")
    assert "error" in ask(servers, f"STREAM.INFO.{name}-2-0000")
    with pytest.raises(SystemExit):
        migrate(world.data)
    assert "one of the arguments --to --from --undo is required" in capsys.readouterr().err
