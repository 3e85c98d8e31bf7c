"""The store of one worker, put together: states, recovery, a fresh log, the shards' stores, the checkpointer.

Life: `open` (blocking, before the worker serves) recovers; then for each group commit `append`, on any one thread at a time,
and `applied`, on the loop thread; `close` at the end. What `append` returned for is durable whatever happens next.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.limits import SPACE_RESERVE_BYTES
from tidegate.runtime.shipping import Shipping
from tidegate.shard.log.commit_log import (
    KEPT,
    SEGMENT_BYTES_FIRST,
    CommitLog,
    LogBroken,
    LogStatistics,
    LogWithoutRoom,
    NoLog,
    sync_directory,
)
from tidegate.shard.store.checkpoints.checkpoint import RECORD_BYTES, Checkpointer, CheckpointTrouble, retry_delay_s
from tidegate.shard.store.checkpoints.pace import MEMTABLE_BYTES_MIN
from tidegate.shard.store.checkpoints.room import RESERVE, Room
from tidegate.shard.store.checkpoints.shrinking import Shrinker
from tidegate.shard.store.checkpoints.upkeep import Upkeep
from tidegate.shard.store.interface import ShardCommit, ShardDamaged, ShardLeftBehind, ShardUnwanted, ShardUnwritable
from tidegate.shard.store.logs import DELETED, NO_RUN, LogDirectory, LogMark, log_path, next_run, own_logs
from tidegate.shard.store.record import decode_unread_record
from tidegate.shard.store.recovery import Recovery, RecoveryReport, encode_seqs
from tidegate.shard.store.snapshots import Snapshots
from tidegate.shard.store.state.belonging import check_belonging
from tidegate.shard.store.state.data_file import DATA_FILE, new_data, put_in_place
from tidegate.shard.store.state.lmdb_state import LmdbState
from tidegate.shard.store.state.pages import MAP_BYTES_MAX
from tidegate.shard.store.state.residency import Watch, WatchStatistics
from tidegate.shard.store.state.state_copy import StateCopy
from tidegate.shard.store.store import ShardStore, StoreFailed, StoreFull

DISK_FREE_STEP_BYTES = 16 << 20

ADDRESS_BYTES_MAX = 32 << 40
"""Address space for the maps of all shards of a worker: a quarter of what a process has."""


OPEN_PAUSES_S = (0.2, 1.0)
"""Before it is tried once more to open a store for which the disk failed. Each attempt begins anew, as another process would."""
UNWRITABLE_PAUSE_S = 30.0
"""Between two looks whether a shard that could not be written can be. A worker that has served for so long is
started again at once (`STABLE_S` of the supervisor), so that its other shards hardly notice, even if it has been in vain."""

FETCHES_MAX = 3
"""Attempts to take a shard that was left behind. While it is fetched, more may be purged."""

PROBE = "probe-"
PROBE_BYTES_MIN = 4 * SEGMENT_BYTES_FIRST
PROBE_EVERY_S = 2.0


SEQS_TOLD = 8
"""Shards of which a record says how far they have got; of more, every so manieth record says it."""

Stopped = dict[int, ShardDamaged]
"""By shard, why it is stopped."""

logger = logging.getLogger("tidegate")


class SharedLog(Protocol):
    """A log that other machines keep. Of several processes that want to append for a shard it lets one: who claimed it last."""

    @property
    def snapshots(self) -> Snapshots: ...

    is_broken: bool
    is_written_at_once: bool
    needs_segment: bool
    may_grow: bool
    segments_used: int
    segments_max: int
    next_bytes: int

    def claim(self, marks: Mapping[int, bytes], applied: Callable[[int, bytes], object]) -> Mapping[int, ShardDamaged]:
        """Blocks until the shards are this process's. `marks`: by shard, how far its state has got, as `mark` said it; what
        follows is given to `applied`, record by record, on another thread. Returns why some were not to be had."""
        ...

    def take(
        self, shard: int, mark: bytes, applied: Callable[[int, bytes], object], is_wanted: Callable[[], bool]
    ) -> ShardDamaged | None:
        """As `claim` of one shard, while others are appended to. On any thread. Why it is not to be had; None: it is.
        `is_wanted` is asked, in any thread, before anybody is disturbed; where it says no that is why (`ShardUnwanted`)."""
        ...

    def follow(self, shard: int, mark: bytes, applied: Callable[[int, bytes], object]) -> bytes | ShardDamaged:
        """As `take`, but that nobody is disturbed, and the shard is whose it was: how far a state has got with what `applied` was
        told, or why that is not to be had."""
        ...

    def give(self, shard: int) -> None:
        """It is not this process's any longer: nothing of it is under way, and whoever claims it disturbs nobody."""
        ...

    def mark(self, shard: int, position: int) -> bytes:
        """For a state that has everything up to this position."""
        ...

    def fetch(self, behind: ShardLeftBehind, file: Path, accept: Callable[[bytes, int], None], *, is_ahead: bool = False) -> None:
        """Puts the data file of a state into `file` from which the shard can be taken that was left behind; on any thread but the
        loop's. `accept` is told which mark it should have, and up to which commit, and raises OperatorError where it cannot be
        used. `is_ahead`: another host serves it, and nobody waits for this. Raises OperatorError where there is none."""
        ...

    def append(self, record: bytes) -> int: ...

    def begin(self, record: bytes, ended: Callable[[int | BaseException], None]) -> None:
        """As `append`, but that nobody blocks: `ended` is told what that returns or raises, once, in any thread."""
        ...

    def write(self, record: bytes) -> int | None: ...
    def sync(self) -> int: ...
    def synced(self, error: Exception | None) -> int: ...
    def truncate(self, position: int) -> None: ...
    def prepare_segment(self, *, small: bool = False) -> None: ...
    def shrink(self, position: int) -> None: ...
    def keep(self) -> None: ...
    def statistics(self) -> LogStatistics: ...
    def counts(self) -> Mapping[str, int]: ...
    def close(self) -> None: ...


Log = CommitLog | NoLog | SharedLog


def _mark_at(log: LogMark, shard: int, position: int) -> bytes:
    return log._replace(position=position).encode()


def _ignore(_: ShardDamaged) -> None:
    pass


def _open_states(data_dir: Path, shards: Sequence[int], stopped: Stopped, *, isolate: bool, beside: int = 0) -> list[LmdbState]:
    """Of the shards that are not damaged; the others are added to `stopped`. `isolate`: so are those for which the disk fails.
    `beside`: so many are open already."""
    map_bytes = min(MAP_BYTES_MAX, ADDRESS_BYTES_MAX // max(1, beside + len(shards)))
    states: list[LmdbState] = []
    try:
        for shard in shards:
            try:
                states.append(LmdbState(data_dir / "shards" / f"{shard:04d}", shard, map_bytes=map_bytes))
            except ShardDamaged as error:
                stopped[shard] = error
            except StoreFailed as error:
                if not isolate:
                    raise
                stopped[shard] = ShardUnwritable(shard, error.operation, error.place, error.problem)
    except BaseException:
        _close_states(states)
        raise
    return states


def _check_recovered(states: Sequence[LmdbState], recovery: Recovery) -> None:
    """That they have got as far as they were before; else they stay as they are."""
    for shard, seq in recovery.seqs.items():
        try:
            next(state for state in states if state.shard == shard).check_recovered(seq)
        except ShardDamaged as error:
            recovery.leave_out(error)


def _without(states: Sequence[LmdbState], damaged: Stopped) -> list[LmdbState]:
    _close_states([state for state in states if state.shard in damaged])
    return [state for state in states if state.shard not in damaged]


def _delete(logs: Sequence[LogDirectory], shipping: Shipping) -> None:
    """Logs whose records are all in the states."""
    for log in logs:
        deleted = []
        try:
            for path in (log.path, log.path.with_name(log.path.name + KEPT)):
                if path.exists():
                    deleted.append(path.rename(path.with_name(DELETED + path.name)))
            sync_directory(log.path.parent)  # All of it has gone before any is removed: a recovery must never meet half a log.
            for path in deleted:
                shipping.take_all(path)
                shutil.rmtree(path)
        except OSError as error:  # It costs room, and nothing else.
            logger.warning("cannot delete logs that are no longer needed: %s", error)


def _unneeded_logs(
    data_dir: Path, recovery: Recovery, start: int, worker: int, run: int, stopped: Collection[int]
) -> list[LogDirectory]:
    """Those of this worker's processes before this one that have nothing but what is in the states, once these are committed."""
    missing = {*stopped, *recovery.damaged}
    return [log for log in own_logs(data_dir, start, worker, run) if not recovery.may_need(log, missing)]


def _start_log(
    data_dir: Path, recovery: Recovery, start: int, worker: int, seqs: dict[int, int], stopped: Collection[int]
) -> tuple[CommitLog, LogMark]:
    """A new log, for a process of its own. `seqs`: of the shards that it is for, at every moment. `stopped`: those that recovery
    does not know of."""
    run = next_run(data_dir, start, worker)
    path, prologue, shipping = log_path(data_dir, start, worker, run), partial(encode_seqs, seqs), Shipping(data_dir)
    ship = partial(shipping.take, log=path.name)
    try:
        log = CommitLog(path, prologue=prologue, ship=ship)
    except LogWithoutRoom:
        recovery.write(LogMark(start, worker, NO_RUN))  # Then those of this worker's earlier processes may go, to make room.
        _delete(_unneeded_logs(data_dir, recovery, start, worker, run, stopped), shipping)
        log = CommitLog(path, prologue=prologue, ship=ship)
    return log, LogMark(start, worker, run)


def _replay(
    data_dir: Path, worker: int, shard: int, log: SharedLog, beside: int, is_wanted: Callable[[], bool] | None
) -> LmdbState:
    """See `WorkerStore.replay`; without `is_wanted` it is `read_ahead`, which claims nothing. Where the log begins behind what is
    here, a snapshot takes its place, and it begins anew."""
    for _ in range(FETCHES_MAX):
        stopped: Stopped = {}
        states = _open_states(data_dir, [shard], stopped, isolate=True, beside=beside)
        try:
            if not stopped:
                stopped.update(_replay_opened(data_dir, worker, states[0], log, is_wanted))
            if not stopped:
                return states[0]
        except BaseException:
            _close_states(states)
            raise
        _close_states(states)
        if not isinstance(behind := stopped[shard], ShardLeftBehind):
            break
        _fetch(data_dir, behind, log, is_ahead=is_wanted is None)
    raise stopped[shard]


def _replay_opened(
    data_dir: Path, worker: int, state: LmdbState, log: SharedLog, is_wanted: Callable[[], bool] | None
) -> Stopped:
    recovery = Recovery(data_dir, [state], 0, worker, isolate=True, shared=True)
    place = Path(f"{data_dir}, what the log has")

    def applied(_: int, record: bytes) -> None:
        recovery.take(decode_unread_record(record), place)

    reached: bytes | ShardDamaged | None
    if is_wanted is not None:
        reached = log.take(state.shard, state.log_mark, applied, is_wanted)
    else:
        reached = log.follow(state.shard, state.log_mark, applied)
    unwanted = reached if isinstance(reached, ShardUnwanted) else None
    if unwanted is not None:
        reached = unwanted.mark
    if isinstance(reached, ShardDamaged):
        recovery.leave_out(reached)
    _check_recovered([state], recovery)
    mark = reached if isinstance(reached, bytes) else None
    recovery.write(lambda shard: log.mark(shard, 0) if mark is None else mark)
    return recovery.damaged if unwanted is None else {state.shard: unwanted}


def _fetch(data_dir: Path, behind: ShardLeftBehind, log: SharedLog, *, is_ahead: bool = False) -> None:
    """Puts a snapshot in the place of the state. Until it is there as a whole, what was there stays. Raises ShardDamaged, for
    whatever reason it is not there, or LogBroken."""
    path, shard = data_dir / "shards" / f"{behind.shard:04d}", behind.shard

    def accept(mark: bytes, commit: int) -> None:
        state = LmdbState(new, shard)  # Which looks through it.
        try:
            if (state.log_mark, state.applied_seq) != (mark, commit):
                problem = f"its file ends with commit {state.applied_seq}, and should with {commit}"
                raise ShardDamaged(shard, "take", f"shard {shard}", problem)
        finally:
            state.close()

    try:
        with new_data(path) as new:
            log.fetch(behind, new / DATA_FILE, accept, is_ahead=is_ahead)
            put_in_place(new, path)
    except OSError as error:
        raise ShardUnwritable(shard, "put a snapshot in place in", path, error.strerror or str(error)) from error
    except (ShardDamaged, LogBroken):
        raise
    except OperatorError as error:
        raise ShardUnwritable(shard, error.operation, error.place, error.problem) from error


def _close_states(states: Sequence[LmdbState]) -> None:
    for state in states:
        state.close()


def _has_room(probe: Path, need_bytes: int) -> bool:
    try:
        fd = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, need_bytes)
        finally:
            os.close(fd)
            os.unlink(probe)
    except OSError:
        return False
    return True


def _is_writable(path: Path, shard: int) -> bool:
    """Asks by a commit of what the state says already. Where only recovery can tell what is there, it is for recovery to say."""
    try:
        state = LmdbState(path, shard)
    except OperatorError:
        return False
    try:
        if state.applied_seq >= state.expected_seq:
            batch = state.begin()
            batch.set_applied_seq(state.applied_seq)
            batch.commit()
    except OperatorError:
        return False
    finally:
        state.close()
    return True


class SpaceStatistics(NamedTuple):
    log_bytes: int
    state_bytes: int
    state_free_bytes: int
    """Of them, those that hold nothing."""
    reserve_bytes: int
    disk_free_bytes: int
    """In whole steps, so that an idle service beside a busy one does not change all the time."""
    shard_bytes: dict[int, int]
    """What the state of each shard takes."""


class WorkerStore:
    """Everything one worker keeps on disk."""

    def __init__(
        self,
        states: Sequence[LmdbState],
        log: Log,
        report: RecoveryReport,
        trouble: Callable[[CheckpointTrouble], None],
        memtable_bytes: int = MEMTABLE_BYTES_MIN,
        stopped: Stopped | None = None,
        seqs: dict[int, int] | None = None,
        mark_at: Callable[[int, int], bytes] = lambda shard, position: b"",
        room: Room | None = None,
    ) -> None:
        """`mark_at`: what a state says of the log, see `Checkpointer`. `seqs` is kept up to date, for the log's prologues."""
        self.stopped: Stopped = {} if stopped is None else stopped
        """What is not in `shards` because it is damaged. The logs keep what it needs."""
        self.on_damage: Callable[[ShardDamaged], object] = self._note_damage
        """Told of each damage that is found from now on, on the loop thread, perhaps in the middle of object code: `stop` is to
        be called soon."""
        self.damage_found: list[ShardDamaged] = []
        """Before anybody was there to be told."""
        self.shards = {state.shard: ShardStore(state) for state in states}
        self.log = log
        self.recovery = report
        self.applied_position = 0
        """Log position of the newest record whose writes are visible."""
        stores = list(self.shards.values())
        for each in stores:
            each.on_damage = self._found_damage
            each.load_answers()
        self._seqs = seqs if seqs is not None else {shard: store.seq for shard, store in self.shards.items()}
        """Of every shard that the log has commits of, the newest one that was applied."""
        self._untold = 0
        """Records since one said that."""
        self.room = room
        if room is not None:
            room.log = log
        self.checkpointer = Checkpointer(
            stores, log, lambda: self.applied_position, trouble, memtable_bytes, mark_at, room
        )  # fmt: skip
        self.upkeep = Upkeep(self.checkpointer, trouble)
        self._watch: Watch | None = None
        """Where the states are files, which may not be in memory."""
        self._trouble = trouble
        self._states, self._are_files = list(states), False
        self._left: dict[int, ShardStore] = {}
        """Stores of shards that are served no longer, as long as their files are open."""
        self._closing_files: dict[int, asyncio.Task[None]] = {}
        self._preparer = ThreadPoolExecutor(1, "tidegate-segments")
        self._preparing: asyncio.Future[None] | None = None
        self._closing = False
        self._free_bytes = 0
        """Of the disk, when it was looked the last time."""
        self._looking: Future[None] = Future()
        self._looking.set_result(None)
        self._failures, self._prepare_at_s = 0, 0.0
        """To prepare a segment, one after another; and when it is tried again."""
        self._without_segment: OperatorError | None = None
        self.read_only: OperatorError | None = None
        """Why nothing can be written: there was no room to start. Reads are served; see `wait_for_room`."""
        self._probe: Path | None = None

    @classmethod
    def open(
        cls,
        data_dir: Path,
        start: int,
        worker: int,
        shards: Sequence[int],
        trouble: Callable[[CheckpointTrouble], None],
        memtable_bytes: int = MEMTABLE_BYTES_MIN,
    ) -> WorkerStore:
        """Blocks until everything durable is recovered and the log is ready. Raises OperatorError. `trouble` is called on the
        loop thread when a checkpoint or the preparation of a segment fails: to be logged, and if fatal, to end the worker.
        `memtable_bytes`: see `Checkpointer`. Where there is no room for any of that, everything durable can be read, and nothing
        written: see `read_only`. Where the disk fails it is tried again from the beginning; if it then fails for some shards
        still, these are stopped: see `wait_for_disk`."""
        for pause_s in OPEN_PAUSES_S:
            try:
                return cls._open(data_dir, start, worker, shards, trouble, memtable_bytes, isolate=False)
            except (StoreFailed, LogBroken) as error:
                logger.warning("%s; it is tried again in %g s", error, pause_s)
                time.sleep(pause_s)
        return cls._open(data_dir, start, worker, shards, trouble, memtable_bytes, isolate=True)

    @classmethod
    def _open(
        cls,
        data_dir: Path,
        start: int,
        worker: int,
        shards: Sequence[int],
        trouble: Callable[[CheckpointTrouble], None],
        memtable_bytes: int,
        *,
        isolate: bool,
    ) -> WorkerStore:
        """`isolate`: a shard whose state cannot be written is stopped."""
        stopped: Stopped = {}
        shipping = Shipping(data_dir)
        give_up = partial(shipping.give_up, "the disk is full")
        room = Room(data_dir / "log" / f"{RESERVE}{worker}", SPACE_RESERVE_BYTES, give_up=give_up)
        states = _open_states(data_dir, shards, stopped, isolate=isolate)
        try:
            recovery = Recovery(data_dir, states, start, worker, isolate=isolate)
            recovery.read()
            _check_recovered(states, recovery)
            log, mark = _start_log(data_dir, recovery, start, worker, seqs := recovery.seqs, stopped)
            try:
                recovery.write(mark)
            except BaseException:
                log.close()  # It stays: some state may have become part of it.
                raise
            report = recovery.report()
            stopped.update(report.damaged)
            states = _without(states, stopped)
            mark_at = partial(_mark_at, mark)
            store = cls(states, log, report, trouble, memtable_bytes, stopped, seqs, mark_at, room)
            found = {error.shard for error in store.damage_found}
            _delete(_unneeded_logs(data_dir, recovery, start, worker, mark.run, {*stopped, *found}), shipping)
        except (StoreFull, LogWithoutRoom) as error:
            _close_states(states)  # What has failed to write is in no state to be read.
            if room.use():
                return cls._open(data_dir, start, worker, shards, trouble, memtable_bytes, isolate=isolate)
            return cls._open_to_read(data_dir, start, worker, shards, trouble, error)
        except BaseException:
            _close_states(states)
            raise
        store._has_files(room)
        return store

    @classmethod
    def open_shared(
        cls,
        data_dir: Path,
        worker: int,
        shards: Sequence[int],
        trouble: Callable[[CheckpointTrouble], None],
        memtable_bytes: int,
        log: SharedLog,
    ) -> WorkerStore:
        """As `open`, where the log is kept elsewhere and what is in this directory is a cache of it. Blocks until the shards are
        claimed; those that are not are stopped. The log is the store's from now on, also where this raises OperatorError."""
        stopped: Stopped = {}
        states: list[LmdbState] = []
        try:
            states = _open_states(data_dir, shards, stopped, isolate=True)
            recovery = Recovery(data_dir, states, 0, worker, isolate=True, shared=True)
            place = Path(f"{data_dir}, what the log has")

            def applied(shard: int, record: bytes) -> None:
                recovery.take(decode_unread_record(record), place)

            for damage in log.claim({state.shard: state.log_mark for state in states}, applied).values():
                recovery.leave_out(damage)
            _check_recovered(states, recovery)
            recovery.write(partial(log.mark, position=0))
            stopped.update(recovery.damaged)
            states = _without(states, stopped)
            for behind in [each for each in stopped.values() if isinstance(each, ShardLeftBehind)]:
                try:
                    states.append(_replay(data_dir, worker, behind.shard, log, len(states), lambda: True))
                except ShardDamaged as error:
                    stopped[behind.shard] = error
                else:
                    del stopped[behind.shard]
            seqs = recovery.seqs | {state.shard: state.applied_seq for state in states}
            room = Room(data_dir / "log" / f"{RESERVE}{worker}", SPACE_RESERVE_BYTES)
            store = cls(
                states, log, recovery.report(), trouble, memtable_bytes, stopped, seqs, mark_at=log.mark, room=room
            )  # fmt: skip
        except BaseException:
            log.close()
            _close_states(states)
            raise
        store._has_files(room)
        return store

    def _has_files(self, room: Room) -> None:
        room.keep()
        self._are_files = True
        self._look_at_disk()
        self.checkpointer.shrink = Shrinker(self.shards, self._states).shrink
        self._watch = Watch([(self.shards[state.shard], state) for state in self._states])

    @classmethod
    def _open_to_read(
        cls,
        data_dir: Path,
        start: int,
        worker: int,
        shards: Sequence[int],
        trouble: Callable[[CheckpointTrouble], None],
        problem: OperatorError,
    ) -> WorkerStore:
        stopped: Stopped = {}
        states = _open_states(data_dir, shards, stopped, isolate=True)
        try:
            recovery = Recovery(data_dir, states, start, worker)
            recovery.read(writing=False)
            _check_recovered(states, recovery)
            stopped.update(recovery.damaged)
            states = _without(states, stopped)
        except BaseException:
            _close_states(states)
            raise
        store = cls(states, NoLog(problem), recovery.report(), trouble, stopped=stopped)
        recalled = recovery.memtables()
        for shard, each in store.shards.items():
            each.seq, each.active = recalled[shard]
            each.load_answers()
        store.read_only = problem
        store._probe = data_dir / "log" / f"{PROBE}{worker}"
        store._watch = Watch([(store.shards[state.shard], state) for state in states])
        return store

    @property
    def keeps_logs(self) -> bool:
        """Whether logs of earlier starts may have something that a state has not got."""
        return self.read_only is not None or bool(self.stopped) or bool(self.damage_found)

    @property
    def unwritable(self) -> list[ShardUnwritable]:
        """The shards that are stopped only because the disk failed."""
        return [each for each in self.stopped.values() if isinstance(each, ShardUnwritable)]

    async def wait_for_disk(self, data_dir: Path) -> None:
        """Returns when the state of one of those shards could be written again: a new process may serve it. Until then the disk
        is asked now and then, in a helper thread."""
        while True:
            await asyncio.sleep(UNWRITABLE_PAUSE_S)
            for each in self.unwritable:
                if await asyncio.to_thread(_is_writable, data_dir / "shards" / f"{each.shard:04d}", each.shard):
                    return

    def check_belonging(self, data_dir: Path, shards_total: int) -> None:
        """See `belonging`. Raises OperatorError."""
        check_belonging(data_dir, [state for state in self._states if state.shard in self.shards], shards_total)

    async def wait_for_room(self) -> None:
        """Returns when a store that is `read_only` could be opened to be written. Asks the file system itself, by taking as much
        as that needs: it alone knows of quotas, reserves and files that may not be made."""
        assert self._probe is not None
        need_bytes = 2 * self.memtable_bytes + PROBE_BYTES_MIN
        while not await asyncio.to_thread(_has_room, self._probe, need_bytes):
            await asyncio.sleep(PROBE_EVERY_S)

    @property
    def memtable_bytes(self) -> int:
        """Estimate of the memory that holds what the states have not got yet."""
        return sum(store.memtable_bytes for store in self.shards.values())

    @property
    def disk_is_full(self) -> OperatorError | None:
        """Why the log gets no further segment, while the disk has no room for one, as of the time before. What is written goes
        on in those that it has."""
        return self._without_segment if self._free_bytes < self.log.next_bytes else None

    def space(self) -> SpaceStatistics:
        """What it takes of the disk, and what is left there, as of the time before."""
        sizes = {state.shard: state.sizes for state in self._states if self._are_files and state.is_open}
        free = self._free_bytes
        if self._looking.done() and not self._closing:
            self._looking = self._preparer.submit(self._look_at_disk)
        return SpaceStatistics(
            log_bytes=self.log.statistics().file_bytes,
            state_bytes=sum(each.file_bytes for each in sizes.values()),
            state_free_bytes=sum(each.free_bytes for each in sizes.values()),
            reserve_bytes=0 if self.room is None else self.room.kept_bytes,
            disk_free_bytes=free - free % DISK_FREE_STEP_BYTES,
            shard_bytes={shard: each.file_bytes for shard, each in sizes.items()},
        )

    def _look_at_disk(self) -> None:
        """In the helper: a disk that hangs may keep whoever asks."""
        for state in self._states[:1] if self._are_files else ():
            disk = os.statvfs(state.path)
            self._free_bytes = disk.f_bavail * disk.f_frsize

    def append(self, record: bytes) -> int:
        """Blocks until the record, an encoded `CommitRecord`, is durable; its log position. On any one thread at a time. Raises
        `LogFull` (nothing was written: await `checkpointer.make_room()` and try again), `LogBroken` (the outcome is unknown:
        the worker must end) or, where a log is shared, `PartlyStored`."""
        return self.log.append(record)

    def seqs_to_tell(self) -> dict[int, int]:
        """What a record cut now says of all shards (see `CommitRecord.seqs`): so often that it says of eight at most, all in
        all."""
        self._untold += SEQS_TOLD
        if self._untold < len(self._seqs):
            return {}
        self._untold = 0
        return self._seqs

    def applied(self, position: int, commits: Sequence[ShardCommit], record_bytes: int = RECORD_BYTES) -> None:
        """Makes the commits of the record at `position` visible to reads. Takes over their objects. On the loop thread, in the
        order of positions."""
        for commit in commits:
            self._seqs[commit.shard] = commit.seq
            if (store := self.shards.get(commit.shard)) is not None:  # Else it was stopped while this was in flight.
                store.apply(commit.seq, commit.objects, commit.answers, commit.rolls)
        self.applied_position = position
        self.checkpointer.note_applied(record_bytes)
        if self._preparing is None and self.log.needs_segment:
            self._prepare_segment()

    # Damage

    def _found_damage(self, error: ShardDamaged) -> None:
        if error.shard not in self.stopped:
            self.log.keep()  # Now, since a checkpoint may be about to truncate it.
            self.on_damage(error)

    def _note_damage(self, error: ShardDamaged) -> None:
        self.damage_found.append(error)

    def stop(self, error: ShardDamaged) -> bool:
        """The shard leaves `shards`; its files are left as they are, and the log keeps what it has of it. False: it was stopped
        before."""
        store = self.shards.pop(error.shard, None)
        if store is None:
            return False
        self.log.keep()
        self.stopped[error.shard] = error
        self._leave(store)
        return True

    def _leave(self, store: ShardStore) -> None:
        """Nothing of it is served or checkpointed from now on; what is under way ends."""
        store.on_damage = _ignore  # Of whoever reads on.
        self._left[store.shard] = store
        self.checkpointer.leave_out(store)

    # Shards that come and go, where the log is shared

    def replay(self, data_dir: Path, worker: int, shard: int, is_wanted: Callable[[], bool]) -> LmdbState:
        """Claims a shard for this process and brings its state up to everything that the log has of it. Blocks, on any thread but
        the loop's; the others are served meanwhile. To be given to `take_over`. `is_wanted`: see `SharedLog.take`. Raises
        `ShardDamaged` where it is not to be had."""
        return _replay(data_dir, worker, shard, cast("SharedLog", self.log), len(self._states), is_wanted)

    def read_ahead(self, data_dir: Path, worker: int, shard: int) -> None:
        """Brings the state of a shard that another host serves up to what the log has now, so that a `replay` has little left to
        do. Blocks, on any thread but the loop's. Raises as that does."""
        log = cast("SharedLog", self.log)
        _replay(data_dir, worker, shard, log, len(self._states), None).close()

    async def copy_of(self, shard: int) -> StateCopy | None:
        """Of the state of a shard that is served, with everything that was applied when this was called. None: it has left
        meanwhile. To be removed by whoever asked. Raises OperatorError."""
        await self.checkpointer.finish()
        store = self.shards.get(shard)
        state = next((each for each in self._states if each.shard == shard), None)
        if store is None or state is None:
            return None
        directory = await self.checkpointer.copied(store, state.copy_aside)
        return None if directory is None else StateCopy(shard, directory)

    def take_over(self, state: LmdbState) -> None:
        """Its shard is served from now on."""
        shard = state.shard
        assert shard not in self.shards
        store = self.shards[shard] = ShardStore(state)
        store.on_damage = self._found_damage
        store.load_answers()
        self.stopped.pop(shard, None)
        self._states.append(state)
        self._seqs[shard] = store.seq
        self.checkpointer.add(store)
        if self._watch is not None:
            self._watch.add(store, state)

    def give(self, shard: int) -> None:
        """The shard is served no longer. Nothing of its log may be under way: whoever claims it now disturbs nobody."""
        self._leave(self.shards.pop(shard))
        cast("SharedLog", self.log).give(shard)
        self._seqs.pop(shard, None)

    async def close_file(self, shard: int) -> None:
        """Of a shard that is served no longer: returns when nobody uses its file, and it is closed. What that lacks is in the
        log."""
        if (closing := self._closing_files.get(shard)) is None and shard in self._left:
            closing = self._closing_files[shard] = asyncio.get_running_loop().create_task(self._close_file(shard))
            closing.add_done_callback(lambda _: self._closing_files.pop(shard))
        if closing is not None:
            await asyncio.shield(closing)

    async def _close_file(self, shard: int) -> None:
        store = self._left[shard]
        await self.checkpointer.rests(store)
        while store.reads:  # Whoever has kept the store may have begun one meanwhile.
            over = asyncio.get_running_loop().create_future()
            store.reads.when_over(partial(over.set_result, None))
            await over
        state = next(each for each in self._states if each.shard == shard)
        if self._watch is not None:
            self._watch.leave_out(state)
        self._states.remove(state)
        state.close()
        store.be_closed()
        del self._left[shard]

    def _prepare_segment(self) -> None:
        """Beside the loop. On a full disk only now and then: an append that needs the segment makes it itself."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._prepare_at_s:
            return
        self._preparing = loop.run_in_executor(self._preparer, self.log.prepare_segment)
        self._preparing.add_done_callback(self._prepared)

    def _prepared(self, future: asyncio.Future[None]) -> None:
        self._preparing = None
        error = None if future.cancelled() else future.exception()
        if error is None:
            self._failures, self._without_segment = 0, None
        elif isinstance(error, OperatorError):
            self._failures, self._without_segment = self._failures + 1, error
            self._prepare_at_s = future.get_loop().time() + retry_delay_s(self._failures)
            self._trouble(CheckpointTrouble(error, self.log.is_broken))
        else:
            raise error

    def read_statistics(self) -> WatchStatistics:
        return WatchStatistics(0, len(self.shards)) if self._watch is None else self._watch.statistics()

    async def close(self) -> None:
        """Closes all files. To leave nothing for recovery, await `checkpointer.finish()` before."""
        self._closing = True
        self.upkeep.stop()
        await self.checkpointer.close()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._preparer.shutdown)
        if self._watch is not None:
            self._watch.stop()
            await loop.run_in_executor(None, self._watch.close)
        self.log.close()
        for state in self._states:
            state.close()
