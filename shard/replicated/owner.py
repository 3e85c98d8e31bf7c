"""Who may write the log of a shard, and what became of an append that nobody has confirmed.

Guarantee: of all owners of a shard, on whatever hosts, only one can have records confirmed at a time; a record that was confirmed
is replayed by every later owner before it owns; and one that was not confirmed is stored once or never, as all who ask will see.

It rests on one thing that the engine does: it stores a message at sequence N + 1 only for a writer who said, when he sent it,
that the stream ends at N (the fence). And on what this file does:

Rule 1: for each sequence an owner sends one message only, and sends those same bytes again until it knows what is there. So
        neither a publish that is stored long after it was given up, nor one that is sent twice, can do harm: it fits nowhere.
Rule 2: only these settle what is at a sequence: an acknowledgement with that sequence, or a message read there. A refusal settles
        nothing (a leader that lost its majority refuses on behalf of entries that will never exist), nor does silence, nor does
        reading nothing (replicas lag behind), nor an answer about a store that failed (other replicas may have it). Until it is
        settled nothing is confirmed, and nothing else is sent.
Rule 3: whoever claims has to have read everything before his claim, for the claim is fenced like all else: what was stored
        meanwhile makes it fail, and is read then.
Rule 4: clocks and leases decide nothing here. Who should claim, and when, is for others to say; a claim at a wrong time costs an
        owner his shard, and no caller anything that he was told.

One effect is answered by one event before the next. What comes too late for that, as the answer to a publish that was given up,
is dropped by the shell.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from tidegate.shard.replicated.message import (
    MessageKind,
    StreamMessage,
    encode_message,
    piece_bytes_max,
    split_record,
    writer_of,
)
from tidegate.shard.replicated.replay import Replay, StreamPlace
from tidegate.shard.store.interface import ShardDamaged

# Events


class MessagesRead(NamedTuple):
    """From the sequence that was asked for on, or from the first one behind it that is there; perhaps none."""

    messages: list[tuple[int, bytes]]


class ReadUnanswered(NamedTuple):
    pass


class Acknowledged(NamedTuple):
    """The engine has stored what was published, on most replicas and synced."""

    sequence: int


class FenceRefused(NamedTuple):
    """10071: the stream does not end where the publish said. So said whoever answered."""


class LogRefused(NamedTuple):
    """There is no room, as was found before the replicas were asked: it is not stored this time. An earlier time it may be."""

    code: int = 0
    """By which the engine says whose room that is."""


class PublishUnanswered(NamedTuple):
    """Timed out, nobody there, connection lost, or an answer that does not settle it: it may be stored, now or later."""

    no_room: bool = False
    """The answer spoke of a store that takes no more."""


class WaitOver(NamedTuple):
    pass


class StreamSeen(NamedTuple):
    """What its leader says. It may not know the newest; but what it says is gone is gone."""

    first: int
    """The first sequence that is there; behind the last one where there is none."""
    last: int


Event = MessagesRead | ReadUnanswered | Acknowledged | FenceRefused | LogRefused | PublishUnanswered | WaitOver | StreamSeen

# Effects


class Read(NamedTuple):
    """Give the messages from this sequence on: `MessagesRead` or `ReadUnanswered`."""

    sequence: int


class Publish(NamedTuple):
    """Fenced by `after`, the sequence at which the stream is to end: `Acknowledged`, `FenceRefused`, `LogRefused` or
    `PublishUnanswered`."""

    data: bytes
    after: int


class Wait(NamedTuple):
    """A moment, a longer one after more `times`; then `WaitOver`."""

    times: int
    full: bool
    """The stream has no room; somebody has to make some."""


class Look(NamedTuple):
    """Ask how far the stream goes, for reading gives nothing and publishing is refused: `StreamSeen` or `ReadUnanswered`."""


class EndsEarlier(NamedTuple):
    """Tell an operator: the stream ends before `place`, so its leader lags behind, or what was confirmed is lost. Nothing is
    settled by that; another effect follows."""

    place: StreamPlace
    last: int


class Apply(NamedTuple):
    """A record of an earlier owner. `place`: behind it; whoever keeps both can go on from there."""

    position: int
    record: bytes
    place: StreamPlace


class Own(NamedTuple):
    """The claim is stored, and everything before it was applied."""

    place: StreamPlace


class CaughtUp(NamedTuple):
    """Everything was applied that seems to be there, and nothing was claimed. Whoever claims goes on from there."""

    place: StreamPlace


class Confirm(NamedTuple):
    """The record is stored: what waits for it may leave."""

    position: int
    place: StreamPlace


class Refuse(NamedTuple):
    """The record is not stored, for want of room. The shard is owned still."""

    position: int
    code: int = 0
    """As `LogRefused` has it."""


class ShutOut(NamedTuple):
    """Somebody else owns the shard, or will: whatever was not confirmed is to be forgotten."""

    epoch: int
    """The newest one that is known; the own one where it is only known that there is a newer one."""
    undone: bool
    """The record that was being appended is not stored and never will be. Else nobody knows; a later owner may have it."""


class LeaveBehind(NamedTuple):
    """What follows `place` is gone, up to where the message with this sequence is, or will be: purged behind a snapshot that is
    needed now. Where there is no such snapshot, the log is damaged."""

    place: StreamPlace
    sequence: int


class StopDamaged(NamedTuple):
    """The log must not be believed."""

    error: ShardDamaged


Effect = (
    Read | Publish | Wait | Look | EndsEarlier | Apply | Own | CaughtUp | Confirm | Refuse | ShutOut | LeaveBehind | StopDamaged
)


LOOK_AFTER = 4
"""Reads that gave nothing where something is to be expected, until it is asked how far the stream goes."""


class Ownership(enum.Enum):
    NONE = enum.auto()
    """Nothing was asked for yet. Next: REPLAYING."""
    REPLAYING = enum.auto()
    """Reads what is there. Next: at what seems to be the end CLAIMING, or NONE again; STOPPED."""
    CLAIMING = enum.auto()
    """The claim was sent, and what is at its sequence is not settled. Next: OWNING, REPLAYING (something else is), STOPPED."""
    OWNING = enum.auto()
    """Owns, and nothing is in doubt. Next: APPENDING."""
    APPENDING = enum.auto()
    """A message of a record was sent, and what is at its sequence is not settled. Next: OWNING, STOPPED."""
    STOPPED = enum.auto()
    """For ever. Whoever wants the shard makes another claim, as another writer."""


class ShardOwner:
    """One claim to one shard."""

    def __init__(
        self, shard: int, writer: bytes, payload_bytes_max: int, place: StreamPlace | None = None, words: bytes = b""
    ) -> None:
        """`writer`: random bytes that no other claim has. `place`: behind the newest record that is applied here already. `words`
        say to operators who this is."""
        self.state = Ownership.NONE
        self._writer = writer
        self._words = words
        self._piece_bytes = piece_bytes_max(payload_bytes_max)
        self._replay = Replay(shard, place or StreamPlace())
        self._data = b""
        """The message that was sent for the sequence behind `place`; for none other, until that is settled."""
        self._in_doubt = False
        """It may have been stored: not every time when it was sent ended with the answer that there is no room."""
        self._rest: list[bytes] = []
        """Pieces of the record to come, the last one first."""
        self._part = 0
        self._waited = 0
        self._read_nothing = 0
        self._is_full = False
        self._is_proved = self.place.sequence == 0
        """The stream has the message behind which `place` is. An older end that was put back has another one there, or none."""
        self._only_reads = False
        """At the end nothing is claimed."""
        self._up_to: int | None = None
        """Then it reads no further than needed to have this message."""
        self._gives_way = False
        """A claim was sent, and something else was there: from now on, another's claim is one to give way to."""

    @property
    def place(self) -> StreamPlace:
        """Behind the newest message whose place is settled."""
        return self._replay.place

    @property
    def record_place(self) -> StreamPlace:
        """Behind the newest whole record or claim: where another claim may begin to read. `place` may be inside of a record."""
        return self._replay.whole

    @property
    def shard(self) -> int:
        return self._replay.shard

    # What is asked for

    def claim(self) -> list[Effect]:
        assert self.state is Ownership.NONE, self.state
        self.state = Ownership.REPLAYING
        return self._read()

    def follow(self, up_to: int | None = None) -> list[Effect]:
        """Reads up to that message, or to what seems to be the end, which disturbs no owner: `CaughtUp`. The rest is for a claim
        to read."""
        self._only_reads, self._up_to = True, up_to
        return self.claim()

    def append(self, record: bytes) -> list[Effect]:
        """One at a time, by an owner who has nothing in doubt. An empty record changes nothing: confirmed, it proves that nobody
        else owned the shard when it was asked for."""
        assert self.state is Ownership.OWNING, self.state
        self.state = Ownership.APPENDING
        self._rest = split_record(record, self._piece_bytes)[::-1]
        self._part = 0
        return self._send_piece()

    # What has happened

    def handle(self, event: Event) -> list[Effect]:
        assert self.state not in (Ownership.NONE, Ownership.OWNING, Ownership.STOPPED), (self.state, event)
        match event:
            case MessagesRead():
                try:
                    return self._replayed(event) if self.state is Ownership.REPLAYING else self._found(event)
                except ShardDamaged as error:
                    return self._stop(StopDamaged(error))
            case Acknowledged():
                return self._acknowledged(event.sequence)
            case FenceRefused():
                self._in_doubt = True
                return self._read()
            case LogRefused():
                return self._refused(event)
            case PublishUnanswered():
                self._in_doubt = True
                self._is_full = event.no_room
                return self._wait()
            case ReadUnanswered():
                return self._wait()
            case StreamSeen():
                return self._seen(event)
            case WaitOver():
                return self._read() if self.state is Ownership.REPLAYING else [Publish(self._data, self.place.sequence)]

    # Reading

    def _read(self) -> list[Effect]:
        return [Read(self.place.sequence + self._is_proved)]

    def _replayed(self, event: MessagesRead) -> list[Effect]:
        """What is there before the claim; at what seems to be the end, the claim."""
        effects: list[Effect] = []
        messages = event.messages
        if not self._is_proved:
            if not messages:
                return self._find_nothing()
            if messages[0][0] == self.place.sequence:
                self._replay.prove(messages[0][1])
                messages = messages[1:]
            self._is_proved = True  # Where it was purged, the next message proves it, by what it says of the one before.
        for sequence, data in messages:
            if sequence > self.place.sequence + 1:
                return effects + self._stop(LeaveBehind(self.place, sequence))
            epoch = self.place.epoch
            record = self._replay.take(sequence, data)
            if record is not None:
                effects.append(Apply(self.place.position, record, self.place))
            elif self._gives_way and self.place.epoch != epoch:
                return effects + self._stop(ShutOut(self.place.epoch, undone=True))
        has_all = self._only_reads and self._up_to is not None and self.place.sequence >= self._up_to
        if event.messages and not has_all:
            return effects + self._read()
        return effects + (self._end_reading() if self._only_reads else self._send_claim())

    def _end_reading(self) -> list[Effect]:
        self.state, self._only_reads, self._up_to = Ownership.NONE, False, None
        return [CaughtUp(self.record_place)]

    def _found(self, event: MessagesRead) -> list[Effect]:
        """What is at the sequence for which something was sent."""
        if not event.messages:
            return self._find_nothing()
        sequence, data = event.messages[0]
        if data == self._data:
            return self._stored(sequence)
        if writer_of(data) == self._writer:  # Of what was believed not to be stored: callers were told so, and it is there.
            raise self._replay.damage(sequence, "is of this very owner, who had sent another for its place")
        if self.state is Ownership.CLAIMING:
            self.state = Ownership.REPLAYING
            self._gives_way = True
            return self._replayed(event)
        if sequence > self.place.sequence + 1:  # Purged, as only later owners can have done.
            return self._stop(ShutOut(self.place.epoch, undone=bool(self._rest)))
        self._replay.take(sequence, data)
        return self._stop(ShutOut(self.place.epoch, undone=True))

    def _find_nothing(self) -> list[Effect]:
        """Of what has to be there, or where a publish was refused: replicas lag behind, or it is gone."""
        self._read_nothing += 1
        return [Look()] if self._read_nothing % LOOK_AFTER == 0 else self._wait()

    def _seen(self, event: StreamSeen) -> list[Effect]:
        place = self.place
        if event.first > place.sequence + 1:
            if self.state is Ownership.APPENDING:
                return self._stop(ShutOut(place.epoch, undone=bool(self._rest)))
            return self._stop(LeaveBehind(place, event.first))
        if event.last < place.sequence:
            return [EndsEarlier(place, event.last), *self._wait()]
        if event.first == place.sequence + 1:  # Everything up to there was purged, and nothing follows that could prove it.
            self._is_proved = True
        return self._wait()

    # Sending

    def _send_claim(self) -> list[Effect]:
        self.state = Ownership.CLAIMING
        return self._send(MessageKind.EPOCH, self.place.epoch + 1, self.place.position, 0, self._words)

    def _send_piece(self) -> list[Effect]:
        piece, part = self._rest.pop(), self._part
        self._part += 1
        return self._send(
            MessageKind.PART if self._rest else MessageKind.COMMIT, self.place.epoch, self.place.position + 1, part, piece
        )

    def _send(self, kind: MessageKind, epoch: int, position: int, part: int, body: bytes) -> list[Effect]:
        place = self.place
        message = StreamMessage(
            kind, self._replay.shard, epoch, self._writer, place.number + 1, position, part, place.checksum, body
        )
        self._data = encode_message(message)
        self._in_doubt = self._is_full = False
        self._waited = self._read_nothing = 0
        return [Publish(self._data, place.sequence)]

    def _wait(self) -> list[Effect]:
        self._waited += 1
        return [Wait(self._waited, self._is_full)]

    # The end of what was sent

    def _acknowledged(self, sequence: int) -> list[Effect]:
        expected = self.place.sequence + 1
        if sequence == expected:
            return self._stored(sequence)
        return self._stop(StopDamaged(self._replay.damage(sequence, f"was to be stored as {expected} or not at all")))

    def _stored(self, sequence: int) -> list[Effect]:
        is_claim = self.state is Ownership.CLAIMING
        self._replay.take(sequence, self._data)
        if self._rest:
            return self._send_piece()
        self.state = Ownership.OWNING
        return [Own(self.place) if is_claim else Confirm(self.place.position, self.place)]

    def _refused(self, event: LogRefused) -> list[Effect]:
        """There was no room this time; an earlier time there may have been."""
        self._is_full = True
        if self._in_doubt:
            return self._read()
        if self.state is Ownership.CLAIMING:
            return self._wait()
        self._rest = []
        self.state = Ownership.OWNING
        return [Refuse(self.place.position + 1, event.code)]

    def _stop(self, effect: ShutOut | LeaveBehind | StopDamaged) -> list[Effect]:
        self.state = Ownership.STOPPED
        return [effect]
