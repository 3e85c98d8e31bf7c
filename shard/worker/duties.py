"""Which shards a worker has, which it is to have, and what it does next about that.

Guarantee: whatever it is told, and in whatever order what it does ends: once it is told nothing more, it comes to have what it is
to have, but for what is not to be had. One thing at a time is done to a shard. A shard that was lost to another host, or cannot
be used, is not asked for again before it has been out of the target: two hosts that both believe to own it do not fight for it.

What a shard's log has is read before the shard is taken, where there is time for that: while another host serves it. No shard
that is to be had waits for the reads of others: few are begun at a time, and one that is not begun is none.

Rule: pure. Who carries out a step says how it ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

READS = 4
"""Shards that are read ahead at the same time."""


class Take(NamedTuple):
    """Bring its state up to what its log has, and claim it if it `wants` it then. Ends in `taken`, `not_taken` or
    `not_claimed`."""

    shard: int


class Give(NamedTuple):
    """Let its calls end, then let it go. Ends in `given` or `lost`."""

    shard: int


class ReadAhead(NamedTuple):
    """Bring its state up to what its log has now, and claim nothing. Ends in `read` or `not_read`."""

    shard: int


Step = Take | Give | ReadAhead


class Duties:
    def __init__(self, owned: Iterable[int], refused: Iterable[int]) -> None:
        """`owned`: what it has at its start, `refused`: what it was to have and has not."""
        self.owned = set(owned)
        self.refused = set(refused)
        """Not to be had; they are not asked for again while they are in the target."""
        self.taking: set[int] = set()
        self.giving: set[int] = set()
        """Among those that it owns."""
        self.reading: set[int] = set()
        """Begun, whatever is to come of it."""
        self.ahead = frozenset[int]()
        """To be read, since they are to be part of the target next."""
        self.ready: set[int] = set()
        """Of these: they were read."""
        self.unreadable: set[int] = set()
        """Of these: they could not be read, and are tried `again`."""
        self.target = frozenset(self.owned | self.refused)

    @property
    def busy(self) -> set[int]:
        """What it uses the files of, or may begin to."""
        return self.taking | self.giving | self.reading | self.unread

    @property
    def unread(self) -> set[int]:
        """To be read, and not read yet: it waits for that, is being read, or could not be. Whoever serves it should go on."""
        return set(self.ahead - self.owned - self.ready)

    def told(self, target: Iterable[int], ahead: Iterable[int] = ()) -> list[Step]:
        """What it is to have from now on, and what next."""
        self.target = frozenset(target)
        self.ahead = frozenset(ahead) - self.target
        self.refused &= self.target
        self.ready &= self.ahead
        self.unreadable &= self.ahead
        return self._next()

    def taken(self, shard: int) -> list[Step]:
        self.taking.remove(shard)
        self.owned.add(shard)
        return self._next()

    def not_taken(self, shard: int) -> list[Step]:
        self.taking.remove(shard)
        if shard in self.target:
            self.refused.add(shard)
        return self._next()

    def not_claimed(self, shard: int) -> list[Step]:
        """It was not wanted any longer when it could have been."""
        self.taking.remove(shard)
        return self._next()

    def wants(self, shard: int) -> bool:
        """Now; may be asked in any thread."""
        return shard in self.target

    def read(self, shard: int) -> list[Step]:
        self.reading.remove(shard)
        if shard in self.ahead:
            self.ready.add(shard)
        return self._next()

    def not_read(self, shard: int) -> list[Step]:
        self.reading.remove(shard)
        if shard in self.ahead:
            self.unreadable.add(shard)
        return self._next()

    def again(self, shard: int) -> list[Step]:
        """It may be to be had now, or to be read."""
        self.refused.discard(shard)
        self.unreadable.discard(shard)
        return self._next()

    def given(self, shard: int) -> list[Step]:
        self.giving.remove(shard)
        self.owned.remove(shard)
        return self._next()

    def lost(self, shard: int) -> list[Step]:
        """Another host has it, or it cannot be used any longer."""
        self.giving.discard(shard)
        self.owned.discard(shard)
        if shard in self.target:
            self.refused.add(shard)
        return self._next()

    def _next(self) -> list[Step]:
        takes = sorted(self.target - self.owned - self.taking - self.refused - self.reading)
        gives = sorted(self.owned - self.target - self.giving)
        unbegun = sorted(self.unread - self.taking - self.reading - self.unreadable)
        reads = unbegun[: max(0, READS - len(self.reading))]
        self.taking.update(takes)
        self.giving.update(gives)
        self.reading.update(reads)
        return [*map(Give, gives), *map(Take, takes), *map(ReadAhead, reads)]

    def check_invariants(self) -> None:
        assert not self.owned & self.taking
        assert not self.owned & self.refused
        assert not self.taking & self.refused
        assert self.giving <= self.owned
        assert self.refused <= self.target
        assert self.owned | self.taking | self.refused | self.reading >= self.target
        assert not self.reading & (self.owned | self.taking)
        assert len(self.reading) <= READS
        assert self.ready <= self.ahead
        assert self.unreadable <= self.ahead - self.ready - self.reading
        assert self.giving >= self.owned - self.target
