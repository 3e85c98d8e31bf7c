"""Reads and writes of one shard: the newest durable value of every key.

A read looks at the active memtable, then at the frozen one (being checkpointed), then at the state. Each layer counts over the
ones below it, so moving the frozen layer into the state changes no answer at any instant.

Rule 1: nothing here waits; a read that misses memory is one short LMDB lookup (about 1.5 µs if the page is cached). Where the
        page may not be, there is a `reader`, and it makes the lookup beside the loop (see `reads`).
Rule 2: this file knows the state only by the protocol below; the simulator runs it over `MemoryState`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol, cast

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.ids import OBJECT_KEY_BYTES, object_key
from tidegate.shard.store.answers import ANSWERS_KEY, AnswerTable
from tidegate.shard.store.interface import (
    HEADER,
    UNKNOWN,
    Answer,
    AnswerRoll,
    Done,
    Fetch,
    ObjectWrites,
    Reader,
    ShardDamaged,
    ShardElsewhere,
    Snapshot,
    Unknown,
)
from tidegate.shard.store.memtable import Memtable, merge_over
from tidegate.shard.store.names import OWN_FIRST, FreshNames, IndexHead, Named, named_by, named_in
from tidegate.shard.store.reads import OpenReads

ABOVE_KEYS = b"\xff"
"""Larger than the first byte of any UTF-8 text: `object_key + ABOVE_KEYS` ends an object's range."""
ROLLS_WAITING_MAX = 16
UNCHANGED_MAX = 64
"""Objects of a shard that are read in pieces at the same time, see `unchanged_since`. Of more it would say less than is so."""
HEADERS_AT_ONCE = 16
LOWEST_KEY = "\0"
"""The smallest user key. Only the header's key "" is below it."""


class StoreFull(OperatorError):
    """No room on the disk or in the map. Nothing was committed; the same batch may be tried again."""


class StoreFailed(OperatorError):
    """The environment failed in a way after which nothing about it is known. The worker must end."""


class NotInMemory(Exception):
    """A scan would have to wait for the disk, and was not to."""


class StateBatch(Protocol):
    """Changes that reach the state together or not at all."""

    def put_many(self, items: list[tuple[bytes, bytes]]) -> None: ...

    def delete_many(self, keys: list[bytes]) -> None: ...

    def delete_range(self, start: bytes, end: bytes, keys_max: int) -> bool:
        """Deletes at most so many keys of [start, end); whether the range is empty now."""
        ...

    def next_names(self, keys_max: int) -> list[bytes]:
        """Keys of the rows of the index of names that `change_names` changes next: of those that the changes so far ask for, the
        first so many."""
        ...

    def change_names(self, keys_max: int) -> None:
        """Changes the first so many of those that were told. What is not changed by this is changed by the commit."""
        ...

    def set_applied_seq(self, seq: int) -> None: ...

    def set_log(self, mark: bytes) -> None:
        """See `ShardState.log_mark`."""
        ...

    def commit(self) -> None:
        """Blocks until durable. The only method that may be called in another thread."""
        ...

    def abort(self) -> None: ...


class ShardState(Protocol):
    """The checkpointed state of one shard. One batch at a time; reads see what is committed."""

    @property
    def shard(self) -> int: ...

    @property
    def applied_seq(self) -> int:
        """Everything up to this shard sequence is in the state."""
        ...

    @property
    def names(self) -> IndexHead:
        """What the index of names says of itself, see `store.names`: each batch keeps it."""
        ...

    @property
    def leaf_pages(self) -> int:
        """Pages that hold its rows, as of the newest commit. 0: it has none, being no file."""
        ...

    @property
    def log_mark(self) -> bytes:
        """Which log has what is not in the state, and up to which record it is (see `logs.LogMark`). Empty in old data."""
        ...

    def get(self, key: bytes) -> bytes | None: ...

    def scan(
        self, start: bytes, end: bytes, reverse: bool, *, may_wait: bool = True
    ) -> Generator[tuple[bytes, bytes], None, None]:
        """Rows of [start, end) in order. To be used up or closed at once, with nothing awaited in between. Unless it `may_wait`,
        `NotInMemory` is raised soon after it has had to wait for the disk."""
        ...

    def snapshot(self) -> Snapshot:
        """What is committed now, for a reader. No batch but the one at hand may be begun before it is closed."""
        ...

    def begin(self) -> StateBatch: ...


class StoreStatistics(NamedTuple):
    shard: int
    seq: int
    applied_seq: int
    active_entries: int
    active_bytes: int
    frozen_entries: int
    frozen_bytes: int


class _Closed:
    """In the place of a state whose file is closed: who has kept its store, and asks it something, is told so."""

    def __init__(self, shard: int) -> None:
        self._shard = shard

    def __getattr__(self, name: str) -> Any:
        raise ShardElsewhere(self._shard, "read", f"shard {self._shard}", "it has left this worker", undone=False)


class ShardStore:
    """What was applied is visible at once; what is in the state stays the same when it gets there."""

    def __init__(self, state: ShardState) -> None:
        self.state = state
        self.shard = state.shard
        self.seq = state.applied_seq
        """Shard sequence of the newest commit applied."""
        self.active = Memtable()
        self.frozen: Memtable | None = None
        self.frozen_seq = 0
        self.frozen_mark = b""
        """The log mark of a state that has it."""
        self.moves = 0
        """Grows when a memtable is gone, or empty, because what is below it has all that it had: rows of the index that were read
        before, and names that were found before, may lack that."""
        self.reader: Reader | None = None
        """What reads the state while its pages may not be in memory. None: they are, ask at once."""
        self.apart: Reader | None = None
        """What reads ranges that turn out not to be in memory. None: the state is no file, and there are none."""
        self.reads = OpenReads(self._read_failed)
        self._read_in: tuple[bytes, Sequence[str]] = b"", ()
        """See `is_read_in`."""
        self.on_damage: Callable[[ShardDamaged], object] = lambda error: None
        """Told of every read, on the loop, that has found damage; then whoever asked is."""
        self._unchanged: dict[bytes, int] = {}
        """See `unchanged_since`."""
        self._answers = AnswerTable()
        self._rolls: list[AnswerRoll] = []
        """Of the newest commits, those that the table has not got yet."""

    @property
    def answers(self) -> AnswerTable:
        """What calls with a key were answered: see `load_answers`."""
        if self._rolls:
            rolls, self._rolls = self._rolls, []
            self._answers.apply((), rolls)
        return self._answers

    def load_answers(self) -> None:
        """Those that the rows have, as they are now."""
        self._answers, self._rolls = AnswerTable(), []
        try:
            self._answers.load(self.scan(ANSWERS_KEY))
        except ShardDamaged:
            pass  # Whoever stops the shard has been told.

    # Reading

    def get(self, object_key: bytes, key: str) -> bytes | None:
        """The value, None if absent. The key "" is the object's header."""
        frozen = self.frozen
        if object_key in self.active.objects or (frozen is not None and object_key in frozen.objects):
            value = self.recall(object_key, key)
            if value is not UNKNOWN:
                return value
        try:
            return self.state.get(object_key + key.encode())
        except ShardDamaged as error:
            self.on_damage(error)
            raise

    def unchanged_since(self, object_key: bytes) -> int:
        """A sequence since which no commit has changed the object. Who reads it in pieces and is told the same one with each has
        read it as it was at one instant, also if the worker was another one in between. Of objects that were asked for lately it
        stays the same as long as they do; of others it is that of the newest commit."""
        seq = self._unchanged.pop(object_key, self.seq)
        self._unchanged[object_key] = seq  # The newest is the last one.
        if len(self._unchanged) > UNCHANGED_MAX:
            del self._unchanged[next(iter(self._unchanged))]
        return seq

    def _read_failed(self, error: Exception) -> None:
        if isinstance(error, ShardDamaged):
            self.on_damage(error)

    def recall(self, object_key: bytes, key: str) -> bytes | Unknown | None:
        """What memory says: the value, None if absent, `UNKNOWN` if the state has to be asked."""
        value = self.active.get(object_key, key)
        if value is not UNKNOWN:
            return value
        return UNKNOWN if self.frozen is None else self.frozen.get(object_key, key)

    def scan(
        self, object_key: bytes, start: str | None = None, end: str | None = None, reverse: bool = False, limit: int | None = None
    ) -> list[tuple[str, bytes]]:
        """The object's rows with start <= key < end in key order, the last ones first if `reverse`; at most `limit`. Never the
        header."""
        return self._scan(object_key, start, end, reverse, limit, may_wait=True)

    def scan_now(
        self, object_key: bytes, start: str | None = None, end: str | None = None, reverse: bool = False, limit: int | None = None
    ) -> list[tuple[str, bytes]] | None:
        """The same; None where it would have to wait for the disk, or might: `fetch_range` is to be asked."""
        if self.reader is not None:
            return None
        try:
            return self._scan(object_key, start, end, reverse, limit, may_wait=self.apart is None)
        except NotInMemory:
            return None

    def _scan(
        self, object_key: bytes, start: str | None, end: str | None, reverse: bool, limit: int | None, *, may_wait: bool
    ) -> list[tuple[str, bytes]]:
        start = start or LOWEST_KEY
        if end is not None and end <= start:
            return []
        layers = self._layers(object_key)
        if layers and layers[-1].hides_older(object_key):
            return self._merged(object_key, start, end, reverse, limit, layers, iter(()))
        low = object_key + start.encode()
        high = object_key + (ABOVE_KEYS if end is None else end.encode())
        rows = self.state.scan(low, high, reverse, may_wait=may_wait)
        try:
            if not layers:
                return [(key[OBJECT_KEY_BYTES:].decode(), value) for key, value in islice(rows, limit)]
            state_rows = ((key[OBJECT_KEY_BYTES:].decode(), value) for key, value in rows)
            return self._merged(object_key, start, end, reverse, limit, layers, state_rows)
        except ShardDamaged as error:
            self.on_damage(error)
            raise
        finally:
            rows.close()

    def fetch(self, object_key: bytes, keys: Sequence[str], done: Done) -> None:
        """`done` is told later what the state has now: a value, or None, for each of these keys, of which `recall` knows
        nothing."""
        assert self.reader is not None
        wanted = [object_key + key.encode() for key in keys]
        self.reads.read(self.reader, self.state.snapshot(), lambda snapshot: [snapshot.get(key) for key in wanted], done)

    def note_read_in(self, object_key: bytes, keys: Sequence[str]) -> None:
        """These of an object have just been fetched. Until it is said of another one, nothing else may have taken long."""
        self._read_in = object_key, keys

    def is_read_in(self, object_key: bytes, key: str) -> bool:
        """Whether the page that has it was read a moment ago: `get` waits for no disk."""
        found, keys = self._read_in
        return found == object_key and key in keys

    def fetch_range(
        self, object_key: bytes, start: str | None, end: str | None, reverse: bool, limit: int | None, done: Done
    ) -> None:
        """`done` is told later what `scan` would return now."""
        start = start or LOWEST_KEY
        layers = self._layers(object_key)
        written = self._written(object_key, start, end, reverse, limit, layers)
        alone = (end is not None and end <= start) or (bool(layers) and layers[-1].hides_older(object_key))
        low = object_key + start.encode()
        high = object_key + (ABOVE_KEYS if end is None else end.encode())

        def rows(snapshot: Snapshot) -> list[tuple[str, bytes]]:
            stored = snapshot.scan(low, high, reverse)
            try:
                below = iter(()) if alone else ((key[OBJECT_KEY_BYTES:].decode(), value) for key, value in stored)
                merged = merge_over(iter(written), below, reverse)
                return list(islice(((key, value) for key, value in merged if value is not None), limit))
            finally:
                stored.close()

        self._read_apart(rows, done)

    def _read_apart(self, fetch: Fetch, done: Done) -> None:
        reader = self.reader or self.apart
        assert reader is not None
        self.reads.read(reader, self.state.snapshot(), fetch, done, many_pages=True)

    @staticmethod
    def _written(
        object_key: bytes, start: str, end: str | None, reverse: bool, limit: int | None, layers: list[Memtable]
    ) -> list[tuple[str, bytes | None]]:
        """What the memtables have of a range, deleted keys too, up to where `limit` keys are present: no more can count."""
        rows: Iterator[tuple[str, bytes | None]] = iter(())
        for layer in reversed(layers):
            rows = merge_over(layer.rows(object_key, start, end, reverse), rows, reverse)
        if limit is None:
            return list(rows)
        written = []
        for row in rows:
            written.append(row)
            limit -= row[1] is not None
            if limit <= 0:
                break
        return written

    def _layers(self, object_key: bytes) -> list[Memtable]:
        """The memtables that say something about the object, newest first, down to one that hides everything older."""
        layers = []
        for memtable in (self.active, self.frozen):
            if memtable is not None and memtable.has(object_key):
                layers.append(memtable)
                if memtable.hides_older(object_key):
                    break
        return layers

    @staticmethod
    def _merged(
        object_key: bytes, start: str, end: str | None, reverse: bool, limit: int | None,
        layers: list[Memtable], rows: Iterator[tuple[str, bytes | None]],
    ) -> list[tuple[str, bytes]]:  # fmt: skip
        for layer in reversed(layers):
            rows = merge_over(layer.rows(object_key, start, end, reverse), rows, reverse)
        present = ((key, value) for key, value in rows if value is not None)
        return list(islice(present, limit))

    # Names

    def look_for_names(self) -> Iterator[None]:
        """Finds, in steps, the names of objects that are not in the state yet. To be gone through before `names` is asked, and
        again when `moves` has grown since."""
        for memtable in (self.active, self.frozen):
            if memtable is not None:
                memtable.fresh = memtable.fresh or FreshNames()
                yield from memtable.fresh.look(memtable.objects, memtable.named)

    def names(
        self, start: str, end: str | None, limit: int, rows: Sequence[tuple[str, bytes]]
    ) -> tuple[list[tuple[str, Named]], str | None]:
        """Objects whose rows in the index are in [start, end), in that order, and where to go on; None: that was the end. `rows`
        are the first `limit` of the state, as `scan` tells them of NAMES_KEY; read since `moves` has grown last."""
        reached = rows[-1][0] + "\0" if len(rows) == limit else end
        found = dict(rows)
        for memtable in (self.active, self.frozen):
            if memtable is not None and memtable.fresh is not None:
                fresh = memtable.fresh.page(start, reached, limit)
                if len(fresh) == limit:
                    reached = fresh[-1][0] + "\0" if reached is None else min(reached, fresh[-1][0] + "\0")
                for row, value in fresh:
                    found.setdefault(row, value)
        named = [(row, named_in(row, found[row])) for row in sorted(found) if reached is None or row < reached]
        if self.active or self.frozen:
            named = [each for each in named if self._exists(each[1])]
        return named, None if reached == end else reached

    def stored_now(self, start: bytes, limit: int) -> list[tuple[bytes, bytes]] | None:
        """Rows of objects as the state has them, whatever memory says, from that key on; at most so many. None where they would
        have to be waited for, or might: `fetch_stored` is to be asked."""
        if self.reader is not None:
            return None
        rows = self.state.scan(start, OWN_FIRST, False, may_wait=self.apart is None)
        try:
            return list(islice(rows, limit))
        except NotInMemory:
            return None
        except ShardDamaged as error:
            self.on_damage(error)
            raise
        finally:
            rows.close()

    def fetch_stored(self, start: bytes, limit: int, done: Done) -> None:
        """`done` is told the same later."""

        def rows(snapshot: Snapshot) -> list[tuple[bytes, bytes]]:
            found = snapshot.scan(start, OWN_FIRST, False)
            try:
                return list(islice(found, limit))
            finally:
                found.close()

        self._read_apart(rows, done)

    def counted(self) -> Mapping[str, int]:
        """Objects by class, as far as they are in the state."""
        return self.state.names.counts

    def uncounted(self) -> Iterator[Sequence[bytes]]:
        """Objects that may make the difference between that and what there is, a few at a time: see `difference`. What the state
        gets meanwhile may be counted nowhere: `counted` is another then, and all is to be counted again."""
        named = dict.fromkeys(key for each in (self.active, self.frozen) if each is not None for key in each.named)
        keys = [key for key in named if key < OWN_FIRST]
        for first in range(0, len(keys), HEADERS_AT_ONCE):
            yield keys[first : first + HEADERS_AT_ONCE]

    def headers_now(self, keys: Sequence[bytes]) -> list[bytes | None] | None:
        """What the state has: a header, or None, for each of these objects. None where they would have to be waited for, or
        might: `fetch_headers` is to be asked."""
        return None if self.reader is not None else [self.state.get(key) for key in keys]

    def fetch_headers(self, keys: Sequence[bytes], done: Done) -> None:
        """`done` is told the same later."""
        self._read_apart(lambda snapshot: [snapshot.get(key) for key in keys], done)

    def difference(self, keys: Sequence[bytes], headers: Sequence[bytes | None]) -> Iterator[tuple[str, int]]:
        """A class, and how many more or less of it there are, by what memory says, than the state counts, whose headers these
        are."""
        for key, before in zip(keys, headers, strict=True):
            now = self.recall(key, HEADER)
            if now is not UNKNOWN and (now is None) is not (before is None) and (named := named_by(now or before or b"")):
                yield named.class_name, 1 if before is None else -1

    def _exists(self, named: Named) -> bool:
        """As far as memory says otherwise."""
        return self.recall(object_key(named.class_name, named.name), HEADER) is not None

    # Writing

    def be_closed(self) -> None:
        """Its shard is served no longer, and its file is closed."""
        self.state = cast("ShardState", _Closed(self.shard))

    def apply(
        self, seq: int, objects: list[ObjectWrites], answers: Sequence[Answer] = (), rolls: Sequence[AnswerRoll] = ()
    ) -> None:
        """Makes a durable commit visible. Takes over all of it (see `Memtable.apply`). Rolls wait for somebody who asks, or until
        there are some: most of them have been answered to their callers by then, and never need a place in the table."""
        assert seq == self.seq + 1, (self.shard, seq, self.seq)
        self.seq = seq
        if self._unchanged:
            for each in objects:
                self._unchanged.pop(each.key, None)
        self.active.apply(objects)
        if answers:
            self.answers.apply(answers, rolls)
        elif rolls:
            waiting = self._rolls
            for roll in rolls:
                while waiting and waiting[0].newest < roll.answered and waiting[0].session == roll.session:
                    del waiting[0]  # All of it has been answered since.
                waiting.append(roll)
            if len(waiting) >= ROLLS_WAITING_MAX:
                self._answers.apply((), waiting)
                self._rolls = []

    # Checkpointing (see tidegate.shard.store.checkpoints.checkpoint)

    def freeze(self, mark: bytes = b"") -> bool:
        """Sets what was applied so far aside for the checkpoint; whether there is anything. `mark`: up to where in the log that
        is."""
        assert self.frozen is None, self.shard
        if self.seq == self.state.applied_seq:
            return False
        if changes := self.answers.take_changes():
            self.active.apply([ObjectWrites(ANSWERS_KEY, False, changes)])
        self.frozen, self.frozen_seq, self.frozen_mark = self.active, self.seq, mark
        self.active = Memtable()
        return True

    def freeze_more(self, objects_max: int, mark: bytes = b"") -> bool:
        """Sets aside what was applied since, too, at most so many objects of it; False when there is no more, and then `mark` is
        as in `freeze`. What was deleted since then need not reach the state."""
        if self.frozen is None and not self.freeze(mark):
            return False
        assert self.frozen is not None
        if changes := self.answers.take_changes():
            self.active.apply([ObjectWrites(ANSWERS_KEY, False, changes)])
        if self.frozen.pour(self.active, objects_max):
            return True
        self.moves += 1
        self.frozen_seq, self.frozen_mark = self.seq, mark
        return False

    def drop_frozen(self) -> Memtable:
        """The frozen memtable has reached the state. It is returned to be emptied bit by bit."""
        frozen = self.frozen
        assert frozen is not None, self.shard
        self.frozen = None
        self.moves += 1
        return frozen

    @property
    def memtable_bytes(self) -> int:
        """What is not in the state yet."""
        return self.active.size_bytes + (self.frozen.size_bytes if self.frozen else 0)

    def statistics(self) -> StoreStatistics:
        frozen = self.frozen
        return StoreStatistics(
            shard=self.shard,
            seq=self.seq,
            applied_seq=self.state.applied_seq,
            active_entries=self.active.entries,
            active_bytes=self.active.size_bytes,
            frozen_entries=frozen.entries if frozen else 0,
            frozen_bytes=frozen.size_bytes if frozen else 0,
        )
