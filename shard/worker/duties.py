"""Which shards a worker has, which it is to have, and what it does next about that.

Guarantee: whatever it is told, and in whatever order what it does ends: once it is told nothing more, it comes to have what it is
to have, but for what is not to be had. One thing at a time is done to a shard. A shard that was lost to another host, or cannot
be used, is not asked for again before it has been out of the target: two hosts that both believe to own it do not fight for it.

What a shard's log has is read before the shard is taken, where there is time for that: while another host serves it.

Rule: pure. Who carries out a step says how it ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Take(NamedTuple):
    """Claim it, and bring its state up to what its log has. Ends in `taken` or `not_taken`."""

    shard: int


class Give(NamedTuple):
    """Let its calls end, then let it go. Ends in `given` or `lost`."""

    shard: int


class ReadAhead(NamedTuple):
    """Bring its state up to what its log has now, and claim nothing. Ends in `read`, whatever came of it: who takes the shard
    reads the rest, and says what is wrong with it."""

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
        self.ahead = frozenset[int]()
        """To be read, since they are to be part of the target next."""
        self.ready: set[int] = set()
        """Of these: they were read."""
        self.target = frozenset(self.owned | self.refused)

    @property
    def busy(self) -> set[int]:
        return self.taking | self.giving | self.reading

    def told(self, target: Iterable[int], ahead: Iterable[int] = ()) -> list[Step]:
        """What it is to have from now on, and what next."""
        self.target = frozenset(target)
        self.ahead = frozenset(ahead) - self.target
        self.refused &= self.target
        self.ready &= self.ahead
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

    def read(self, shard: int) -> list[Step]:
        self.reading.remove(shard)
        if shard in self.ahead:
            self.ready.add(shard)
        return self._next()

    def again(self, shard: int) -> list[Step]:
        """It may be to be had now."""
        self.refused.discard(shard)
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
        reads = sorted(self.ahead - self.owned - self.taking - self.reading - self.ready)
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
        assert self.ready <= self.ahead
        assert self.giving >= self.owned - self.target
