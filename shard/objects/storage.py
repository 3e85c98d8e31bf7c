"""`self.storage`: what user code sees of an object's private storage.

Guarantee: every operation takes effect when it is called, in program order, awaited or not. What can be answered from memory
is answered without yielding to the event loop, so that no event can run between question and answer. What may be on disk only
is fetched beside the loop, as of the call, and keeps the gate closed until it has been delivered. Errors of use (a bad
key, a value that would not come back equal, a size over its limit) are raised by the call itself; nothing is written then.
"""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, Protocol, TypeAlias, TypeVar, cast, overload

from tidegate.runtime.errors import ObjectReset
from tidegate.runtime.ids import ObjectId
from tidegate.runtime.limits import KEYED_GROUP_BYTES_MAX, KEYS_PER_READ_MAX, UNDURABLE_BYTES_MAX
from tidegate.shard.core.alarms import Alarm
from tidegate.shard.core.cache import WRITE_BYTES, Budget, ObjectCache, Rows, Store, Unread
from tidegate.shard.core.codec import (
    SCALARS,
    Encoded,
    after_prefix,
    check_key,
    check_size,
    decode,
    decode_as,
    encode,
    encode_value,
)
from tidegate.shard.core.output_gate import OutputGate
from tidegate.shard.core.transaction_layer import Layer
from tidegate.shard.core.values import ABSENT, MISS, Passing, Sentinel, to_raw
from tidegate.shard.loop.done import DONE
from tidegate.shard.objects.answered import Answered
from tidegate.shard.store.interface import Done

T = TypeVar("T")
"""What a value is converted to."""
D = TypeVar("D")
"""Of a default."""
Empty: TypeAlias = list[Never] | dict[Never, Never]
"""`[]` or `{}`, which say nothing of what may be in them."""
if TYPE_CHECKING:
    from typing_extensions import TypeForm  # Only its stub is needed, and type checkers have that.

SCALAR_BYTES_SURE = 16
"""A scalar of so few bytes needs no check of its size."""


class StorageOwner(Protocol):
    """What storage needs of the activation it belongs to."""

    def alarm_at(self, when: datetime.datetime | datetime.timedelta | float) -> Alarm:
        """Raises ValueError or TypeError for what is no time, and TypeError when the class has no alarm handler."""
        ...

    def alarm_shown(self, alarm: Alarm) -> datetime.datetime: ...

    def wait_durable(self) -> Awaitable[None]: ...

    def wait_capacity(self) -> Awaitable[None]: ...

    def runs_keyed_call(self) -> bool:
        """Whether the code that runs is of a call with a key."""
        ...

    def asked_first(self, keys: Sequence[str]) -> None:
        """Nothing of the object was in memory but that it exists, and these are asked for."""
        ...

    def wait_fetched(self, begin: Callable[[Done], object], finish: Callable[[Any], Any], concurrent: bool) -> Awaitable[Any]:
        """What `finish` makes of the result of the read that `begin` begins. Other events are let in meanwhile if
        `concurrent`."""
        ...

    def enter_section(self, undo: Callable[[], None] | None) -> SectionEntry:
        """`undo`: of a transaction whose code has ended without leaving it."""
        ...


class SectionEntry(Protocol):
    """A critical section as an async context manager."""

    expired: bool

    async def __aenter__(self) -> object: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None: ...


LEFT_MEMORY = "this instance has left memory; call the object by its stub"


class _NoStore:
    """Behind a cache that nobody reads."""

    reader, reads = None, ()

    def get(self, object_key: bytes, key: str) -> None:
        return None


_NOBODYS = ObjectCache(b"", ObjectId("", ""), cast("Store", _NoStore()), OutputGate(), Budget(0))
_NOBODYS.break_with(ObjectReset(LEFT_MEMORY))


class Storage:
    """Private, durable, transactional storage of one object: an ordered map from str to values.

    Keys are str of 1 to 480 bytes of UTF-8, ordered by their bytes. Values are None, bool, int (64 bits), float, str, bytes,
    aware datetimes, lists and dicts of these (100 deep), dataclasses, Structs and Pydantic models, of 2 MiB encoded at most. They
    are snapshots: what is changed after `put`, or in what `get` has returned, changes nothing that is stored.

    Every operation takes effect when it is called, in program order, awaited or not, and returns an awaitable. What is wrong
    with its arguments is raised by the call itself, and nothing is written then. While it waits, no other event is delivered to
    the object, unless `allow_concurrency=True`."""

    __slots__ = ("_cache", "_layer", "_owner")

    def __init__(self, cache: ObjectCache, owner: StorageOwner) -> None:
        self._cache = cache
        self._owner = owner
        self._layer: Layer | None = None
        """What the innermost open transaction has written."""

    def detach(self) -> None:
        """The instance has left memory: whoever has kept it, or its storage, reaches the object no more."""
        self._cache = _NOBODYS

    # Reading

    @overload
    def get(
        self,
        key: str,
        default: Empty | None = None,
        *,
        type: None = None,
        allow_concurrency: bool = False,
        no_cache: bool = False,
    ) -> Awaitable[Any]: ...

    @overload
    def get(
        self, key: str, default: D, *, type: None = None, allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[D]: ...

    @overload
    def get(
        self, key: str, default: None = None, *, type: type[T], allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[T | None]: ...

    @overload
    def get(
        self, key: str, default: Empty, *, type: type[T], allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[T]: ...

    @overload
    def get(
        self, key: str, default: D, *, type: type[T], allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[T | D]: ...

    @overload  # A Union, a Literal, an Annotated. What knows no TypeForm (mypy before 1.19) takes the result for Any.
    def get(
        self, key: str, default: Any = None, *, type: TypeForm[T], allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[T | Any]: ...

    def get(
        self, key: str, default: Any = None, *, type: Any = None, allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[Any]:
        """The value of `key`, or `default` where there is none.

        type: whatever msgspec reads (`int`, `list[Order]`, a dataclass, Struct or Pydantic model): the value is converted and
            checked in every field. Without it records come back as dicts, and type checkers take the value to be what the default
            is.
        allow_concurrency: while the disk is asked other events are delivered to the object.
        no_cache: what has to be read is not kept in memory.
        Raises TypeError or ValueError for what cannot be a key; msgspec.ValidationError, which is a ValueError, where the stored
        value does not fit the type."""
        if self._layer is None and type is None:
            cache = self._cache
            value = cache.values.get(key, MISS)
            if value.__class__ in SCALARS:
                cache.budget.hits += 1
                return Answered(value)
            if value is ABSENT:
                cache.budget.hits += 1
                return Answered(default)
            if value is MISS and not no_cache:  # What `_find` would do, having looked twice.
                check_key(key)
                value = cache.read(key)
                if value.__class__ in SCALARS:
                    return Answered(value)
            else:
                value = self._find(key, no_cache)
        else:
            value = self._find(key, no_cache)
        if value is not MISS:
            return Answered(_given(value, default, type))
        return self._fetch([key], no_cache, lambda values: _given(values[0], default, type), allow_concurrency)

    @overload
    def get_many(
        self, keys: Iterable[str], *, type: None = None, allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[dict[str, Any]]: ...

    @overload
    def get_many(
        self, keys: Iterable[str], *, type: type[T], allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[dict[str, T]]: ...

    @overload
    def get_many(
        self, keys: Iterable[str], *, type: TypeForm[T], allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[dict[str, T]]: ...

    def get_many(
        self, keys: Iterable[str], *, type: Any = None, allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[dict[str, Any]]:
        """The values of those keys that exist, in the byte order of the keys. With `type` each is converted and checked. At most
        128 different keys: ValueError, as for what cannot be a key. Options and errors as of `get`."""
        wanted = sorted(set(_str_keys(keys)))
        if len(wanted) > KEYS_PER_READ_MAX:
            raise ValueError(f"get_many takes at most {KEYS_PER_READ_MAX} keys; {len(wanted)} were given")
        found = {key: self._find(key, no_cache) for key in wanted}
        unread = [key for key, value in found.items() if value is MISS]
        if not unread:
            return Answered(_present(found, type))

        def finish(values: Sequence[Any]) -> dict[str, Any]:
            return _present({**found, **dict(zip(unread, values, strict=True))}, type)

        return self._fetch(unread, no_cache, finish, allow_concurrency)

    @overload
    def list(
        self,
        *,
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        prefix: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
        type: None = None,
        allow_concurrency: bool = False,
        no_cache: bool = False,
    ) -> Awaitable[dict[str, Any]]: ...

    @overload
    def list(
        self,
        *,
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        prefix: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
        type: type[T],
        allow_concurrency: bool = False,
        no_cache: bool = False,
    ) -> Awaitable[dict[str, T]]: ...

    @overload
    def list(
        self,
        *,
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        prefix: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
        type: TypeForm[T],
        allow_concurrency: bool = False,
        no_cache: bool = False,
    ) -> Awaitable[dict[str, T]]: ...

    def list(
        self,
        *,
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        prefix: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
        type: Any = None,
        allow_concurrency: bool = False,
        no_cache: bool = False,
    ) -> Awaitable[dict[str, Any]]:
        """The pairs of a key range, in the byte order of the keys; an empty range is `{}`.

        start, start_after, end: keys, or any text, between them. `start` is inclusive, `end` exclusive, also with `reverse`.
        prefix: only keys that begin with it.
        reverse: flips the order, and the side from which `limit` counts.
        limit: at most so many pairs; without it all of them, and they have to fit in memory.
        type: each value is converted and checked. This and the other options as of `get`.
        Raises ValueError for `start` with `start_after`, and for a limit below 1."""
        if start is not None and start_after is not None:
            raise ValueError("list takes start or start_after, not both")
        if limit is not None and not isinstance(limit, int):
            raise TypeError(f"the limit of a list is an int, not {type(limit).__name__}")
        if limit is not None and limit <= 0:
            raise ValueError("list takes a limit of at least 1")
        for bound in (start, start_after, end, prefix):
            if bound is not None:
                _check_bound(bound)
        if start_after is not None:
            start = start_after + "\0"
        if prefix:
            start = prefix if start is None else max(start, prefix)
            after = after_prefix(prefix)
            if after is not None:
                end = after if end is None else min(end, after)
        if start is not None and end is not None and start >= end:
            return Answered({})
        cache = self._cache
        rows = (self._layer.scan(cache, start, end, reverse=reverse, limit=limit) if self._layer is not None
                else cache.scan(start, end, reverse=reverse, limit=limit))  # fmt: skip
        if not isinstance(rows, Unread):
            return Answered(_listed(rows, type))
        finish = rows.finish
        begin = partial(cache.store.fetch_range, cache.key, start, end, reverse, rows.limit)
        return self._owner.wait_fetched(begin, lambda rows: _listed(finish(rows), type), allow_concurrency)

    def _fetch(
        self, keys: Sequence[str], no_cache: bool, finish: Callable[[Sequence[Any]], Any], concurrent: bool
    ) -> Awaitable[Any]:
        """Reads keys which only the disk knows, and gives `finish` their values as the cache keeps them."""
        cache = self._cache
        entries: dict[str, Any] = {} if no_cache else cache.values
        if not cache.values:
            self._owner.asked_first(keys)

        def learn(raws: Sequence[bytes | None]) -> Any:
            return finish([cache.learn(entries, key, raw) for key, raw in zip(keys, raws, strict=True)])

        return self._owner.wait_fetched(partial(cache.store.fetch, cache.key, keys), learn, concurrent)

    def _find(self, key: str, no_cache: bool = False) -> Any:
        """As the cache keeps it; ABSENT; or MISS: it has to be fetched."""
        layer = self._layer
        while layer is not None:
            value = layer.find(key)
            if value is not MISS:
                return value
            layer = layer.below
        value = self._cache.values.get(key, MISS)
        if value.__class__ is Encoded or (value is not MISS and value.__class__ is not Passing):
            self._cache.budget.hits += 1
            return value
        check_key(key)
        return self._cache.peek(key) if no_cache else self._cache.read(key)

    # Writing

    def put(
        self, key: str, value: Any, *, allow_concurrency: bool = False, allow_unconfirmed: bool = False, no_cache: bool = False
    ) -> Awaitable[None]:
        """Stores `value`. Awaiting it is not needed for the write to happen, and waits only under backpressure: while 16 MiB
        of the worker's writes wait for their commit. (No reply leaves before the writes that it may reveal are durable, anyway.)

        allow_concurrency: while it waits other events are delivered to the object.
        allow_unconfirmed: messages do not wait for this write; if its commit fails the object is reset all the same.
        no_cache: the value leaves memory once it is durable, unless it has been read without `no_cache` by then.
        Raises TypeError or ValueError, at the call, for a key or value that cannot be stored exactly."""
        cache = self._cache
        if value.__class__ in SCALARS:
            try:
                raw = encode(value)
            except (OverflowError, UnicodeEncodeError) as exc:
                raise ValueError(f"the value cannot be stored: {exc}") from None
            if len(raw) > SCALAR_BYTES_SURE:
                check_size(raw)
            kept = value
        else:
            raw = encode_value(value)
            kept = Encoded(raw)
        if self._layer is None:
            if key not in cache.values:
                check_key(key)
            if no_cache:
                cache.write_passing(key, raw, kept, not allow_unconfirmed)
            else:
                cache.write(key, raw, kept, not allow_unconfirmed)
            return DONE if cache.output_gate.open_bytes < UNDURABLE_BYTES_MAX else self._wait_capacity(allow_concurrency)
        check_key(key)
        (self._layer.write_passing if no_cache else self._layer.write)(key, raw, kept, not allow_unconfirmed)
        return DONE

    def put_many(
        self,
        mapping: Mapping[str, Any],
        *,
        allow_concurrency: bool = False,
        allow_unconfirmed: bool = False,
        no_cache: bool = False,
    ) -> Awaitable[None]:
        """Stores all pairs, which become durable together. Every pair is checked before any is applied. Options and errors as of
        `put`; ValueError, too, where they are more than 22 MiB, which is what one object can have in one commit."""
        checked: list[tuple[str, bytes, Any]] = []
        for key, value in mapping.items():
            check_key(key)
            raw = encode_value(value, key)
            checked.append((key, raw, value if value.__class__ in SCALARS else Encoded(raw)))
        if self._layer is None:
            self._cache.check_room(sum(WRITE_BYTES + len(key) + len(raw) for key, raw, _ in checked))
        target = self._layer or self._cache
        write = target.write_passing if no_cache else target.write
        for key, raw, kept in checked:
            write(key, raw, kept, not allow_unconfirmed)
        return DONE if self._cache.output_gate.open_bytes < UNDURABLE_BYTES_MAX else self._wait_capacity(allow_concurrency)

    def _wait_capacity(self, allow_concurrency: bool) -> Awaitable[None]:
        """Backpressure: until what is written is durable. Keeps the gate closed unless others are to be let in. A call with a key
        goes on, up to some bytes: its answer is to be in the commit that has its writes."""
        if self._cache.dirty_bytes <= KEYED_GROUP_BYTES_MAX and self._owner.runs_keyed_call():
            return DONE
        return self._owner.wait_durable() if allow_concurrency else self._owner.wait_capacity()

    def delete(
        self, key: str, *, allow_concurrency: bool = False, allow_unconfirmed: bool = False, no_cache: bool = False
    ) -> Awaitable[bool]:
        """Whether the key existed. It is gone at once; only the answer may have to wait for the disk. Options as of `put`; raises
        TypeError or ValueError for what cannot be a key."""
        check_key(key)
        existed = self._delete(key, not allow_unconfirmed, no_cache)
        if isinstance(existed, bool):
            return Answered(existed)
        return self._fetch([key], True, lambda values: values[0] is not ABSENT, allow_concurrency)

    def delete_many(
        self, keys: Iterable[str], *, allow_concurrency: bool = False, allow_unconfirmed: bool = False, no_cache: bool = False
    ) -> Awaitable[int]:
        """How many of the keys existed, each counted once. They are gone at once, together; any number may be given. Options and
        errors as of `delete`."""
        wanted = list(_str_keys(keys))
        existed = [(key, self._delete(key, not allow_unconfirmed, no_cache)) for key in wanted]
        known = sum(answer is True for _, answer in existed)
        unread = [key for key, answer in existed if answer is MISS]
        if not unread:
            return Answered(known)
        return self._fetch(unread, True, lambda values: known + len(values) - values.count(ABSENT), allow_concurrency)

    def delete_all(self, *, allow_concurrency: bool = False, allow_unconfirmed: bool = False) -> Awaitable[None]:
        """Deletes everything, the alarm too, atomically. It is gone at once; awaiting is not needed."""
        (self._layer or self._cache).clear(confirmed=not allow_unconfirmed)
        return DONE

    def _delete(self, key: str, confirmed: bool, no_cache: bool) -> bool | Sentinel:
        """Whether the key existed. MISS: that has to be fetched, as of now."""
        if self._layer is None:
            return self._cache.delete(key, confirmed=confirmed, no_cache=no_cache)
        value = self._find(key, no_cache)
        if value is ABSENT:
            return False
        self._layer.delete(key, confirmed=confirmed, no_cache=no_cache)
        return MISS if value is MISS else True

    # Alarm

    def get_alarm(self) -> Awaitable[datetime.datetime | None]:
        """When the alarm will ring, as an aware datetime in UTC, or None; while a retry is pending, the time that was set. While
        its handler runs: None, unless a new one was set."""
        layer = self._layer
        while layer is not None:
            if not isinstance(layer.alarm, Sentinel):
                return Answered(None if layer.alarm is None else self._owner.alarm_shown(layer.alarm))
            layer = layer.below
        alarm = self._cache.alarm
        return Answered(None if alarm is None or alarm is self._cache.ringing else self._owner.alarm_shown(alarm))

    def set_alarm(
        self, when: datetime.datetime | datetime.timedelta | float, *, allow_unconfirmed: bool = False
    ) -> Awaitable[None]:
        """Sets the object's one alarm: at a time (aware datetime or Unix seconds) or after a timedelta, which passes as it is
        also when the wall clock is set meanwhile; a past time means now. Its handler runs then, at least once, also if the object
        has left memory or the service has been started again.
        Replaces an earlier one. Commits with the writes made around it. Raises TypeError or ValueError for what is no time, and
        TypeError when the class has no `alarm` handler."""
        (self._layer or self._cache).set_alarm(self._owner.alarm_at(when), confirmed=not allow_unconfirmed)
        return DONE

    def delete_alarm(self, *, allow_unconfirmed: bool = False) -> Awaitable[None]:
        """Removes the alarm. A handler that runs goes on, and is not retried."""
        (self._layer or self._cache).set_alarm(None, confirmed=not allow_unconfirmed)
        return DONE

    # Durability and transactions

    def sync(self) -> Awaitable[None]:
        """Completes when all writes issued before it are durable, that is, survive power loss. Leaves the input gate open. Needed
        only where something must happen after that which is no message of the object."""
        return self._owner.wait_durable()

    def transaction(self) -> Transaction:
        """`async with storage.transaction() as txn:` all or nothing; rolled back when the block raises. Other events are not
        delivered to the object meanwhile. They nest, 64 deep at most. One that is not over after 30 s is rolled back, and its
        block ends in `TransactionTimeout`."""
        return Transaction(self)

    def _commit_layer(self, layer: Layer) -> None:
        assert self._layer is layer
        self._layer = layer.below
        layer.merge_into(self._layer or self._cache)

    def _drop_layer(self, layer: Layer) -> None:
        """Also drops the layers above: transactions inside this one, which are over with it."""
        while not layer.dropped:
            assert self._layer is not None
            self._layer.dropped = True
            self._layer = self._layer.below


class TransactionOver(RuntimeError):
    """The transaction has been committed or rolled back and takes no more operations."""


class TransactionTimeout(TimeoutError):
    """The transaction was not over after 30 s and has been rolled back. Raised where its block ends."""


class Transaction:
    """Storage operations that are committed together when the block ends, and rolled back when it raises.

    Reads see the transaction's own writes. Operations on `self.storage` inside the block belong to it as well. It can be used
    inside its block only: before and afterwards every operation raises TransactionOver. What it writes must fit in one commit
    (22 MiB), else the end of the block raises ValueError and nothing is written."""

    __slots__ = ("_layer", "_over", "_section", "_storage")

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._section: SectionEntry | None = None
        self._layer: Layer | None = None
        self._over = False

    async def __aenter__(self) -> Transaction:
        if self._section is not None or self._over:
            raise TransactionOver("a transaction is entered once; call storage.transaction() again")
        self._section = self._storage._owner.enter_section(self._undo)
        await self._section.__aenter__()
        self._layer = self._storage._layer = Layer(self._storage._layer)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        section, self._section = self._section, None  # Which knows `_undo`: neither waits for the collector.
        assert section is not None
        try:
            if not self._over and self._layer is not None and not self._layer.dropped:
                if error is None and not section.expired:
                    self._storage._commit_layer(self._layer)
                else:
                    self._storage._drop_layer(self._layer)
            self._over = True
        finally:
            await section.__aexit__(kind, error, traceback)

    def _undo(self) -> None:
        if self._layer is not None:
            self._storage._drop_layer(self._layer)
        self._over = True

    def rollback(self) -> None:
        """Undoes everything the transaction has done, at once; the block goes on, but the transaction takes no more operations:
        TransactionOver."""
        self._check()
        assert self._layer is not None
        self._storage._drop_layer(self._layer)
        self._over = True

    def _check(self) -> Storage:
        if self._layer is None:
            raise TransactionOver("enter the transaction with `async with` first")
        if self._over or self._layer.dropped:
            raise TransactionOver("the transaction is over, or the one around it; call storage.transaction() for another one")
        return self._storage

    # As those of `Storage`. All of them raise TransactionOver before the block and after its end.

    @overload
    def get(
        self,
        key: str,
        default: Empty | None = None,
        *,
        type: None = None,
        allow_concurrency: bool = False,
        no_cache: bool = False,
    ) -> Awaitable[Any]: ...

    @overload
    def get(
        self, key: str, default: D, *, type: None = None, allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[D]: ...

    @overload
    def get(
        self, key: str, default: None = None, *, type: type[T], allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[T | None]: ...

    @overload
    def get(
        self, key: str, default: Empty, *, type: type[T], allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[T]: ...

    @overload
    def get(
        self, key: str, default: D, *, type: type[T], allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[T | D]: ...

    @overload  # A Union, a Literal, an Annotated. What knows no TypeForm (mypy before 1.19) takes the result for Any.
    def get(
        self, key: str, default: Any = None, *, type: TypeForm[T], allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[T | Any]: ...

    def get(
        self, key: str, default: Any = None, *, type: Any = None, allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[Any]:
        """As `Storage.get`: what the transaction itself has written, else what was there."""
        return self._check().get(key, default, type=type, allow_concurrency=allow_concurrency, no_cache=no_cache)

    @overload
    def get_many(
        self, keys: Iterable[str], *, type: None = None, allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[dict[str, Any]]: ...

    @overload
    def get_many(
        self, keys: Iterable[str], *, type: type[T], allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[dict[str, T]]: ...

    @overload
    def get_many(
        self, keys: Iterable[str], *, type: TypeForm[T], allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[dict[str, T]]: ...

    def get_many(
        self, keys: Iterable[str], *, type: Any = None, allow_concurrency: bool = False, no_cache: bool = False
    ) -> Awaitable[dict[str, Any]]:
        """As `Storage.get_many`, with what the transaction has written."""
        return self._check().get_many(keys, type=type, allow_concurrency=allow_concurrency, no_cache=no_cache)

    @overload
    def list(
        self,
        *,
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        prefix: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
        type: None = None,
        allow_concurrency: bool = False,
        no_cache: bool = False,
    ) -> Awaitable[dict[str, Any]]: ...

    @overload
    def list(
        self,
        *,
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        prefix: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
        type: type[T],
        allow_concurrency: bool = False,
        no_cache: bool = False,
    ) -> Awaitable[dict[str, T]]: ...

    @overload
    def list(
        self,
        *,
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        prefix: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
        type: TypeForm[T],
        allow_concurrency: bool = False,
        no_cache: bool = False,
    ) -> Awaitable[dict[str, T]]: ...

    def list(
        self,
        *,
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        prefix: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
        type: Any = None,
        allow_concurrency: bool = False,
        no_cache: bool = False,
    ) -> Awaitable[dict[str, Any]]:
        """As `Storage.list`, with what the transaction has written."""
        return self._check().list(
            start=start, start_after=start_after, end=end, prefix=prefix, reverse=reverse, limit=limit,
            type=type, allow_concurrency=allow_concurrency, no_cache=no_cache,
        )  # fmt: skip

    def put(
        self, key: str, value: Any, *, allow_concurrency: bool = False, allow_unconfirmed: bool = False, no_cache: bool = False
    ) -> Awaitable[None]:
        """As `Storage.put`; nothing is stored before the block ends."""
        return self._check().put(
            key, value, allow_concurrency=allow_concurrency, allow_unconfirmed=allow_unconfirmed, no_cache=no_cache
        )

    def put_many(
        self,
        mapping: Mapping[str, Any],
        *,
        allow_concurrency: bool = False,
        allow_unconfirmed: bool = False,
        no_cache: bool = False,
    ) -> Awaitable[None]:
        """As `Storage.put_many`; nothing is stored before the block ends."""
        return self._check().put_many(
            mapping, allow_concurrency=allow_concurrency, allow_unconfirmed=allow_unconfirmed, no_cache=no_cache
        )

    def delete(
        self, key: str, *, allow_concurrency: bool = False, allow_unconfirmed: bool = False, no_cache: bool = False
    ) -> Awaitable[bool]:
        """As `Storage.delete`: whether the transaction saw the key until now."""
        return self._check().delete(
            key, allow_concurrency=allow_concurrency, allow_unconfirmed=allow_unconfirmed, no_cache=no_cache
        )

    def delete_many(
        self, keys: Iterable[str], *, allow_concurrency: bool = False, allow_unconfirmed: bool = False, no_cache: bool = False
    ) -> Awaitable[int]:
        """As `Storage.delete_many`: how many of the keys the transaction saw until now."""
        return self._check().delete_many(
            keys, allow_concurrency=allow_concurrency, allow_unconfirmed=allow_unconfirmed, no_cache=no_cache
        )

    def delete_all(self, *, allow_concurrency: bool = False, allow_unconfirmed: bool = False) -> Awaitable[None]:
        """As `Storage.delete_all`; what the transaction writes afterwards stays."""
        return self._check().delete_all(allow_concurrency=allow_concurrency, allow_unconfirmed=allow_unconfirmed)

    def get_alarm(self) -> Awaitable[datetime.datetime | None]:
        """As `Storage.get_alarm`: the alarm that the transaction has set, else the one that was."""
        return self._check().get_alarm()

    def set_alarm(
        self, when: datetime.datetime | datetime.timedelta | float, *, allow_unconfirmed: bool = False
    ) -> Awaitable[None]:
        """As `Storage.set_alarm`; it is set when the block ends."""
        return self._check().set_alarm(when, allow_unconfirmed=allow_unconfirmed)

    def delete_alarm(self, *, allow_unconfirmed: bool = False) -> Awaitable[None]:
        """As `Storage.delete_alarm`; it is removed when the block ends."""
        return self._check().delete_alarm(allow_unconfirmed=allow_unconfirmed)


def _given(value: Any, default: Any, type: Any) -> Any:
    """What `get` returns for a value as the cache keeps it."""
    if value is ABSENT:
        return default
    if type is not None:
        return decode_as(to_raw(value), type)
    return decode(value.raw) if value.__class__ is Encoded or value.__class__ is Passing else value


def _present(found: Mapping[str, Any], type: Any) -> dict[str, Any]:
    if type is not None:
        return {key: _read_as(key, value, type) for key, value in found.items() if value is not ABSENT}
    return {key: _given(value, None, None) for key, value in found.items() if value is not ABSENT}


def _listed(rows: Rows, type: Any) -> dict[str, Any]:
    if type is not None:
        return {key: _read_as(key, value, type) for key, value in rows}
    return {key: value if value.__class__ in SCALARS else decode(value.raw) for key, value in rows}


def _read_as(key: str, value: Any, type: Any) -> Any:
    try:
        return decode_as(to_raw(value), type)
    except Exception as exc:
        exc.add_note(f"This is the value of {key!r}.")
        raise


def _str_keys(keys: Iterable[str]) -> Iterable[str]:
    if isinstance(keys, str):
        raise TypeError("a list of keys is wanted, not one str")
    for key in keys:
        check_key(key)
        yield key


def _check_bound(bound: object) -> None:
    """A bound need not be a key that could be stored, but it must have a place in the order of keys."""
    if not isinstance(bound, str):
        raise TypeError(f"a bound of a list is a str, not {type(bound).__name__}")
    if not bound.isascii():
        bound.encode()  # UnicodeEncodeError is a ValueError.
