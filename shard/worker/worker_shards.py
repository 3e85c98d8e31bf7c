"""The shards of a running worker: taken and given, beside those that are served meanwhile.

Rule: what comes next is for `Duties` to say. Here it is carried out: what blocks in a thread, what changes the host on the loop,
in one turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.wire.protocol import Request
from tidegate.runtime.wire.supervisor_messages import Owned, OwnShards
from tidegate.shard.host.host import Host
from tidegate.shard.log.commit_log import LogBroken
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.store.interface import ShardDamaged, ShardUnreachable, ShardUnwanted, ShardUnwritable
from tidegate.shard.store.state.lmdb_state import LmdbState
from tidegate.shard.store.worker_store import SharedLog, WorkerStore
from tidegate.shard.worker.duties import READS, Duties, ReadAhead, Step, Take
from tidegate.shard.worker.snapshotter import Snapshotter

TAKES = 16
"""Shards that are taken at the same time. What they lack is read by one thread; most of the time each of them waits."""
SILENCE_S = 0.02
"""What the service's own processes sent before they knew that a shard goes may be on its way: when nothing of it has come for so
long, and all is answered, it goes."""
AGAIN_S = 5.0
"""Until a shard is asked for again that could not be reached, or not be written, and one is read again that could not be read."""

log = logging.getLogger("tidegate")


@dataclass
class _Giving:
    heard_at: float
    """When a call of it has come last."""
    deadline: float
    timer: asyncio.TimerHandle | None = None


class WorkerShards:
    """On the loop thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        host: Host,
        store: WorkerStore,
        data_dir: Path,
        worker: int,
        tell: Callable[[Owned], None],
        broken: Callable[[OperatorError], None],
    ) -> None:
        """`tell` is for the supervisor. `broken`: the log cannot be used any longer."""
        self._loop = loop
        self._host = host
        self._store = store
        self._data_dir = data_dir
        self._worker = worker
        self._tell = tell
        self._broken = broken
        self._duties = Duties(store.shards, store.stopped)
        self._number = 0
        self._giving: dict[int, _Giving] = {}
        self._closing: set[int] = set()
        """Stopped ones whose files are being closed."""
        self._give_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._pool = ThreadPoolExecutor(TAKES, "tidegate-take")
        self._readers = ThreadPoolExecutor(READS, "tidegate-ahead")
        """Apart, since what is read ahead may take minutes, and nobody waits for that."""
        self._unreadable: dict[int, str] = {}
        """By shard that could not be read ahead: why, as it was said."""
        self._ended = False
        self._snapshotter = Snapshotter(loop, store, cast("SharedLog", store.log).snapshots)

    def start(self) -> None:
        """What is owned is told now, and whenever it changes."""
        self._say()
        self._snapshotter.start()
        for shard, error in self._store.stopped.items():
            self._ask_again_later(shard, error)

    def told(self, message: OwnShards) -> None:
        self._number, self._give_s = message.number, message.give_s
        steps = self._duties.told(message.shards, message.ahead)
        self._unreadable = {shard: why for shard, why in self._unreadable.items() if shard in self._duties.ahead}
        for shard in self._store.stopped.keys() - self._duties.target:
            self._leave(shard)
        self._carry_out(steps)

    def _leave(self, shard: int) -> None:
        """One that was stopped, and is not wanted."""
        del self._store.stopped[shard]  # Who asks for it is sent elsewhere.
        self._closing.add(shard)
        self._begin(self._close(shard))

    async def _close(self, shard: int) -> None:
        """The file of one that was stopped, and is not wanted any longer: until then it is no other worker's."""
        await self._store.close_file(shard)
        self._closing.discard(shard)
        self._say()

    def lost(self, shard: int) -> None:
        """It was stopped."""
        if (giving := self._giving.pop(shard, None)) is not None:
            self._host.moving.going.pop(shard, None)
            if giving.timer is not None:
                giving.timer.cancel()
        steps = self._duties.lost(shard)
        if shard not in self._duties.target and shard in self._store.stopped:  # It was being given.
            self._leave(shard)
        self._carry_out(steps)

    def refuses(self, request: Request, *, is_own: bool) -> int | None:
        """The shard of its object, if that goes elsewhere, and the call is not to be begun here. `is_own`: a process of the
        service has sent it."""
        moving = self._host.moving
        if not moving.going or not request.cls or (shard := moving.goes(request.cls, request.name)) is None:
            return None
        if moving.going[shard] or not is_own:
            return shard
        if (giving := self._giving.get(shard)) is not None:
            giving.heard_at = self._loop.time()
        return None

    def turn_ended(self) -> None:
        """To be called at the end of each turn."""
        for shard in [*self._giving] if self._giving else ():
            self._look(shard)

    def end(self) -> None:
        """The worker ends: nothing more is taken or given."""
        self._ended = True
        self._snapshotter.end()
        for giving in self._giving.values():
            if giving.timer is not None:
                giving.timer.cancel()

    def close(self) -> None:
        self.end()
        for pool in (self._pool, self._readers):
            pool.shutdown(wait=False, cancel_futures=True)

    # Steps

    def _carry_out(self, steps: list[Step]) -> None:
        if self._ended:
            return
        for step in steps:
            if isinstance(step, Take):
                self._begin(self._take(step.shard))
            elif isinstance(step, ReadAhead):
                self._begin(self._read_ahead(step.shard))
            else:
                self._begin_giving(step.shard)
        self._say()

    def _say(self) -> None:
        duties, stopped = self._duties, self._store.stopped
        why = {shard: str(stopped[shard]) if shard in stopped else "it is not to be had" for shard in duties.refused}
        sets = duties.owned, duties.busy | self._closing, duties.ready, duties.unread
        owned, busy, ready, reads = (tuple(sorted(each)) for each in sets)
        self._tell(Owned(self._number, owned, busy, why, ready, reads))

    def _begin(self, what: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(what, context=NEUTRAL)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Taking

    async def _read_ahead(self, shard: int) -> None:
        try:
            await self._store.close_file(shard)  # Which it may have had before.
            await self._loop.run_in_executor(self._readers, self._store.read_ahead, self._data_dir, self._worker, shard)
        except LogBroken as error:
            if not self._ended:
                self._broken(error)
            return
        except Exception as error:
            self._not_read(shard, error)
        else:
            self._unreadable.pop(shard, None)
            self._carry_out(self._duties.read(shard))

    def _not_read(self, shard: int, error: Exception) -> None:
        """Whoever serves it goes on. Is said once for each reason."""
        if self._ended:
            return
        why = str(error) if isinstance(error, OperatorError) else repr(error)
        if self._unreadable.get(shard) != why:
            self._unreadable[shard] = why
            fault = None if isinstance(error, OperatorError) else error
            log.warning("shard %d could not be read before it is taken, and stays where it is: %s", shard, why, exc_info=fault)
        self._loop.call_later(AGAIN_S, self._read_again, shard, context=NEUTRAL)
        self._carry_out(self._duties.not_read(shard))

    def _read_again(self, shard: int) -> None:
        if shard in self._duties.unreadable:
            self._carry_out(self._duties.again(shard))

    async def _take(self, shard: int) -> None:
        try:
            await self._store.close_file(shard)  # Which it may have had before.
            replay = partial(self._store.replay, self._data_dir, self._worker, shard, partial(self._duties.wants, shard))
            state = await self._loop.run_in_executor(self._pool, replay)
        except ShardUnwanted:
            self._carry_out(self._duties.not_claimed(shard))
        except ShardDamaged as error:
            self._not_taken(shard, error)
        except LogBroken as error:
            if not self._ended:
                self._broken(error)
        except OperatorError as error:
            self._not_taken(shard, ShardUnwritable(shard, error.operation, error.place, error.problem))
        except Exception as error:
            self._not_taken(shard, ShardDamaged(shard, "take", f"shard {shard}", repr(error), "report it"))
        else:
            self._taken(shard, state)

    def _taken(self, shard: int, state: LmdbState) -> None:
        if self._ended:
            state.close()
            return
        self._store.take_over(state)
        self._host.moving.come(shard)
        log.info("shard %d is served here", shard)
        self._carry_out(self._duties.taken(shard))

    def _not_taken(self, shard: int, error: ShardDamaged) -> None:
        if self._ended:
            return
        steps = self._duties.not_taken(shard)
        if shard in self._duties.refused:
            if str(error) != str(self._store.stopped.get(shard)):
                log.error("%s", error)
            self._store.stopped[shard] = error
            self._ask_again_later(shard, error)
        self._carry_out(steps)

    def _ask_again_later(self, shard: int, error: ShardDamaged) -> None:
        if isinstance(error, ShardUnreachable | ShardUnwritable):
            self._loop.call_later(AGAIN_S, self._ask_again, shard, error, context=NEUTRAL)

    def _ask_again(self, shard: int, error: ShardDamaged) -> None:
        if self._store.stopped.get(shard) is error:
            self._carry_out(self._duties.again(shard))

    # Giving

    def _begin_giving(self, shard: int) -> None:
        now = self._loop.time()
        self._giving[shard] = _Giving(now, now + self._give_s)
        self._host.moving.begin(shard)
        self._look(shard)

    def _look(self, shard: int) -> None:
        """Whether it can go."""
        giving = self._giving.get(shard)
        if giving is None or self._ended:
            return
        now, at = self._loop.time(), giving.heard_at + SILENCE_S
        if self._host.moving.has_ended(shard):
            if now >= at or self._host.moving.going[shard]:
                self._let_go(shard)
                return
        else:
            self._host.moving.hurry(shard)
            at = max(now + SILENCE_S, giving.deadline)
            if now >= giving.deadline and not self._host.moving.going[shard]:
                log.warning("shard %d goes to another worker; calls that had not ended in time are reset", shard)
                self._host.moving.end_calls(shard)
        if giving.timer is not None and giving.timer.when() > at:
            giving.timer.cancel()
            giving.timer = None
        if giving.timer is None:
            giving.timer = self._loop.call_later(max(at - now, 0.001), self._look_again, giving, shard, context=NEUTRAL)

    def _look_again(self, giving: _Giving, shard: int) -> None:
        giving.timer = None
        if self._giving.get(shard) is giving:
            self._look(shard)

    def _let_go(self, shard: int) -> None:
        giving = self._giving.pop(shard)
        if giving.timer is not None:
            giving.timer.cancel()
        self._store.give(shard)
        self._host.moving.gone(shard)
        self._begin(self._given(shard))

    async def _given(self, shard: int) -> None:
        await self._store.close_file(shard)
        log.info("shard %d is served here no longer", shard)
        self._carry_out(self._duties.given(shard))
