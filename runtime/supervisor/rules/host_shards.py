"""Which shards of a cluster this host is to have, which of its workers has each of them, and who is told what.

Guarantee: a shard is told to one worker of this host at a time: to the next one only when the one before has let it go, or has
ended. A shard that has left `held` may be claimed by another host, which disturbs nobody here.

Rule: pure. What is to be sent comes back as values. Which host is to have a shard is for others to say (`set_target`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from tidegate.runtime.wire.supervisor_messages import Owned, OwnShards


class _Worker:
    """What is known of the process in a seat."""

    def __init__(self) -> None:
        self.is_there = False
        self.has_said = False
        self.told: frozenset[int] = frozenset()
        self.told_ahead: frozenset[int] = frozenset()
        self.number = 0
        """Of what it was told last."""
        self.owned: frozenset[int] = frozenset()
        self.stopped: Mapping[int, str] = {}
        self.ready: frozenset[int] = frozenset()
        self.reads: frozenset[int] = frozenset()
        self.held: frozenset[int] = frozenset()
        """What it may have claimed, or be about to claim, or whose files it may read and write."""


class HostShards:
    def __init__(self, shards: int, workers: int, target: Iterable[int] | None = None) -> None:
        """`shards`: of the cluster. `target`: all of them unless given."""
        self.shards = shards
        self._workers = [_Worker() for _ in range(workers)]
        self._dealt: dict[int, int] = {}
        """By shard of the target, and of those to be read ahead: the worker that is to have it."""
        self._ahead: frozenset[int] = frozenset()
        self._numbers = 0
        self.set_target(range(shards) if target is None else target)

    # Questions

    @property
    def target(self) -> frozenset[int]:
        return frozenset(self._dealt) - self._ahead

    @property
    def ready(self) -> frozenset[int]:
        """Of those to be read ahead: what is there of them was read."""
        return self._ahead & frozenset[int]().union(*(worker.ready for worker in self._workers))

    @property
    def reads(self) -> frozenset[int]:
        """Of those: a worker is about to, or does, or could not and tries again."""
        return self._ahead & frozenset[int]().union(*(worker.reads for worker in self._workers)) - self.ready

    @property
    def owned(self) -> frozenset[int]:
        """What workers of this host have claimed and serve, or are about to give."""
        return frozenset().union(*(worker.owned for worker in self._workers))

    @property
    def held(self) -> frozenset[int]:
        """What they may have claimed, or be about to claim."""
        return frozenset().union(*(worker.held for worker in self._workers))

    @property
    def stopped(self) -> dict[int, str]:
        """What this host is to have and has not, and why."""
        return {shard: why for worker in self._workers for shard, why in worker.stopped.items() if shard in self.target}

    def of(self, worker: int) -> frozenset[int]:
        """What a worker is to have now."""
        return self._free_for(worker) - self._ahead

    def ahead_of(self, worker: int) -> frozenset[int]:
        """What a worker is to read ahead now."""
        return self._free_for(worker) & self._ahead

    def _free_for(self, worker: int) -> frozenset[int]:
        """What was dealt to it, and no other holds."""
        others = [each.held for index, each in enumerate(self._workers) if index != worker]
        return frozenset(s for s, index in self._dealt.items() if index == worker and not any(s in held for held in others))

    def serving(self, shard: int) -> int | None:
        """The worker to which calls of the shard go, also while it is being started. None: it is on its way, or not ours."""
        index = self._dealt.get(shard)
        if index is None or shard in self._ahead:
            return None
        worker = self._workers[index]
        if not worker.is_there:
            return index
        has_it = shard in worker.told and (not worker.has_said or shard in worker.owned or shard in worker.stopped)
        return index if has_it else None

    # Events

    def set_target(self, target: Iterable[int], ahead: Iterable[int] = ()) -> None:
        """Deals them to the workers: each stays where it is, new ones go to who has the fewest, and then nobody has two more than
        another. `ahead`: shards that are to be part of the target next; what their logs have is read meanwhile."""
        target = frozenset(target)
        self._ahead = frozenset(ahead) - target
        wanted = target | self._ahead
        if outside := {shard for shard in wanted if not 0 <= shard < self.shards}:
            raise ValueError(f"the cluster has {self.shards} shards, and not {min(outside)}")
        self._dealt = {shard: worker for shard, worker in self._dealt.items() if shard in wanted}
        counts = [0] * len(self._workers)
        for worker in self._dealt.values():
            counts[worker] += 1
        for shard in sorted(wanted - self._dealt.keys()):
            first = shard % len(counts)  # As without a cluster, where nothing speaks against it.
            worker = min(range(len(counts)), key=lambda each: (counts[each], (each - first) % len(counts)))
            self._dealt[shard] = worker
            counts[worker] += 1
        while max(counts) - min(counts) > 1:
            most, least = counts.index(max(counts)), counts.index(min(counts))
            shard = max(shard for shard, worker in self._dealt.items() if worker == most)
            self._dealt[shard] = least
            counts[most] -= 1
            counts[least] += 1

    def open(self, worker: int) -> tuple[int, ...]:
        """A process begins there, and claims these."""
        shards = self.of(worker)
        each = self._workers[worker] = _Worker()
        each.is_there = True
        each.told = each.held = shards
        return tuple(sorted(shards))

    def gone(self, worker: int) -> None:
        """The process there has ended."""
        self._workers[worker] = _Worker()

    def said(self, worker: int, message: Owned) -> None:
        each = self._workers[worker]
        if not each.is_there:
            return
        each.has_said = True
        each.owned, each.stopped = frozenset(message.shards), message.stopped
        each.ready, each.reads = frozenset(message.ready), frozenset(message.reads)
        if message.number >= each.number:
            each.held = each.owned.union(message.busy, message.stopped)
        else:  # It has not heard the newest yet.
            each.held = each.held.union(message.shards, message.busy)

    def orders(self, workers: Collection[int], give_s: float) -> list[tuple[int, OwnShards]]:
        """What these workers, which listen, are to be told, since it is news for them. `give_s`: see `OwnShards`."""
        orders = []
        for index in workers:
            worker, shards, ahead = self._workers[index], self.of(index), self.ahead_of(index)
            if worker.is_there and (shards, ahead) != (worker.told, worker.told_ahead):
                self._numbers += 1
                worker.told, worker.told_ahead, worker.number = shards, ahead, self._numbers
                worker.held |= shards | ahead
                orders.append((index, OwnShards(self._numbers, tuple(sorted(shards)), give_s, tuple(sorted(ahead)))))
        return orders

    def check_invariants(self) -> None:
        assert all(0 <= worker < len(self._workers) for worker in self._dealt.values())
        for index, worker in enumerate(self._workers):
            assert worker.owned <= worker.held, (index, worker.owned, worker.held)
            others = [each.held for at, each in enumerate(self._workers) if at != index]
            assert not any(worker.held & held for held in others), "two workers may have one shard"
