"""Who should serve which shard.

Rule 1: pure, and every host comes to the same answer: what it depends on is the placement before, and who is there.
Rule 2: a shard moves only if it has to: its host is not there, or drains, or an operator wants it elsewhere, or a host has so
much that the largest share would be smaller if it had one less. Who serves what belongs to nobody who is there keeps it.
Rule 3: what nobody serves moves at once, and what a host has that is about to stop. What others serve moves a few at a time
(`MOVES_AT_ONCE`), since its calls wait meanwhile; those do not count whose next host reads first, or cannot: no call waits for
that.

A share is the number of a host's shards by its weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import msgspec

from tidegate.runtime.cluster.records import ClusterPlacement, Loss, PlacedHost

MOVES_AT_ONCE = 4


def deal(placement: ClusterPlacement, present: Mapping[str, PlacedHost], leaving: Set[str] = frozenset()) -> tuple[str, ...]:
    """Who should have each shard in the end, where these hosts are there. Nobody is there: everything stays as it is.
    All that are there drain, or are leaving: what they have stays, and they get the rest."""
    takers = {id: host for id, host in present.items() if id not in placement.draining | leaving}
    all_drain = not takers
    takers = takers or dict(present)
    if not takers:
        return placement.owners
    shards = range(len(placement.owners))
    owners = {shard: id for shard, id in placement.pins.items() if shard in shards and id in takers and not all_drain}
    kept: dict[str, list[int]] = {id: [] for id in takers}
    for shard, owner in enumerate(placement.owners):
        if shard not in owners and owner in takers:
            kept[owner].append(shard)
    fixed = {id: len(kept[id]) if all_drain else 0 for id in takers}
    for id in owners.values():
        fixed[id] += 1
    room = _room(takers, fixed, len(shards) - sum(fixed.values()), {id: len(has) for id, has in kept.items()})
    for id, has in kept.items():
        stays = has if all_drain else has[: room[id]]
        owners |= dict.fromkeys(stays, id)
        room[id] -= 0 if all_drain else len(stays)
    given = dict.fromkeys(takers, 0)
    for shard in shards:
        if shard not in owners:  # To whom has got the least of them, so that one host's shards are spread over the others.
            taker = min((id for id in takers if room[id]), key=lambda id: (given[id] / takers[id].weight, id))
            owners[shard] = taker
            room[taker] -= 1
            given[taker] += 1
    return tuple(owners[shard] for shard in shards)


def _room(takers: Mapping[str, PlacedHost], fixed: Mapping[str, int], shards: int, kept: Mapping[str, int]) -> dict[str, int]:
    """How many of so many shards each should have beside what is fixed: one after the other goes to the host whose share is the
    smallest with it; where that is a tie, to one that has it already."""
    room = dict.fromkeys(takers, 0)

    def order(id: str) -> tuple[float, bool, int, str]:
        weight = takers[id].weight
        return (fixed[id] + room[id] + 1) / weight, kept[id] <= room[id], -weight, id

    for _ in range(shards):
        room[min(takers, key=order)] += 1
    return room


def next_placement(
    placement: ClusterPlacement,
    present: Mapping[str, PlacedHost],
    serving: Mapping[int, str],
    left: Set[str] = frozenset(),
    leaving: Set[str] = frozenset(),
    reading: Set[int] = frozenset(),
) -> ClusterPlacement:
    """The next step, where these hosts are there (and may get shards), and these serve these shards now. Who has `left` said so,
    and was not lost; who is `leaving` has no time to lose. Of the shards `reading` those that should have them have still to read
    what there is. It is the same placement where nothing is to be done."""
    if not present:
        return placement
    had = tuple(owner if owner in present else serving.get(shard, owner) for shard, owner in enumerate(placement.owners))
    placement = msgspec.structs.replace(placement, owners=had)  # Of a record that was lost, or whose owner never came.
    wanted = deal(placement, present, leaving)
    owners = list(placement.owners)
    under_way = 0
    later: list[int] = []
    for shard, (owner, goal) in enumerate(zip(placement.owners, wanted, strict=True)):
        is_served = serving.get(shard) in present
        if owner == goal:
            under_way += is_served and serving[shard] != owner and shard not in reading
        elif owner in present and is_served and serving[shard] not in leaving:
            later.append(shard)
        else:
            owners[shard] = goal
    for shard in later[: max(0, MOVES_AT_ONCE - under_way)]:
        owners[shard] = wanted[shard]
    lost = {id: host for id, host in placement.hosts.items() if id not in present and id not in left}
    losses = {**placement.losses, **{id: _lost_again(id, host, placement) for id, host in lost.items()}}
    losses = {id: loss for id, loss in losses.items() if id not in present or loss.run == present[id].run}
    return msgspec.structs.replace(placement, owners=tuple(owners), hosts=dict(sorted(present.items())), losses=losses)


def in_the_end(
    placement: ClusterPlacement, present: Mapping[str, PlacedHost], leaving: Set[str] = frozenset()
) -> ClusterPlacement:
    """What its steps come to, where these hosts are there, and stay, and each shard arrives where it should be."""
    for _ in placement.owners:
        serving = dict(enumerate(placement.owners))
        if (following := next_placement(placement, present, serving, leaving=leaving)) == placement:
            break
        placement = following
    return placement


def _lost_again(id: str, host: PlacedHost, placement: ClusterPlacement) -> Loss:
    before = placement.losses.get(id)
    times = before.times if before is not None and before.run == host.run else 0
    return Loss(host.name, host.run, times + 1)


# What operators want


class NoSuchHost(Exception):
    """None of that name or id, or several of that name: which there are, or which it could be."""

    def __init__(self, known: list[str]) -> None:
        super().__init__()
        self.known = known


def host_named(live: Mapping[str, str], placement: ClusterPlacement, text: str) -> str:
    """The id of the host of that name or id; `live` has the names of those that are there, by id. Raises NoSuchHost."""
    known = {id: host.name for id, host in placement.losses.items()}
    known |= {id: host.name for id, host in placement.hosts.items()} | dict(live)
    found = [id for id, name in known.items() if text in (id, name)]
    if len(found) != 1:
        raise NoSuchHost(found or sorted(set(known.values())))
    return found[0]


def moved_by_hand(placement: ClusterPlacement, shard: int, host: str) -> ClusterPlacement:
    """The shard is to be on that host, and to stay there."""
    return msgspec.structs.replace(placement, pins=dict(sorted({**placement.pins, shard: host}.items())))


def drained(placement: ClusterPlacement, host: str, *, on: bool) -> ClusterPlacement:
    draining = placement.draining | {host} if on else placement.draining - {host}
    return msgspec.structs.replace(placement, draining=draining)


def rebalanced(placement: ClusterPlacement) -> ClusterPlacement:
    """As if nobody had moved a shard by hand, and no host had ever been lost."""
    return msgspec.structs.replace(placement, pins={}, losses={})
