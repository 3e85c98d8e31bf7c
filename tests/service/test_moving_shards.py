"""Shards that go from worker to worker, and from host to host, while they are called; three real nats-servers keep their logs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.support.service import ROOT, Serve
from tests.support.tidegate_told import Told
from tests.support.waiting import wait_until
from tidegate.runtime.client.synchronous import SyncClient, connect_sync
from tidegate.runtime.cluster.nats_servers import NatsServers
from tidegate.runtime.errors import CallError
from tidegate.runtime.ids import shard_of_slot, slot_of
from tidegate.shard.replicated.founding import find_or_found

APP = str(ROOT / "tests" / "service" / "apps" / "tills.py")
SHARDS = 4
CALLERS = 4
START_S = 120.0
CALL_S = 120.0
"""A call may wait at a host that has given its shard away until that comes back."""
_numbers = count()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    with NatsServers(tmp_path_factory.mktemp("nats")) as started:
        yield started


@pytest.fixture
def cluster(servers: NatsServers) -> str:
    """Another name for each test."""
    name = f"moves-{next(_numbers)}"
    find_or_found(servers.urls, name, SHARDS)
    return f"{','.join(servers.urls)}/{name}"


def start(serve: Serve, cluster: str, data: Path, shards: set[int], workers: int = 1) -> Told:
    told = Told(serve(app=APP, data=data, start=False))
    told.service.expect("nats: ", "a publish after message", "nothing is read behind message")
    told.tell(shards)
    told.service.launch(workers, "--cluster", cluster)
    told.service.wait_for_output("is ready on", within_s=START_S)
    told.wait_to_own(shards)
    return told


def names_of(shard: int, many: int = 3) -> list[str]:
    names = (f"till-{number}" for number in count())
    found = (name for name in names if shard_of_slot(slot_of("Till", name), SHARDS) == shard)
    return [next(found) for _ in range(many)]


class Load:
    """Threads that call objects of some shards without pause, each call once, and keep what they are answered."""

    def __init__(self, client_of: Callable[[], SyncClient], shards: list[int]) -> None:
        self.numbers: dict[str, list[int]] = {name: [] for shard in shards for name in names_of(shard)}
        self.errors: list[CallError] = []
        self.longest_s = 0.0
        self._client_of = client_of
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(CALLERS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.wait_for_more()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        names = list(self.numbers)
        for turn in count(number):
            if self._stop.is_set():
                return
            name, began_s = names[turn % len(names)], time.monotonic()
            try:
                self.numbers[name].append(self._client_of().stub("Till", name, timeout=CALL_S).add())
            except CallError as error:
                self.errors.append(error)
            self.longest_s = max(self.longest_s, time.monotonic() - began_s)

    def wait_for_more(self) -> None:
        """Each object has been called again, a few times."""
        before = {name: len(listed) for name, listed in self.numbers.items()}
        done = lambda: all(len(self.numbers[name]) >= calls + 3 for name, calls in before.items()) or self.errors  # noqa: E731
        wait_until(done, "more calls", 60)

    def judge(self) -> None:
        assert self.errors == []
        for name, listed in self.numbers.items():
            assert sorted(listed) == list(range(1, len(listed) + 1)), f"{name}: each call counts once, and none is lost"


def test_shards_go_from_worker_to_worker_and_no_caller_notices(serve: Serve, cluster: str, tmp_path: Path) -> None:
    told = start(serve, cluster, tmp_path / "data", set(range(SHARDS)), workers=2)
    with connect_sync(told.service.endpoint) as direct, connect_sync(told.service.endpoint, direct=False) as routed:
        clients = (direct, routed)
        turns = count()
        with Load(lambda: clients[next(turns) % 2], [0, 2]) as load:
            for shards in ({0, 2}, {0, 1, 2, 3}, {2}, {0, 2}) * 2:
                told.tell(shards | {0, 2})
                told.wait_to_own(shards | {0, 2})
                load.wait_for_more()
        load.judge()
    said = told.service.output.count("is served here no longer")
    assert said >= 4, told.service.output
    print(f"longest call {load.longest_s * 1e3:.0f} ms, {sum(map(len, load.numbers.values()))} calls, {said} moves")


def test_a_reload_and_the_death_of_a_worker_leave_the_shards_of_each_host_where_they_are(
    serve: Serve, cluster: str, tmp_path: Path
) -> None:
    first = start(serve, cluster, tmp_path / "first", {0, 1})
    second = start(serve, cluster, tmp_path / "second", {2, 3})
    for told, shards in ((first, {1}), (second, {0, 2, 3})):
        told.tell(shards)
        told.wait_to_own(shards)
    first.service.expect("killed by SIGKILL|is ready again")
    names = [names_of(shard)[0] for shard in range(SHARDS)]
    homes = [second, first, second, second]
    assert [home.service.call("Till", name, "add") for home, name in zip(homes, names, strict=True)] == [1] * SHARDS
    for told in (first, second):
        os.kill(told.service.supervisor.pid, signal.SIGHUP)
        told.service.wait_for_output("worker 0 is replaced")
    os.kill(first.service.worker_pids()[0], signal.SIGKILL)
    first.service.wait_for_output("is ready again")
    assert [home.service.call("Till", name, "add") for home, name in zip(homes, names, strict=True)] == [2] * SHARDS, (
        "none of the new processes has claimed what the other host has"
    )
    assert [worker["shards"] for worker in second.service.status()["processes"] if worker["name"] == "worker 0"] == [[0, 2, 3]]


def test_a_shard_goes_from_host_to_host_and_back_and_each_call_counts_once(serve: Serve, cluster: str, tmp_path: Path) -> None:
    first = start(serve, cluster, tmp_path / "first", set(range(SHARDS)))
    second = start(serve, cluster, tmp_path / "second", set())
    others = {1, 2, 3}
    with connect_sync(first.service.endpoint) as one, connect_sync(second.service.endpoint) as two:
        client = one
        with Load(lambda: client, [0]) as moved, Load(lambda: one, [1]) as stays:
            for _ in range(3):
                client = two  # Whose calls wait there until it has the shard.
                first.tell(others)
                first.wait_to_own(others)
                second.tell({0})
                second.wait_to_own({0})
                moved.wait_for_more()
                client = one
                second.tell(set())
                second.wait_to_own(set())
                first.tell({0, *others})
                first.wait_to_own({0, *others})
                moved.wait_for_more()
            stays.wait_for_more()
        moved.judge()
        stays.judge()
    print(f"longest call {moved.longest_s * 1e3:.0f} ms of the moved, {stays.longest_s * 1e3:.0f} ms of those that stayed")
