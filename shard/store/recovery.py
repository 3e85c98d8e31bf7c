"""Brings the states of a worker's shards up to everything durable, before the worker serves.

Guarantee: after `Recovery.write` each state contains, synced, every record of its shard that any log of an earlier worker holds,
in order and without a gap; or else its shard is in `damaged`, with the reason, and its state is as it was, or has the commits
before the first one that is missing. A shard is not damaged by what is missing of others: records and segments say how far each
shard had got, so that a gap concerns those only of which a commit is missing, or of which nothing says that none is. A disk that
fails is no damage: `write` and `read` raise `StoreFailed`, unless they are to isolate the shard.

It never relies on what the page cache says about an earlier worker's writes: a worker may have been ended by a failed sync, so
every shard that any record mentions gets a fresh synced commit, also if its state seems up to date.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import msgspec

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.ids import OBJECT_KEY_BYTES
from tidegate.shard.log.reading import End, Gap, LogCorrupt, Opening, read_log
from tidegate.shard.store.answers import ANSWERS_KEY, AnswerTable, decode_answers, decode_rolls
from tidegate.shard.store.interface import Answer, AnswerRoll, ObjectWrites, ShardDamaged, ShardUnwritable
from tidegate.shard.store.logs import NO_RUN, LogDirectory, LogMark, decode_mark, list_logs, logs_to_recover
from tidegate.shard.store.memtable import Memtable, merge_over
from tidegate.shard.store.record import NO_ANSWERS, UnreadCommitRecord, UnreadShardCommit, decode_objects, decode_unread_record
from tidegate.shard.store.store import ABOVE_KEYS, ShardState, StateBatch, StoreFailed

RECOVERY_ENTRIES_MAX = 500_000
"""Entries gathered from the logs, of all shards, before they are committed: bounds memory."""
RECOVERY_BYTES_MAX = 256 << 20
RECOVERY_COMMITS = 4
"""Commits at the same time: as many shards as a worker has where nothing else is configured."""
_CHECK_BYTES = 4 << 20  # Log bytes between two looks at those bounds.
_RANGE_KEYS = 10_000

decode_seqs = msgspec.msgpack.Decoder(dict[int, int]).decode
encode_seqs = msgspec.msgpack.Encoder().encode
"""Shard sequences, as they stand in the prologue of a segment."""


class RecoveryReport(NamedTuple):
    logs: int
    records: int
    """Log records read, those of other workers' shards included."""
    commits: int
    """Shard commits that were not in the states yet."""
    entries: int
    """Keys written into the states."""
    took_s: float
    damaged: Mapping[int, ShardDamaged] = {}
    """By shard, what is the matter with those that must not be served."""
    dropped: Sequence[Path] = ()
    """Segments that end in the beginning of a record: it was never confirmed, and is dropped."""


class _Gathered:
    """What one shard's records add up to since its last commit."""

    def __init__(self, state: ShardState, *, salvage: bool) -> None:
        self.state = state
        self.applied_before = state.applied_seq
        self.seq = state.applied_seq
        self.memtable = Memtable()
        self.mentioned = False
        self.mark: LogMark | None = None
        self.doubt: Gap | None = None
        """Of what is missing there something may be the shard's."""
        self.damage: ShardDamaged | None = None
        self.lost: list[str] = []
        """What is missing; filled where that is no reason to stop."""
        self._salvage = salvage
        self._answers: AnswerTable | None = None

    def _replay_answers(self, answers: list[Answer], rolls: list[AnswerRoll]) -> None:
        """Those that are not kept until the end need not be written."""
        if self._answers is None:
            self._answers = AnswerTable()
            rows = self.state.scan(ANSWERS_KEY, ANSWERS_KEY + ABOVE_KEYS, False)
            below = ((key[OBJECT_KEY_BYTES:].decode(), raw) for key, raw in rows)
            above = self.memtable.rows(ANSWERS_KEY, "", None, False)  # A data directory that was put into a log has rows there.
            self._answers.load((key, raw) for key, raw in merge_over(above, below, False) if raw is not None)
        self._answers.apply(answers, rolls)

    def finish_answers(self) -> None:
        """What is kept is among the entries from now on."""
        if self._answers is not None and (changes := self._answers.take_changes()):
            self.memtable.apply([ObjectWrites(ANSWERS_KEY, False, changes)])

    def expect_logs(self, logs: Sequence[LogDirectory], start: int, worker: int) -> None:
        """Notes as damage what should be there and is not."""
        try:
            mark = self.mark = decode_mark(self.state.log_mark)
        except ValueError as error:
            self.missing("the state", str(error))
            return
        if mark is None or not mark.names_log or any(log.is_named_by(mark) for log in logs):
            return
        if mark.start > start or (mark.start == start and mark.worker != worker):
            self.missing(
                f"log {mark}", f"shard {self.state.shard} was served in start {mark.start}, and this is start {start}: "
                "tidegate.json, or the folder of logs, is an older copy",
            )  # fmt: skip
        else:
            hint = f"put it back; to go on without it, stop the service and run `tidegate repair --shard {self.state.shard}`"
            self.missing(f"log {mark}", "it is missing, and may have confirmed commits that its state does not have", hint)

    def missing(self, place: object, problem: str, hint: str | None = None) -> None:
        if self._salvage:
            self.lost.append(f"{place}: {problem}")
        elif self.damage is None:
            self.damage = ShardDamaged(self.state.shard, "recover", place, problem, hint)

    def in_doubt(self, gap: Gap) -> None:
        self.doubt = self.doubt or gap

    def had_got_to(self, seq: int, place: object) -> None:
        """The log says that the shard had got so far at this point of it."""
        if seq > self.seq:
            self._lacks(seq, place, "the log goes on behind them")
            self.seq = seq
        self.doubt = None

    def _lacks(self, seq: int, place: object, otherwise: str) -> None:
        """Commits up to `seq` are missing."""
        first, shard = self.seq + 1, self.state.shard
        commits = f"commit {first} of shard {shard} is" if first == seq else f"commits {first} to {seq} of shard {shard} are"
        if self.doubt is not None:
            place, otherwise = self.doubt.place, self.doubt.problem
        else:
            otherwise += "; its state is an older copy, or a log is missing"
        self.missing(place, f"{commits} missing: {otherwise}")

    def end(self) -> None:
        """There are no more logs."""
        if self.doubt is not None:
            shard = self.state.shard
            self.missing(self.doubt.place, f"{self.doubt.problem}; nothing says that no commit of shard {shard} was among them")

    def add(self, commit: UnreadShardCommit, place: Path) -> bool:
        """Takes the commit, unless the state has it."""
        self.mentioned = True
        if commit.seq <= self.applied_before:
            if commit.seq <= self.seq + 1:
                self.doubt = None
            return False
        if commit.seq <= self.seq:
            self.missing(place, f"commit {commit.seq} of shard {commit.shard} occurs a second time: two services wrote this data")
            return False
        if commit.seq != self.seq + 1:
            self._lacks(commit.seq - 1, place, f"commit {commit.seq} comes after commit {self.seq}")
        self.doubt = None
        if self.damage is not None:
            return False
        self.memtable.apply(decode_objects(commit.objects))
        if commit.answers != NO_ANSWERS or commit.rolls != NO_ANSWERS:
            self._replay_answers(decode_answers(commit.answers), decode_rolls(commit.rolls))
        self.seq = commit.seq
        return True

    def fill(self, mark: bytes = b"") -> StateBatch:
        """What was gathered, to be committed; `written` comes after that."""
        self.finish_answers()
        batch = self.state.begin()
        try:
            _fill(batch, self.memtable)
            batch.set_applied_seq(self.seq)
            if mark:
                batch.set_log(mark)
        except OperatorError:
            batch.abort()
            raise
        return batch

    def written(self) -> int:
        """It is durable; the number of entries."""
        entries = self.memtable.entries
        self.memtable = Memtable()
        self.mentioned = False
        return entries


def _fill(batch: StateBatch, memtable: Memtable) -> None:
    """Like `checkpoints.checkpoint.slices`, without the stops: nobody is served yet, so one sorted run is fastest."""
    puts: list[tuple[bytes, bytes]] = []
    deletes: list[bytes] = []
    for object_key, held in memtable.objects.items():
        if held.cleared:
            while not batch.delete_range(object_key, object_key + ABOVE_KEYS, _RANGE_KEYS):
                pass
        for key, value in held.writes.items():
            if value is None:
                deletes.append(object_key + key.encode())
            else:
                puts.append((object_key + key.encode(), value))
    puts.sort()
    batch.put_many(puts)
    batch.delete_many(sorted(deletes))


class Recovery:
    """`read`, then `write`. The logs are only read; to discard them is up to the caller."""

    def __init__(
        self,
        data_dir: Path,
        states: Sequence[ShardState],
        start: int,
        worker: int,
        *,
        salvage: bool = False,
        isolate: bool = False,
        shared: bool = False,
    ) -> None:
        """`salvage`: what is missing is no reason to stop, see `salvaged`. `isolate`: neither is a state that cannot be written;
        its shard is damaged then, see `ShardUnwritable`. `shared`: no log is in this directory; whoever claims the shards has
        what the states lack taken (`take`)."""
        self._isolate = isolate
        self._logs = [] if shared else list_logs(data_dir) if salvage else logs_to_recover(data_dir, start, worker)
        self._began = perf_counter()
        self._gathered = {state.shard: _Gathered(state, salvage=salvage) for state in states}
        self._records = self._commits = self._entries = 0
        self._dropped: list[Path] = []
        self._untaken_bytes = 0
        self.on_written: Callable[[ShardState, Memtable], object] = lambda state, memtable: None
        """Told what a state has got, when it has it."""
        self._shards_of: dict[Path, set[int]] = {}
        """By log, the shards of which it may have commits; a log of the older format does not say."""
        for each in () if shared else self._gathered.values():
            each.expect_logs(self._logs, start, worker)

    def read(self, *, writing: bool = True) -> None:
        """Reads all logs. `writing`: what does not fit in memory goes into the states meanwhile."""
        collecting = gc.isenabled()
        gc.disable()  # Millions of small objects, none of them in a cycle: looking for cycles takes a quarter of the time.
        try:
            for log in self._logs:
                self._read(log, writing=writing)
            for each in self._gathered.values():
                each.end()
        finally:
            if collecting:
                gc.enable()

    def take(self, record: UnreadCommitRecord, place: Path) -> None:
        """Like a record that the logs have, after all of them; what does not fit in memory goes into the states meanwhile."""
        self._take(record, place)
        self._untaken_bytes += sum(len(commit.objects) for commit in record.shards)
        if self._untaken_bytes >= _CHECK_BYTES:
            self._untaken_bytes = 0
            if self._is_enough():
                self._write([each for each in self._gathered.values() if each.mentioned])

    def leave_out(self, damage: ShardDamaged) -> None:
        """Nothing is written into the state of this shard."""
        self._gathered[damage.shard].damage = damage

    @property
    def damaged(self) -> dict[int, ShardDamaged]:
        return {shard: each.damage for shard, each in self._gathered.items() if each.damage is not None}

    @property
    def seqs(self) -> dict[int, int]:
        """How far each shard has got that is not damaged."""
        return {shard: each.seq for shard, each in self._gathered.items() if each.damage is None}

    def memtables(self) -> dict[int, tuple[int, Memtable]]:
        """What `write` would write, by shard up to which sequence, where nothing can be written: the logs have to stay then."""
        for each in self._gathered.values():
            each.finish_answers()
        return {shard: (each.seq, each.memtable) for shard, each in self._gathered.items() if each.damage is None}

    def may_need(self, log: LogDirectory, shards: Collection[int]) -> bool:
        """Whether the log may have commits of one of these shards."""
        known = self._shards_of.get(log.path)
        return bool(shards) and (known is None or not known.isdisjoint(shards))

    def lost(self, shard: int) -> list[str]:
        """What is missing of a shard that is salvaged, in words."""
        return self._gathered[shard].lost

    def write(self, mark: LogMark | Callable[[int], bytes] | None = None) -> None:
        """Commits what is left, and that the states belong to this log from now on, or what of its log each is to say, by shard.
        Raises OperatorError; each state is whole then, or as it was."""
        mark_of = (lambda shard: mark.encode()) if isinstance(mark, LogMark) else mark
        self._write([each for each in self._gathered.values() if each.mentioned or mark is not None], mark_of)

    def report(self) -> RecoveryReport:
        took_s = perf_counter() - self._began
        return RecoveryReport(
            len(self._logs), self._records, self._commits, self._entries, took_s, self.damaged, tuple(self._dropped)
        )

    def _read(self, log: LogDirectory, *, writing: bool) -> None:
        concerned: Collection[int] = self._gathered
        """Of whose commits this log may have some."""
        unchecked_bytes = position = 0
        opened = False
        for item in read_log(log.path):
            if isinstance(item, memoryview):
                self._take(_decode(item, log.path), log.path)
                unchecked_bytes += len(item)
                if unchecked_bytes >= _CHECK_BYTES:
                    unchecked_bytes = 0
                    if writing and self._is_enough():
                        self._write([each for each in self._gathered.values() if each.mentioned])
            elif isinstance(item, Opening):
                opened = True
                if item.prologue:
                    concerned = seqs = decode_seqs(item.prologue)
                    self._shards_of.setdefault(log.path, set()).update(seqs)
                    self._had_got_to(seqs, log.path)
            elif isinstance(item, Gap):
                self._in_doubt(item, log, concerned)
            else:
                position = self._ended(item)
        self._look_at_marks(log, position, opened, concerned)

    def _take(self, record: UnreadCommitRecord, place: Path) -> None:
        self._records += 1
        if record.seqs:
            self._had_got_to(record.seqs, place)
        for commit in record.shards:
            gathered = self._gathered.get(commit.shard)
            if gathered is None:
                continue
            try:
                self._commits += gathered.add(commit, place)
            except ShardDamaged as error:  # To keep answers it reads its state.
                gathered.damage = error

    def _had_got_to(self, seqs: Mapping[int, int], place: Path) -> None:
        for shard, seq in seqs.items():
            if (gathered := self._gathered.get(shard)) is not None:
                gathered.had_got_to(seq, place)

    def _in_doubt(self, gap: Gap, log: LogDirectory, concerned: Collection[int]) -> None:
        for shard, each in self._gathered.items():
            if shard in concerned and not (each.mark is not None and each.mark.covers(log, gap.last)):
                each.in_doubt(gap)

    def _ended(self, end: End) -> int:
        if end.torn is not None:
            self._dropped.append(end.torn)
        return end.position

    def _look_at_marks(self, log: LogDirectory, position: int, opened: bool, concerned: Collection[int]) -> None:
        """Whether the log was at least as long as the states know it to have been."""
        belonging = [each for each in self._gathered.values() if each.mark is not None and log.is_named_by(each.mark)]
        reached = max((each.mark.position for each in belonging if each.mark is not None), default=0)
        if belonging and not opened:
            for each in belonging:
                each.missing(log.path, "nothing of this log can be read, and it may have had confirmed commits")
        elif reached > position:
            problem = f"the log ends with record {position}, but was seen with {reached}"
            self._in_doubt(Gap(log.path, position + 1, reached, problem), log, concerned)

    def _is_enough(self) -> bool:
        tables = [gathered.memtable for gathered in self._gathered.values()]
        return sum(t.entries for t in tables) >= RECOVERY_ENTRIES_MAX or sum(t.size_bytes for t in tables) >= RECOVERY_BYTES_MAX

    def _write(self, all_of: Sequence[_Gathered], mark_of: Callable[[int], bytes] | None = None) -> None:
        """Those of several shards at the same time, at the end: each waits for the disk twice."""
        whole = [each for each in all_of if each.damage is None]
        if mark_of is None:
            self._written([(each, _commit(each, b"")) for each in whole])
        else:
            marks = [mark_of(each.state.shard) for each in whole]
            with ThreadPoolExecutor(RECOVERY_COMMITS, "tidegate-recovery") as pool:
                self._written(list(zip(whole, pool.map(_commit, whole, marks), strict=True)))

    def _written(self, outcomes: Sequence[tuple[_Gathered, OperatorError | None]]) -> None:
        for each, error in outcomes:
            if error is None:
                self.on_written(each.state, each.memtable)
                self._entries += each.written()
            elif isinstance(error, ShardDamaged):
                each.damage = error
            elif isinstance(error, StoreFailed) and self._isolate:
                each.damage = ShardUnwritable(each.state.shard, error.operation, error.place, error.problem)
        for each, error in outcomes:
            if error is not None and each.damage is None:
                raise error


def _commit(gathered: _Gathered, mark: bytes) -> OperatorError | None:
    """Why nothing of it is in the state."""
    try:
        gathered.fill(mark).commit()
    except OperatorError as error:
        return error
    return None


def recover(data_dir: Path, states: Sequence[ShardState], start: int, worker: int) -> RecoveryReport:
    """Both at once, for states that belong to no log afterwards."""
    recovery = Recovery(data_dir, states, start, worker)
    recovery.read()
    recovery.write()
    return recovery.report()


def salvaged(data_dir: Path, state: ShardState) -> list[str]:
    """Takes whatever the logs have of the shard into its state, and has it served again at the next start although some of it is
    missing: that is returned, a line each. For a data directory that no service uses."""
    logs = list_logs(data_dir)
    recovery = Recovery(data_dir, [state], 0, 0, salvage=True)
    recovery.read()
    recovery.write(LogMark(max((log.start for log in logs), default=0), 0, NO_RUN))
    return recovery.lost(state.shard)


def _decode(payload: memoryview, place: Path) -> UnreadCommitRecord:
    try:
        return decode_unread_record(payload)
    except ValueError as error:
        raise LogCorrupt(
            "recover", place, f"a record with a good checksum cannot be decoded: {error}",
            "a newer version may have written it; start that version",
        ) from error  # fmt: skip
