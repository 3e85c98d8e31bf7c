"""Which shards change places, so that hosts have loads by their weights.

Rule 1: pure. A load is in calls a second, as hosts say it of their shards; a share is the load of a host by its weight.
Rule 2: two hosts exchange a shard each. So how many shards each has stays, and with it the placement (`placement.deal`).
Rule 3: nothing flaps. An exchange has to be worth it (`Worth`): measurements of one load differ from each other by less than
that, so what was exchanged by one is not exchanged back by the next.
Rule 4: a few at a time, since calls of a shard that moves wait; what was pinned by an operator stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from tidegate.runtime.cluster.records import Beat, ClusterPlacement

EXCHANGES_AT_ONCE = 2
LOAD_MIN = 10.0
"""Calls a second of the cluster: less is no load to speak of."""


class Worth(NamedTuple):
    """In parts of the mean share."""

    uneven: float = 0.2
    """By so much the largest share is above the mean before anything is exchanged."""
    gain: float = 0.1
    """By so much an exchange makes the larger of two shares smaller."""


WORTH = Worth()


class ShardMove(msgspec.Struct, frozen=True):
    shard: int
    source: str
    """Ids of hosts."""
    target: str


class Balance(msgspec.Struct, frozen=True):
    calls_per_s: float
    before: float
    """The largest share, by the mean: 1 is even. 0: nobody has any load."""
    after: float
    """The same, as it is to be."""
    moves: tuple[ShardMove, ...]


def measured_load(beats: Iterable[Beat], shards: int) -> dict[int, float]:
    """The mean of what each host has said, added up over hosts: a shard may have moved meanwhile."""
    by_host: dict[str, list[Beat]] = {}
    for beat in beats:
        by_host.setdefault(beat.id, []).append(beat)
    loads: dict[int, float] = {}
    for said in by_host.values():
        for beat in said:
            for shard, rate in beat.loads.items():
                if 0 <= shard < shards:
                    loads[shard] = loads.get(shard, 0.0) + rate / len(said)
    return loads


def balance(placement: ClusterPlacement, loads: Mapping[int, float], there: Iterable[str], worth: Worth = WORTH) -> Balance:
    """Which exchanges are worth it now, of the hosts that are there and get shards."""
    weights = {id: host.weight for id, host in placement.hosts.items() if id in set(there) - placement.draining}
    has: dict[str, list[int]] = {id: [] for id in weights}
    for shard, owner in enumerate(placement.owners):
        if owner in has:
            has[owner].append(shard)
    shares = {id: sum(loads.get(shard, 0.0) for shard in has[id]) / weight for id, weight in weights.items()}
    total = sum(shares[id] * weight for id, weight in weights.items())
    if total <= 0:
        return Balance(0.0, 0.0, 0.0, ())
    mean = total / sum(weights.values())
    before = max(shares.values()) / mean
    free = {id: [shard for shard in has[id] if shard not in placement.pins] for id in has}
    moves: list[ShardMove] = []
    while total >= LOAD_MIN and len(moves) < 2 * EXCHANGES_AT_ONCE:
        busiest = max(shares, key=lambda id: (shares[id], id))
        best = min(_exchanges(busiest, free, loads, shares, weights), default=None)
        if shares[busiest] <= mean * (1 + worth.uneven) or best is None or shares[busiest] - best.peak <= mean * worth.gain:
            break
        free[busiest].remove(best.heavy)
        free[best.other].remove(best.light)
        by = loads.get(best.heavy, 0.0) - loads.get(best.light, 0.0)
        shares[busiest] -= by / weights[busiest]
        shares[best.other] += by / weights[best.other]
        moves += [ShardMove(best.heavy, busiest, best.other), ShardMove(best.light, best.other, busiest)]
    return Balance(total, before, max(shares.values()) / mean, tuple(moves))


class _Exchange(NamedTuple):
    """Sorts by how good it is."""

    peak: float
    """The larger of the two shares then."""
    heavy: int
    light: int
    other: str


def _exchanges(
    busiest: str,
    free: Mapping[str, Sequence[int]],
    loads: Mapping[int, float],
    shares: Mapping[str, float],
    weights: Mapping[str, int],
) -> Iterable[_Exchange]:
    for other in free.keys() - {busiest}:
        for heavy in free[busiest]:
            for light in free[other]:
                by = loads.get(heavy, 0.0) - loads.get(light, 0.0)
                if by > 0:
                    peak = max(shares[busiest] - by / weights[busiest], shares[other] + by / weights[other])
                    yield _Exchange(peak, heavy, light, other)


def exchanged(placement: ClusterPlacement, moves: Iterable[ShardMove]) -> ClusterPlacement:
    owners = list(placement.owners)
    for move in moves:
        owners[move.shard] = move.target
    return msgspec.structs.replace(placement, owners=tuple(owners))
