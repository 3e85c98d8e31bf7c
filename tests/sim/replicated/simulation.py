"""Hosts that want to own one shard, an engine, and what can happen to all of them: one run by a seed, in virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial
from random import Random
from typing import NamedTuple

from tests.sim.replicated.engine import FULL, NO_RESOURCES, Engine
from tests.sim.replicated.hosts import AGAIN_MAX, TICK_MS, Host
from tests.sim.replicated.judge import Judge
from tidegate.shard.replicated.owner import Ownership
from tidegate.shard.replicated.replay import StreamPlace

TROUBLE_MS = 10_000
CALM_MS = 12_000
"""At the end, in which everybody has to come to a decision."""


class RunResult(NamedTuple):
    seed: int
    problems: list[str]
    counts: dict[str, int]
    messages: int


class World:
    def __init__(self, seed: int, host_class: type[Host] = Host) -> None:
        self.chance = Random(seed)
        self.now = 0
        self.judge = Judge()
        self.engine = Engine(self.chance, self.chance.choice((1, 3, 3, 3)), self.judge.stored)
        self.lease = ("", -1)
        self.snapshots: list[tuple[list[int], StreamPlace]] = [([], StreamPlace())]
        self.counts: dict[str, int] = {}
        self.loss = self.chance.choice((0.0, 0.01, 0.05))
        self.has_hole = False
        self._tickets = 0
        self._events: list[tuple[int, int, Callable[[], object]]] = []
        self._ops = 0
        self._again: dict[int, int] = {}
        self.hosts = [host_class(self, f"host {number}") for number in range(self.chance.choice((2, 2, 3)))]

    # For hosts

    def ticket(self) -> int:
        self._tickets += 1
        return self._tickets

    def after(self, delay_ms: int, action: Callable[[], object]) -> None:
        heapq.heappush(self._events, (self.now + delay_ms, self.ticket(), action))

    def count(self, what: str, times: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + times

    def way(self, cut_off: bool) -> int | None:
        """How long a message takes; None: for ever. What is written into a connection that is gone may arrive with the next."""
        chance = self.chance.random()
        if cut_off or chance < self.loss:
            return self.chance.randint(2_000, 6_000) if self.chance.random() < 0.3 else None
        return int(1 + 20 * self.chance.random())

    def not_executed(self, op: int) -> None:
        """The caller is told, and asks again."""
        self.judge.told_not_executed(op)
        times = self._again[op] = self._again.get(op, 0) + 1
        if times <= AGAIN_MAX:
            self.after(self.chance.randint(300, 1_500), lambda: self._call(op))

    # What goes on

    def run(self) -> None:
        chance = self.chance
        for host in self.hosts:
            self._tick(host, chance.randint(1, TICK_MS))
        at = 0
        while at < TROUBLE_MS:
            at += chance.randint(10, 350)
            heapq.heappush(self._events, (at, self.ticket(), self._new_call if chance.random() < 0.8 else self._new_read))
        for _ in range(chance.randint(3, 9)):
            strike: Callable[[], object] = partial(chance.choice(STRIKES), self)
            heapq.heappush(self._events, (chance.randint(300, TROUBLE_MS), self.ticket(), strike))
        heapq.heappush(self._events, (TROUBLE_MS + 6_000, self.ticket(), self._calm_down))
        end = TROUBLE_MS + 6_000 + CALM_MS
        events = self._events
        while events and events[0][0] <= end:
            self.now, _, action = heapq.heappop(events)
            action()
        self._finish()

    def _tick(self, host: Host, delay_ms: int) -> None:
        def tick() -> None:
            if host.paused_until <= self.now:
                host.tick()
            self._tick(host, TICK_MS)

        self.after(delay_ms, tick)

    def owner_or_any(self) -> Host:
        owners = [host for host in self.hosts if host.serves and host.is_up]
        return self.chance.choice(owners or self.hosts)

    def _new_call(self) -> None:
        self._ops += 1
        for _ in range(self.chance.choice((0, 0, 0, 6))):
            self._call(self._ops)
            self._ops += 1
        self._call(self._ops)

    def _call(self, op: int) -> None:
        self.judge.asked_again(op)
        self.owner_or_any().call(op)

    def _new_read(self) -> None:
        self.owner_or_any().read()

    def _calm_down(self) -> None:
        self.loss = 0.0
        self.engine.room = 10**9
        self.engine.heal()
        self.engine.lags = False
        for replica in range(self.engine.replicas):
            self.engine.catch_up(replica)
        for host in self.hosts:
            host.cut_off, host.is_up, host.paused_until, host.at_deposed = False, True, self.now, False
        self.after(6_000, self._new_call)

    def _finish(self) -> None:
        judge = self.judge
        judge.finish()
        self.count("torn", judge.torn)
        owners = [host for host in self.hosts if host.serves]
        if not self.has_hole:
            judge.problems += [f"{host.name} is stopped by a log that is whole" for host in self.hosts if host.is_damaged]
        for host in self.hosts:
            settled = host.owner is None or host.owner.state in (Ownership.OWNING, Ownership.STOPPED)
            if not settled and not host.said_it_ends_earlier:
                assert host.owner is not None
                judge.problems.append(f"{host.name} is still {host.owner.state.name.lower()}")
        if not owners and not self.has_hole:
            judge.problems.append("nobody owns the shard at the end")
        if not self.has_hole:
            current = [host for host in owners if host.place.sequence == len(self.engine.log)]
            if len(current) != 1 or current[0].ops != judge.ops:
                judge.problems.append("at the end the owner has not what is in the log")


def simulate(seed: int, host_class: type[Host] = Host) -> RunResult:
    world = World(seed, host_class)
    world.run()
    return RunResult(seed, world.judge.problems, world.counts, len(world.engine.log))


# What can happen


def lose_majority(world: World) -> None:
    """Some hosts are on the side of the old leader; then another is elected, or not, and then all see each other again."""
    if not world.engine.has_leader or world.engine.replicas == 1:
        return
    world.count("majorities lost")
    world.engine.lose_majority()
    for host in world.hosts:
        host.at_deposed = world.chance.random() < 0.6

    def heal() -> None:
        world.engine.heal()
        for host in world.hosts:
            host.at_deposed = False

    first = world.chance.randint(100, 3_000)
    if world.chance.random() < 0.7:
        world.after(first, world.engine.elect)
    world.after(first + world.chance.randint(100, 3_000), heal)


def kill_leader(world: World) -> None:
    if world.engine.has_leader:
        world.count("leaders killed")
        world.engine.kill()
        world.after(world.chance.randint(100, 3_000), world.engine.elect)


def lag(world: World) -> None:
    """A replica catches up; those that nothing has told to do so lag behind."""
    world.engine.catch_up(world.chance.randrange(world.engine.replicas))


def pause(world: World) -> None:
    world.count("pauses")
    host = world.chance.choice(world.hosts)
    host.paused_until = max(host.paused_until, world.now + world.chance.randint(300, 6_000))


def pause_owner(world: World) -> None:
    world.count("pauses")
    world.owner_or_any().paused_until = world.now + world.chance.randint(1_000, 6_000)


def crash(world: World) -> None:
    world.count("crashes")
    host = world.chance.choice(world.hosts)
    host.crash(keeps=world.chance.random() < 0.7)

    def start() -> None:
        host.is_up = True

    world.after(world.chance.randint(100, 2_000), start)


def cut_off(world: World) -> None:
    world.count("partitions")
    host = world.chance.choice(world.hosts)
    host.cut_off = True

    def mend() -> None:
        host.cut_off = False

    world.after(world.chance.randint(300, 5_000), mend)


def fill(world: World) -> None:
    engine = world.engine
    engine.full = world.chance.choice((FULL, NO_RESOURCES))
    engine.room = len(engine.log) - engine.first + 1 + world.chance.randint(0, 3)

    def empty() -> None:
        engine.room = 10**9

    world.after(world.chance.randint(300, 3_000), empty)


def fail_store(world: World) -> None:
    """Of the leader; the next message is stored by the others only, and another one leads."""
    if world.engine.replicas > 1:
        world.count("stores that failed")
        world.engine.store_fails = True


def save(world: World) -> None:
    for host in world.hosts:
        if host.is_up:
            host.save()


def snapshot(world: World) -> None:
    """What is behind the one before is purged."""
    world.count("purges")
    host = world.chance.choice(world.hosts)
    if host.is_up and host.place.sequence > world.snapshots[-1][1].sequence:
        world.engine.purge(world.snapshots[-1][1].sequence)
        world.snapshots.append((list(host.ops), host.place))


def claim_against_the_lease(world: World) -> None:
    world.chance.choice(world.hosts).claim()


def read_ahead(world: World) -> None:
    world.chance.choice(world.hosts).read_ahead()


def delete_message(world: World) -> None:
    """By an operator, who may not delete the newest one. Most seeds do without: later nobody can own who has not been there."""
    engine = world.engine
    if world.chance.random() < 0.3 and len(engine.log) > engine.first:
        world.count("messages deleted")
        world.has_hole = True
        engine.delete(world.chance.randint(engine.first, len(engine.log) - 1))


def forget_claim(world: World) -> None:
    """The owner sleeps, somebody else claims the shard, and that claim is deleted, or expires, before the owner wakes up."""
    engine = world.engine
    if world.chance.random() < 0.3:
        world.owner_or_any().paused_until = world.now + 4_500

        def forget() -> None:
            if engine.log and engine.log[-1].subject != "epoch":
                world.count("claims forgotten")
                world.has_hole = True
                engine.delete_newest_of("epoch")

        world.after(3_500, forget)


def purge_everything(world: World) -> None:
    """By an operator. Who has read up to the end goes on, and nobody else."""
    if world.chance.random() < 0.3 and world.engine.log:
        world.count("purges of everything")
        world.has_hole = True
        world.engine.purge_everything()


def restore_an_older_end(world: World) -> None:
    """By an operator who has stopped all hosts, and starts them at once; what they have on their disks may be newer."""
    engine = world.engine
    if world.chance.random() < 0.5 and len(engine.log) >= engine.first:
        world.count("older ends put back")
        world.has_hole = True
        for host in world.hosts:
            if world.chance.random() < 0.7:
                host.save()
            host.crash(keeps=world.chance.random() < 0.8)
        last = world.chance.randint(max(engine.first - 1, len(engine.log) - 3), len(engine.log) - 1)
        while last in engine.gone:  # The newest message is never one that was deleted.
            last -= 1
        engine.restore(last)
        world.judge.restored(last)

        def start(host: Host) -> None:
            host.is_up = True
            host.claim()

        for host in world.hosts:
            world.after(world.chance.randint(100, 400), partial(start, host))


STRIKES: tuple[Callable[[World], None], ...] = (
    lose_majority,
    lose_majority,
    kill_leader,
    lag,
    lag,
    pause,
    pause_owner,
    crash,
    cut_off,
    cut_off,
    fill,
    save,
    snapshot,
    snapshot,
    snapshot,
    snapshot,
    claim_against_the_lease,
    claim_against_the_lease,
    read_ahead,
    read_ahead,
    delete_message,
    forget_claim,
    fail_store,
    purge_everything,
    restore_an_older_end,
)
