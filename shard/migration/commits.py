"""The rows of a shard as commits of a log, and what they add up to.

What travels is every row but two kinds: what says which state this is, and the index of names, which whoever writes headers makes
by himself. So objects, alarms and their indexes, alarms that were given up, the clock of alarms, and answers to calls with keys.

Rule: pure. Commits are cut anywhere: nobody may be an owner before the last one is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b

from tidegate.runtime.ids import OBJECT_KEY_BYTES
from tidegate.shard.offline.rows import Row, add_to_digest
from tidegate.shard.store.interface import NAMES_KEY, ObjectWrites
from tidegate.shard.store.names import NAMES_HEAD_KEY

COMMIT_BYTES = 512 << 10
"""Of keys and values in a commit: until it has so many it gets another row. One without a large row fits into a message."""
DIGEST_BYTES = 16
_OF_THE_STATE = NAMES_HEAD_KEY[:1]


def travelling(rows: Iterable[Row]) -> Iterator[Row]:
    """Of the rows of a state, in order, those that are the same wherever the shard is."""
    return (row for row in rows if not row[0].startswith((NAMES_KEY, _OF_THE_STATE)))


def commits_of(rows: Iterable[Row]) -> Iterator[list[ObjectWrites]]:
    """One after the other they make these rows, in a state that has nothing."""
    objects: list[ObjectWrites] = []
    size = 0
    for key, value in rows:
        owner = key[:OBJECT_KEY_BYTES]
        if not objects or objects[-1].key != owner:
            objects.append(ObjectWrites(owner, False, {}))
        objects[-1].writes[key[OBJECT_KEY_BYTES:].decode()] = value
        size += len(key) + len(value)
        if size >= COMMIT_BYTES:
            yield objects
            objects, size = [], 0
    if objects:
        yield objects


class Sum:
    """Of the rows of a shard: no others, in no other order, have the same digest."""

    def __init__(self) -> None:
        self.rows = self.bytes = 0
        self._digest = blake2b(digest_size=DIGEST_BYTES)

    def noting(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows."""
        for row in rows:
            self.rows += 1
            self.bytes += len(row[0]) + len(row[1])
            add_to_digest(self._digest, row)
            yield row

    @property
    def digest(self) -> bytes:
        return self._digest.digest()


def sum_of(rows: Iterable[Row]) -> Sum:
    total = Sum()
    for _ in total.noting(rows):
        pass
    return total


def digest_of_all(digests: Iterable[bytes]) -> str:
    """Of the shards, in order; for people."""
    return blake2b(b"".join(digests), digest_size=DIGEST_BYTES).hexdigest()
