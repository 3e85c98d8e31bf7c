"""Objects of a host move between states as the table says; a mistake of the runtime ends one activation and nothing else."""

from __future__ import annotations

import itertools
import logging
import re
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import pytest

from tests.support.host_world import Call, World
from tests.support.objects import control, until
from tidegate.runtime.errors import CallError, ObjectReset, StartFailed
from tidegate.runtime.ids import ObjectId
from tidegate.runtime.wire.protocol import encode
from tidegate.shard.core.states import LAST, TRANSITIONS, Event, InvalidTransition, State
from tidegate.shard.host.activation import Aborted, Activation
from tidegate.shard.objects.object import DurableObject

INSTANCES: weakref.WeakValueDictionary[str, Plain] = weakref.WeakValueDictionary()
"""What keeps no instance in memory, and may reach one that rests."""


class Plain(DurableObject):
    async def count(self) -> int:
        INSTANCES[self.id.name] = self
        number: int = await self.storage.get("n", 0)
        self.storage.put("n", number + 1)
        return number

    async def keep(self) -> None:
        self.kept = True

    async def wait(self) -> None:
        await until("wait")

    async def give_up(self) -> None:
        self.abort("enough")


class Starting(Plain):
    way = "well"

    async def on_start(self) -> None:
        match self.way:
            case "badly":
                raise ValueError("not today")
            case "abort":
                self.abort("not today")
            case "write":
                number: int = await self.storage.get("starts", 0)
                self.storage.put("starts", number + 1)
                await self.storage.sync()
            case "wait":
                await until("start")


class Stage(World):
    """`a` of each class, and what may happen to it."""

    def __init__(self) -> None:
        super().__init__(Plain, Starting, auto=False, idle_evict_s=10.0)
        self.now_s = 1_000.0
        self.lent = 0
        self.seen: set[tuple[State, Event]] = set()
        Starting.way = "well"
        INSTANCES.clear()

    def found(self, cls: type[DurableObject]) -> Activation | None:
        kept = self.host.classes[cls.__name__]
        return kept.activations.get("a") or kept.asleep.get("a")

    now_s: float

    def sweep(self, *, pressed: bool = False) -> None:
        """As after a long time, or while memory is short."""
        budget = self.host.table.budget
        bytes_max, budget.bytes_max = budget.bytes_max, 0 if pressed else budget.bytes_max
        self.now_s += 12.0
        self.host.turn.begin()
        self.host.table.evict_idle(self.now_s)
        budget.bytes_max = bytes_max

    async def start(self, cls: type[DurableObject], method: str = "count") -> Activation:
        call = self.call(cls, "a", method)
        await self.settle_all()
        assert call.answered
        activation = self.found(cls)
        assert activation is not None
        return activation

    async def settle_all(self) -> None:
        for _ in range(3):
            await self.settle(5)
            while self.host.output_gate.can_cut:
                self.commit()
        self.note()

    def note(self) -> None:
        for cls in (Plain, Starting):
            moves = self.host.table.stories.of(ObjectId(cls.__name__, "a"))
            self.seen |= {(move.state, move.event) for move in moves}

    def lend(self, cls: type[DurableObject]) -> Activation | None:
        """The runtime changes it by itself, as when it drops an alarm."""
        kept = self.host.classes[cls.__name__]
        activation = self.host.activator.borrow(kept, "a", self.shard_of(cls.__name__, "a"))
        if activation is not None:
            self.lent += 1
            activation.cache.write("own", encode(self.lent), self.lent)
            self.host.activator.give_back(kept, activation)
        return activation


# One recipe for each state


async def bare(world: Stage) -> Activation:
    activation = world.lend(Plain)
    assert activation is not None
    return activation


async def starting(world: Stage) -> Activation:
    Starting.way = "wait"
    control("start")
    call = world.call(Starting, "a", "count")
    await world.settle()
    assert not call.answered
    activation = world.found(Starting)
    assert activation is not None
    return activation


async def awake(world: Stage) -> Activation:
    return await world.start(Plain)


async def resting(world: Stage) -> Activation:
    activation = await world.start(Plain)
    world.sweep()
    return activation


async def asleep(world: Stage) -> Activation:
    activation = await world.start(Plain, "keep")
    world.sweep()
    return activation


async def evicted(world: Stage) -> Activation:
    activation = await world.start(Plain)
    world.sweep(pressed=True)
    return activation


async def failed(world: Stage) -> Activation:
    activation = await world.start(Plain)
    call = world.call(Plain, "a", "give_up")
    await world.settle()
    assert isinstance(call.error, ObjectReset)
    return activation


async def lost(world: Stage) -> Activation:
    activation = await world.start(Plain)
    call = world.call(Plain, "a", "count")
    await world.settle(5)
    world.fail_commit()
    await world.settle()
    assert isinstance(call.error, ObjectReset)
    return activation


RECIPES: dict[State, Callable[[Stage], Awaitable[Activation]]] = {
    State.BARE: bare,
    State.STARTING: starting,
    State.AWAKE: awake,
    State.RESTING: resting,
    State.ASLEEP: asleep,
    State.EVICTED: evicted,
    State.FAILED: failed,
    State.LOST: lost,
}
IMPOSSIBLE = [pair for pair in itertools.product(State, Event) if pair not in TRANSITIONS]


@pytest.mark.parametrize(("state", "event"), IMPOSSIBLE, ids=lambda each: each.value)
async def test_what_cannot_happen_in_a_state_is_told_resets_the_object_and_answers_its_callers(
    state: State, event: Event, caplog: pytest.LogCaptureFixture
) -> None:
    world = Stage()
    activation = await RECIPES[state](world)
    assert activation.state is state
    before = activation.broken
    resets = world.host.statistics().resets
    with caplog.at_level(logging.ERROR, "tidegate.objects"), pytest.raises(InvalidTransition):
        activation.move(event)
    assert f"{state.value}, {event.value} -> impossible" in caplog.text
    assert re.search(r"begun -> starting|bare, started -> awake", caplog.text) or state is State.BARE, "the log tells the story"
    if state in LAST:
        assert activation.state is state
        assert activation.broken is before, "nobody is told anything else than before"
    else:
        assert activation.state is State.LOST
        assert "has made a mistake" in str(activation.broken)
        assert world.host.statistics().resets == resets + 1
    Starting.way = "well"
    assert world.host.table.stories.mistakes == 1
    world.host.table.stories.mistakes = 0
    for cls in (Plain, Starting):
        calls = [world.call(cls, "a", "count") for _ in range(2)]
        await world.settle_all()
        assert [call.result for call in calls][1] == calls[0].result + 1
    await world.settle_all()
    for _ in range(9):
        world.sweep()
    assert world.host.table.is_empty
    assert world.host.table.budget.used_bytes == 0


async def test_after_a_mistake_calls_that_run_are_answered_and_those_that_wait_go_to_the_next_activation() -> None:
    world = Stage()
    activation = await world.start(Plain)
    control("wait")
    running = world.call(Plain, "a", "wait")
    await world.settle()
    activation.gate.lock(activation.gate.root)
    queued = world.call(Plain, "a", "count")
    await world.settle()
    with pytest.raises(InvalidTransition):
        activation.move(Event.WOKEN)
    await world.settle_all()
    assert isinstance(running.error, ObjectReset)
    assert queued.result == 1
    assert world.host.table.stories.mistakes == 1
    world.host.table.stories.mistakes = 0


async def test_a_mistake_with_one_object_keeps_no_other_in_memory() -> None:
    world = Stage()
    activation = await world.start(Plain)
    other = world.call(Plain, "b", "count")
    await world.settle_all()
    assert other.result == 0
    activation.state = State.STARTING
    world.sweep(pressed=True)
    assert (activation.state, len(world.host.table)) == (State.LOST, 0)
    assert world.host.table.stories.mistakes == 1
    world.host.table.stories.mistakes = 0
    assert (await world.start(Plain)).state is State.AWAKE


async def test_a_call_that_finds_a_mistake_goes_to_the_next_activation() -> None:
    world = Stage()
    activation = await resting(world)
    activation.state = State.AWAKE
    call = world.call(Plain, "a", "count")
    await world.settle_all()
    assert call.result == 1
    assert activation.state is State.LOST
    assert world.host.table.stories.mistakes == 1
    world.host.table.stories.mistakes = 0
    assert (await world.start(Plain)).state is State.AWAKE


async def test_a_call_to_a_sleeping_object_that_cannot_be_woken_finds_a_new_one() -> None:
    world = Stage()
    activation = await asleep(world)
    activation.state = State.RESTING
    assert (await world.start(Plain)).state is State.AWAKE
    assert activation.state is State.LOST
    assert world.host.classes["Plain"].asleep == {}
    assert world.host.table.stories.mistakes == 1
    world.host.table.stories.mistakes = 0


async def test_what_its_own_code_does_while_it_starts_is_a_failed_start() -> None:
    world = Stage()
    for way in ("badly", "abort"):
        Starting.way = way
        calls = [world.call(Starting, "a", "count") for _ in range(2)]
        await world.settle_all()
        assert [type(call.error) for call in calls] == [StartFailed, StartFailed]
        assert world.found(Starting) is None


async def test_an_object_that_rests_may_be_reset_by_whoever_reaches_its_instance() -> None:
    world = Stage()
    activation = await resting(world)
    with pytest.raises(Aborted):
        INSTANCES["a"].abort("enough")
    assert activation.state is State.FAILED
    assert (await world.start(Plain)).state is State.AWAKE


async def test_in_a_long_random_life_every_transition_of_the_table_is_taken_and_no_other() -> None:
    """Calls, pauses, memory pressure, failed commits and starts, changes of the runtime's own, a mistake now and then."""
    world, random = Stage(), Random(12)
    calls: list[Call] = []

    def mistake() -> None:
        activation = world.found(Plain)
        if activation is not None and activation.state is State.ASLEEP:
            with pytest.raises(InvalidTransition):
                activation.move(Event.STARTED)
            world.host.table.stories.mistakes -= 1

    def reach() -> None:
        instance = INSTANCES.get("a")
        if instance is not None and random.random() < 0.3:
            with pytest.raises((Aborted, ObjectReset)):
                instance.abort("reached")

    def fail() -> None:
        if world.host.output_gate.can_cut:
            world.fail_commit()

    def begin() -> None:
        Starting.way = random.choice(["well", "badly", "abort", "write"])
        calls.append(world.call(Starting, "a", "count"))

    steps: list[Callable[[], object]] = [
        lambda: calls.append(world.call(Plain, "a", random.choice(["count", "keep", "count", "give_up"]))),
        begin,
        lambda: world.sweep(pressed=random.random() < 0.2),
        lambda: world.sweep(),
        lambda: world.lend(random.choice([Plain, Starting])),
        lambda: (world.lend(Plain), fail()),
        fail,
        mistake,
        reach,
    ]
    for _ in range(2_000):
        random.choice(steps)()
        world.note()
        await world.settle(random.choice([0, 1, 5]))
        if random.random() < 0.4:
            await world.settle_all()
        world.check()
    await world.settle_all()
    assert world.seen == set(TRANSITIONS)
    for call in calls:
        assert not isinstance(call.reply.exception(), CallError) or isinstance(call.error, ObjectReset | StartFailed)


def test_a_state_is_changed_in_one_place_only() -> None:
    found = [
        f"{path.name}: {line.strip()}"
        for path in sorted((Path(__file__).parents[3] / "shard").rglob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(r"(?<!self)\.(state|broken) = |self\.broken = ", line)
    ]
    assert found == ["activation.py: self.broken = error"]
