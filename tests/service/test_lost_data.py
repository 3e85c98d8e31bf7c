"""A service whose disk has lost something: what is concerned is refused at once and named, all else is served."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Serve, Service, exchange
from tests.support.waiting import wait_until
from tidegate.runtime.cli.cli import main
from tidegate.runtime.ids import object_key, shard_of_slot, slot_of
from tidegate.shard.log.commit_log import list_segments
from tidegate.shard.store.logs import list_logs

WORKERS = 2
NUMBERS = 40


def names_by_shard(service: Service) -> dict[int, str]:
    shards: int = service.status()["shards"]
    names = [f"c{number}" for number in range(1_000)]
    return {shard_of_slot(slot_of("Counter", name), shards): name for name in names}


def take(service: Service, name: str) -> tuple[int, Any]:
    return exchange(service.endpoint, "Counter", name, "get_unique_number")


def expect_refused(service: Service, shard: int, name: str, reason: str) -> None:
    began_s = time.monotonic()
    status, error = take(service, name)
    assert time.monotonic() - began_s < 1.0, "at once"
    assert (status, error["code"], error["outcome"], error["retryable"]) == (1, "unavailable", "not_executed", False)
    assert f"shard {shard} is stopped" in error["message"]
    assert reason in error["message"]
    assert f"tidegate repair --shard {shard}" in error["message"]


def expect_problems(service: Service, *shards: int) -> None:
    """These shards are said to be stopped, and nothing else is wrong. It may take a second until all know."""
    wanted = sorted(f"shard {shard} is stopped" for shard in shards)
    told = lambda: sorted(problem["what"].split(":")[0] for problem in service.status()["problems"])  # noqa: E731
    wait_until(lambda: told() == wanted, f"status to tell {wanted}", seen=told)


def damage(data: Path, name: str, value: int) -> None:
    """Two bytes of the record in which the counter got this value."""
    pattern = re.compile(
        re.escape(object_key("Counter", name)) + b".{0,40}counter\xc4\x01" + re.escape(bytes([value])), re.DOTALL
    )
    for log in list_logs(data):
        for _, path in list_segments(log.path):
            content = bytearray(path.read_bytes())
            if (found := pattern.search(content)) is not None:
                content[found.start()] ^= 0xFF
                content[found.end() - 1] ^= 0xFF
                path.write_bytes(content)
                return
    raise AssertionError((name, value))


@pytest.fixture
def killed(serve: Serve) -> tuple[Service, dict[int, str]]:
    """A service that was killed; each of these counters, one of each shard, has given the numbers below `NUMBERS`."""
    service = serve(WORKERS)
    names = names_by_shard(service)
    for number in range(NUMBERS):
        for name in names.values():
            assert take(service, name) == (0, number)
    service.kill_everything()
    service.expect("is stopped, the others are served", "it is missing, and may have confirmed commits")
    return service, names


def test_a_damaged_record_stops_the_shard_that_it_is_of_and_the_service_serves_the_others(
    killed: tuple[Service, dict[int, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """It kept a whole worker down, and its callers waited."""
    service, names = killed
    damage(service.data, names[3], 20)
    service.start(WORKERS)
    expect_refused(service, 3, names[3], "commit 20 of shard 3 is missing: record")
    for shard, name in names.items():
        if shard != 3:
            assert take(service, name) == (0, NUMBERS)
    expect_problems(service, 3)
    assert service.status()["state"] == "degraded"
    assert service.stop() == 0

    service.start(1)  # On another number of workers, too: nothing of what it needs was thrown away.
    expect_refused(service, 3, names[3], "commit 20 of shard 3 is missing: record")
    assert service.stop() == 0
    assert main(["check", str(service.data)]) == 1
    assert "commit 20 of shard 3 is missing" in capsys.readouterr().out
    assert main(["repair", str(service.data), "--shard", "3"]) == 0
    assert "missing in the logs: " in capsys.readouterr().out
    assert main(["repair", str(service.data), "--shard", "3", "--yes"]) == 0
    capsys.readouterr()
    service.start(WORKERS)
    assert take(service, names[3]) == (0, NUMBERS), "of the lost commit all was written again later"
    expect_problems(service)
    assert take(service, names[5]) == (0, NUMBERS + 1)


def test_a_lost_log_is_named_and_nothing_of_it_is_served_until_it_is_put_back(killed: tuple[Service, dict[int, str]]) -> None:
    service, names = killed
    log = list_logs(service.data)[1].path
    aside = service.data.parent / "aside"
    shutil.move(log, aside)
    service.start(WORKERS)
    for shard, name in names.items():
        if shard % WORKERS == 1:
            expect_refused(service, shard, name, f"log {log.name}: it is missing")
        else:
            assert take(service, name) == (0, NUMBERS)
    expect_problems(service, *(shard for shard in names if shard % WORKERS == 1))
    assert service.stop() == 0
    shutil.move(aside, log)
    service.start(WORKERS)
    assert [take(service, name) for name in names.values()] == [(0, NUMBERS + (shard % WORKERS == 0)) for shard in names]
    expect_problems(service)


def test_a_number_of_shards_that_is_not_that_of_the_data_is_refused(serve: Serve) -> None:
    """Every other object would be looked for where it is not, and found empty."""
    service = serve(WORKERS)
    names = names_by_shard(service)
    for name in names.values():
        assert take(service, name) == (0, 0)
    service.stop()
    description = service.data / "tidegate.json"
    whole = description.read_text()
    for shards in (4, 16):
        description.write_text(whole.replace('"shards":8', f'"shards":{shards}'))
        assert description.read_text() != whole
        service.launch(WORKERS)
        assert service.wait() == 1
    service.expect("put the tidegate.json of this data back")
    description.write_text(whole)
    service.start(WORKERS)
    for name in names.values():
        assert take(service, name) == (0, 1)
