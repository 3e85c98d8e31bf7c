"""The commit log of one shard in JetStream, for whoever appends to a log: `append` returns when the record is stored on most
servers, synced, and no other owner can have been confirmed meanwhile.

Rule 1: this file knows no rule of ownership; it carries out what `ShardOwner` says and tells it what came of it.
Rule 2: once it is broken it stays so. Whoever wants the shard opens another one: that is another claim.

Threads: `open`, `append` and `close` block the caller; a thread of its own, `tidegate-replicated`, speaks with the servers.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
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
    Event,
    LeaveBehind,
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

    def __init__(self, stream: ShardStream, owner: ShardOwner, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        """Of `open`."""
        self._stream = stream
        self._owner = owner
        self._loop = loop
        self._thread = thread
        self._appends = 0
        self._broken: LogBroken | None = None

    @classmethod
    def open(
        cls,
        servers: Sequence[str],
        stream: str,
        shard: int,
        applied: Applied,
        place: StreamPlace | None = None,
        *,
        words: str = "",
        replicas: int = 3,
        bytes_max: int = -1,
    ) -> JetStreamLog:
        """Blocks until this process owns the shard and everything before was given to `applied`. `place`: what is known already.
        Raises OperatorError (the engine cannot be used), ShardDamaged, or LogShutOut: somebody else has claimed it meanwhile."""
        loop = uvloop.new_event_loop()
        thread = threading.Thread(target=_run, args=(loop,), name="tidegate-replicated", daemon=True)
        thread.start()
        log: JetStreamLog | None = None
        try:
            opened = _wait(loop, ShardStream.open(servers, stream, replicas=replicas, bytes_max=bytes_max))
            owner = ShardOwner(shard, os.urandom(WRITER_BYTES), opened.payload_bytes_max, place, words.encode())
            log = cls(opened, owner, loop, thread)
            log._take(_wait(loop, log._carry_out(owner.claim(), applied)))
        except BaseException:
            if log is not None:
                log.close()
            else:
                _end(loop, thread)
            raise
        return log

    @property
    def place(self) -> StreamPlace:
        """Behind the newest record that is stored."""
        return self._owner.place

    def append(self, record: bytes) -> int:
        """Blocks until the record is stored; its position. On one thread at a time. Raises `LogFull` (nothing was stored) or
        `LogBroken`, which is a `LogShutOut` where another host has the shard. While the servers have no majority, it waits."""
        if self._broken is not None:
            raise self._broken
        try:
            effect = self._take(_wait(self._loop, self._append(record)))
        except LogFull:
            raise
        except OperatorError as error:
            broken = error if isinstance(error, LogBroken) else _broken_by(error)
            self.is_broken, self._broken = True, self._broken or broken
            raise broken from error
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
        """Ends an append that waits, with `LogBroken`. The shard is nobody's until somebody claims it."""
        if self._loop.is_closed():
            return
        self._broken = self._broken or LogBroken("append to the stream", self._stream.name, "the log was closed", "open it again")
        self.is_broken = True
        _wait(self._loop, self._stream.close())
        _end(self._loop, self._thread)

    def _take(self, effect: Effect) -> Effect:
        """How it ended; raises unless it is well."""
        match effect:
            case Own() | Confirm():
                return effect
            case Refuse():
                hint = "give its stream more room: `nats stream edit --max-bytes`"
                raise LogFull("append to the stream", self._stream.name, "it is full", hint, passes=True)
            case StopDamaged():
                raise effect.error
            case LeaveBehind():
                problem = f"what follows message {effect.place.sequence} is gone, up to message {effect.sequence}"
                raise ShardDamaged(self._owner.shard, "read the replicated log", self._stream.name, problem, "restore a backup")
            case ShutOut():
                raise LogShutOut(self._stream.name, effect)
        raise AssertionError(effect)

    # On the thread of the log

    async def _append(self, record: bytes) -> Effect:
        return await self._carry_out(self._owner.append(record))

    async def _carry_out(self, effects: list[Effect], applied: Applied | None = None) -> Effect:
        """Until nothing is in doubt: the effect that says what came of it."""
        while True:
            event: Event | None = None
            for effect in effects:
                match effect:
                    case Apply():
                        assert applied is not None
                        applied(effect)
                    case Publish():
                        event = await self._stream.publish(effect.data, effect.after)
                    case Read():
                        event = await self._stream.read(effect.sequence)
                    case Wait():
                        await asyncio.sleep(min(PAUSE_S * 2 ** min(effect.times, 16), PAUSE_S_MAX))
                        event = WaitOver()
                    case _:
                        return effect
            assert event is not None
            effects = self._owner.handle(event)


def _broken_by(error: OperatorError) -> LogBroken:
    return LogBroken(error.operation, error.place, error.problem, error.hint)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()


def _wait(loop: asyncio.AbstractEventLoop, what: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run_coroutine_threadsafe(what, loop).result()
    except (asyncio.CancelledError, concurrent.futures.CancelledError):
        raise LogBroken("append to the stream", "", "the log was closed", "open it again") from None


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """Ends whatever still runs there, then the thread."""

    async def cancel() -> None:
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=PAUSE_S)  # The client swallows a cancellation that meets it while it writes.

    asyncio.run_coroutine_threadsafe(cancel(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
