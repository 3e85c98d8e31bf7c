"""Which objects a worker has: pages of their names, in order, and how many there are of each class.

Guarantee: a page has every object that exists when it is asked, also one that is not durable yet (then the answer waits for
that), and none that does not. It costs what it holds, of millions; the loop is left to others after a millisecond of it. No
object comes into memory, and no value is read, unless sizes are asked for.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tidegate.runtime.errors import CallError, Internal
from tidegate.runtime.ids import OBJECT_KEY_BYTES, name_row, name_row_start, object_key, shard_of_slot, slot_of
from tidegate.runtime.logs.tracebacks import whole_traceback
from tidegate.runtime.wire.protocol import OK
from tidegate.runtime.wire.wishes import LISTED_OBJECTS_MAX, ListAlarms, ListClasses, ListErrors, ListNames, Weigh
from tidegate.shard.core.alarms import ABANDONED_KEY, INDEX_KEY, STEADY_INDEX_KEY, Abandoned, Header, decode_header
from tidegate.shard.core.cache import ObjectCache
from tidegate.shard.core.codec import after_prefix
from tidegate.shard.host.outbound import Permit
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.store.interface import HEADER, NAMES_KEY, Done, ShardDamaged

if TYPE_CHECKING:
    from tidegate.shard.host.host import Host

Answered = Callable[[dict[str, Any] | None, dict[str, Any] | None], object]

SLICE_S = 0.001
"""For so long it works before others get their turn."""
SIZED_ROWS = 500
"""Rows of an object whose sizes are added up at once."""
WEIGHED_ROWS = 500
WEIGH_S = 0.5
"""For so long data files are gone through before it is said how far that has got."""
COUNTS_MAX = 10
"""So often objects are counted while commits of a checkpoint change what is to be counted."""
_NOWHERE = f"{1 << 62}."
_CHUNK_MIN = 16

Entry = tuple[str, str, str]
"""Where an object stands in the index, its class, its name."""


class _Range(NamedTuple):
    """Rows of the index from `start` on, before `end`, of objects whose `Class/name` begins with `prefix`: a row that is cut does
    not say that of a long one."""

    start: str
    end: str | None
    prefix: str

    def has(self, entry: Entry) -> bool:
        row, class_name, name = entry
        inside = row >= self.start and (self.end is None or row < self.end)
        return inside and f"{class_name}/{name}".startswith(self.prefix)


class _Part:
    """What is known of one shard's objects in a range."""

    def __init__(self, store: Any, wanted: _Range) -> None:
        self.store = store
        self.wanted = wanted
        self.found: list[Entry] = []
        """The next ones, the first of them last."""
        self.start: str | None = wanted.start
        """Where it goes on; None: there are no more."""
        self.moves = -1
        """Of the store, when names that are in memory were looked for."""


class Listing:
    """Of the objects of one worker."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()
        self._began_s = 0.0

    def begin(self, wish: ListNames | ListClasses | ListAlarms | ListErrors | Weigh, answered: Answered) -> None:
        """`answered` is called once."""
        if isinstance(wish, ListErrors):
            slow = self._host.slow
            errors = self._host.log.newest_errors(max(1, min(wish.limit, LISTED_OBJECTS_MAX)))
            answered(None, {"errors": errors, "slow": slow.newest()[: max(1, wish.limit)], "slow_call_s": slow.bound_s})
            return
        task = self._host.loop.create_task(self._list(wish, answered), context=NEUTRAL)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard, context=NEUTRAL)

    async def _list(self, wish: ListNames | ListClasses | ListAlarms | Weigh, answered: Answered) -> None:
        try:
            if isinstance(wish, Weigh):
                result = await self._weigh(wish)
            elif isinstance(wish, ListNames):
                result = await self._names(wish)
            else:
                result = await (self._classes() if isinstance(wish, ListClasses) else self._alarms(wish))
        except (CallError, ShardDamaged) as error:
            told = error if isinstance(error, CallError) else Internal(str(error))
            answered(told.to_wire(), None)
        except Exception as error:
            self._host.log.error("objects could not be listed: %s", whole_traceback(error))
            answered(Internal("they could not be listed; the log of the service says why").to_wire(), None)
        else:
            self._answer(result, answered)

    def _answer(self, result: dict[str, Any], answered: Answered) -> None:
        """What is not durable may be in it."""
        gate = self._host.output_gate
        if gate.everything_is_durable:
            answered(None, result)
        else:
            permit = Permit(lambda: answered(None, result), lambda error: answered(error.to_wire(), None))
            gate.hold(gate.open_seq, None, permit, 0, OK, None)
            self._host.turn.end_soon()

    async def _breathe(self) -> None:
        if time.perf_counter() - self._began_s > SLICE_S:
            await asyncio.sleep(0)
            self._began_s = time.perf_counter()

    # Names

    async def _names(self, wish: ListNames) -> dict[str, Any]:
        limit = max(1, min(wish.limit, LISTED_OBJECTS_MAX))
        self._began_s = time.perf_counter()
        found: list[Entry] = []
        for wanted in self._ranges(wish):
            found += await self._in_range(wanted, limit + 1 - len(found))
            if len(found) > limit:
                break
        objects = [self._shown(each) for each in found[:limit]]
        if wish.sizes:
            for each in objects:
                each.update(await self._size(each["class"], each["name"]))
        return {"objects": objects, "more": len(found) > limit}

    def _ranges(self, wish: ListNames) -> list[_Range]:
        after = "" if wish.after is None else f"{name_row(*wish.after)}\0"
        if wish.class_name:
            prefixes = [f"{wish.class_name}/{wish.prefix}"]
        elif wish.orphans:
            stored = {name for store in self._host.stores.values() for name in store.counted()}
            prefixes = [f"{name}/" for name in stored if name not in self._host.classes]
        else:
            prefixes = [wish.prefix]
        starts = [(name_row_start(prefix), prefix) for prefix in sorted(prefixes)]
        ranges = [_Range(max(start, after), after_prefix(start), prefix) for start, prefix in starts]
        return [each for each in ranges if each.end is None or each.start < each.end]

    async def _in_range(self, wanted: _Range, limit: int) -> list[Entry]:
        """In order, at most so many."""
        stores = list(self._host.stores.values())
        chunk = max(_CHUNK_MIN, 2 * limit // max(1, len(stores)))
        parts = [_Part(store, wanted) for store in stores]
        new_before, gone_before = self._undurable(wanted)
        for part in parts:
            await self._fill(part, chunk)
        new, gone = self._undurable(wanted)
        # What has ended meanwhile, well or not, was looked for where it was not yet, or still.
        for entry in (new_before | gone_before) - new - gone:
            await self._breathe()
            (new if await self._is_durable(entry) else gone).add(entry)
        heads = [(part.found[-1], at) for at, part in enumerate(parts) if part.found]
        heapq.heapify(heads)
        listed: list[Entry] = []
        while heads and len(listed) < limit + len(gone):
            _, at = heapq.heappop(heads)
            part = parts[at]
            listed.append(part.found.pop())
            if not part.found:
                await self._fill(part, chunk)
            if part.found:
                heapq.heappush(heads, (part.found[-1], at))
        bound = listed[-1] if heads and listed else None  # Behind it not all are known.
        known = {entry for entry in (*listed, *new) if bound is None or entry <= bound} - gone
        return sorted(known)[:limit]

    async def _fill(self, part: _Part, chunk: int) -> None:
        """The next ones of the shard, unless there are no more."""
        while part.start is not None and not part.found:
            await self._breathe()
            store, start, end = part.store, part.start, part.wanted.end
            await self._look(part)
            rows = store.scan_now(NAMES_KEY, start or None, end, reverse=False, limit=chunk)
            if rows is None:
                rows = await self._fetched(store, start, end, chunk)
            if part.moves != store.moves:
                continue  # What was in memory is in the state, which was read before.
            named, part.start = store.names(start, end, chunk, rows)
            found = ((row, each.class_name, each.name) for row, each in reversed(named))
            part.found = [each for each in found if part.wanted.has(each)]

    async def _look(self, part: _Part) -> None:
        """For names that are in memory, where they are now."""
        while part.moves != part.store.moves:
            part.moves = part.store.moves
            for _ in part.store.look_for_names():
                await self._breathe()

    async def _fetched(self, store: Any, start: str, end: str | None, limit: int, key: bytes = NAMES_KEY) -> Any:
        return await self._told(partial(store.fetch_range, key, start or None, end, False, limit))

    async def _told(self, ask: Callable[[Done], object]) -> Any:
        """What a read that was asked for has found."""
        future: asyncio.Future[Any] = self._host.loop.create_future()

        def done(result: Any, error: Exception | None) -> None:
            if not future.done():
                future.set_result(result) if error is None else future.set_exception(error)

        ask(done)
        return await future

    def _undurable(self, wanted: _Range) -> tuple[set[Entry], set[Entry]]:
        """Objects of the range that have come into being and are not durable, and those that are gone and will be."""
        gate = self._host.output_gate
        new: set[Entry] = set()
        gone: set[Entry] = set()
        members = [] if gate.in_flight is None else gate.in_flight.members
        for cache in (*members, *gate.dirty):
            if cache.owner is not None and cache.owner.broken is None and _changes_existence(cache):
                entry = name_row(cache.class_name, cache.name), cache.class_name, cache.name
                if wanted.has(entry):
                    (new if cache.has_header else gone).add(entry)
        return new, gone

    async def _is_durable(self, entry: Entry) -> bool:
        """Whether there is such an object, as far as its shard knows."""
        host, (_, class_name, name) = self._host, entry
        key = object_key(class_name, name)
        store = host.stores.get(shard_of_slot(slot_of(class_name, name), host.settings.shards_total))
        if store is not None and store.reader is not None:
            future: asyncio.Future[None] = host.loop.create_future()

            def done(*_: Any) -> None:
                if not future.done():
                    future.set_result(None)  # Of an error whoever reads it is told.

            store.fetch(key, (HEADER,), done)
            await future
        return store is not None and store.get(key, HEADER) is not None

    def _shown(self, entry: Entry) -> dict[str, Any]:
        _, class_name, name = entry
        kept = self._host.classes.get(class_name)
        in_memory = kept is not None and kept.activations.find(name) is not None
        return {"class": class_name, "name": name, "in_memory": in_memory}

    async def _size(self, class_name: str, name: str) -> dict[str, int]:
        """Of what is durable of it."""
        host, key = self._host, object_key(class_name, name)
        store = host.stores.get(shard_of_slot(slot_of(class_name, name), host.settings.shards_total))
        keys, size, start = 0, 0, ""
        while store is not None:
            await self._breathe()
            rows = store.scan_now(key, start or None, None, reverse=False, limit=SIZED_ROWS)
            if rows is None:
                rows = await self._fetched(store, start, None, SIZED_ROWS, key)
            keys += len(rows)
            size += sum(len(row.encode()) + len(value) for row, value in rows)
            if len(rows) < SIZED_ROWS:
                break
            start = rows[-1][0] + "\0"
        return {"keys": keys, "bytes": size}

    # Weights

    async def _weigh(self, wish: Weigh) -> dict[str, Any]:
        """Goes through the rows as they stand in the data files, for a while; `next` is where to go on."""
        self._began_s = began_s = time.perf_counter()
        prefix = f"{wish.class_name}/{wish.prefix}" if wish.class_name else wish.prefix
        heaviest: list[tuple[int, int, str, str]] = []
        at_shard, at_key = _place(wish.after.get(str(self._host.settings.worker), "" if not wish.after else _NOWHERE))
        seen = 0
        for shard, store in sorted(self._host.stores.items()):
            if shard < at_shard:
                continue
            key: bytes | None = at_key if shard == at_shard else b""
            while key is not None:
                await self._breathe()
                objects, key = await self._part(store, key)
                for header, keys, size in objects:
                    seen += 1
                    named = _named(header)
                    if named is not None and f"{named.class_name}/{named.name}".startswith(prefix):
                        heapq.heappush(heaviest, (size, keys, named.class_name, named.name))
                        if len(heaviest) > wish.count:
                            heapq.heappop(heaviest)
                if key is not None and time.perf_counter() - began_s > WEIGH_S:
                    return _weighed(str(self._host.settings.worker), heaviest, seen, f"{shard}.{key.hex()}")
        return _weighed(str(self._host.settings.worker), heaviest, seen, None)

    async def _part(self, store: Any, key: bytes) -> tuple[list[tuple[bytes, int, int]], bytes | None]:
        """The next objects of a data file: header, how many keys, how many bytes; and where to go on."""
        rows = await self._asked(store, key, WEIGHED_ROWS)
        objects: list[tuple[bytes, int, int]] = []
        header, keys, size, last = b"", 0, 0, b""
        while True:
            for row, value in rows:
                if len(row) == OBJECT_KEY_BYTES:
                    if header:
                        objects.append((header, keys, size))
                    header, keys, size = value, 0, 0
                else:
                    keys, size = keys + 1, size + len(row) - OBJECT_KEY_BYTES + len(value)
            if len(rows) < WEIGHED_ROWS:
                return [*objects, (header, keys, size)] if header else objects, None
            last = rows[-1][0]
            if not header:
                return objects, last + b"\0"
            if objects:
                return objects, last[:OBJECT_KEY_BYTES]  # The last one is begun anew.
            await self._breathe()
            rows = await self._asked(store, last + b"\0", WEIGHED_ROWS)

    async def _asked(self, store: Any, start: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        if (rows := store.stored_now(start, limit)) is not None:
            return rows  # type: ignore[no-any-return]  # rows
        return await self._told(partial(store.fetch_stored, start, limit))  # type: ignore[no-any-return]  # rows

    # Classes

    async def _classes(self) -> dict[str, Any]:
        self._began_s = time.perf_counter()
        counts: Counter[str] = Counter()
        for store in list(self._host.stores.values()):
            counts.update(await self._counted(store))
        app = self._host.classes
        return {
            "classes": {
                name: {
                    "objects": counts.get(name, 0),
                    "in_memory": len(app[name].activations) + len(app[name].asleep) if name in app else 0,
                    "in_app": name in app,
                }
                for name in sorted({*(name for name, count in counts.items() if count), *app})
            }
        }

    async def _counted(self, store: Any) -> Counter[str]:
        """Of one shard. While a checkpoint commits faster than this counts, it is off by what one commit moves."""
        for _ in range(COUNTS_MAX):
            counted = store.counted()
            counts = Counter(counted)
            for keys in store.uncounted():
                await self._breathe()
                if (headers := store.headers_now(keys)) is None:
                    headers = await self._told(partial(store.fetch_headers, keys))
                for name, more in store.difference(keys, headers):
                    counts[name] += more
            if store.counted() is counted:
                break
        return counts

    # Alarms

    async def _alarms(self, wish: ListAlarms) -> dict[str, Any]:
        """As far as they are durable."""
        self._began_s = time.perf_counter()
        limit = max(1, min(wish.limit, LISTED_OBJECTS_MAX))
        scheduled: list[dict[str, Any]] = []
        abandoned: list[dict[str, Any]] = []
        for shard, store in list(self._host.stores.items()):
            ahead_us = self._host.alarms.ahead_us(shard)
            for index, later_us in ((INDEX_KEY, 0), (STEADY_INDEX_KEY, ahead_us)):
                scheduled += await self._scheduled(store, index, wish, later_us, limit + 1)
            for row in await self._rows(store, ABANDONED_KEY, None, LISTED_OBJECTS_MAX):
                each = msgspec.msgpack.decode(row[1], type=Abandoned)
                if wish.class_name in ("", each.class_name):
                    abandoned.append(_abandoned(each))
        scheduled.sort(key=lambda each: (each["due_ms"], each["class"], each["name"]))
        abandoned.sort(key=lambda each: str(each["abandoned_at"]), reverse=True)
        now_ms = self._host.wall_us() // 1_000
        return {"alarms": scheduled[:limit], "more": len(scheduled) > limit, "abandoned": abandoned[:limit], "now_ms": now_ms}

    async def _scheduled(self, store: Any, index: bytes, wish: ListAlarms, later_us: int, limit: int) -> list[dict[str, Any]]:
        """In one index of a shard, at most so many."""
        found: list[dict[str, Any]] = []
        start: str | None = f"{max(0, wish.from_ms * 1_000 + later_us):016x}"
        while start is not None and len(found) < limit:
            await self._breathe()
            rows = await self._rows(store, index, start, SIZED_ROWS)
            for key, raw in rows:
                class_name, name, *_ = msgspec.msgpack.decode(raw)
                if wish.class_name in ("", class_name):
                    found.append({"class": class_name, "name": name, "due_ms": (int(key[:16], 16) - later_us) // 1_000})
            start = f"{rows[-1][0]}\0" if len(rows) == SIZED_ROWS else None
        return found[:limit]

    async def _rows(self, store: Any, key: bytes, start: str | None, limit: int) -> Any:
        if (rows := store.scan_now(key, start, None, reverse=False, limit=limit)) is not None:
            return rows
        return await self._fetched(store, start or "", None, limit, key)


def _named(header: bytes) -> Header | None:
    try:
        return decode_header(header)
    except ValueError:  # `tidegate check` names it.
        return None


def _place(text: str) -> tuple[int, bytes]:
    shard, _, key = text.partition(".")
    return int(shard or 0), bytes.fromhex(key)


def _weighed(worker: str, heaviest: list[tuple[int, int, str, str]], seen: int, following: str | None) -> dict[str, Any]:
    objects = [
        {"class": class_name, "name": name, "keys": keys, "bytes": size}
        for size, keys, class_name, name in sorted(heaviest, reverse=True)
    ]
    return {"worker": worker, "objects": objects, "seen": seen, "next": following}


def _abandoned(each: Abandoned) -> dict[str, Any]:
    times = {"scheduled_for": each.scheduled_for.isoformat(timespec="seconds"), "abandoned_at": each.told_at}
    return {"class": each.class_name, "name": each.name, **times, "error": each.error, "deaths": each.deaths}


def _changes_existence(cache: ObjectCache) -> bool:
    """What of it is not durable makes an object of it, or ends it."""
    committing = cache.committing
    return (
        HEADER in cache.dirty or cache.cleared or (committing is not None and (HEADER in committing.writes or committing.cleared))
    )
