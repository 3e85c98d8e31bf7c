"""The log of one shard over its stream: what `ShardOwner` asks for is carried out, and it is told what came of it.

Rule 1: this file knows no rule of ownership.
Rule 2: what has ended stays so, with the reason. Whoever wants the shard makes another claim.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable

from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import LogBroken, LogFull
from tidegate.shard.replicated.message import WRITER_BYTES
from tidegate.shard.replicated.owner import (
    Apply,
    CaughtUp,
    Confirm,
    Effect,
    EndsEarlier,
    Event,
    FenceRefused,
    LeaveBehind,
    Look,
    Own,
    Publish,
    PublishUnanswered,
    Read,
    Refuse,
    ShardOwner,
    ShutOut,
    StopDamaged,
    StreamSeen,
    Wait,
    WaitOver,
)
from tidegate.shard.replicated.refusals import why_full
from tidegate.shard.replicated.replay import StreamPlace
from tidegate.shard.replicated.stream import ShardStream
from tidegate.shard.store.interface import ShardLeftBehind

PAUSE_S = 0.02
PAUSE_S_MAX = 1.0
NEAR_MESSAGES = 64
"""So few that follow are left to whoever claims the shard."""
ROUNDS_MAX = 8
"""So often what an owner has appended meanwhile is read as well; each time less, unless it appends faster than that is read."""

logger = logging.getLogger("tidegate")
Applied = Callable[[Apply], object]
"""Told of each record of earlier owners, in order, on the loop of the log."""


class LogShutOut(LogBroken):
    """Somebody else owns the shard. `undone`: the record is not stored and never will be; else nobody knows."""

    def __init__(self, stream: str, effect: ShutOut) -> None:
        what = "the record is not stored" if effect.undone else "whether the record is stored is unknown"
        hint = "nothing is to be done: another host has the shard"
        super().__init__("append to the stream", stream, f"epoch {effect.epoch} has another owner; {what}", hint)
        self.undone = effect.undone
        self.epoch = effect.epoch


class LogCounts:
    """Of all claims that count there, since they began."""

    def __init__(self) -> None:
        self.publishes = self.in_doubt = self.claims = self.shut_outs = self.replayed_bytes = 0


class ShardLog:
    """One claim. Its coroutines run one at a time."""

    def __init__(
        self,
        shard: int,
        stream: ShardStream,
        place: StreamPlace | None = None,
        words: bytes = b"",
        counts: LogCounts | None = None,
    ) -> None:
        """`place`: what is known already. Raises OperatorError where that is of another stream of this name."""
        place = place or StreamPlace(created=stream.created)
        stream.check_created(place.created, stream.created)
        self.stream = stream
        self.owner = ShardOwner(shard, os.urandom(WRITER_BYTES), stream.payload_bytes_max, place, words)
        self._counts = counts or LogCounts()
        self._ended: OperatorError | None = None

    @property
    def place(self) -> StreamPlace:
        """Behind the newest record that is stored as a whole: where another claim may go on."""
        return self.owner.record_place

    async def claim(self, applied: Applied, patience_s: float = math.inf) -> None:
        """Until the shard is owned and everything before was given to `applied`; once. Raises as `append` does, and OperatorError
        where it has not come further for so long. (Its message may be stored later: it is a claim of nobody, then.)"""
        await self._settle(self.owner.claim(), applied, patience_s)

    async def follow(self, applied: Applied, patience_s: float = math.inf) -> StreamPlace:
        """Until everything was given to `applied` that seems to be there; behind it another claim may go on. No owner is
        disturbed. Raises as `claim` does."""
        return await self._follow(None, applied, patience_s)

    async def follow_owner(self, applied: Applied, patience_s: float = math.inf) -> StreamPlace:
        """As `follow`, beside an owner who may append without pause, and faster than this reads: until little is left."""
        for _ in range(ROUNDS_MAX):
            seen = await self.stream.look()
            place = await self._follow(seen.last if isinstance(seen, StreamSeen) else None, applied, patience_s)
            newest = await self.stream.look()
            if not isinstance(newest, StreamSeen) or newest.last - place.sequence < NEAR_MESSAGES:
                break
        return place

    async def _follow(self, up_to: int | None, applied: Applied, patience_s: float) -> StreamPlace:
        effect = await self._settle(self.owner.follow(up_to), applied, patience_s)
        assert isinstance(effect, CaughtUp)
        return effect.place

    async def append(self, record: bytes) -> int:
        """Until the record is stored; its position. While the servers have no majority, it waits. Raises LogFull (nothing was
        stored, and the shard is owned still); LogShutOut, ShardDamaged or another OperatorError (it is not)."""
        if self._ended is not None:
            raise self._ended
        effect = await self._settle(self.owner.append(record))
        assert isinstance(effect, Confirm)
        return effect.position

    async def _settle(self, effects: list[Effect], applied: Applied | None = None, patience_s: float = math.inf) -> Effect:
        try:
            return self._well(await self._carry_out(effects, applied, _Patience(self.owner, patience_s)))
        except LogFull:
            raise
        except OperatorError as error:
            self._ended = error
            raise

    def _well(self, effect: Effect) -> Effect:
        """How it ended; raises unless it is well."""
        match effect:
            case Own() | Confirm() | CaughtUp():
                self._counts.claims += isinstance(effect, Own)
                return effect
            case Refuse():
                raise LogFull("append to the stream", self.stream.name, *why_full(effect.code, self.stream.name), passes=True)
            case StopDamaged():
                raise effect.error
            case LeaveBehind():
                problem = f"what follows message {effect.place.sequence} is gone, up to message {effect.sequence}"
                shard, name, has = self.owner.shard, self.stream.name, effect.place.sequence
                raise ShardLeftBehind(shard, "read the replicated log", name, problem, has)
            case ShutOut():
                self._counts.shut_outs += 1
                raise LogShutOut(self.stream.name, effect)
        raise AssertionError(effect)

    async def _carry_out(self, effects: list[Effect], applied: Applied | None, patience: _Patience) -> Effect:
        """Until nothing is in doubt: the effect that says what came of it."""
        while True:
            event: Event | None = None
            for effect in effects:
                match effect:
                    case Apply():
                        assert applied is not None
                        self._counts.replayed_bytes += len(effect.record)
                        applied(effect)
                    case Publish():
                        event = await self.stream.publish(effect.data, effect.after)
                        self._counts.publishes += 1
                        self._counts.in_doubt += isinstance(event, PublishUnanswered | FenceRefused)
                    case Read():
                        event = await self.stream.read(effect.sequence)
                    case Look():
                        event = await self.stream.look()
                        said = "stream %s: nothing is read behind message %d where something has to be; its leader says: %s"
                        logger.warning(said, self.stream.name, self.owner.place.sequence, event)
                    case EndsEarlier():
                        patience.ends_at = effect.last
                        logger.error(
                            "stream %s ends at message %d, and this host has it up to message %d: unless its leader is about to "
                            "catch up, the servers have lost what they had confirmed, or an older copy was put in; "
                            "shard %d waits, and is not served here",
                            *(self.stream.name, effect.last, effect.place.sequence, self.owner.shard),
                        )
                    case Wait():
                        patience.look(self.stream.name, effect)
                        await asyncio.sleep(min(PAUSE_S * 2 ** min(effect.times, 16), PAUSE_S_MAX))
                        event = WaitOver()
                    case _:
                        return effect
            assert event is not None
            effects = self.owner.handle(event)


class _Patience:
    """With a stream behind whose last message nothing can be shown to be, nor be stored."""

    def __init__(self, owner: ShardOwner, seconds: float) -> None:
        self._owner = owner
        self._seconds = seconds
        self._place = owner.place
        self._since_s = asyncio.get_running_loop().time()
        self.ends_at: int | None = None
        """It is said to end earlier than we know it."""

    def look(self, stream: str, wait: Wait) -> None:
        """Raises OperatorError when it is over."""
        now_s = asyncio.get_running_loop().time()
        if self._owner.place != self._place:
            self._place, self._since_s, self.ends_at = self._owner.place, now_s, None
        if now_s - self._since_s < self._seconds:
            return
        if self.ends_at is not None:
            problem = f"it ends at message {self.ends_at}, and this host has it up to message {self._place.sequence}"
            raise OperatorError("claim", f"the stream {stream}", problem, "put back store_dir of all servers as it was")
        if wait.full:
            hint = "give its stream, the account of the hosts or the servers more room: `tidegate cluster doctor` says which"
            raise OperatorError("claim", f"the stream {stream}", "it is full", hint)
        problem = f"nothing was confirmed for {self._seconds:.0f} s: most of its servers do not run, or do not find each other"
        raise OperatorError("claim", f"the stream {stream}", problem, "see to the servers", passes=True)
