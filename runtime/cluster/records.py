"""What the hosts of a cluster tell each other.

A *beat* is said by each host several times a second, to whoever listens, and kept by nobody. The *placement* is the one record
that is kept, in the bucket of the cluster, and is only ever replaced by one that was made of its newest version.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

NOBODY = ""
"""In the place of a host's id."""

_Id = Annotated[str, Meta(min_length=1, max_length=64)]
_Name = Annotated[str, Meta(min_length=1, max_length=256)]
_Weight = Annotated[int, Meta(ge=1, le=1 << 16)]

_Rate = Annotated[float, Meta(ge=0, le=1e12)]


class Beat(msgspec.Struct, frozen=True):
    """What a host says of itself."""

    id: _Id
    """Of the host: it is kept in the data directory."""
    run: str
    """Of the process that says so."""
    number: int
    """Of the beats of this run. Only a process that runs and reaches the servers makes it grow."""
    said: int
    """The same of everything it has said: more than one message may say the same number."""
    name: _Name
    door: str
    """Where the other hosts of the cluster connect."""
    listen: str = ""
    """Where clients connect."""
    weight: _Weight = 1
    """Two hosts get shards by their weights: the cores that their workers have."""
    version: str = ""
    """Of the app, as it is started with."""
    serves: tuple[int, ...] = ()
    """The shards whose calls it answers now, in order."""
    gives: tuple[int, ...] = ()
    """Those whose calls it answers no longer, and that nobody else may have yet."""
    ready: tuple[int, ...] | None = None
    """Those that it is to have and that another host still serves, of which it has read what there is: that may give them, in
    order. None: by an older version, which reads nothing before a shard was given."""
    reads: tuple[int, ...] = ()
    """Of the same shards those that it has still to read, or could not read yet and tries to: they are not to be given, in
    order."""
    revision: int = 0
    """Of the newest placement that it has read."""
    leaving: bool = False
    """It is about to stop, and waits a little for others to take its shards."""
    gone: bool = False
    """The last one: it serves nothing any more."""
    loads: dict[int, _Rate] = {}
    """Calls a second of the last two seconds or so, by shard, of those that had any."""
    wall_ms: int = 0
    """When this was said, by the host's clock, which nobody but `tidegate cluster doctor` looks at; 0: by an older version."""


class PlacedHost(msgspec.Struct, frozen=True):
    """A host that gets shards."""

    name: str
    weight: _Weight
    run: str


class Loss(msgspec.Struct, frozen=True):
    """A host that others had to do without."""

    name: str
    run: str
    times: int
    """In this run. Each time it is waited twice as long before it gets shards again."""


class ClusterPlacement(msgspec.Struct, frozen=True):
    """Who should serve which shard. Who does is in the beats."""

    owners: tuple[str, ...]
    """Ids of hosts by shard."""
    hosts: dict[str, PlacedHost] = {}
    """By id."""
    draining: frozenset[str] = frozenset()
    """Ids of hosts that are to get no shard: an operator wants that."""
    pins: dict[int, str] = {}
    """Where an operator wants a shard to be, by shard. Is nothing while that host is not there, or drains."""
    losses: dict[str, Loss] = {}
    """By id: hosts that were lost, and what is remembered of it when they are back."""


def empty_placement(shards: int) -> ClusterPlacement:
    return ClusterPlacement((NOBODY,) * shards)


encode = msgspec.json.encode
_decode_beat = msgspec.json.Decoder(Beat).decode
_decode_placement = msgspec.json.Decoder(ClusterPlacement).decode


def decode_beat(data: bytes) -> Beat:
    """Raises msgspec.MsgspecError."""
    return _decode_beat(data)


def decode_placement(data: bytes, shards: int) -> ClusterPlacement:
    """Raises msgspec.MsgspecError; also for one of another number of shards."""
    placement = _decode_placement(data)
    if len(placement.owners) != shards:
        raise msgspec.ValidationError(f"a placement of {len(placement.owners)} shards, of {shards} that the cluster has")
    return placement
