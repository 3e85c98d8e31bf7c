"""One data directory under any number of workers: the number of processes follows the machine, the data stays where it is."""

import random
from functools import partial
from pathlib import Path

import pytest

from tests.support.load import errors_of, finish, judge, start_clients, under_load
from tests.support.service import Serve, Service
from tests.support.waiting import wait_until

NAMES = [f"c{number}" for number in range(500)]


def inodes(service: Service) -> dict[str, int]:
    shards = service.data / "shards"
    return {str(path.relative_to(shards)): path.stat().st_ino for path in sorted(shards.glob("*/data.mdb"))}


def only_logs_of(prefix: str, data: Path) -> bool:
    return all(path.name.startswith(prefix) for path in (data / "log").iterdir() if path.name[0].isdecimal())


@pytest.mark.parametrize("ending", ["stopped", "killed"])
def test_1_2_4_and_8_workers_one_after_another_find_all_data_and_copy_nothing(serve: Serve, ending: str) -> None:
    service = serve(1)
    files = inodes(service)
    assert len(files) == service.status()["shards"] >= 8
    clients = []
    for workers in (2, 4, 8, 3, 1):
        if ending == "killed":
            with under_load(service, 2, NAMES, window=32) as some:
                service.kill_everything()
                service.start(workers)
        else:
            some = start_clients(service, 2, NAMES, calls=500)
            finish(some)
            assert errors_of(some) == {}
            assert service.stop() == 0
            service.start(workers)
        clients += some
        assert len(service.worker_pids()) == workers
        assert judge(service.endpoint, clients) == []
    assert inodes(service) == files


def test_every_shard_is_used_and_every_worker_serves_its_own(serve: Serve) -> None:
    service = serve(4)
    finish(start_clients(service, 2, NAMES, calls=2_000))
    status = service.status()
    assert sorted(shard for worker in status["processes"][2:] for shard in worker["shards"]) == list(range(status["shards"]))
    assert service.stop() == 0
    service.start(2)
    assert all(size > 12_288 for size in (path.stat().st_size for path in service.data.glob("shards/*/data.mdb")))


def test_the_logs_of_earlier_starts_are_deleted_when_they_are_no_longer_needed(serve: Serve) -> None:
    service = serve(2)
    names = [f"c{number}" for number in random.Random(1).sample(range(10_000), 300)]
    clients = []
    for start in (2, 3, 4):
        with under_load(service, 2, names) as some:
            clients += some
            service.kill_everything()
            service.start(2)
        assert judge(service.endpoint, clients) == []
        prefix = f"{start:08d}-"
        wait_until(partial(only_logs_of, prefix, service.data), "the end of earlier logs")
