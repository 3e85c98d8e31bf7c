"""SIGTERM under load: everything accepted is answered, everything later is refused as not executed, and the exit is clean."""

import signal
import time
from pathlib import Path

import pytest

from tests.support.load import assert_only, errors_of, finish, judge, read_many, start_clients, total, wait_for_answers
from tests.support.python_load import PythonLoad
from tests.support.service import FULL, STOP_WITHIN_S, Serve, exchange
from tests.support.waiting import wait_until

pytestmark = pytest.mark.alone

NAMES = [f"c{number}" for number in range(200)]

SLOW = """
import asyncio
from tidegate import DurableObject

class Slow(DurableObject):
    async def work(self, seconds: float) -> int:
        await self.storage.put("begun", True)
        await asyncio.sleep(seconds)
        await self.storage.put("done", True)
        return 1

    async def state(self) -> list[bool]:
        return [await self.storage.get("begun", False), await self.storage.get("done", False)]

class Boss(DurableObject):
    async def work(self, seconds: float) -> int:
        await asyncio.sleep(seconds / 2)
        return await self.stub(Slow, self.id.name).work(seconds / 2)
"""


def test_every_call_is_answered_before_a_stop_under_load(serve: Serve) -> None:
    service = serve(2)
    clients = start_clients(service, 8, NAMES, until_refused=True)
    wait_for_answers(clients, 201)
    began_at = time.monotonic()
    assert service.stop(STOP_WITHIN_S) == 0
    stop_s = time.monotonic() - began_at
    finish(clients)
    print(f"stopped in {stop_s:.2f} s, errors {errors_of(clients)}")
    assert_only(clients, {"unavailable": "not_executed"})
    assert total(clients, lambda client: client.answered) == total(clients, lambda client: client.sent)
    assert errors_of(clients), "every client should have seen that the service stops"
    service.start(2)
    assert judge(service.endpoint, clients) == []


def test_callers_of_the_python_client_wait_while_the_service_is_stopped_and_started_and_none_fails(serve: Serve) -> None:
    service = serve(2)
    loads = [PythonLoad(service, 25, direct=direct, passes_on=False) for direct in (False, True)]
    for load in loads:
        load.start()
    for _ in range(20 if FULL else 3):
        answered = [load.answered for load in loads]
        wait_until(lambda seen=answered: all(load.answered > 500 + n for load, n in zip(loads, seen, strict=True)), "calls")  # type: ignore[misc]  # its default
        assert service.stop(STOP_WITHIN_S) == 0
        service.start(2)
    for load in loads:
        load.finish()
        print(f"direct {load.direct}: {load.answered} calls, the slowest took {max(load.latencies_s):.2f} s")
        assert load.errors == []


def test_what_runs_is_finished_and_what_comes_meanwhile_is_refused_and_not_executed(serve: Serve, tmp_path: Path) -> None:
    app = tmp_path / "slow.py"
    app.write_text(SLOW)
    service = serve(2, app=str(app))
    names = [f"s{number}" for number in range(16)]
    slow = start_clients(service, 1, names, calls=16, window=16, batch=16, cls="Boss", method="work", args=[2.0])
    wait_until(lambda: sum(service.status()["router"]["in_flight"]) == 16, "calls in flight")
    service.supervisor.send_signal(signal.SIGTERM)
    service.wait_for_output("stopping: ")
    code, late = exchange(service.endpoint, "Slow", "late", "work", [0.0])
    assert (code, late["code"], late["outcome"]) == (1, "unavailable", "not_executed")
    assert service.wait(STOP_WITHIN_S) == 0
    finish(slow)
    assert [result for _, result in slow[0].confirmed] == [1] * 16, errors_of(slow)
    service.start(2)
    asked = sorted({name for name, _ in slow[0].confirmed})
    assert read_many(service.endpoint, asked, "Slow", "state") == [[True, True]] * len(asked)
    assert service.call("Slow", "late", "state") == [False, False]


def test_a_stop_while_nobody_calls_is_immediate(serve: Serve) -> None:
    service = serve(2)
    service.call("Counter", "a", "get_unique_number")
    began_at = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - began_at < 2.0
