"""The commit log of one shard in JetStream, for whoever appends to a log: `append` returns when the record is stored on most
servers, synced, and no other owner can have been confirmed meanwhile.

Rule 1: this file knows no rule of ownership; it carries out what `ShardOwner` says and tells it what came of it.
Rule 2: once it is broken it stays so. Whoever wants the shard opens another one: that is another claim.

Threads: `claim`, `append` and `close` block the caller; a thread of its own, `tidegate-replicated`, speaks with the servers.
`close` may be called in another thread while one of the others waits.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import uvloop

from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import LogBroken, LogFull, LogStatistics
from tidegate.shard.replicated.message import WRITER_BYTES
from tidegate.shard.replicated.owner import (
    Apply,
    Confirm,
    Effect,
    EndsEarlier,
    Event,
    LeaveBehind,
    Look,
    Own,
    Publish,
    Read,
    Refuse,
    ShardOwner,
    ShutOut,
    StopDamaged,
    Wait,
    WaitOver,
)
from tidegate.shard.replicated.replay import StreamPlace
from tidegate.shard.replicated.stream import ShardStream
from tidegate.shard.store.interface import ShardDamaged

PAUSE_S = 0.02
PAUSE_S_MAX = 1.0

logger = logging.getLogger("tidegate")
T = TypeVar("T")
Applied = Callable[[Apply], object]
"""Told of each record of earlier owners, in order, in the thread of the log."""


class LogShutOut(LogBroken):
    """Somebody else owns the shard. `undone`: the record is not stored and never will be; else nobody knows."""

    def __init__(self, stream: str, effect: ShutOut) -> None:
        what = "the record is not stored" if effect.undone else "whether the record is stored is unknown"
        hint = "nothing is to be done: another host has the shard"
        super().__init__("append to the stream", stream, f"epoch {effect.epoch} has another owner; {what}", hint)
        self.undone = effect.undone


class JetStreamLog:
    """Records in the order of their positions; each stored before the next is sent."""

    is_broken = False
    needs_segment = False
    may_grow = True
    segments_used, segments_max = 1, 2

    _owner: ShardOwner
    """From the claim on."""

    def __init__(
        self, servers: Sequence[str], stream: str, shard: int, *, words: str = "", replicas: int = 3, bytes_max: int = -1
    ) -> None:
        """Asks nobody yet. Has to be closed."""
        self.name = stream
        self._servers = servers
        self._shard = shard
        self._words = words.encode()
        self._replicas, self._bytes_max = replicas, bytes_max
        self._stream: ShardStream | None = None
        self._appends = 0
        self._broken: LogBroken | None = None
        self._closing = threading.Lock()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name="tidegate-replicated", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        servers: Sequence[str],
        stream: str,
        shard: int,
        applied: Applied,
        place: StreamPlace | None = None,
        *,
        create: bool = False,
        words: str = "",
        replicas: int = 3,
        bytes_max: int = -1,
    ) -> JetStreamLog:
        """A log, and its claim."""
        log = cls(servers, stream, shard, words=words, replicas=replicas, bytes_max=bytes_max)
        log.claim(applied, place, create=create)
        return log

    def claim(self, applied: Applied, place: StreamPlace | None = None, *, create: bool = False) -> None:
        """Blocks until this process owns the shard and everything before was given to `applied`; once. `place`: what is known
        already. `create`: the stream may be made if there is none, for a shard that begins; by default it has to be there.

        Raises, and the log is closed then: OperatorError (the engine or the stream cannot be used), ShardDamaged, LogShutOut
        (somebody else has claimed it meanwhile), or LogBroken where `close` ended it."""
        if create and place is not None:
            raise ValueError("a stream of which a place is known is not to be made")
        try:
            self._take(self._wait(self._claim(applied, place, create=create)))
        except BaseException as error:
            ended = self._broken  # By `close`, in another thread, which is why the connection is gone.
            self.close()
            if ended is not None:
                raise ended from error
            raise

    @property
    def place(self) -> StreamPlace:
        """Behind the newest record that is stored as a whole: where another claim may go on."""
        return self._owner.record_place

    def append(self, record: bytes) -> int:
        """Blocks until the record is stored; its position. On one thread at a time. Raises `LogFull` (nothing was stored) or
        `LogBroken`, which is a `LogShutOut` where another host has the shard. While the servers have no majority, it waits."""
        if self._broken is not None:
            raise self._broken
        try:
            effect = self._take(self._wait(self._append(record)))
        except LogFull:
            raise
        except OperatorError as error:
            self.is_broken = True
            self._broken = self._broken or (error if isinstance(error, LogBroken) else _broken_by(error))
            raise self._broken from error
        assert isinstance(effect, Confirm)
        self._appends += 1
        return effect.position

    def write(self, record: bytes) -> int | None:
        """None: an append may always wait."""
        return None

    def sync(self) -> int:
        raise AssertionError("nothing is ever written that is not appended")

    def synced(self, error: Exception | None) -> int:
        return self.sync()

    def truncate(self, position: int) -> None:
        """Nothing is removed before there are snapshots: another host may have nothing but the stream."""

    def prepare_segment(self, *, small: bool = False) -> None:
        pass

    def shrink(self, position: int) -> None:
        pass

    def keep(self) -> None:
        pass

    def statistics(self) -> LogStatistics:
        return LogStatistics(self.place.position, 1, 0, self.segments_max, 0, 0, self._appends, copies_on_write=False)

    def close(self) -> None:
        """Ends a claim or an append that waits, with `LogBroken`. The shard is nobody's until somebody claims it."""
        with self._closing:
            if self._loop.is_closed():
                return
            self._broken = self._broken or self._closed()
            self.is_broken = True
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _closed(self) -> LogBroken:
        return LogBroken("append to the stream", self.name, "the log was closed", "open it again")

    def _wait(self, what: Coroutine[Any, Any, T]) -> T:
        with self._closing:
            if self._loop.is_closed():
                what.close()
                raise self._closed()
            future = asyncio.run_coroutine_threadsafe(what, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise self._closed() from None

    def _take(self, effect: Effect) -> Effect:
        """How it ended; raises unless it is well."""
        match effect:
            case Own() | Confirm():
                return effect
            case Refuse():
                hint = "give its stream more room: `nats stream edit --max-bytes`"
                raise LogFull("append to the stream", self.name, "it is full", hint, passes=True)
            case StopDamaged():
                raise effect.error
            case LeaveBehind():
                problem = f"what follows message {effect.place.sequence} is gone, up to message {effect.sequence}"
                raise ShardDamaged(self._owner.shard, "read the replicated log", self.name, problem, "restore a backup")
            case ShutOut():
                raise LogShutOut(self.name, effect)
        raise AssertionError(effect)

    # On the thread of the log

    async def _claim(self, applied: Applied, place: StreamPlace | None, *, create: bool) -> Effect:
        stream = self._stream = await ShardStream.open(
            self._servers, self.name, create=create, replicas=self._replicas, bytes_max=self._bytes_max
        )
        place = place or StreamPlace(created=stream.created)
        stream.check_created(place.created, stream.created)
        self._owner = ShardOwner(self._shard, os.urandom(WRITER_BYTES), stream.payload_bytes_max, place, self._words)
        return await self._carry_out(self._owner.claim(), applied)

    async def _append(self, record: bytes) -> Effect:
        return await self._carry_out(self._owner.append(record))

    async def _carry_out(self, effects: list[Effect], applied: Applied | None = None) -> Effect:
        """Until nothing is in doubt: the effect that says what came of it."""
        stream = self._stream
        assert stream is not None
        while True:
            event: Event | None = None
            for effect in effects:
                match effect:
                    case Apply():
                        assert applied is not None
                        applied(effect)
                    case Publish():
                        event = await stream.publish(effect.data, effect.after)
                    case Read():
                        event = await stream.read(effect.sequence)
                    case Look():
                        event = await stream.look()
                        said = "stream %s: nothing is read behind message %d where something has to be; its leader says: %s"
                        logger.warning(said, self.name, self._owner.place.sequence, event)
                    case EndsEarlier():
                        logger.error(
                            "stream %s ends at message %d, and this host has it up to message %d: unless its leader is about to "
                            "catch up, the servers have lost what they had confirmed, or an older copy was put in; "
                            "shard %d waits, and is not served here",
                            *(self.name, effect.last, effect.place.sequence, self._shard),
                        )
                    case Wait():
                        await asyncio.sleep(min(PAUSE_S * 2 ** min(effect.times, 16), PAUSE_S_MAX))
                        event = WaitOver()
                    case _:
                        return effect
            assert event is not None
            effects = self._owner.handle(event)

    async def _end(self) -> None:
        """Ends whatever still runs here."""
        if self._stream is not None:
            await self._stream.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=PAUSE_S)  # The client swallows a cancellation that meets it while it writes.


def _broken_by(error: OperatorError) -> LogBroken:
    return LogBroken(error.operation, error.place, error.problem, error.hint)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
