"""A host that wants to own the shard: a `ShardOwner`, the little that a shell does, and calls. Time is the world's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.sim.replicated.engine import Refused, Reply, Request
from tests.sim.replicated.judge import OP_BYTES, decode_ops, encode_ops
from tidegate.shard.replicated.answers import EngineError, PublishAnswer, publish_event
from tidegate.shard.replicated.message import HEAD_BYTES, HEADERS_BYTES_MAX, WRITER_BYTES, MessageKind
from tidegate.shard.replicated.owner import (
    Apply,
    CaughtUp,
    Confirm,
    Effect,
    EndsEarlier,
    Event,
    LeaveBehind,
    Look,
    MessagesRead,
    Own,
    Ownership,
    Publish,
    PublishUnanswered,
    Read,
    ReadUnanswered,
    Refuse,
    ShardOwner,
    ShutOut,
    StopDamaged,
    StreamSeen,
    Wait,
    WaitOver,
)
from tidegate.shard.replicated.replay import StreamPlace

if TYPE_CHECKING:
    from tests.sim.replicated.simulation import World

SHARD = 3
STREAM = "shard-3"
PAYLOAD_BYTES_MAX = HEADERS_BYTES_MAX + HEAD_BYTES + 4 * OP_BYTES
"""So small that a commit of five calls is split."""
TIMEOUT_MS = 2_000
TICK_MS = 400
LEASE_MS = 1_500
COMMIT_OPS_MAX = 12
AGAIN_MAX = 15


class Host:
    owner_class: type[ShardOwner] = ShardOwner

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.ops: list[int] = []
        """What is durable, and applied here."""
        self.place = StreamPlace()
        self.saved: tuple[list[int], StreamPlace] = ([], StreamPlace())
        """What a death leaves."""
        self.owner: ShardOwner | None = None
        self.is_up = True
        self.is_damaged = False
        self.said_it_ends_earlier = False
        """To an operator, who has to do something then."""
        self.cut_off = False
        self.at_deposed = False
        """It talks with the leader that has lost its majority, if there is one."""
        self.paused_until = 0
        self._writing: list[int] = []
        """Calls in the commit that is being appended."""
        self._reading: list[tuple[int, int]] = []
        """Reads that wait for it: what they saw, and what was confirmed before they were asked."""
        self._waiting: list[int] = []
        self._waiting_reads: list[int] = []
        self._asked = 0
        """The newest request; answers to others are dropped."""

    @property
    def serves(self) -> bool:
        return self.owner is not None and self.owner.state in (Ownership.OWNING, Ownership.APPENDING)

    # Claims

    def tick(self) -> None:
        world = self.world
        if self.is_up and not self.cut_off:
            if self.serves:
                if world.lease[0] == self.name:
                    world.lease = (self.name, world.now + LEASE_MS)
            elif world.lease[1] < world.now:
                world.lease = (self.name, world.now + LEASE_MS)
                self.claim()

    def claim(self) -> None:
        if self.is_up and self.owner is None and not self.is_damaged:
            self.world.count("claims")
            self.owner = self.owner_class(SHARD, self.world.chance.randbytes(WRITER_BYTES), PAYLOAD_BYTES_MAX, self.place)
            self.perform(self.owner.claim())

    def read_ahead(self) -> None:
        """As who is to have the shard next: what is there, without a claim, and kept on its disk."""
        if self.is_up and self.owner is None and not self.is_damaged:
            self.owner = self.owner_class(SHARD, self.world.chance.randbytes(WRITER_BYTES), PAYLOAD_BYTES_MAX, self.place)
            self.perform(self.owner.follow())

    def crash(self, keeps: bool) -> None:
        """All memory is lost; the disk, too, unless it `keeps` it."""
        self.is_up = False
        self.owner = None
        self.saved = self.saved if keeps else ([], StreamPlace())
        self.ops, self.place = list(self.saved[0]), self.saved[1]
        self._writing, self._reading, self._waiting, self._waiting_reads = [], [], [], []
        self._asked = self.world.ticket()

    def save(self) -> None:
        self.saved = (list(self.ops), self.place)

    # Calls

    def call(self, op: int) -> None:
        if not (self.is_up and self.serves):
            self.world.not_executed(op)
            return
        self._waiting.append(op)
        self._cut()

    def read(self) -> None:
        if self.is_up and self.serves:
            self._waiting_reads.append(self.world.judge.confirmed)
            self._cut()

    def _cut(self) -> None:
        """One record of everything that came while the one before was on its way."""
        owner = self.owner
        if owner is not None and owner.state is Ownership.OWNING and (self._waiting or self._waiting_reads):
            self._writing, self._waiting = self._waiting[:COMMIT_OPS_MAX], self._waiting[COMMIT_OPS_MAX:]
            length = len(self.ops) + len(self._writing)
            self._reading, self._waiting_reads = [(length, confirmed) for confirmed in self._waiting_reads], []
            self.perform(owner.append(encode_ops(self._writing)))

    # Effects

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Read():
                    self._read(effect)
                case Publish():
                    self._publish(effect)
                case Look():
                    self.world.count("looks")
                    self._look()
                case EndsEarlier():
                    self.world.count("ends that went back")
                    self.said_it_ends_earlier = True
                case Wait():
                    self.world.count("waits")
                    delay = min(40 << effect.times, 1_000)
                    self._later(self.world.chance.randint(delay // 2, delay), self.world.ticket(), WaitOver())
                case Apply():
                    self.ops += decode_ops(effect.record)
                    self.place = effect.place
                case CaughtUp():
                    self.world.count("read ahead")
                    self.place = effect.place
                    self.save()
                    self.owner = None
                case Own():
                    self.world.count("owners")
                    self.place = effect.place
                    self.world.judge.owns(self.name, effect.place.sequence, self.ops)
                    self._cut()
                case Confirm():
                    self._confirm(effect.place)
                case Refuse():
                    self.world.count("refused for want of room")
                    self._fail(undone=True, all_of_them=False)
                    self._cut()
                case ShutOut():
                    self.world.count("shut out")
                    self._stop(undone=effect.undone)
                case LeaveBehind():
                    self._stop(undone=True)
                    self._fetch_snapshot(effect)
                case StopDamaged():
                    self._stop(undone=False)
                    self.is_damaged = True

    def _confirm(self, place: StreamPlace) -> None:
        judge, self.place = self.world.judge, place
        for op in self._writing:
            judge.answered(op, len(self.ops))
            self.ops.append(op)
        for length, confirmed in self._reading:
            judge.read(length, confirmed)
            self.world.count("reads")
        self.world.count("answers", len(self._writing))
        self._writing, self._reading = [], []
        self._cut()

    def _fail(self, *, undone: bool, all_of_them: bool) -> None:
        failed, self._writing, self._reading = self._writing, [], []
        if all_of_them:
            for op in self._waiting:
                self.world.not_executed(op)
            self._waiting, self._waiting_reads = [], []
        for op in failed:
            if undone:
                self.world.not_executed(op)
            else:
                self.world.count("unknown")

    def _stop(self, *, undone: bool) -> None:
        self.owner = None
        self._fail(undone=undone, all_of_them=True)

    def _fetch_snapshot(self, effect: LeaveBehind) -> None:
        ops, place = self.world.snapshots[-1]
        if place.sequence > effect.place.sequence:
            self.world.count("snapshots fetched")
            self.ops, self.place = list(ops), place
        else:
            self.world.count("stopped at a hole")
            self.is_damaged = True

    # The network

    def _read(self, effect: Read) -> None:
        world = self.world
        replica = world.chance.randrange(world.engine.replicas)

        def at_engine() -> list[tuple[int, bytes]] | None:
            return world.engine.read(effect.sequence, replica, at_deposed=self.at_deposed)

        def event(messages: list[tuple[int, bytes]] | None) -> Event | None:
            return None if messages is None else MessagesRead(messages)

        self._request(at_engine, event, ReadUnanswered())

    def request(self, effect: Publish) -> Request:
        return Request(effect.data, effect.after, subject_of(effect.data))

    def _publish(self, effect: Publish) -> None:
        request = self.request(effect)
        self._request(lambda: self.world.engine.publish(request, at_deposed=self.at_deposed), self.event_of, PublishUnanswered())

    def event_of(self, reply: Reply) -> Event | None:
        if reply is None:
            return None
        if isinstance(reply, Refused):
            answer = PublishAnswer(EngineError(503, reply.code, reply.description), STREAM)
        else:
            answer = PublishAnswer(None, STREAM, reply.sequence)
        return publish_event(answer, STREAM)

    def _look(self) -> None:
        def event(seen: tuple[int, int] | None) -> Event | None:
            return None if seen is None else StreamSeen(*seen)

        self._request(lambda: self.world.engine.look(at_deposed=self.at_deposed), event, ReadUnanswered())

    def _request(self, at_engine: Callable[[], Any], event: Callable[[Any], Event | None], unanswered: Event) -> None:
        world = self.world
        ticket = world.ticket()
        self._later(TIMEOUT_MS, ticket, unanswered)
        there = world.way(self.cut_off)

        def arrive() -> None:
            answer = event(at_engine())
            back = world.way(self.cut_off)
            if answer is not None and back is not None:
                self._later(back, ticket, answer)

        if there is not None:
            world.after(there, arrive)

    def _later(self, delay_ms: int, ticket: int, event: Event) -> None:
        """Told at its time, or when the host is no longer paused, unless something else was told meanwhile."""
        self._asked = max(self._asked, ticket)

        def tell() -> None:
            if self._asked != ticket or self.owner is None:
                return
            if self.paused_until > self.world.now:
                self.world.after(self.paused_until - self.world.now, tell)
                return
            self._asked = self.world.ticket()
            effects = self.owner.handle(event)
            if isinstance(event, MessagesRead) and isinstance(effects[0], (Own, Confirm)):
                self.world.count("proofs")
            self.perform(effects)

        self.world.after(delay_ms, tell)


def subject_of(data: bytes) -> str:
    """For those who fence by it."""
    return "epoch" if data[4] == MessageKind.EPOCH else "log"
