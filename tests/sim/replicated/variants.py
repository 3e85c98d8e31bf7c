"""Owners that each believe one wrong thing about the engine. The simulation has to notice every one of them."""

from __future__ import annotations

from tests.sim.replicated.engine import FULL, Refused, Reply, Request
from tests.sim.replicated.hosts import Host, subject_of
from tidegate.shard.replicated.message import MessageKind, StreamMessage
from tidegate.shard.replicated.owner import (
    Apply,
    CaughtUp,
    Effect,
    Event,
    FenceRefused,
    LogRefused,
    MessagesRead,
    Own,
    Ownership,
    Publish,
    PublishUnanswered,
    ShardOwner,
    ShutOut,
)
from tidegate.shard.replicated.replay import Replay, StreamPlace


class _BelievesAnySequence(ShardOwner):
    """Whatever the engine says is where the claim stands, and what is before it has been read."""

    def _acknowledged(self, sequence: int) -> list[Effect]:
        self._replay.place = self.place._replace(sequence=sequence - 1)
        return super()._acknowledged(sequence)


class FencesBySubject(Host):
    """Each claim is a message of its own subject, and appends are fenced by its being the newest of it."""

    owner_class = _BelievesAnySequence
    _claimed_at = 0

    def request(self, effect: Publish) -> Request:
        if effect.data[4] == MessageKind.EPOCH or self.owner is None:
            return super().request(effect)
        return Request(effect.data, None, "log", ("epoch", self._claimed_at))

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Own):
                self._claimed_at = effect.place.sequence
        super().perform(effects)


class TrustsTheLease(Host):
    """Whoever has it needs no fence."""

    owner_class = _BelievesAnySequence

    def request(self, effect: Publish) -> Request:
        return super().request(effect)._replace(fence=None)


class RetriesWithoutAFence(Host):
    """But with a message id, by which the engine knows what it has."""

    _sent = b""

    def request(self, effect: Publish) -> Request:
        again, self._sent = effect.data == self._sent, effect.data
        return Request(effect.data, None if again else effect.after, subject_of(effect.data), None, effect.data[:64].hex())


class ReadsFromMemory(Host):
    """Whoever owned the shard a moment ago answers reads at once."""

    def read(self) -> None:
        if self.is_up and self.serves and self.paused_until <= self.world.now:
            self.world.judge.read(len(self.ops), self.world.judge.confirmed)


def host_with(owner: type[ShardOwner]) -> type[Host]:
    return type(owner.__name__, (Host,), {"owner_class": owner, "__doc__": owner.__doc__})


class _TrustsRefusals(ShardOwner):
    """10071: somebody else owns the shard, and what was sent is not stored."""

    def handle(self, event: Event) -> list[Effect]:
        if isinstance(event, FenceRefused) and self.state is Ownership.APPENDING:
            return self._stop(ShutOut(self.place.epoch, undone=True))
        return super().handle(event)


class _TakesARefusedRetryForStored(ShardOwner):
    """10071 for what was sent before: then it is there."""

    def handle(self, event: Event) -> list[Effect]:
        if isinstance(event, FenceRefused) and self._in_doubt and self.state is Ownership.APPENDING:
            return self._stored(self.place.sequence + 1)
        return super().handle(event)


class _TakesSilenceForNo(ShardOwner):
    """What timed out was not stored."""

    def handle(self, event: Event) -> list[Effect]:
        if isinstance(event, PublishUnanswered) and self.state is Ownership.APPENDING:
            self._in_doubt = False
            return self._refused(LogRefused())
        return super().handle(event)


class _TakesNothingForNo(ShardOwner):
    """What cannot be read is not there."""

    def handle(self, event: Event) -> list[Effect]:
        if event == MessagesRead([]) and self.state is Ownership.APPENDING:
            self._in_doubt = False
            return self._refused(LogRefused())
        return super().handle(event)


class _TakesFullForNo(ShardOwner):
    """The log is full: what was sent is not stored, whatever came of it earlier."""

    def handle(self, event: Event) -> list[Effect]:
        if isinstance(event, LogRefused):
            self._in_doubt = False
        return super().handle(event)


class TakesAFailedStoreForNo(Host):
    """10077, whatever it is for: the message is not stored."""

    def event_of(self, reply: Reply) -> Event | None:
        if isinstance(reply, Refused) and reply.code == FULL.code:
            return LogRefused()
        return super().event_of(reply)


class _TakesAnotherForItsOwn(ShardOwner):
    """Something is stored where it was to be: so it was stored."""

    def _found(self, event: MessagesRead) -> list[Effect]:
        if event.messages and self.state is Ownership.APPENDING and event.messages[0][1] != self._data:
            return self._stored(self.place.sequence + 1)
        return super()._found(event)


class _ConfirmsEarly(ShardOwner):
    """The gate opens when the record is on its way."""

    def _send(self, kind: MessageKind, epoch: int, position: int, part: int, body: bytes) -> list[Effect]:
        effects = super()._send(kind, epoch, position, part, body)
        if kind is MessageKind.COMMIT and self.place.epoch == epoch:
            return effects + self._stored(self.place.sequence + 1)
        return effects

    def handle(self, event: Event) -> list[Effect]:
        return [] if self.state is Ownership.OWNING else super().handle(event)


class _GoesOnAnywhere(ShardOwner):
    """The stream is the one whose place it has: it does not look at the message that is there."""

    def claim(self) -> list[Effect]:
        self._is_proved = True
        return super().claim()


class _Credulous(Replay):
    """Whatever comes is what comes next."""

    def take(self, sequence: int, data: bytes) -> bytes | None:
        self.place = self.place._replace(sequence=sequence - 1)
        return super().take(sequence, data)

    def _check(self, sequence: int, message: StreamMessage) -> None:
        pass


class _HasNoNumbers(ShardOwner):
    """Messages are not numbered: what is read is all there is."""

    replay_class: type[Replay] = _Credulous

    def __init__(
        self, shard: int, writer: bytes, payload_bytes_max: int, place: StreamPlace | None = None, words: bytes = b""
    ) -> None:
        super().__init__(shard, writer, payload_bytes_max, place, words)
        self._replay = self.replay_class(shard, place or StreamPlace())

    def _replayed(self, event: MessagesRead) -> list[Effect]:
        effects: list[Effect] = []
        for sequence, data in event.messages:
            if (record := self._replay.take(sequence, data)) is not None:
                effects.append(Apply(self.place.position, record, self.place))
        return effects + (self._read() if event.messages else self._send_claim())


class _CountsPieces(_Credulous):
    """What is there of a record counts."""

    def _add(self, message: StreamMessage) -> bytes | None:
        return None if message.kind is MessageKind.EPOCH else message.body


class _TakesPiecesForRecords(_HasNoNumbers):
    """No record closes the pieces of a large one."""

    replay_class = _CountsPieces


class _EndsInsideOfARecord(ShardOwner):
    """What was read ahead is known, also where a record is not whole yet."""

    def _end_reading(self) -> list[Effect]:
        super()._end_reading()
        return [CaughtUp(self.place)]


class KeepsThePlaceOnly(Host):
    """What was read ahead need not be kept: it is there still when the shard is taken."""

    def perform(self, effects: list[Effect]) -> None:
        ops = self.saved[0]
        super().perform(effects)
        if any(isinstance(effect, CaughtUp) for effect in effects):
            self.saved = (ops, self.saved[1])


class ClaimsWithoutAFence(Host):
    """What seems to be the end of the log is its end."""

    owner_class = _BelievesAnySequence

    def request(self, effect: Publish) -> Request:
        request = super().request(effect)
        return request._replace(fence=None) if request.subject == "epoch" else request


LOST = "and lost"
TWICE = "is in the log twice"
TWO_OWNERS = "by an owner who was shut out"
STALE = "a read saw"
WRONG = "which are not those of the log"
STOPPED = "is stopped by a log that is whole"

VARIANTS: dict[str, tuple[type[Host], str]] = {
    "fences by subject": (FencesBySubject, TWO_OWNERS),
    "trusts the lease": (TrustsTheLease, TWO_OWNERS),
    "retries without a fence": (RetriesWithoutAFence, TWICE),
    "reads from memory": (ReadsFromMemory, STALE),
    "takes 10071 for a no": (host_with(_TrustsRefusals), TWICE),
    "takes 10071 of a retry for a yes": (host_with(_TakesARefusedRetryForStored), LOST),
    "takes silence for a no": (host_with(_TakesSilenceForNo), TWICE),
    "takes an empty read for a no": (host_with(_TakesNothingForNo), TWICE),
    "takes a full log for a no": (host_with(_TakesFullForNo), TWICE),
    "takes a store that failed for a no": (TakesAFailedStoreForNo, TWICE),
    "takes what stands there for its own": (host_with(_TakesAnotherForItsOwn), LOST),
    "confirms before the acknowledgement": (host_with(_ConfirmsEarly), LOST),
    "claims without a fence": (ClaimsWithoutAFence, WRONG),
    "goes on without proof of its place": (host_with(_GoesOnAnywhere), WRONG),
    "has no numbers": (host_with(_HasNoNumbers), WRONG),
    "takes pieces for records": (host_with(_TakesPiecesForRecords), WRONG),
    "ends what it reads ahead inside of a record": (host_with(_EndsInsideOfARecord), STOPPED),
    "keeps the place of what it reads ahead only": (KeepsThePlaceOnly, WRONG),
}
"""By what it believes, the host, and what must be noticed."""
