"""The four natural ways of writing a counter, under everything at once: 256 clients, evictions, killed workers."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.support.crowd import Crowd
from tests.support.load import REFUSED_CODES, UNKNOWN_CODES, assert_only, errors_of, judge, total
from tests.support.service import FULL, KILLED_BY_TEST, Serve, Service
from tests.support.waiting import wait_until

CLASSES = ["Counter", "TransactionCounter", "MemoryCounter", "StartedCounter"]
MEMBERS = 256
CALLS = 198 if FULL else 12  # Each name is called equally often.
KILLS = 10 if FULL else 3
NAMES = [f"c{number}" for number in range(3)]
NEXT = {"Counter": "current"}
"""A counter that only gives numbers tells by the next one how far it is."""


@pytest.fixture
def forgetful(serve: Serve, tmp_path: Path) -> Service:
    """A service without memory: an object is evicted as soon as it has nothing to do, so nearly every call starts a new one."""
    config = tmp_path / "tidegate.toml"
    config.write_text("[storage]\ncache_mib = 0\nidle_evict_s = 0\n")
    service = serve(2, start=False)
    return service.start(2, "--config", str(config))


def sum_of(service: Service, number: str) -> int:
    return sum(worker["statistics"].get(number, 0) for worker in service.status()["processes"][2:])


def test_every_single_call_finds_its_object_evicted_and_the_numbers_go_on(forgetful: Service) -> None:
    for cls in CLASSES:
        assert [forgetful.call(cls, "alice", "get_unique_number") for _ in range(30)] == list(range(30))
    wait_until(
        lambda: sum_of(forgetful, "evictions") == 30 * len(CLASSES),
        "an eviction for every call",
        seen=lambda: [sum_of(forgetful, each) for each in ("evictions", "calls", "activations", "resets")],
    )
    assert sum_of(forgetful, "activations") == 0


def test_256_clients_get_unique_numbers_without_gaps_while_objects_are_evicted_all_the_time(forgetful: Service) -> None:
    for cls in CLASSES:
        crowd = Crowd(forgetful.endpoint, MEMBERS, CALLS, [cls], NAMES)
        crowd.start()
        crowd.finish(60)
        assert errors_of(crowd.members) == {}
        numbers: dict[str, list[int]] = {name: [] for name in NAMES}
        for member in crowd.members:
            for name, number in member.confirmed:
                numbers[name].append(number)
        for given in numbers.values():
            assert sorted(given) == list(range(MEMBERS * CALLS // len(NAMES)))
    wait_until(lambda: sum_of(forgetful, "calls") == len(CLASSES) * MEMBERS * CALLS, "the newest numbers")
    evictions, commits = sum_of(forgetful, "evictions"), sum_of(forgetful, "commits")
    print(f"{len(CLASSES) * MEMBERS * CALLS} calls, {evictions} evictions, {commits} commits")
    assert sum_of(forgetful, "activations") == 0
    assert evictions > len(CLASSES) * CALLS


@pytest.mark.slow
def test_256_clients_never_get_a_number_twice_though_workers_are_killed_and_objects_evicted(forgetful: Service) -> None:
    forgetful.expect(KILLED_BY_TEST, "keeps failing")
    crowd = Crowd(forgetful.endpoint, MEMBERS, CALLS * 4, CLASSES, NAMES)
    crowd.start()
    for kill in range(KILLS):
        wait_until(partial(_has_answered, crowd, (kill + 1) * MEMBERS * CALLS // KILLS), "answers")
        before = forgetful.worker_pids()
        os.kill(before[kill % len(before)], signal.SIGKILL)
    crowd.finish(100)
    members = crowd.members
    print(f"{total(members, lambda member: member.confirmed)} numbers after {KILLS} kills, errors {errors_of(members)}")
    assert_only(members, {**UNKNOWN_CODES, **REFUSED_CODES})
    assert errors_of(members), "a killed worker should have cost somebody an answer"
    for cls in CLASSES:
        of_class = [member for member in members if member.cls == cls]
        assert judge(forgetful.endpoint, of_class, cls, NEXT.get(cls, "get_unique_number")) == []


def _has_answered(crowd: Crowd, calls: int) -> bool:
    return crowd.answered >= calls
