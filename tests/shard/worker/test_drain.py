"""How a worker drains: by event. What ends it is the last answer, and while it waits for that nothing looks."""

from __future__ import annotations

import asyncio

from tests.support.calm_service import CalmService, calm_service
from tidegate.runtime.wire.supervisor_messages import Drain, Leave
from tidegate.shard.objects.object import DurableObject

WAIT_S = 100.0
TURNS_MAX = 10
"""Of a process that waits for one thing only."""


class Sleeper(DurableObject):
    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def pause_and_put(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.storage.put("k", 1)

    async def pause_and_put_unconfirmed(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.storage.put("k", 1, allow_unconfirmed=True)

    async def leave_a_call_behind(self, name: str, seconds: float) -> None:
        self.spawn(self.stub(Sleeper, name).pause(seconds))
        await asyncio.sleep(1.0)
        self.abort("the call goes on")


def drain(service: CalmService, worker: int = 0) -> None:
    service.processes.draining = True
    service.processes.tell(service.processes.workers[worker], Drain(500.0))
    service.run_for(1.0)


def test_a_draining_worker_is_quiet_in_the_very_turn_of_its_last_answer_and_nothing_looks_before() -> None:
    with calm_service(Sleeper) as service:
        caller = service.begin()
        for method in ("pause", "pause_and_put"):
            caller.call("Sleeper", method, method, WAIT_S)
        service.run_for(1.0)
        drain(service)
        worker = service.processes.workers[0]
        assert service.turns_of(worker, WAIT_S - 10.0) <= TURNS_MAX
        assert not service.quiet_at
        service.run_for(20.0)
        assert service.quiet_at[0] == max(service.left_at.values())


def test_a_worker_waits_for_writes_for_which_no_message_waits() -> None:
    with calm_service(Sleeper) as service:
        caller = service.begin()
        caller.call("Sleeper", "a", "pause_and_put_unconfirmed", WAIT_S)
        service.run_for(1.0)
        drain(service)
        service.run_for(WAIT_S)
        assert service.quiet_at[0] > service.left_at["pause_and_put_unconfirmed"], "as long as the disk took"


def test_a_worker_without_calls_is_quiet_in_the_turn_that_tells_it_to_drain() -> None:
    with calm_service(Sleeper) as service:
        service.begin()
        drain(service)
        assert service.quiet_at


def test_a_quiet_worker_leaves_when_it_is_told_and_waits_for_that_without_looking() -> None:
    with calm_service(Sleeper, workers=2) as service:
        caller = service.begin()
        caller.call("Sleeper", service.name_on("Sleeper", 1), "pause", WAIT_S)
        service.run_for(1.0)
        drain(service)
        worker = service.processes.workers[0]
        assert service.turns_of(worker, WAIT_S) <= TURNS_MAX
        assert worker.alive
        service.processes.tell(worker, Leave())
        service.run_for(1.0)
        assert not worker.alive
        assert worker.exit_code == 0


def test_a_worker_waits_for_the_answer_of_another_also_when_nobody_waits_for_it_any_longer() -> None:
    with calm_service(Sleeper, workers=2) as service:
        caller = service.begin()
        here, there = (service.name_on("Sleeper", worker) for worker in (0, 1))
        caller.call("Sleeper", here, "leave_a_call_behind", there, WAIT_S)
        service.run_for(5.0)
        drain(service)
        service.run_for(WAIT_S - 20.0)
        assert not service.quiet_at
        service.run_for(30.0)
        assert 0.0 < service.quiet_at[0] - service.left_at["pause"] < 0.01, "as long as the answer was under way"
