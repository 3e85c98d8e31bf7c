"""Callers of both Python clients while the service under them is stopped, started, and killed: they see no error."""

import contextlib
import os
import random
import signal
import time

import pytest

from tests.support.patient_callers import PatientCallers
from tests.support.service import FULL, KILLED_BY_TEST, Serve, Service
from tests.support.waiting import wait_until

ROUNDS = 20 if FULL else 3

pytestmark = pytest.mark.alone


def wait_for_calls(callers: PatientCallers, calls: int) -> None:
    wanted = callers.answered + calls
    wait_until(lambda: callers.answered >= wanted or bool(callers.errors), f"{calls} more calls", 60.0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("direct", [True, False])
def test_callers_wait_for_a_service_that_is_stopped_and_started_again_and_none_fails(serve: Serve, *, direct: bool) -> None:
    service = serve(2)
    callers = PatientCallers(service.endpoint, direct=direct).start()
    for _ in range(ROUNDS):
        wait_for_calls(callers, 200)
        assert service.stop() == 0
        time.sleep(0.2)
        service.start(2)
    wait_for_calls(callers, 200)
    callers.finish()
    callers.judge()


def kill_one(service: Service, chance: random.Random) -> None:
    """A worker or the router."""
    pids = [*service.worker_pids(), *service.pids_of("router")]
    with contextlib.suppress(ProcessLookupError):
        os.kill(chance.choice(pids), signal.SIGKILL)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("direct", [True, False])
def test_callers_see_nothing_of_workers_and_routers_that_are_killed_and_every_number_comes_once(
    serve: Serve, *, direct: bool
) -> None:
    service = serve(2)
    service.expect(KILLED_BY_TEST, "keeps failing", "router")
    chance = random.Random(1)
    callers = PatientCallers(service.endpoint, direct=direct).start()
    for _ in range(ROUNDS * 2):
        wait_for_calls(callers, 200)
        kill_one(service, chance)
    wait_for_calls(callers, 200)
    callers.finish()
    callers.judge()


@pytest.mark.timeout(300)
def test_callers_see_nothing_of_a_whole_service_that_is_killed_and_started_again(serve: Serve) -> None:
    service = serve(2)
    callers = PatientCallers(service.endpoint).start()
    for _ in range(ROUNDS):
        wait_for_calls(callers, 200)
        service.kill_everything()
        service.start(2)
    wait_for_calls(callers, 200)
    callers.finish()
    callers.judge()
