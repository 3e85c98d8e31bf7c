"""A cluster as an operator sees it: what is wrong, its hosts, who should serve what, and who does.

Rule: pure. It is made of the placement and of the newest beat of each host that is there.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tidegate.runtime.cluster.records import Beat, ClusterPlacement
from tidegate.runtime.wire.supervisor_messages import Problem

HOST_STATES = ("here", "drains", "waits", "lost")
"""What a host may be: `waits` is there, and gets no shards yet."""


class HostShown(msgspec.Struct, frozen=True):
    id: str
    name: str
    state: str
    """One of `HOST_STATES`."""
    weight: int
    serves: int
    should_serve: int
    door: str
    listen: str
    version: str


class SnapshotShown(msgspec.Struct, frozen=True):
    """The newest of a shard that is whole."""

    sequence: int
    """The message of the stream behind which it is."""
    taken_ms: int
    """Unix time, by the clock of the host that took it."""
    age_s: float
    """By the clock of whoever looks."""
    file_bytes: int
    packed_bytes: int
    """What it takes on the servers."""
    by: str


class LogShown(msgspec.Struct, frozen=True):
    """What the servers keep of a shard."""

    stream_bytes: int
    since_bytes: int
    """About so many of these follow the newest snapshot; all, where there is none."""
    snapshot: SnapshotShown | None


class ShardShown(msgspec.Struct, frozen=True):
    shard: int
    serves: str
    """The name of the host; empty: nobody."""
    should: str
    pinned: bool
    reads: bool = False
    """The host that should serve it reads first what there is of it, or cannot and tries again: its log says which."""
    log: LogShown | None = None
    """None: the servers have not said it, or were not asked."""


class Picture(msgspec.Struct, frozen=True):
    problems: tuple[Problem, ...]
    hosts: tuple[HostShown, ...]
    shards: tuple[ShardShown, ...]


def picture(placement: ClusterPlacement, live: Mapping[str, Beat], logs: Mapping[int, LogShown] = {}) -> Picture:
    """`logs`: by shard, as far as they are known."""
    serving: dict[int, str] = {}
    for id, beat in live.items():
        for shard in beat.serves:
            if shard < len(placement.owners) and (shard not in serving or placement.owners[shard] == id):
                serving[shard] = id
    names = host_names(placement, live)
    shards = tuple(
        ShardShown(
            shard,
            names.get(serving.get(shard, ""), ""),
            names.get(owner, ""),
            placement.pins.get(shard) == owner,
            owner in live and shard in live[owner].reads,
            logs.get(shard),
        )
        for shard, owner in enumerate(placement.owners)
    )
    hosts = tuple(_host(id, names[id], placement, live) for id in sorted(names, key=lambda id: (names[id], id)) if id)
    return Picture(tuple(_problems(placement, live, serving, names)), hosts, shards)


def host_names(placement: ClusterPlacement, live: Mapping[str, Beat]) -> dict[str, str]:
    """By id. Two of one name are told apart."""
    known = {id: host.name for id, host in placement.losses.items()}
    known |= {id: host.name for id, host in placement.hosts.items()} | {id: beat.name for id, beat in live.items()}
    twice = {name for name in known.values() if list(known.values()).count(name) > 1}
    return {id: f"{name} ({id})" if name in twice else name for id, name in known.items()}


def _host(id: str, name: str, placement: ClusterPlacement, live: Mapping[str, Beat]) -> HostShown:
    beat, placed = live.get(id), placement.hosts.get(id)
    state = "lost" if beat is None else "drains" if id in placement.draining else "here" if placed is not None else "waits"
    weight = beat.weight if beat is not None else placed.weight if placed is not None else 0
    should = placement.owners.count(id)
    if beat is None:
        return HostShown(id, name, state, weight, 0, should, "", "", "")
    return HostShown(id, name, state, weight, len(beat.serves), should, beat.door, beat.listen, beat.version)


def _problems(
    placement: ClusterPlacement, live: Mapping[str, Beat], serving: Mapping[int, str], names: Mapping[str, str]
) -> list[Problem]:
    found: list[Problem] = []
    for id in sorted(placement.losses.keys() | placement.hosts.keys()):
        if id not in live:
            hint = "start it again; if it does not come back: tidegate cluster rebalance, which forgets it"
            found.append(Problem("is lost; others serve its shards", f"host {names[id]}", hint))
    for id in sorted({owner for shard, owner in enumerate(placement.owners) if shard not in serving}):
        missing = [shard for shard, owner in enumerate(placement.owners) if owner == id and shard not in serving]
        what = f"nobody serves shard {', '.join(map(str, missing))}; calls of their objects wait"
        where = f"host {names.get(id, id)}, which should" if id else "the cluster"
        found.append(Problem(what, where, "wait some seconds; if it stays so, look at the status of that host, and at its log"))
    versions = {beat.version for beat in live.values() if beat.version}
    if len(versions) > 1:
        said = ", ".join(f"{names[id]}: {beat.version}" for id, beat in live.items() if beat.version)
        found.append(
            Problem(f"hosts run different versions of the app ({said})", "the cluster", "start those with the old one again")
        )
    return found
