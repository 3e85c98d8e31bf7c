"""`tidegate backup` and `tidegate restore` as operators use them: beside a service that works."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lmdb
import pytest

from tests.support.service import KILLED_BY_TEST, Serve, Service, ask
from tests.support.waiting import wait_until
from tidegate.runtime.cli.arguments import Parser
from tidegate.runtime.cli.cli import _parser
from tidegate.runtime.cli.commands import backup
from tidegate.runtime.data.backup_notes import read_notes
from tidegate.runtime.data.directory import open_directory
from tidegate.shard.offline.check import state_path
from tidegate.shard.store.state.lmdb_state import LmdbState

NAMES = [f"n{number}" for number in range(20)]


def tidegate(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tidegate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def done(*arguments: object) -> dict[str, Any]:
    result = tidegate(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def numbers(service: Service) -> dict[str, int]:
    """The next number of each counter, which counts as a call."""
    return {name: ask(service.endpoint, "Counter", name, "get_unique_number", []) for name in NAMES}


class Load:
    """One caller who never stops; `answered` is what it was told last, by counter."""

    def __init__(self, service: Service) -> None:
        self.answered: dict[str, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(service,))

    def _run(self, service: Service) -> None:
        while not self._ended.is_set():
            for name in NAMES:
                self.answered[name] = ask(service.endpoint, "Counter", name, "get_unique_number", [])

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def test_a_service_that_works_and_is_reloaded_is_backed_up_and_restored(serve: Serve, tmp_path: Path) -> None:
    service = serve(2)
    depot = tmp_path / "depot"
    with Load(service) as load:
        for number in range(1, 5):
            before = dict(load.answered)
            if number == 3:
                assert tidegate("reload", "--connect", service.endpoint).returncode == 0
            assert done("backup", depot, "--data", service.data)["number"] == number
            place = tmp_path / f"new-{number}"
            restored = done("restore", depot, "--data", place)
            assert restored["counts"]["objects"] >= len(before)
            assert tidegate("check", place).returncode == 0
            copy = serve(2, data=place)
            found = numbers(copy)
            copy.stop()
            assert all(found[name] > told for name, told in before.items()), "what was answered before is in it"
    service.stop()


def test_a_moment_is_restored_over_the_data_that_is_there(serve: Serve, tmp_path: Path) -> None:
    service = serve(2)
    depot = tmp_path / "depot"
    numbers(service)
    done("backup", depot, "--data", service.data)
    told = numbers(service)
    time.sleep(0.01)
    moment = datetime.now(UTC)
    time.sleep(0.01)
    numbers(service)
    done("backup", depot, "--data", service.data)
    running = tidegate("restore", depot, "--data", service.data, "--at", moment.isoformat(), "--yes")
    assert running.returncode == 1
    assert "in use by the service" in running.stderr
    service.stop()
    asked = tidegate("restore", depot, "--data", service.data, "--at", moment.isoformat())
    assert asked.returncode == 1
    assert "add --yes" in asked.stderr
    restored = done("restore", depot, "--data", service.data, "--at", moment.isoformat(), "--yes")
    assert Path(restored["kept"]).is_dir()
    service.start(1)
    assert numbers(service) == {name: value + 1 for name, value in told.items()}
    assert done("backup", depot, "--data", service.data)["number"] == 1, "another line of history"
    service.stop()


def test_what_there_is_to_restore_is_listed(serve: Serve, tmp_path: Path) -> None:
    service = serve(1)
    depot = tmp_path / "depot"
    nothing = tidegate("restore", depot, "--list")
    assert nothing.returncode == 1
    assert "there is no complete backup" in nothing.stderr
    done("backup", depot, "--data", service.data)
    numbers(service)
    done("backup", depot, "--data", service.data)
    (lineage,) = done("restore", depot, "--list")["lineages"]
    assert (lineage["backups"], lineage["shards"]) == (2, 8)
    assert "any time from" in tidegate("restore", depot, "--list").stdout
    service.stop()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("backup", "{}/data/inside", "--data", "{}/data"), "it is in the data directory itself"),
        (("backup", "{}/depot", "--data", "{}/nowhere"), "there is no such directory"),
        (("restore", "{}/depot", "--at", "yesterday"), "must be a time like"),
        (("restore", "{}/nowhere", "--data", "{}/new"), "there is no complete backup"),
    ],
)
def test_what_cannot_be_done_is_one_line_with_the_next_step(
    serve: Serve, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    service = serve(1)
    service.stop()
    result = tidegate(*(argument.format(tmp_path) for argument in arguments))
    assert result.returncode in (1, 2)
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("shards", [1, 32])
def test_a_service_goes_on_with_another_number_of_shards(serve: Serve, tmp_path: Path, shards: int) -> None:
    service = serve(2)
    told = numbers(service)
    running = tidegate("reshard", service.data, "--shards", shards)
    assert running.returncode == 1
    assert "in use by the service" in running.stderr
    service.stop()
    found = done("reshard", service.data, "--shards", shards)
    assert (found["shards_before"], found["shards"]) == (8, shards)
    assert Path(found["kept"]).is_dir()
    assert tidegate("check", service.data).returncode == 0
    service.start(min(2, shards))
    assert numbers(service) == {name: value + 1 for name, value in told.items()}
    service.stop()
    assert "nothing to do" in tidegate("reshard", service.data, "--shards", shards).stdout
    wrong = tidegate("reshard", service.data, "--shards", 3)
    assert (wrong.returncode, "a power of two" in wrong.stderr) == (2, True)


def test_a_wrong_change_of_one_object_is_taken_back_while_the_service_runs(serve: Serve, tmp_path: Path) -> None:
    service = serve(2)
    depot = tmp_path / "depot"
    told = numbers(service)
    done("backup", depot, "--data", service.data)
    for _ in range(5):
        numbers(service)
    out = tmp_path / "n3.jsonl"
    taken = tidegate("restore", depot, "--object", "Counter/n3", "--out", out)
    assert taken.returncode == 0, taken.stderr
    imported = tidegate("objects", "import", out, "--replace", "--connect", service.endpoint)
    assert imported.returncode == 0, imported.stderr
    assert numbers(service)["n3"] == told["n3"] + 1
    assert numbers(service)["n4"] == told["n4"] + 7
    nobody = tidegate("restore", depot, "--object", "Counter/nobody")
    assert (nobody.returncode, "it is not in the backup" in nobody.stderr) == (1, True)
    into = ("restore", depot, "--object", "Counter/n4", "--into", service.endpoint)
    exists = tidegate(*into)
    assert (exists.returncode, "it exists there; nothing was changed (add --yes" in exists.stderr) == (1, True)
    assert done(*into, "--yes") == {"object": "Counter/n4", "into": service.endpoint, "keys": 1}
    assert numbers(service)["n4"] == told["n4"] + 1
    assert tidegate("objects", "delete", "Counter", "n5", "--yes", "--connect", service.endpoint).returncode == 0
    assert done("restore", depot, "--object", "Counter/n5", "--into", service.endpoint)["keys"] == 1
    assert numbers(service)["n5"] == told["n5"] + 1
    assert tidegate("restore", depot, "--into", service.endpoint).returncode == 2
    nowhere = tidegate("restore", depot, "--object", "Counter/n4", "--into", "tcp://127.0.0.1:1")
    assert (nowhere.returncode, "nothing is listening there" in nowhere.stderr) == (1, True)
    long_ago = tidegate("restore", depot, "--object", "Counter/n4", "--at", "1d")
    assert (long_ago.returncode, "no backup has that time" in long_ago.stderr) == (1, True)
    wrong = tidegate("restore", depot, "--object", "nobody")
    assert (wrong.returncode, "must be CLASS/NAME" in wrong.stderr) == (2, True)
    service.stop()


def test_a_time_may_be_said_as_how_long_ago_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000.0)
    for text, ago_s in (("90s", 90), ("5m", 300), ("1.5h", 5_400), ("2d", 172_800)):
        assert _parser().parse_args(["restore", "depot", "--at", text]).at == (1_000_000 - ago_s) * 1_000
    for text in ("5", "m", "-5m", "5w", "5m ago"):
        with pytest.raises(SystemExit):
            _parser().parse_args(["restore", "depot", f"--at={text}"])


def test_the_service_says_how_its_backups_went(serve: Serve, tmp_path: Path) -> None:
    service, depot, lost = serve(1), tmp_path / "depot", tmp_path / "lost"

    def problems() -> list[str]:
        return [f"{each['where']}: {each['what']}; {each['next']}" for each in service.status()["problems"]]

    report = done("backup", depot, "--data", service.data, "--due-after", 100)
    (told,) = wait_until(lambda: service.status()["backups"], "word of the backup")
    assert (told["place"], told["backup"], told["error"]) == (str(depot), f"{report['lineage']}/1", "")
    assert told["ended_ms"] == told["good_ms"] >= report["until_ms"]
    page = tidegate("status", "--connect", service.endpoint).stdout
    assert re.search(rf"^backup to {depot}: .* ago \({told['backup']}\)$", page, re.MULTILINE), page
    lost.write_text("no folder")
    assert tidegate("backup", lost, "--data", service.data).returncode == 1
    wait_until(lambda: any("Not a directory" in each for each in problems()), "the problem")
    (problem,) = problems()
    assert problem.startswith(f"backups to {lost}: the last one failed at ")
    assert done("backup", lost, "--data", service.data, "--forget")["forgotten"]
    wait_until(lambda: not problems(), "no problem")
    done("backup", depot, "--data", service.data, "--due-after", 1 / 3_600)
    wait_until(lambda: any("the next one was due at" in each for each in problems()), "that it is overdue")
    assert service.status()["state"] == "degraded"
    done("backup", depot, "--data", service.data, "--due-after", 100)
    wait_until(lambda: not problems(), "no problem")
    text = tidegate("backup", depot, "--data", service.data, "--forget").stdout
    assert text == f"{depot}: forgotten; what is there stays\n"
    assert wait_until(lambda: not service.status()["backups"], "nothing to be known")
    assert not (service.data / "shipping").exists(), "no log is kept for it"
    assert tidegate("restore", depot, "--list").returncode == 0
    service.stop()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """That no service has used."""
    open_directory(path := tmp_path / "data", 2).close()
    for shard in range(2):
        LmdbState(state_path(path, shard), shard).close()
    return path


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), lmdb.CorruptedError("page"), RuntimeError("a fault")]
)
def test_one_that_fails_in_a_way_that_was_not_foreseen_leaves_word(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(backup, "_make", fail)
    with pytest.raises(type(error)):
        backup.run(_options(data, tmp_path / "depot"))
    (note,) = read_notes(data)
    assert note.error == f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_one_that_is_ended_by_a_signal_leaves_word(data: Path, tmp_path: Path, number: signal.Signals) -> None:
    program = """
import signal, sys
from tidegate.runtime.cli.cli import main
from tidegate.runtime.cli.commands import backup
def make(*_):
    print("begun", flush=True)
    signal.pause()
backup._make = make
main(sys.argv[1:])
"""
    command = [sys.executable, "-c", program, "backup", str(tmp_path / "depot"), "--data", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        assert process.wait(60) == -number, "it is seen to have been ended"
    (note,) = read_notes(data)
    assert note.error == f"it was ended by {number.name}"


def test_a_single_one_to_a_place_that_does_not_exist_is_no_problem_of_the_service(data: Path, tmp_path: Path) -> None:
    (typo := tmp_path / "typo").write_text("no folder")
    assert tidegate("backup", typo, "--data", data, "--once").returncode == 1
    assert read_notes(data) == ()
    assert tidegate("backup", typo, "--data", data).returncode == 1
    assert [note.place for note in read_notes(data)] == [str(typo)]


def _options(data: Path, dest: Path) -> argparse.Namespace:
    parser = Parser()
    backup.add(parser.add_subparsers())
    return parser.parse_args(["backup", str(dest), "--data", str(data)])


def test_what_the_service_cannot_read_of_its_backups_is_a_line_and_no_more(serve: Serve, tmp_path: Path) -> None:
    service = serve(1)
    service.expect("how backups went cannot be read")
    (service.data / "backups.json").write_text("[")
    wait_until(lambda: "how backups went cannot be read" in service.output, "the line")
    assert service.status()["problems"] == []
    done("backup", tmp_path / "depot", "--data", service.data)
    wait_until(lambda: service.status()["backups"], "word of the backup")
    service.stop()


def test_objects_of_a_class_move_to_another_service(serve: Serve, tmp_path: Path) -> None:
    service = serve(2)
    told = numbers(service)
    service.stop()
    out = tmp_path / "counters.jsonl"
    assert tidegate("export", service.data, "--class", "Counter", "--out", out).returncode == 0
    other = serve(1, data=tmp_path / "other")
    imported = tidegate("objects", "import", out, "--connect", other.endpoint)
    assert imported.returncode == 0, imported.stderr
    assert numbers(other) == {name: value + 1 for name, value in told.items()}
    other.stop()


def test_a_backup_is_continued_over_killed_workers_and_a_killed_service(serve: Serve, tmp_path: Path) -> None:
    service = serve(2)
    service.expect(KILLED_BY_TEST)
    depot = tmp_path / "depot"
    numbers(service)
    done("backup", depot, "--data", service.data)
    for number in (2, 3):
        numbers(service)
        since = len(service.output)
        for pid in service.worker_pids():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda since=since: service.output[since:].count("is ready again") == 2, "both workers to be back")  # type: ignore[misc]
        told = numbers(service)
        report = done("backup", depot, "--data", service.data)
        assert (report["number"], report["why_full"]) == (number, "")
    service.kill_everything()
    service.start(1)
    assert numbers(service) == {name: value + 1 for name, value in told.items()}
    assert done("backup", depot, "--data", service.data)["number"] == 4
    told = numbers(service)
    service.stop()
    assert done("backup", depot, "--data", service.data)["number"] == 5, "of a stopped service, too"
    done("restore", depot, "--data", tmp_path / "new")
    copy = serve(2, data=tmp_path / "new")
    assert numbers(copy) == {name: value + 1 for name, value in told.items()}
    copy.stop()
