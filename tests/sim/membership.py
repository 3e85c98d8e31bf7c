"""Several hosts that hear each other's beats, and one record that they replace, in virtual time: beats are lost, hosts are cut
off, sleep, die, come back; the servers lose their majority. Each host runs the real machine, and one worker with its real duties,
which takes a while over each of them.

A shard is *had* by whoever has claimed it last: a claim shuts the one before out, as the fence of its log does.
"""

from __future__ import annotations

from random import Random

import msgspec

from tidegate.runtime.cluster.machine import BEAT_S, MemberMachine
from tidegate.runtime.cluster.records import Beat, ClusterPlacement, empty_placement
from tidegate.shard.worker.duties import Duties, Give, ReadAhead, Step, Take

TAKE_S = (0.05, 0.8)
GIVE_S = (0.01, 0.2)
READ_S = (0.1, 4.0)
"""What there is of a shard is read ahead."""
AGAIN_S = 5.0
"""What could not be read is tried again."""


class Host:
    def __init__(self, world: World, id: str, weight: int) -> None:
        self.world = world
        self.id = id
        self.weight = weight
        self.runs = 0
        self.asleep_until = 0.0
        self.is_up = False

    def start(self) -> None:
        self.runs += 1
        self.is_up = True
        run = f"{self.id}{self.runs}"
        me = Beat(self.id, run, 0, 0, f"host {self.id}", f"tcp://{self.id}", weight=self.weight)
        self.machine = MemberMachine(me, self.world.shards)
        self.duties = Duties((), ())
        self.told = self.machine.target, self.machine.ahead
        """What its worker was told to have, and to read."""
        self.due: list[tuple[float, Step]] = []
        """What its worker does, and when that comes to its end."""
        self.again: list[tuple[float, int]] = []
        """When what could not be read is tried again."""
        self.next_beat = self.world.now + self.world.chance.uniform(0.0, BEAT_S)

    def kill(self) -> None:
        self.is_up = False
        for shard in [shard for shard, (id, _) in self.world.had.items() if id == self.id]:
            del self.world.had[shard]

    @property
    def owned(self) -> set[int]:
        return self.duties.owned

    @property
    def runs_now(self) -> bool:
        return self.is_up and self.world.now >= self.asleep_until

    def turn(self) -> None:
        world, machine = self.world, self.machine
        if world.now >= self.next_beat:
            self.next_beat = world.now + BEAT_S
            self.read()
            world.say(self, machine.beat())
            self.decide()
        self._work()

    def decide(self) -> None:
        """After whatever it was told."""
        if (following := self.machine.proposal()) is not None and self.world.write(self, following, self.machine.revision):
            self.read()

    def read(self) -> None:
        if self.world.reaches_record(self):
            self.machine.read(*self.world.record)
            older, placement = self.machine.put_back, self.machine.placement
            if older is not None and placement is not None and self.world.write(self, placement, older):
                self.machine.was_put_back(older)
                self.machine.read(*self.world.record)

    def _work(self) -> None:
        """Of its worker."""
        world, duties = self.world, self.duties
        if (told := (self.machine.target, self.machine.ahead)) != self.told:
            self.told = told
            self._begin(duties.told(*told))
        for shard in [shard for at, shard in self.again if world.now >= at]:
            self._begin(duties.again(shard) if shard in duties.unreadable else [])
        self.again = [each for each in self.again if world.now < each[0]]
        ended = [step for at, step in self.due if world.now >= at]
        self.due = [each for each in self.due if world.now < each[0]]
        for step in ended:
            self._begin(self._end(step))
        for shard in list(duties.owned):
            if world.had.get(shard) != (self.id, self.machine.me.run):  # Its next append tells it.
                self.due = [each for each in self.due if each[1] != Give(shard)]
                self._begin(duties.lost(shard))
        duties.check_invariants()
        has_read = self.machine.has_read(duties.ready, duties.unread)
        if self.machine.owns(duties.owned) or has_read:
            world.say(self, self.machine.word())
            self.decide()

    def _begin(self, steps: list[Step]) -> None:
        world = self.world
        for step in steps:
            low, high = TAKE_S if isinstance(step, Take) else GIVE_S if isinstance(step, Give) else world.read_s
            self.due.append((world.now + world.chance.uniform(low, high), step))

    def _end(self, step: Step) -> list[Step]:
        world, shard = self.world, step.shard
        if isinstance(step, ReadAhead):
            if self.id not in world.unreadable:
                return self.duties.read(shard)
            self.again.append((world.now + AGAIN_S, shard))
            return self.duties.not_read(shard)
        if isinstance(step, Take):
            if not self.duties.wants(shard):
                return self.duties.not_claimed(shard)
            world.claimed(shard, self)
            return self.duties.taken(shard)
        if world.had.get(shard, ("", ""))[0] == self.id:
            del world.had[shard]
            world.given[shard] = world.now
        return self.duties.given(shard)


class World:
    def __init__(self, seed: int, weights: dict[str, int], shards: int = 16, lost: float = 0.0) -> None:
        self.chance = Random(seed)
        self.shards = shards
        self.now = 0.0
        self.lost = lost
        self.record: tuple[ClusterPlacement, int] = (empty_placement(shards), 0)
        self.old_record = self.record
        self.writes: list[tuple[float, str]] = []
        self.claims: list[tuple[float, int, str]] = []
        self.read_s = READ_S
        self.unreadable: set[str] = set()
        """Hosts that cannot read what they lack, as where their disks are full."""
        self.given: dict[int, float] = {}
        self.away_s: list[float] = []
        """For how long shards were nobody's that one host gave and another one claimed."""
        self.had: dict[int, tuple[str, str]] = {}
        self.cut: set[frozenset[str]] = set()
        """Pairs of hosts that do not hear each other; a host alone hears nobody, not itself, and reaches no record."""
        self.quorum = True
        self.stale = 0.0
        """How probable it is that a read is answered with the record before."""
        self.lies: dict[str, int] = {}
        """By host: the revision that it says it has read."""
        self._under_way: list[tuple[float, int, str, Beat]] = []
        self._sent = 0
        self.hosts = {id: Host(self, id, weight) for id, weight in weights.items()}

    # What hosts do

    def say(self, sender: Host, beat: Beat) -> None:
        beat = msgspec.structs.replace(beat, revision=self.lies.get(sender.id, beat.revision))
        for id in self.hosts:
            if self._hears(sender.id, id) and self.chance.random() >= self.lost:
                self._sent += 1
                self._under_way.append((self.now + self.chance.uniform(0.000_5, 0.01), self._sent, id, beat))

    def _hears(self, sender: str, id: str) -> bool:
        alone = {frozenset({sender}), frozenset({id})}
        return not self.cut & alone and frozenset({sender, id}) not in self.cut

    def reaches_record(self, host: Host) -> bool:
        if self.stale and self.chance.random() < self.stale:
            host.machine.read(*self.old_record)
            return False
        return self.quorum and frozenset({host.id}) not in self.cut

    def write(self, host: Host, placement: ClusterPlacement, revision: int) -> bool:
        if not self.quorum or frozenset({host.id}) in self.cut or revision != self.record[1]:
            return False
        self.old_record, self.record = self.record, (placement, revision + 1)
        self.writes.append((self.now, host.id))
        return self.chance.random() >= self.lost  # Or it is written, and the writer does not hear of it.

    def claimed(self, shard: int, host: Host) -> None:
        self.had[shard] = (host.id, host.machine.me.run)
        if (at := self.given.pop(shard, None)) is not None:
            self.away_s.append(self.now - at)
        self.claims.append((self.now, shard, host.id))

    # Time

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += 0.01
            due = sorted(each for each in self._under_way if each[0] <= self.now)
            self._under_way = [each for each in self._under_way if each[0] > self.now]
            for _, number, id, beat in due:
                host = self.hosts[id]
                if host.is_up and not host.runs_now:
                    self._under_way.append((host.asleep_until, number, id, beat))
                elif host.is_up and host.machine.heard(beat):
                    host.read()
                    host.decide()
            for host in self.hosts.values():
                if host.runs_now:
                    host.turn()

    def heal(self) -> None:
        self.cut.clear()
        self.quorum = True
        self.lost = self.stale = 0.0
        for host in self.hosts.values():
            host.asleep_until = min(host.asleep_until, self.now)

    # Judgement

    def unserved(self) -> list[int]:
        return [shard for shard in range(self.shards) if shard not in self.had]

    def counts(self) -> dict[str, int]:
        found = dict.fromkeys((id for id, host in self.hosts.items() if host.is_up), 0)
        for id, _ in self.had.values():
            found[id] += 1
        return found
