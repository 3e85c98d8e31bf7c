"""The whole service under load while its processes are killed or stopped: nothing confirmed is lost, no number is given twice,
every call is answered, and nothing is left behind."""

import os
import random
import signal
import threading
from collections.abc import Callable

import pytest

from tests.support.load import (
    CONNECTION_LOST,
    REFUSED_CODES,
    UNKNOWN_CODES,
    LoadClient,
    assert_only,
    errors_of,
    finish,
    judge,
    read_many,
    start_clients,
    total,
    under_load,
    wait_for_answers,
    wait_for_new_answers,
)
from tests.support.service import FULL, KILLED_BY_TEST, Serve, Service
from tests.support.service_process import is_alive
from tests.support.waiting import wait_until

CALLS = 10_000 if FULL else 3_000
KILL_EVERY_S = 1.0 if FULL else 0.3
CLASSES = ["Counter", "TransactionCounter", "MemoryCounter", "StartedCounter"]
NAMES = [f"c{number}" for number in range(1_000)]
ALLOWED = {**UNKNOWN_CODES, **REFUSED_CODES}
SEED = int(os.environ.get("SEED", "2"))


class Killer(threading.Thread):
    """Kills a random worker every `every_s`, until it is told to stop, and not so often that the supervisor, which starts a
    child that fails six times in a minute more and more slowly, makes the test last."""

    KILLS_MAX = 10

    def __init__(self, service: Service, every_s: float) -> None:
        super().__init__(daemon=True)
        self.killed = 0
        self._service = service
        self._every_s = every_s
        self._random = random.Random(SEED)
        self._stopped = threading.Event()

    def run(self) -> None:
        while self.killed < self.KILLS_MAX and not self._stopped.wait(self._every_s):
            if pids := self._service.worker_pids():
                os.kill(self._random.choice(pids), signal.SIGKILL)
                self.killed += 1

    def stop(self) -> None:
        self._stopped.set()
        self.join()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_killed_all_the_time_lose_nothing_confirmed_and_repeat_no_number(serve: Serve) -> None:
    service = serve(2)
    service.expect(KILLED_BY_TEST, "keeps failing")
    killer = Killer(service, KILL_EVERY_S)
    # A small window, so that the load lasts for many kills.
    clients = [
        LoadClient(service.endpoint, number, NAMES, calls=CALLS, window=8, batch=2, cls=CLASSES[number % len(CLASSES)])
        for number in range(8)
    ]
    for client in clients:
        client.start()
    killer.start()
    finish(clients, within_s=240)
    killer.stop()
    confirmed = total(clients, lambda client: client.confirmed)
    print(f"seed {SEED}: {killer.killed} kills, {confirmed} of {8 * CALLS} calls confirmed, errors {errors_of(clients)}")
    assert killer.killed >= 3
    assert_only(clients, ALLOWED)
    assert total(clients, lambda client: client.answered) == 8 * CALLS
    assert confirmed > 8 * CALLS * 0.8
    assert service.stop() == 0
    service.start(2)
    more = [LoadClient(service.endpoint, 8 + number, NAMES, calls=1_000, cls=cls) for number, cls in enumerate(CLASSES)]
    for client in more:
        client.start()
    finish(more)
    assert errors_of(more) == {}
    for cls in CLASSES:
        # A counter that only gives numbers tells by the next one how far it is.
        method = "current" if cls == "Counter" else "get_unique_number"
        assert judge(service.endpoint, [client for client in clients + more if client.request[0] == cls], cls, method) == []


def assert_judged(service: Service, clients: list[LoadClient]) -> None:
    wrong = judge(service.endpoint, clients)
    assert not wrong, wrong[:20]


def test_no_process_outlives_a_killed_supervisor_and_a_restart_recovers(serve: Serve) -> None:
    service = serve(2)
    with under_load(service, 4, NAMES) as clients:
        pids = service.pids()
        assert len(pids) == 4
        service.kill_supervisor()
        wait_until(lambda: not any(map(is_alive, pids)), "the end of all processes", within_s=2.0)
        service.wait()
        # The clients go on as soon as somebody listens again.
        service.start(2)
        wait_for_new_answers(clients)
    assert_only(clients, {**ALLOWED, CONNECTION_LOST[0]: CONNECTION_LOST[1]})
    assert_judged(service, clients)


def test_a_killed_router_is_back_at_once_and_disturbs_no_object(serve: Serve) -> None:
    service = serve(2)
    service.expect(KILLED_BY_TEST)
    with under_load(service, 4, NAMES) as clients:
        for _ in range(3):
            os.kill(service.router_pid(), signal.SIGKILL)
            wait_for_new_answers(clients)
    assert_only(clients, {**ALLOWED, CONNECTION_LOST[0]: CONNECTION_LOST[1]})
    assert_judged(service, clients)


@pytest.mark.parametrize("role", ["shard", "router"])
def test_a_process_that_stops_for_a_moment_only_delays(serve: Serve, role: str) -> None:
    service = serve(2)
    with under_load(service, 4, NAMES) as clients:
        for pid in service.pids_of(role):
            os.kill(pid, signal.SIGSTOP)
            threading.Event().wait(0.5)  # What is tested is a pause.
            os.kill(pid, signal.SIGCONT)
    assert errors_of(clients) == {}
    assert total(clients, lambda client: client.confirmed) == total(clients, lambda client: client.sent)
    assert_judged(service, clients)


def kill_all_at_once(service: Service) -> None:
    service.kill_everything()


def kill_workers_then_supervisor(service: Service) -> None:
    for pid in service.worker_pids():
        os.kill(pid, signal.SIGKILL)
    service.kill_supervisor()
    service.wait()


@pytest.mark.parametrize("kill", [kill_all_at_once, kill_workers_then_supervisor])
def test_everything_confirmed_is_there_after_everything_was_killed(serve: Serve, kill: Callable[[Service], None]) -> None:
    service = serve(2)
    service.expect(KILLED_BY_TEST)
    clients = []
    for _ in range(3):
        some = start_clients(service, 4, NAMES, window=256)
        clients += some
        wait_for_answers(some, 501)
        kill(service)
        service.start(2)
        for client in some:
            client.stop()
        finish(some)
        assert_judged(service, clients)
    assert_only(clients, {**ALLOWED, CONNECTION_LOST[0]: CONNECTION_LOST[1]})


def test_a_worker_killed_while_it_recovers_from_a_kill_loses_nothing(serve: Serve) -> None:
    service = serve(1)
    service.expect(KILLED_BY_TEST)
    with under_load(service, 2, NAMES) as clients:
        for _ in range(4):
            first = service.worker_pids()
            os.kill(first[0], signal.SIGKILL)
            wait_until(lambda first=first: service.worker_pids() not in ([], first), "the next worker")  # type: ignore[misc]  # its default
    assert_only(clients, ALLOWED)
    assert_judged(service, clients)
    assert len(read_many(service.endpoint, NAMES)) == len(NAMES)
