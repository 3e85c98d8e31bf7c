"""Which shards a worker has, which it is to have, and what it does next about that.

Guarantee: whatever it is told, and in whatever order what it does ends: once it is told nothing more, it comes to have what it is
to have, but for what is not to be had. One thing at a time is done to a shard. A shard that was lost to another host, or cannot
be used, is not asked for again before it has been out of the target: two hosts that both believe to own it do not fight for it.

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


Step = Take | Give


class Duties:
    def __init__(self, owned: Iterable[int], refused: Iterable[int]) -> None:
        """`owned`: what it has at its start, `refused`: what it was to have and has not."""
        self.owned = set(owned)
        self.refused = set(refused)
        """Not to be had; they are not asked for again while they are in the target."""
        self.taking: set[int] = set()
        self.giving: set[int] = set()
        """Among those that it owns."""
        self.target = frozenset(self.owned | self.refused)

    @property
    def busy(self) -> set[int]:
        return self.taking | self.giving

    def told(self, target: Iterable[int]) -> list[Step]:
        """What it is to have from now on."""
        self.target = frozenset(target)
        self.refused &= self.target
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
        takes = sorted(self.target - self.owned - self.taking - self.refused)
        gives = sorted(self.owned - self.target - self.giving)
        self.taking.update(takes)
        self.giving.update(gives)
        return [*map(Give, gives), *map(Take, takes)]

    def check_invariants(self) -> None:
        assert not self.owned & self.taking
        assert not self.owned & self.refused
        assert not self.taking & self.refused
        assert self.giving <= self.owned
        assert self.refused <= self.target
        assert self.owned | self.taking | self.refused >= self.target
        assert self.giving >= self.owned - self.target
