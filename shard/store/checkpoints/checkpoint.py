"""Moves what the log made durable from memory into the shards' states, so that the log can forget it.

Guarantee: the log is truncated only up to a position whose records are all in synced states; a checkpoint that fails, at any
step, loses nothing and changes no answer. A batch that covers only part of a frozen memtable is committed without raising
the applied sequence: after a crash all of it is applied again from the log, to the same end.

Rule 1: `checkpoint_steps` and `checkpoint_due` are pure; they run in the simulator too. The `Checkpointer` is their shell.
Rule 2: puts happen on the loop thread in slices (a helper thread would wait for the GIL at every put); only what blocks,
        commits and truncation, happens in the helper thread. Pages that may be on disk only are brought into memory by the
        shard's reader before a slice changes them, unless it is urgent.
Rule 3: no batch is begun while a snapshot that a reader has taken before is in use.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, Protocol, TypeVar

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.ids import OBJECT_KEY_BYTES, SLOT_KEY_BYTES
from tidegate.runtime.limits import CHECKPOINT_SLICE_KEYS
from tidegate.shard.log.commit_log import LogFull
from tidegate.shard.store.checkpoints.ahead import Ahead
from tidegate.shard.store.checkpoints.pace import MEMTABLE_BYTES_MIN, URGENT_SHARE, CheckpointPace, Pressure, checkpoint_due
from tidegate.shard.store.checkpoints.room import Room
from tidegate.shard.store.checkpoints.sorting import SORT_STEP, sorted_steps
from tidegate.shard.store.interface import Reader, ShardDamaged
from tidegate.shard.store.memtable import Memtable
from tidegate.shard.store.store import ABOVE_KEYS, ShardStore, StateBatch, StoreFull

CHECKPOINT_IDLE_S = 3.0
"""A checkpoint starts when nothing was written for so long, so that the next start has little to recover."""
IDLE_LOOKS_MAX = 100
"""After so many looks for such a moment, which is 5 minutes, one starts all the same: memory, disk and the time to recover
follow what is written in this time, where it is too little to reach a bound. (The memtables keep all keys that come and go.)"""
ASK_EVERY_BYTES = 256 << 10
"""Whether a checkpoint is due is asked when so much was committed: asking costs as much as several calls."""
ASK_COMMIT_BYTES = 4 << 10
"""What a commit counts for beside its record."""
RECORD_BYTES = ASK_EVERY_BYTES // 8
"""For what a record is taken whose size nobody tells."""
CHECKPOINT_COMMIT_ENTRIES = 20_000
"""Entries in one batch, which share pages. The log's next fdatasync may have to wait for it: 10 ms for so many, 100 ms for
100,000."""
CHECKPOINT_COMMIT_PAGES = 4_096
"""Pages that one batch changes, as far as can be foreseen, those of values included: 16 MiB."""
CHECKPOINT_COMMIT_APART = 1_024
"""Of them, those that are anywhere in the file: where there is much data every object called has a page of its own. While 16 MiB
of such pages were synced, one sync of the log in a thousand took 61 ms; in four batches 14 ms, as long as without any, and all of
them take no longer than the one. (What is beside each other need not be cut as small: on a full disk each batch that still has
room is time until it is known that there is none.)"""
CHECKPOINT_SLICE_BYTES = 128 << 10
"""A slice ends here too, for large values: copying them takes time."""
PIECE_KEYS = 4
"""Keys that are changed without a look at the clock. Where their pages come from a disk that is busy with what was written, each
may take 10 ms, and a whole slice of them would hold up the loop for as long as all its keys take."""
RETRY_S_MAX = 30.0
FULL_AGAIN_S = 1.0
"""For so long after an attempt that found no room nobody asks for the next one."""
AHEAD_SLICES = 16
"""Slices that are fetched at once where the state may be on disk only."""
REMOVAL_COMMIT_KEYS = 1_000
"""Keys that one batch may take out where there is no room: each may need a page of its own, and the pages above."""
PAGE_BYTES = 4_096
NEIGHBOURS = 32
"""Rows of one object, of those that are not checkpointed, that are taken to lie in one page."""

_FEW_ENTRIES = 8 * SORT_STEP
"""So many or fewer are not dealt by slot: there would be a few of each."""
_DEAL_STEP = 256
"""Objects of a memtable that is in no cache of the CPU: about 0.5 ms."""


# What to do, pure


def retry_delay_s(failures: int) -> float:
    return float(min(2 ** (failures - 1), RETRY_S_MAX))


class Slice(NamedTuple):
    """A few changes, in key order: ranges to empty first, then puts and deletes."""

    cleared: bytes | None
    puts: list[tuple[bytes, bytes]]
    deletes: list[bytes]
    size_bytes: int

    def pages(self, share: float) -> float:
        """Of the file, that it changes, without what values take: for each object the share of a page that is its own, as much
        again where its name may be new. Rows of one object count as neighbours; those that are not are bounded as entries."""
        objects = {key[:OBJECT_KEY_BYTES] for key, _ in self.puts}
        objects.update([key[:OBJECT_KEY_BYTES] for key in self.deletes])
        if self.cleared:
            objects.add(self.cleared)
        headers = [len(key) for key, _ in self.puts].count(OBJECT_KEY_BYTES)
        return (len(objects) + headers) * share


def pages_changed(objects: int, leaf_pages: int) -> float:
    """By so many objects, if they are anywhere among so many pages."""
    return leaf_pages * -math.expm1(-objects / leaf_pages) if leaf_pages else 0.0


def pages_changed_by(memtable: Memtable, leaf_pages: int) -> float:
    """What is written of an object lies beside each other, but for one of which very much is."""
    objects = len(memtable.objects)
    return pages_changed(objects + max(0, memtable.entries - NEIGHBOURS * objects), leaf_pages)


def page_share(objects: int, leaf_pages: int) -> float:
    """What part of a page each of them has for itself: all of it where there are many more pages, next to nothing where all pages
    change anyway."""
    return pages_changed(objects, leaf_pages) / objects if objects else 0.0


Rows = dict[bytes, bytes | None]
"""Values by key of the state, None where it is deleted. (A list of pairs would be walked over by Python's collector.)"""


def slices(memtable: Memtable) -> Iterator[Slice]:
    """The memtable as slices, sorted as the state is: neighbours then share its pages. Ranges to empty come before all else."""
    rows_by_start: dict[bytes, Rows] = {}
    start_bytes = SLOT_KEY_BYTES if memtable.entries > _FEW_ENTRIES else 1
    for cleared in _deal(memtable, rows_by_start, start_bytes):
        yield Slice(cleared, [], [], 0)
    waiting: list[tuple[bytes, bytes | None]] = []
    for start in sorted(rows_by_start):
        rows = rows_by_start.pop(start)
        for piece in sorted_steps(rows.__iter__, len(rows)):
            if not piece:
                yield Slice(None, [], [], 0)
            waiting += [(key, rows[key]) for key in piece]
            whole = len(waiting) - len(waiting) % CHECKPOINT_SLICE_KEYS
            for first in range(0, whole, CHECKPOINT_SLICE_KEYS):
                yield from _cut(waiting[first : first + CHECKPOINT_SLICE_KEYS])
            waiting = waiting[whole:]
    yield from _cut(waiting)


def _deal(memtable: Memtable, rows_by_start: dict[bytes, Rows], start_bytes: int) -> Iterator[bytes | None]:
    """Makes the rows of all objects, by what their keys start with; yields objects to be emptied first, and now and then None. It
    walks in the order in which the memtable got them: memory filled in this order is walked through three times faster than in
    that of the keys."""
    for number, (object_key, held) in enumerate(memtable.objects.items(), 1):
        if held.cleared:
            yield object_key
        rows = rows_by_start.get(start := object_key[:start_bytes])
        if rows is None:
            rows = rows_by_start[start] = {}
        writes = held.writes
        if len(writes) == 1:  # Of most.
            ((key, value),) = writes.items()
            rows[object_key + key.encode()] = value
        else:
            for nth, (key, value) in enumerate(writes.items(), 1):
                rows[object_key + key.encode()] = value
                if nth % SORT_STEP == 0:
                    yield None
        if number % _DEAL_STEP == 0:
            yield None


def _cut(rows: list[tuple[bytes, bytes | None]]) -> Iterator[Slice]:
    """One slice, or several if the values are large."""
    puts: list[tuple[bytes, bytes]] = []
    deletes: list[bytes] = []
    size = 0
    for row in rows:
        key, value = row
        if value is None:
            deletes.append(key)
            continue
        puts.append(row)  # type: ignore[arg-type]  # it has a value
        size += len(value)
        if size >= CHECKPOINT_SLICE_BYTES:
            yield Slice(None, puts, deletes, size)
            puts, deletes, size = [], [], 0
    if puts or deletes:
        yield Slice(None, puts, deletes, size)


def checkpoint_steps(
    store: ShardStore, ahead: Ahead | None = None, goes_on: Callable[[], bool] = lambda: True
) -> Generator[StateBatch | None, None, None]:
    """Puts the frozen memtable into the state, a slice a step, or less where `goes_on` says no: each page may have to come from
    the disk. A step that yields a batch wants it committed before the next step; after the last one the state has everything up
    to `frozen_seq`. Closed early, it aborts the batch at hand.

    `ahead`, if given, is told a step before what each step changes, while the store has a reader."""
    frozen = store.frozen
    assert frozen is not None, store.shard
    assert store.state.applied_seq < store.frozen_seq, "half of it, once more, would not be repaired by the log"
    batch: StateBatch | None = store.state.begin()
    share = page_share(len(frozen.objects), store.state.leaf_pages)
    entries = size = 0
    pages = 0.0
    try:
        for part in _fetched(slices(frozen), store, ahead):
            if part is None:
                yield None
                continue
            if batch is None:
                batch, entries, size, pages = store.state.begin(), 0, 0, 0.0
            for first in range(0, len(part.puts), PIECE_KEYS):
                if not goes_on():
                    yield None
                batch.put_many(part.puts[first : first + PIECE_KEYS])
            for first in range(0, len(part.deletes), PIECE_KEYS):
                if not goes_on():
                    yield None
                batch.delete_many(part.deletes[first : first + PIECE_KEYS])
            if part.cleared is not None:
                entries += yield from _clear_steps(store, batch, part.cleared, ahead, goes_on)
            entries += len(part.puts) + len(part.deletes)
            pages += part.pages(share)
            size += part.size_bytes
            if (
                entries >= CHECKPOINT_COMMIT_ENTRIES
                or pages >= CHECKPOINT_COMMIT_APART
                or pages + size / PAGE_BYTES >= CHECKPOINT_COMMIT_PAGES
            ):
                yield from _name_steps(store, batch, ahead, goes_on)
                ready, batch = batch, None
                yield ready
            else:
                yield None
        batch = batch or store.state.begin()
        yield from _name_steps(store, batch, ahead, goes_on)
        batch.set_applied_seq(store.frozen_seq)
        if store.frozen_mark:
            batch.set_log(store.frozen_mark)
        ready, batch = batch, None
        yield ready
    finally:
        if batch is not None:
            batch.abort()


def _fetched(parts: Iterator[Slice], store: ShardStore, ahead: Ahead | None) -> Iterator[Slice | None]:
    """The same, each after `ahead` was told of it and there was a step, None, to fetch it in: many at once, since whoever waits
    for a fetch waits for a turn of the loop as well."""
    group: list[Slice] = []

    def fetched() -> Iterator[Slice | None]:
        if ahead is not None and store.reader is not None:
            ahead.keys = [key for each in group for key in (*(key for key, _ in each.puts), *each.deletes)]
            if ahead.keys:
                yield None
                ahead.keys = []
        yield from group
        group.clear()

    for part in parts:
        group.append(part)
        is_pause = not part.puts and not part.deletes
        if is_pause or len(group) >= AHEAD_SLICES or ahead is None or store.reader is None:
            yield from fetched()
    yield from fetched()


def removal_steps(store: ShardStore) -> Generator[StateBatch | None, None, None]:
    """Takes out of the state what the frozen memtable says is deleted, and nothing else, in batches that need little room: what
    one frees is there for the one after the next. Steps are those of `checkpoint_steps`, which comes after it as ever."""
    frozen = store.frozen
    assert frozen is not None, store.shard
    batch: StateBatch | None = None
    keys_left = REMOVAL_COMMIT_KEYS
    try:
        for object_key, held in sorted(frozen.objects.items()):
            deleted = sorted(object_key + key.encode() for key, value in held.writes.items() if value is None)
            ranges = [(object_key, object_key + ABOVE_KEYS)] if held.cleared else [(key, key + b"\0") for key in deleted]
            for low, high in ranges:
                while True:
                    batch = batch or store.state.begin()
                    over = batch.delete_range(low, high, CHECKPOINT_SLICE_KEYS)
                    keys_left -= CHECKPOINT_SLICE_KEYS if held.cleared else 1
                    if keys_left <= 0:
                        yield from _name_steps(store, batch, None)
                        ready, batch, keys_left = batch, None, REMOVAL_COMMIT_KEYS
                        yield ready
                    else:
                        yield None
                    if over:
                        break
        for _ in range(2):  # From then on the checkpoint can use the pages that the last one of them has freed.
            batch = batch or store.state.begin()
            yield from _name_steps(store, batch, None)
            batch.set_applied_seq(store.state.applied_seq)
            ready, batch = batch, None
            yield ready
    finally:
        if batch is not None:
            batch.abort()


def _clear_steps(
    store: ShardStore, batch: StateBatch, object_key: bytes, ahead: Ahead | None, goes_on: Callable[[], bool]
) -> Generator[None, None, int]:
    """Deletes all that an object has; about how many keys those were."""
    entries = 0
    if ahead is not None and store.reader is not None:
        ahead.low, ahead.high = object_key, object_key + ABOVE_KEYS
        yield None
    while not batch.delete_range(object_key, object_key + ABOVE_KEYS, PIECE_KEYS):
        entries += PIECE_KEYS
        if entries % CHECKPOINT_SLICE_KEYS == 0 or not goes_on():
            yield None
    if ahead is not None:
        ahead.low = ahead.high
    return entries


def _name_steps(
    store: ShardStore, batch: StateBatch, ahead: Ahead | None, goes_on: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Changes the index of names as the batch asks for it. Many slices of it are fetched at once, as `_fetched` does."""
    while True:
        is_ahead = ahead is not None and store.reader is not None
        keys = batch.next_names(CHECKPOINT_SLICE_KEYS * (AHEAD_SLICES if is_ahead else 1))
        if not keys:
            return
        if ahead is not None and is_ahead:
            ahead.keys = keys
            yield None
            ahead.keys = []
        for first in range(0, len(keys), PIECE_KEYS):
            if (first and first % CHECKPOINT_SLICE_KEYS == 0) or not goes_on():
                yield None
            batch.change_names(PIECE_KEYS)
        yield None


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


# Doing it


class TruncatableLog(Protocol):
    @property
    def segments_used(self) -> int: ...

    @property
    def segments_max(self) -> int: ...

    def prepare_segment(self) -> None: ...

    def truncate(self, position: int) -> None: ...

    def shrink(self, position: int) -> None: ...


class CheckpointTrouble(NamedTuple):
    error: OperatorError
    fatal: bool
    """True: the worker must end, recovery will sort it out. False: nothing is lost and it is tried again."""


class CheckpointStatistics(NamedTuple):
    checkpoints: int
    entries: int
    """Entries moved so far."""
    last_s: float
    """Duration of the last complete checkpoint."""
    turn_s_max: float
    """Longest time that the loop was held up at once."""
    commit_s_max: float
    failures: int
    """Failed attempts since the last success."""


T = TypeVar("T")
Helper = Callable[..., Awaitable[Any]]
"""Runs a function, with its arguments, in the checkpointer's thread."""
Shrink = Callable[[Helper], Coroutine[None, None, bool]]
"""Makes files smaller that are mostly free; False: there was no room."""


class Checkpointer:
    """Keeps memory and log bounded. All methods are called on the loop thread; one checkpoint runs at a time."""

    def __init__(
        self,
        stores: Sequence[ShardStore],
        log: TruncatableLog,
        applied_position: Callable[[], int],
        report: Callable[[CheckpointTrouble], None],
        memtable_bytes: int = MEMTABLE_BYTES_MIN,
        mark_at: Callable[[int, int], bytes] = lambda shard, position: b"",
        room: Room | None = None,
    ) -> None:
        """`applied_position`: that of the newest log record in the stores. `report` is told of failures. At `memtable_bytes` a
        checkpoint starts. `mark_at`: the log mark of the state of a shard that has everything up to a position. `room` is
        what it may use where there is no other."""
        self._mark_at = mark_at
        self._stores = list(stores)
        self._log = log
        self._applied_position = applied_position
        self._report = report
        self._memtable_bytes = memtable_bytes
        self._room = room
        self.shrink: Shrink | None = None
        """Awaited after each checkpoint, while no batch is begun."""
        self._removed_position: int | None = None
        """Up to here what was deleted has been taken out before the rest, for want of room."""
        self._helper = ThreadPoolExecutor(1, "tidegate-checkpoint")
        self._context = copy_context()  # Of the start: a checkpoint is nobody's task, whoever's write made it due.
        self._task: asyncio.Task[None] | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_position = self._idle_looks = 0
        self._checkpointed_position = 0
        self._freeze_position: int | None = None
        self._retry_now = asyncio.Event()
        self._attempt_over = asyncio.Event()
        self._full: StoreFull | None = None
        """Why the last attempt has failed, and when."""
        self._full_at = 0.0
        self.without_room: OperatorError | None = None
        """Why what is written cannot be kept now: since the last attempt that has failed, until one succeeds."""
        self.to_look = asyncio.Event()
        """Set when something has changed for the `Upkeep`: a checkpoint is over, or there was no room."""
        self._fatal: OperatorError | None = None
        self._closing = False
        self._at_work: ShardStore | None = None
        """Whose state is being changed, or copied."""
        self._to_copy: deque[tuple[ShardStore, Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._is_shrinking = False
        self._work_over = asyncio.Event()
        self._unasked_bytes = 0
        self._checkpoints = self._entries = self._failures = 0
        self._last_s = self._turn_s_max = self._commit_s_max = 0.0

    # When

    def note_applied(self, record_bytes: int = RECORD_BYTES) -> None:
        """To be called after each commit was applied, with the size of its record. Starts a checkpoint if one is due, else sees
        to it that an idle moment is used."""
        self._unasked_bytes += record_bytes + ASK_COMMIT_BYTES
        if self._unasked_bytes < ASK_EVERY_BYTES and self._idle_timer is not None:
            return
        self._unasked_bytes = 0
        if self._task is not None or self._fatal is not None or self._closing:
            return
        if checkpoint_due(self.pressure()):
            self._start()
        elif self._idle_timer is None:
            self._watch_for_idleness()

    def pressure(self) -> Pressure:
        size, pages = 0, 0.0
        for store in self._stores:
            active = store.active
            size += active.size_bytes
            if active.objects:
                pages += pages_changed_by(active, store.state.leaf_pages)
        records = self._applied_position() - self._checkpointed_position
        return Pressure(size, self._memtable_bytes, records, self._log.segments_used, self._log.segments_max, pages)

    def _watch_for_idleness(self) -> None:
        self._idle_position = self._applied_position()
        self._idle_timer = asyncio.get_running_loop().call_later(CHECKPOINT_IDLE_S, self._idle_timer_fired, context=self._context)

    def _idle_timer_fired(self) -> None:
        self._idle_timer = None
        position = self._applied_position()
        if self._task is not None or self._closing or position == self._checkpointed_position:
            return
        self._idle_looks += 1
        if position == self._idle_position or self._idle_looks >= IDLE_LOOKS_MAX:
            self._start()
        else:
            self._watch_for_idleness()

    def done_to(self) -> int | None:
        """The log position up to which the states have everything, where that is all there is, and no checkpoint runs."""
        is_done = self._task is None and self._applied_position() == self._checkpointed_position
        return self._checkpointed_position if is_done else None

    async def shrink_log(self, position: int) -> None:
        """Raises OperatorError."""
        await self._in_helper(self._log.shrink, position)

    async def finish(self) -> None:
        """Returns when everything applied before the call is in synced states and the log is truncated accordingly. Raises
        the `OperatorError` that prevents it for good. While there is no room it goes on trying."""
        position = self._applied_position()
        while self._checkpointed_position < position:
            await asyncio.wait([self._hurry()])

    def _hurry(self) -> asyncio.Task[None]:
        """The checkpoint that runs, or one that begins, without its pauses. Raises what keeps any from being made."""
        if self._fatal is not None:
            raise self._fatal
        assert not self._closing
        self._retry_now.set()
        return self._task or self._start()

    async def make_room(self) -> None:
        """For a log that has no room: returns when there is a segment for it. Raises the `OperatorError` that prevents that also
        where it may change, at once if it was found just before."""
        if self._full is not None and asyncio.get_running_loop().time() - self._full_at < FULL_AGAIN_S:
            raise self._full
        self._full = None
        position = self._applied_position()
        while self._checkpointed_position < position:
            self._attempt_over.clear()
            task = self._hurry()
            over = asyncio.ensure_future(self._attempt_over.wait())
            try:
                await asyncio.wait([task, over], return_when=asyncio.FIRST_COMPLETED)
            finally:
                over.cancel()
            if self._full is not None:
                raise self._full
            if await self._has_segment():
                return
        await self.lend()

    async def _has_segment(self) -> bool:
        """Of the log, that is ready, or can be made. (That one is no longer used does not say so: it may be kept for others, and
        what it took of the disk may be.) Not in the helper, which may be making a file smaller."""
        try:
            await asyncio.to_thread(self._log.prepare_segment)
        except LogFull:
            return False
        return True

    async def lend(self) -> None:
        """Has a log of which everything is in the states get a segment out of the room that is kept back. Raises the
        `OperatorError` that prevents it."""
        if self._room is None:
            return
        try:
            await self._in_helper(self._room.lend)
        except OperatorError as error:
            self.found_no_room(error)
            raise
        self.without_room = None

    def found_no_room(self, problem: OperatorError) -> None:
        self.without_room = problem
        self.to_look.set()

    def _start(self) -> asyncio.Task[None]:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        self._idle_looks = 0
        self._task = asyncio.get_running_loop().create_task(self._run(), name="checkpoint", context=self._context)
        self._task.add_done_callback(self._ended)
        return self._task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self.to_look.set()
        if task.cancelled():
            self._closing = True  # By `close`, or by whoever ends the loop; what is frozen stays so, and is in the log.
        elif (error := task.exception()) is not None:
            fatal = error if isinstance(error, OperatorError) else OperatorError("checkpoint", "store", repr(error), "report it")
            self._fatal = fatal
            self._report(CheckpointTrouble(fatal, True))
        elif not self._closing and self._to_copy:
            self._start_copy()
        elif not self._closing and self._applied_position() != self._checkpointed_position:
            self.note_applied()  # What came meanwhile may be enough for the next one.

    # How

    async def _run(self) -> None:
        """One checkpoint, however many attempts it takes."""
        began = perf_counter()
        position = self._freeze()
        while True:
            try:
                for store in list(self._stores):
                    await self._unless_damaged(store, self._move)
                await self._in_helper(self._log.truncate, position)
                break
            except StoreFull as error:
                position = await self._freeze_more()
                if await self._remove_first(position):
                    continue
                self._failures += 1
                self._full, self._full_at = error, asyncio.get_running_loop().time()
                self.found_no_room(error)
                self._attempt_over.set()
                await self._wait_retry(error)
        self._failures = 0
        self._full = self.without_room = None
        self._checkpointed_position = position
        self._freeze_position = None
        self._checkpoints += 1
        self._last_s = perf_counter() - began
        self._attempt_over.set()  # Who waits for room need not wait for what follows.
        if self.shrink is not None:
            await self._make_smaller(self.shrink)
        if self._room is not None:
            await self._in_helper(self._room.keep)

    async def _make_smaller(self, shrink: Shrink) -> None:
        self._is_shrinking = True
        try:
            if not await shrink(self._in_helper) and self._room is not None and await self._in_helper(self._room.use):
                await shrink(self._in_helper)
        finally:
            self._is_shrinking = False
            self._work_over.set()

    async def _remove_first(self, position: int) -> bool:
        """Where there is no room: takes out what was deleted, in the room that is kept for that. False if nothing has changed
        since that was done last, or it cannot be done."""
        if self._room is None or self._removed_position == position or not await self._in_helper(self._room.use):
            return False
        try:
            for store in list(self._stores):
                await self._unless_damaged(store, self._remove_deleted)
            self._removed_position = position
        except StoreFull:
            return False
        finally:
            await self._in_helper(self._room.keep)
        return True

    async def _remove_deleted(self, store: ShardStore) -> None:
        """In the same way as `_move`, with no regard for how long others have to wait: nothing can be written."""
        steps = removal_steps(store)
        try:
            await self._reads_over(store)
            for batch in steps:
                if store not in self._stores:
                    return
                if batch is None:
                    await asyncio.sleep(0)
                else:
                    await self._in_helper(batch.commit)
                    await self._reads_over(store)
        finally:
            steps.close()

    async def copied(self, store: ShardStore, copy: Callable[[], T]) -> T | None:
        """What `copy` returns, which blocks, and copies the state of that store: between two checkpoints, so that no batch is
        begun meanwhile. None where the store is left out before that. Raises what `copy` raises."""
        over: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        self._to_copy.append((store, copy, over))
        if self._task is None and not self._closing:
            self._start_copy()
        return await over

    def _start_copy(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._copy(*self._to_copy.popleft()), context=self._context)
        self._task.add_done_callback(self._ended)

    async def _copy(self, store: ShardStore, copy: Callable[[], Any], over: asyncio.Future[Any]) -> None:
        """Whoever asked may have gone."""
        try:
            result = None
            if store in self._stores:
                self._at_work = store
                result = await self._in_helper(copy)
            if not over.done():
                over.set_result(result)
        except Exception as error:
            if not over.done():
                over.set_exception(error)
        finally:
            over.cancel()
            self._at_work = None
            self._work_over.set()

    def add(self, store: ShardStore) -> None:
        """One more shard is served."""
        self._stores.append(store)

    def leave_out(self, store: ShardStore) -> None:
        """Its shard is served no longer: what it has got since its last checkpoint stays in the log, and only there."""
        self._stores.remove(store)

    async def rests(self, store: ShardStore) -> None:
        """Returns when nothing is done to the state of one that was left out."""
        while self._at_work is store or self._is_shrinking:
            self._work_over.clear()
            await self._work_over.wait()

    async def _unless_damaged(self, store: ShardStore, move: Callable[[ShardStore], Awaitable[None]]) -> None:
        """For a store that has something frozen and is still served."""
        if store.frozen is None or store not in self._stores:
            return
        self._at_work = store
        try:
            await move(store)
        except ShardDamaged as error:
            store.on_damage(error)
        finally:
            self._at_work = None
            self._work_over.set()

    def _freeze(self) -> int:
        """Sets aside what all shards have now; the log position it reaches to. All in one turn, so the two agree."""
        assert self._freeze_position is None
        self._freeze_position = self._applied_position()
        for store in self._stores:
            store.freeze(self._mark_at(store.shard, self._freeze_position))
        return self._freeze_position

    async def _freeze_more(self) -> int:
        """What was applied since the checkpoint began becomes a part of it: it may have made that smaller. The log position that
        it reaches to now."""
        for store in self._stores:
            while store.freeze_more(_DEAL_STEP, b""):
                await asyncio.sleep(0)
        self._freeze_position = self._applied_position()
        for store in self._stores:  # All in one turn, so that they agree.
            mark = self._mark_at(store.shard, self._freeze_position)
            while store.freeze_more(_DEAL_STEP, mark):
                pass
        return self._freeze_position

    async def _move(self, store: ShardStore) -> None:
        assert store.frozen is not None
        entries = store.frozen.entries
        ahead = Ahead()
        pace = CheckpointPace(self.pressure, perf_counter)
        steps = checkpoint_steps(store, ahead, pace.goes_on)
        try:
            await self._reads_over(store)
            for batch in steps:
                if store not in self._stores:  # It was left out meanwhile.
                    return
                is_ahead = ahead and store.reader is not None and self.pressure().share() < URGENT_SHARE
                if batch is None and not is_ahead and pace.has_time():
                    continue
                pace.leave()
                if batch is not None:
                    began = perf_counter()
                    await self._in_helper(batch.commit)
                    self._commit_s_max = max(self._commit_s_max, perf_counter() - began)
                    if store.state.applied_seq != store.frozen_seq:
                        await self._reads_over(store)
                elif is_ahead:
                    assert store.reader is not None
                    await self._touch(store, store.reader, ahead)
                else:
                    await asyncio.sleep(0)
                pace.come_back(after_others=batch is None and not is_ahead)
        finally:
            steps.close()
        self._entries += entries
        memtable = store.drop_frozen()
        while memtable.discard_some(CHECKPOINT_SLICE_KEYS * 8):  # Freeing is about ten times faster than putting.
            if not pace.has_time():
                pace.leave()
                await asyncio.sleep(0)
                pace.come_back(after_others=True)
        self._turn_s_max = max(self._turn_s_max, pace.turn_s_max)

    @staticmethod
    async def _reads_over(store: ShardStore) -> None:
        """Until all reads that have a snapshot now are over (rule 3)."""
        if store.reads:
            over = asyncio.get_running_loop().create_future()
            store.reads.when_over(partial(_settle, over))
            await over

    @staticmethod
    async def _touch(store: ShardStore, reader: Reader, ahead: Ahead) -> None:
        """Before the reads of objects, of which there may be many."""
        over = asyncio.get_running_loop().create_future()
        ahead.fetch(store, reader, partial(_settle, over))
        await over

    async def _in_helper(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs it to its end even if this task is cancelled: a commit must not be left half watched."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._helper, function, *arguments))

    async def _wait_retry(self, error: OperatorError) -> None:
        delay = retry_delay_s(self._failures)
        self._report(CheckpointTrouble(error, False))
        self._retry_now.clear()
        try:
            async with asyncio.timeout(delay):
                await self._retry_now.wait()
        except TimeoutError:
            pass

    async def close(self) -> None:
        """Stops. What is not checkpointed stays in the log; a commit that is under way is waited for."""
        self._closing = True
        for _, _, over in self._to_copy:
            over.cancel()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if (task := self._task) is not None:
            task.cancel()
            await asyncio.wait([task])
        await asyncio.get_running_loop().run_in_executor(None, self._helper.shutdown)

    def statistics(self) -> CheckpointStatistics:
        return CheckpointStatistics(
            checkpoints=self._checkpoints,
            entries=self._entries,
            last_s=self._last_s,
            turn_s_max=self._turn_s_max,
            commit_s_max=self._commit_s_max,
            failures=self._failures,
        )
