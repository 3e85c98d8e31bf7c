"""How a router drains: by event. After the last answer it listens for a moment for calls that were sent before, and ends."""

from __future__ import annotations

import asyncio

from tests.support.calm_service import calm_service
from tidegate.runtime.wire.supervisor_messages import Drain
from tidegate.shard.objects.object import DurableObject

WAIT_S = 4.0
"""Less than after which the router asks its workers for old calls."""
TURNS_MAX = 10
SILENCE_S = 0.02
SILENCE_S_MAX = 0.5


class Sleeper(DurableObject):
    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def test_a_draining_router_ends_with_the_last_answer_and_does_not_look_for_it() -> None:
    with calm_service(Sleeper) as service:
        caller = service.begin()
        number = caller.call("Sleeper", "a", "pause", WAIT_S)
        service.run_for(0.1)
        router = service.processes.router
        assert router is not None
        service.processes.tell(router, Drain(500.0))
        assert service.turns_of(router, WAIT_S - 0.2) <= TURNS_MAX
        assert router.unanswered is None
        service.run_for(1.0)
        assert router.unanswered == 0
        assert caller.replies == {number: None}
        assert 0.0 < router.drained_at - service.left_at["pause"] < 0.001, "as long as the answer was under way"


def test_a_router_without_calls_listens_for_a_moment_before_it_ends() -> None:
    with calm_service(Sleeper) as service:
        service.begin()
        router = service.processes.router
        assert router is not None
        service.processes.tell(router, Drain(500.0))
        began_at = service.time.now
        service.run_for(1.0)
        assert SILENCE_S <= router.drained_at - began_at < SILENCE_S + 0.01


def test_a_call_that_comes_during_the_silence_is_refused_and_the_silence_begins_again() -> None:
    with calm_service(Sleeper) as service:
        caller = service.begin()
        router = service.processes.router
        assert router is not None
        began_at = service.time.now
        service.processes.tell(router, Drain(500.0))
        for _ in range(10):
            service.run_for(SILENCE_S / 2)
            caller.call("Sleeper", "a", "pause", 0.0)
        assert router.unanswered is None
        service.run_for(1.0)
        assert router.drained_at > began_at + 10 * SILENCE_S / 2
        assert list(caller.replies.values()) == ["unavailable"] * 10


def test_those_who_do_not_stop_asking_are_refused_for_half_a_second_and_no_longer() -> None:
    with calm_service(Sleeper) as service:
        caller = service.begin()
        router = service.processes.router
        assert router is not None
        began_at = service.time.now
        service.processes.tell(router, Drain(500.0))
        while router.unanswered is None:
            caller.call("Sleeper", "a", "pause", 0.0)
            service.run_for(SILENCE_S / 2)
        assert SILENCE_S_MAX <= router.drained_at - began_at < SILENCE_S_MAX + 2 * SILENCE_S
