"""The write-back cache of one object: answers reads from memory and absorbs writes until they are durable.

Guarantee: writes are visible at once and durable later; a read never sees a write made after it was asked. All writes made
without a suspension in between are in one commit, because commits are cut only between turns. Intermediate values of a key
are never committed. Writing what is already there commits nothing.

What is not durable is never evicted: keys of `dirty` and of the commit in flight are always in `values`. So a key that
is missing from `values` is answered by the store, which knows exactly what is durable. What is written with `no_cache` is only
*passing*: it is there until it is durable, and stays if it has been read or written without the flag by then.

While the store has a `reader`, what it does not have in memory may be on disk only: reads then answer `MISS` or `Unread`, and
the caller lets the reader fetch it (see `reads`). A range may be `Unread` at any time. Writes never need to be: they take effect
without knowing the older value.

Rule: no file, clock or task. The store behind is asked through `get` and `scan_now`, or `recall` where it has a reader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from tidegate.runtime.errors import CallError, ObjectReset
from tidegate.runtime.ids import ObjectId
from tidegate.runtime.limits import ABSENT_KEYS_MAX, OBJECT_DIRTY_BYTES_MAX
from tidegate.shard.core.alarms import ABANDONED_KEY, Alarm, Header, decode_header, encode_header, index_changes
from tidegate.shard.core.output_gate import OutputGate
from tidegate.shard.core.values import ABSENT, MISS, Passing, Sentinel, restore, size_of, to_raw
from tidegate.shard.store.interface import HEADER, UNKNOWN, Done, ObjectWrites, Reader, Unknown

ENTRY_BYTES: Final = 120
"""What a cached entry costs beside its bytes: a dict slot, the key, the value's header."""

SORTED_MAX: Final = 256
"""Up to so many entries a range is picked out of the cache; of more, the store has an order already."""

WRITE_BYTES: Final = 48
"""What a write takes in a commit beside its key and value."""

INDEX_BYTES: Final = 256
"""What a change of the alarm index takes in a commit beside the name of the object."""

NOTHING: Final[dict[str, bytes | None]] = {}
"""What is dirty of all objects of which nothing is. (Of a million that are idle, a dict for each would be 64 MB.)"""

Rows = list[tuple[str, Any]]


class Unread(NamedTuple):
    """A range that has to be fetched: how many rows to ask for, and what makes the answer of them."""

    limit: int | None
    finish: Callable[[list[tuple[str, bytes]]], Rows]


class AnswerGroup(Protocol):
    """Of a session, or of the plain keys of an object."""

    floor: int
    """Of a session: no smaller number is new."""

    @property
    def newest(self) -> int:
        """Of a session: no call with a larger number is known."""
        ...

    def told(self, key: int | str) -> tuple[int, int, Any] | None:
        """What a call was answered: digest, status, result."""
        ...


class AnswerSession(Protocol):
    """What is known of a session, also where nothing else is kept of it."""

    @property
    def floor(self) -> int: ...

    @property
    def newest(self) -> int: ...


class KeptAnswers(Protocol):
    @property
    def groups(self) -> Mapping[str, AnswerGroup]: ...

    def session(self, name: str) -> AnswerSession | None: ...


class Store(Protocol):
    """Durable state of one shard: what recovery would find."""

    shard: int
    reader: Reader | None

    @property
    def reads(self) -> Sized:
        """Those under way beside the loop. (They may be, though there is no `reader` any longer.)"""
        ...

    @property
    def answers(self) -> KeptAnswers:
        """What calls with a key were answered."""
        ...

    def get(self, object_key: bytes, key: str) -> bytes | None: ...

    def scan(
        self, object_key: bytes, start: str | None, end: str | None, *, reverse: bool, limit: int | None
    ) -> list[tuple[str, bytes]]: ...

    def scan_now(
        self, object_key: bytes, start: str | None, end: str | None, *, reverse: bool, limit: int | None
    ) -> list[tuple[str, bytes]] | None: ...

    def recall(self, object_key: bytes, key: str) -> bytes | Unknown | None: ...

    def is_read_in(self, object_key: bytes, key: str) -> bool: ...

    def note_read_in(self, object_key: bytes, keys: Sequence[str]) -> None: ...

    def unchanged_since(self, object_key: bytes) -> int: ...

    def fetch(self, object_key: bytes, keys: Sequence[str], done: Done) -> None: ...

    def fetch_range(
        self, object_key: bytes, start: str | None, end: str | None, reverse: bool, limit: int | None, done: Done
    ) -> None: ...


class Budget:
    """How much memory the caches of a worker may take, and take, and how often they could answer."""

    __slots__ = ("bytes_max", "hits", "misses", "used_bytes")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.used_bytes = 0
        self.hits = self.misses = 0
        """Reads of a key that were answered from a cache, and those that were not."""


class ObjectCache:
    """One object's entries. `confirm_seq` is the commit that the object's messages must wait for."""

    __slots__ = (
        "abandoned",
        "absent",
        "alarm",
        "budget",
        "bytes",
        "cleared",
        "committing",
        "complete",
        "confirm_seq",
        "dirty",
        "dirty_bytes",
        "has_header",
        "id",
        "indexed",
        "key",
        "output_gate",
        "owner",
        "ringing",
        "store",
        "values",
    )

    def __init__(self, key: bytes, id: ObjectId, store: Store, output_gate: OutputGate, budget: Budget) -> None:
        self.owner: Any = None
        """The activation whose cache this is."""
        self.budget = budget
        self.key = key
        self.id = id
        self.store = store
        self.output_gate = output_gate
        self.values: dict[str, Any] = {}
        """By key: a scalar, `Encoded`, `Passing`, or ABSENT."""
        self.dirty: dict[str, bytes | None] = NOTHING
        """Written, in no commit yet; None means deleted."""
        self.dirty_bytes = 0
        self.cleared = False
        """Everything was deleted before what is in `dirty` was written."""
        self.committing: ObjectWrites | None = None
        self.confirm_seq = 0
        header = store.get(key, HEADER)
        self.has_header = header is not None
        """Written with the object's first write."""
        self.alarm: Alarm | None = None if header is None else decode_header(header).alarm
        self.indexed = self.alarm
        """The alarm according to the alarm index, which follows with the next commit that the object is part of."""
        self.ringing: Alarm | None = None
        """The alarm whose handler runs."""
        self.abandoned: tuple[str, bytes | None] | None = None
        """A row for the list of abandoned alarms, or what is to leave it."""
        self.complete = not self.has_header
        """`values` holds every key there is: what it lacks does not exist."""
        self.bytes = 0
        """Estimate of the memory that `values` takes."""
        self.absent = 0
        """Keys deleted since absences were forgotten the last time."""

    @property
    def told_seq(self) -> int:
        """The newest commit for which a message of the object may wait."""
        return self.confirm_seq

    @property
    def shard(self) -> int:
        return self.store.shard

    @property
    def class_name(self) -> str:
        return self.id.class_name

    @property
    def name(self) -> str:
        return self.id.name

    # Reading

    def read(self, key: str) -> Any:
        """The cached value, or ABSENT; asks the store on a miss and remembers the answer. MISS: it has to be fetched."""
        value = self.values.get(key, MISS)
        if value is MISS:
            if self.complete:
                self.budget.hits += 1
                return ABSENT
            budget, store = self.budget, self.store
            budget.misses += 1
            if store.reader is None:  # What `_stored` does.
                raw = store.get(self.key, key)
                value = ABSENT if raw is None else restore(raw)
            else:
                value = self._stored(key)
            if value is not MISS:
                self.values[key] = value
                size = ENTRY_BYTES if value.__class__ is int else ENTRY_BYTES + size_of(value)
                self.bytes += size
                budget.used_bytes += size
        elif value.__class__ is Passing:
            value = self._keep(key, value)
        return value

    def _keep(self, key: str, passing: Passing) -> Any:
        """It stays."""
        value = self.values[key] = restore(passing.raw)
        self._account(size_of(value) - size_of(passing))
        return value

    def peek(self, key: str) -> Any:
        """Like `read`, and leaves no trace in the cache."""
        value = self.values.get(key, MISS)
        if value is not MISS:
            return value
        return ABSENT if self.complete else self._stored(key)

    def _stored(self, key: str) -> Any:
        """What the store has, or MISS: it has to be fetched."""
        raw: bytes | Unknown | None
        store = self.store
        if store.reader is None or store.is_read_in(self.key, key):
            raw = store.get(self.key, key)
        else:
            raw = store.recall(self.key, key)
            if raw is UNKNOWN:
                return MISS
        return ABSENT if raw is None else restore(raw)

    def learn(self, entries: dict[str, Any], key: str, raw: bytes | None) -> Any:
        """The value that was fetched for a key when `values` was `entries`. It is kept unless something newer was written or
        evicted since: then `key` is in the entries, or they are no longer the same ones."""
        value = ABSENT if raw is None else restore(raw)
        if self.values is entries and key not in entries:
            entries[key] = value
            self._account(ENTRY_BYTES + size_of(value))
        return value

    def scan(self, start: str | None, end: str | None, *, reverse: bool = False, limit: int | None = None) -> Rows | Unread:
        """Keys in byte order with their values: `start` inclusive, `end` exclusive. Unread: they have to be fetched."""
        self._refuse_if_broken()
        committing = self.committing
        hidden = self.cleared or (committing is not None and committing.cleared)  # The store has rows that are gone.
        if self.complete and (hidden or len(self.values) <= SORTED_MAX):
            keys = [key for key, value in self.values.items() if value is not ABSENT and _within(key, start, end)]
            keys.sort(reverse=reverse)
            return [(key, self.values[key]) for key in keys[:limit]]
        newer = {
            key: self.values[key] for writes in self._undurable() for key in writes if key != HEADER and _within(key, start, end)
        }
        asked = None if limit is None else limit + len(newer)
        rows = self.store.scan_now(self.key, start, end, reverse=reverse, limit=asked)
        if rows is None:
            return Unread(asked, partial(_merged, newer, reverse, limit))
        return _merged(newer, reverse, limit, rows)

    def _undurable(self) -> list[dict[str, bytes | None]]:
        return [self.dirty] if self.committing is None else [self.dirty, self.committing.writes]

    # Writing

    def write(self, key: str, raw: bytes, value: Any, confirmed: bool = True) -> None:
        """`value` is `raw` as the cache keeps it."""
        values = self.values
        old = values.get(key, MISS)
        if value.__class__ is int and old.__class__ is int:
            unchanged = value == old
        else:
            unchanged = self._is_unchanged(key, raw, value, old)
        if unchanged:
            if confirmed:
                self._confirm(key)
            return
        size = WRITE_BYTES + len(key) + len(raw)
        if self.dirty or self.cleared or not self.has_header:
            self._mark(key, raw, size, confirmed)
            values[key] = value
            return
        values[key] = value
        output_gate = self.output_gate  # The first write since the cut: `_mark`, without the call.
        output_gate.dirty.append(self)
        self.dirty = {key: raw}
        self.dirty_bytes += size
        output_gate.open_bytes += size
        if confirmed:
            self.confirm_seq = output_gate.open_seq

    def check_room(self, size: int) -> None:
        """What is written without a suspension is one atomic group, and a group must fit in one commit. Raises ValueError."""
        if self.dirty_bytes + size > OBJECT_DIRTY_BYTES_MAX:
            mib = OBJECT_DIRTY_BYTES_MAX >> 20
            raise ValueError(f"more than {mib} MiB written in one go; await the puts, or storage.sync(), in between")

    def _is_unchanged(self, key: str, raw: bytes, value: Any, old: Any) -> bool:
        """Whether the key is known to have these bytes already; if not, accounts for what `value` takes instead of the old
        one. Raises ValueError, with nothing changed, when there is no room for the write."""
        missing = old is MISS
        if missing:
            old = self.peek(key)
        if value.__class__ is not old.__class__:
            if old.__class__ is Passing:
                return self._is_unchanged(key, raw, value, self._keep(key, old))
        elif (value == old or value.__class__ is float) and to_raw(old) == raw:
            if missing:
                self._account(ENTRY_BYTES + size_of(old))
            self.values[key] = old  # The bytes decide: 0.0 == -0.0, nan != nan.
            return True
        self.check_room(WRITE_BYTES + len(key) + len(raw))
        self._account(size_of(value) + ENTRY_BYTES if missing else size_of(value) - size_of(old))
        return False

    def write_passing(self, key: str, raw: bytes, value: Any, confirmed: bool = True) -> None:
        """Like `write`, and leaves no trace in the cache once it is durable."""
        old = self.peek(key)
        if old.__class__ is not Sentinel and to_raw(old) == raw:
            if confirmed:
                self._confirm(key)
            return
        self._mark(key, raw, WRITE_BYTES + len(key) + len(raw), confirmed)
        kept = self.values.get(key, MISS)
        self._account(len(raw) + (ENTRY_BYTES if kept is MISS else -size_of(kept)))
        self.values[key] = Passing(raw)
        self.output_gate.let_pass(self, key)

    def delete(self, key: str, *, confirmed: bool = True, no_cache: bool = False) -> bool | Sentinel:
        """Whether the key existed. Deleting what is known not to exist commits nothing. MISS: it is deleted, and whether it
        existed has to be fetched. With `no_cache` its absence is forgotten once it is durable."""
        old = self.peek(key) if no_cache else self.read(key)
        if old is ABSENT:
            if confirmed:
                self._confirm(key)
            return False
        self._mark(key, None, WRITE_BYTES + len(key), confirmed)
        kept = self.values.get(key, MISS)
        self._account(ENTRY_BYTES if kept is MISS else -size_of(kept))
        self.values[key] = ABSENT
        if no_cache:
            self.output_gate.let_pass(self, key)
        else:
            self.absent += 1
            if self.absent > ABSENT_KEYS_MAX and self.absent * 2 > len(self.values):
                self._forget_absent()
        return True if old is not MISS else MISS

    def _forget_absent(self) -> None:
        """Of keys that come and go, each only once, nothing stays but what is not durable yet."""
        undurable, before = self._undurable(), len(self.values)
        self.values = {  # Another dict: whoever fetches an older value of a key must not keep it, see `learn`.
            key: value for key, value in self.values.items() if value is not ABSENT or any(key in writes for writes in undurable)
        }
        self._account(ENTRY_BYTES * (len(self.values) - before))
        self.absent = 0

    def clear(self, *, confirmed: bool = True) -> None:
        """Deletes everything, atomically with the writes that follow in the same turn."""
        self._refuse_if_broken()
        if self.complete and not self.has_header:
            if confirmed:
                self._confirm(HEADER)
            return
        self._forget_dirty()
        self.values = {}
        self._account(-self.bytes)
        self.complete = True
        self.has_header = False
        self.alarm = None
        self.cleared = True
        self._register(0, confirmed)

    def set_alarm(self, alarm: Alarm | None, *, confirmed: bool = True) -> None:
        """Replaces the alarm. While its handler runs, an alarm like the one that rings is a new one."""
        self._refuse_if_broken()
        if alarm == self.alarm and (alarm is None or self.alarm is not self.ringing):
            if confirmed:
                self.confirm_alarm()
            return
        header = encode_header(Header(*self.id, alarm))
        self.alarm = alarm
        self.has_header = True
        self._mark(HEADER, header, WRITE_BYTES + len(header), confirmed)
        size = INDEX_BYTES + len(header)
        self.dirty_bytes += size
        self.output_gate.open_bytes += size

    def confirm_alarm(self) -> None:
        """From now on messages wait for the alarm as it is, also where that was not confirmed."""
        self._confirm(HEADER)

    def _refuse_if_broken(self) -> None:
        """Code of an object that was reset may still clean up after itself; it must not reach what its successor owns."""
        self.values.get(HEADER)

    def _confirm(self, key: str) -> None:
        """A confirmed write that changes nothing confirms the unconfirmed one which made it so."""
        committing = self.committing
        if key in self.dirty or self.cleared:
            self.confirm_seq = self.output_gate.open_seq
        elif committing is not None and (key in committing.writes or committing.cleared):
            self.confirm_seq = max(self.confirm_seq, self.output_gate.cut_seq)

    def _mark(self, key: str, raw: bytes | None, size: int, confirmed: bool) -> None:
        dirty, output_gate = self.dirty, self.output_gate
        if self.dirty_bytes + size > OBJECT_DIRTY_BYTES_MAX:
            self.check_room(size)
        if not dirty:
            dirty = self.dirty = {}
            self._join_commit()
        elif not self.has_header:
            self._join_commit()
        dirty[key] = raw
        self.dirty_bytes += size
        output_gate.open_bytes += size
        if confirmed:
            self.confirm_seq = output_gate.open_seq

    def _join_commit(self) -> None:
        """The object has something to commit. With its first write goes its header."""
        if not self.dirty and not self.cleared:
            self.output_gate.dirty.append(self)
        if not self.has_header:
            self.has_header = True
            header = self.dirty[HEADER] = encode_header(Header(*self.id))
            self.dirty_bytes += len(header)
            self.output_gate.open_bytes += len(header)

    def _register(self, size: int, confirmed: bool) -> None:
        if self not in self.output_gate.dirty:
            self.output_gate.dirty.append(self)
        self.dirty_bytes += size
        self.output_gate.open_bytes += size
        if confirmed:
            self.confirm_seq = self.output_gate.open_seq

    def _account(self, size: int) -> None:
        self.bytes += size
        self.budget.used_bytes += size

    def _forget_dirty(self) -> None:
        self.dirty = {}
        self.output_gate.open_bytes -= self.dirty_bytes
        self.dirty_bytes = 0

    # Committing

    def begin_commit(self) -> ObjectWrites:
        """Hands over what is dirty. Until `end_commit` it stays readable here, because the store does not know it yet."""
        assert self.committing is None
        writes = self.committing = ObjectWrites(self.key, self.cleared, self.dirty or {})  # The store adds to it.
        self.dirty = NOTHING
        self.dirty_bytes = 0
        self.cleared = False
        return writes

    def take_index_writes(self) -> list[ObjectWrites]:
        """What the commit has to change beside the object itself: the alarm index, the list of abandoned alarms."""
        moved = index_changes(self.key, self.indexed, self.alarm, *self.id)
        self.indexed = self.alarm
        writes = [ObjectWrites(index_key, False, rows) for index_key, rows in moved.items()]
        if self.abandoned is not None:
            key, row = self.abandoned
            self.abandoned = None
            writes.append(ObjectWrites(ABANDONED_KEY, False, {key: row}))
        return writes

    def let_pass(self, key: str) -> bool:
        """Forgets what is there only until it is durable. False: it is not durable yet."""
        if any(key in writes for writes in self._undurable()):
            return False
        value = self.values.get(key, MISS)
        if value is ABSENT or value.__class__ is Passing:
            if self.store.reads:  # Whoever fetches an older value of the key must not keep it: see `learn`.
                self.values = dict(self.values)
            del self.values[key]
            self._account(-ENTRY_BYTES - size_of(value))
            if value is not ABSENT:
                self.complete = False
        return True

    def evict(self) -> int:
        """Forgets clean entries. Returns how many bytes that freed."""
        before = self.bytes
        if self.committing is None and not self.dirty and not self.cleared:
            self.values = {}
            self._account(-self.bytes)
            self.complete = not self.has_header
        return before - self.bytes

    def break_with(self, error: CallError) -> None:
        """From now on every operation raises `error`: the object has been reset, what its code does no longer counts."""
        self.values = _Refusing(error)
        self.dirty = {}
        self.dirty_bytes = 0
        self.cleared = False

    def leave_memory(self) -> None:
        """The object is evicted: all of it is durable, and whoever has kept something of it reaches it no more."""
        self.values = _LEFT
        self.owner = None

    def check_invariants(self) -> None:
        """Recomputes what is kept incrementally. For tests."""
        for writes in self._undurable():
            if not self.complete:
                assert all(key == HEADER or key in self.values for key in writes), "what is not durable is never evicted"
        for key, value in self.values.items():
            assert value.__class__ is not Passing or any(key in writes for writes in self._undurable())
        assert (self in self.output_gate.dirty) == (bool(self.dirty) or self.cleared)
        assert self.bytes >= 0
        assert not NOTHING
        committing = self.committing.writes if self.committing and not self.cleared else {}
        for key, raw in {**committing, **self.dirty}.items():
            if key != HEADER:
                value = self.values[key]
                assert (raw is None) == (value is ABSENT)
                assert raw is None or to_raw(value) == raw


class _Refusing(dict[str, Any]):
    """The entries of a broken cache."""

    def __init__(self, error: CallError) -> None:
        super().__init__()
        self._error = error

    def get(self, *_: Any) -> Any:
        raise self._error.again()

    __getitem__ = __setitem__ = items = get


LEFT: Final = ObjectReset("the object has left memory; call it by its stub")
"""What whoever has kept something of an evicted object is told."""
_LEFT = _Refusing(LEFT)


def _merged(newer: dict[str, Any], reverse: bool, limit: int | None, rows: list[tuple[str, bytes]]) -> Rows:
    """Rows of the store, and what is newer over them."""
    if not newer:
        return [(key, restore(raw)) for key, raw in rows]
    merged = {key: restore(raw) for key, raw in rows if key not in newer}
    for key, value in newer.items():
        if value is not ABSENT:
            merged[key] = value
    keys = sorted(merged, reverse=reverse)
    return [(key, merged[key]) for key in keys[:limit]]


def _within(key: str, start: str | None, end: str | None) -> bool:
    """Byte order of UTF-8 is the order of code points, which is how Python compares str."""
    return (start is None or key >= start) and (end is None or key < end)
