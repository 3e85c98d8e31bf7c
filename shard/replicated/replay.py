"""What the messages of a stream add up to: records in their order, or the reason why they must not be believed.

Guarantee: a record is given back once, whole, and only if every message from the place where reading began up to its own is
there, unharmed, in its order, and written by whoever owned the shard then. Anything else raises: whoever went on behind a hole
would serve what was never true.

What is no damage: a claim behind pieces of a record (its writer died in between: they count for nothing), and a record that
begins while another of the same writer is in pieces (the log was full; the writer has told everybody that it failed).
"""

from __future__ import annotations

from typing import NamedTuple

from tidegate.shard.replicated.message import MessageKind, StreamMessage, decode_message
from tidegate.shard.store.interface import ShardDamaged


class StreamPlace(NamedTuple):
    """Behind a message of a stream. Where the next one has to fit."""

    sequence: int = 0
    """The engine's number of that message."""
    number: int = 0
    """Our own. 0: before the first message."""
    position: int = 0
    """Of the newest whole record."""
    epoch: int = 0
    writer: bytes = b""
    """Who owns the shard by what was read so far."""
    checksum: int = 0
    created: str = ""
    """When the stream was made, as the engine says it: another one of the same name has another time."""


class Replay:
    """Takes messages in the order of the stream."""

    def __init__(self, shard: int, place: StreamPlace) -> None:
        """`place`: what is known already reaches to there. It must be the place of a whole record or a claim."""
        self.shard = shard
        self.place = place
        self.whole = place
        """Behind the newest whole record or claim; a place at which reading may begin."""
        self.torn = 0
        """Records of which only pieces were found, since their writers came no further."""
        self._pieces: list[bytes] = []

    def take(self, sequence: int, data: bytes) -> bytes | None:
        """The record that this message makes whole, if it does; `place` is behind it then. Raises ShardDamaged, after which
        nothing more may be taken."""
        try:
            message, checksum = decode_message(data)
            self._check(sequence, message)
        except ValueError as error:
            raise self.damage(sequence, str(error)) from error
        record = self._add(message)
        self.place = StreamPlace(
            sequence,
            message.number,
            message.position if record is not None else self.place.position,
            message.epoch,
            message.writer,
            checksum,
            self.place.created,
        )
        if not self._pieces:
            self.whole = self.place
        return record

    def prove(self, data: bytes) -> None:
        """That this is the message behind which `place` is. Raises ShardDamaged."""
        try:
            if decode_message(data).checksum == self.place.checksum:
                return
            problem = "is another one than this host has applied"
        except ValueError as error:
            problem = str(error)
        raise self.damage(self.place.sequence, problem)

    def damage(self, sequence: int, problem: str) -> ShardDamaged:
        hint = (
            "the engine has lost or changed what it had confirmed: this shard is stopped, the others are served; look at its "
            "stream with `nats stream view`"
        )
        place = f"of shard {self.shard}"
        return ShardDamaged(self.shard, "read the replicated log", place, f"message {sequence} {problem}", hint)

    def _check(self, sequence: int, message: StreamMessage) -> None:
        place = self.place
        if sequence != place.sequence + 1:
            raise ValueError(f"was read after message {place.sequence}")
        if message.shard != self.shard:
            raise ValueError(f"is of shard {message.shard}")
        if message.number <= place.number:
            raise ValueError(f"is there twice: its number is {message.number}, and {place.number} was read")
        if message.number > place.number + 1:
            raise ValueError(f"follows a hole: its number is {message.number}, and the one before it is {place.number}")
        if message.before != place.checksum:
            raise ValueError("follows another message than the one before it")
        if message.kind is MessageKind.EPOCH:
            if message.epoch <= place.epoch:
                raise ValueError(f"claims epoch {message.epoch}, and epoch {place.epoch} was claimed before")
            if message.position != place.position:
                raise ValueError(f"claims the shard at record {message.position}, and there are {place.position}")
            return
        if (message.epoch, message.writer) != (place.epoch, place.writer):
            raise ValueError(f"was written by an owner (epoch {message.epoch}) who is shut out since epoch {place.epoch}")
        if message.position != place.position + 1:
            raise ValueError(f"is of record {message.position}, and {place.position + 1} is the next")
        if message.part not in (0, len(self._pieces)):
            raise ValueError(f"is piece {message.part} of a record of which there are {len(self._pieces)}")

    def _add(self, message: StreamMessage) -> bytes | None:
        if self._pieces and (message.kind is MessageKind.EPOCH or message.part == 0):
            self.torn += 1
            self._pieces = []
        if message.kind is MessageKind.EPOCH:
            return None
        self._pieces.append(message.body)
        if message.kind is MessageKind.PART:
            return None
        record = b"".join(self._pieces)
        self._pieces = []
        return record
