"""What rows mean to whoever reads about them: names of objects and keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from typing import Any

from tidegate.runtime.errors import one_line
from tidegate.runtime.ids import OBJECT_KEY_BYTES
from tidegate.shard.core.alarms import ABANDONED_KEY, BEGUN_KEY, INDEX_KEY, STEADY_INDEX_KEY, STEADY_KEY, decode_header
from tidegate.shard.store.interface import NAMES_KEY
from tidegate.shard.store.memtable import Memtable

OWN_FIRST = b"\x40"
"""From here on keys are the runtime's own; those of objects begin with a slot."""
_OWN = {
    INDEX_KEY: "the index of alarms",
    STEADY_INDEX_KEY: "the index of alarms relative to now",
    STEADY_KEY: "the clock of alarms",
    ABANDONED_KEY: "the list of abandoned alarms",
    BEGUN_KEY: "the list of alarms whose handlers run",
    NAMES_KEY: "the index of names",
}

TOLD_ROWS = 1_000
"""After so many it is told how far it is."""

Row = tuple[bytes, bytes]
Get = Callable[[bytes], bytes | None]


def name_of_object(object_key: bytes, get: Get) -> str:
    """`Class/name`, if its header can be read by `get`."""
    if object_key >= OWN_FIRST:
        return _OWN.get(object_key, f"the runtime's own rows {object_key.hex()}")
    header = get(object_key)
    if header is None:
        return f"an object of which nothing is left but its key {object_key.hex()}"
    try:
        decoded = decode_header(header)
    except ValueError:
        return f"an object whose header cannot be read, with the key {object_key.hex()}"
    return one_line(f"{decoded.class_name}/{decoded.name}")


def name_of_row(key: bytes, get: Get) -> str:
    """Object and key of a row."""
    owner, own = name_of_object(key[:OBJECT_KEY_BYTES], get), key[OBJECT_KEY_BYTES:].decode(errors="backslashreplace")
    return f"{owner}, its key {own!r}" if own else f"{owner}, its header"


def laid_over(rows: Iterable[Row], memtable: Memtable) -> Iterator[Row]:
    """The rows of a state, in order, with what the logs have beyond it."""
    cleared = {owner for owner, held in memtable.objects.items() if held.cleared}
    written = {owner + key.encode(): value for owner, held in memtable.objects.items() for key, value in held.writes.items()}
    left = ((key, value) for key, value in rows if key not in written and key[:OBJECT_KEY_BYTES] not in cleared)
    return merge(left, ((key, value) for key, value in sorted(written.items()) if value is not None))


def told(rows: Iterable[Row], tell: Callable[[int], object]) -> Iterator[Row]:
    """The same rows; now and then it is told how many there were."""
    for number, row in enumerate(rows):
        if number % TOLD_ROWS == 0:
            tell(number)
        yield row


def add_to_digest(digest: Any, row: Row) -> None:
    """`digest`: of hashlib. No other rows, in no other order, end in the same."""
    key, value = row
    digest.update(b"%d %d " % (len(key), len(value)))
    digest.update(key)
    digest.update(value)
