"""What operators ask of a cluster, and want of it: over a connection of their own to its servers, without any of its hosts.

Each blocks, and raises OperatorError.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client

from tidegate.runtime.cluster.bucket import PlacementRecord
from tidegate.runtime.cluster.load import Balance, ShardMove, balance, exchanged, measured_load
from tidegate.runtime.cluster.machine import BEAT_S
from tidegate.runtime.cluster.membership import listen
from tidegate.runtime.cluster.picture import LogShown, Picture, SnapshotShown, host_names, picture
from tidegate.runtime.cluster.placement import in_the_end
from tidegate.runtime.cluster.records import Beat, ClusterPlacement, PlacedHost
from tidegate.runtime.ending import run
from tidegate.runtime.errors import OperatorError
from tidegate.shard.replicated.founding import find_founded
from tidegate.shard.replicated.servers import START_PAUSE_S, close, connect, next_step_after, said_by
from tidegate.shard.replicated.snapshot_listing import KeptOfShard, kept_of_shards
from tidegate.shard.replicated.snapshot_wishes import wish_for_snapshots
from tidegate.shard.replicated.worker_log import stream_name
from tidegate.shard.store.snapshots import SnapshotSaid

LISTEN_S = 2.5 * BEAT_S
"""Each host that is there says something in that time."""
_LOGS_S = 5.0
"""For so long servers are asked what they keep of shards; then the rest is not known."""
PASSING_S = 10.0
"""For so long what servers refuse is asked again: a leader that is replaced takes 4 s."""
_WRITE_TRIES = 20

T = TypeVar("T")
Edit = Callable[[ClusterPlacement, Mapping[str, Beat]], ClusterPlacement]


def look(servers: Sequence[str], cluster: str) -> Picture:
    """As it is now."""

    async def ask(client: Client) -> Picture:
        record = await _record(client, cluster)
        live = await listen(client, cluster, LISTEN_S)
        placement, _ = await record.read()
        return picture(placement, live)

    return asked(servers, cluster, ask)


def look_with_logs(servers: Sequence[str], cluster: str) -> Picture:
    """As `look`, and what the servers keep of each shard."""

    async def ask(client: Client) -> Picture:
        founding = await find_founded(client, cluster)
        record = PlacementRecord(client, cluster, founding.shards)
        stream_of = partial(stream_name, cluster)
        live, kept = await asyncio.gather(
            listen(client, cluster, LISTEN_S), kept_of_shards(client, cluster, range(founding.shards), stream_of, _LOGS_S)
        )
        placement, _ = await record.read()
        now_ms = time.time_ns() // 1_000_000
        return picture(placement, live, {shard: _log_shown(each, now_ms) for shard, each in kept.items()})

    return asked(servers, cluster, ask)


def _log_shown(kept: KeptOfShard, now_ms: int) -> LogShown:
    newest = kept.newest
    if newest is None:
        return LogShown(kept.stream.bytes, kept.grown_bytes, None)
    age_s = max(0, now_ms - newest.taken_ms) / 1_000
    shown = SnapshotShown(newest.place.sequence, newest.taken_ms, age_s, newest.file_bytes, newest.packed_bytes, newest.by)
    return LogShown(kept.stream.bytes, kept.grown_bytes, shown)


def take_snapshots(
    servers: Sequence[str], cluster: str, shards: Sequence[int], told: Callable[[SnapshotSaid], object]
) -> list[SnapshotSaid]:
    """Has the owners of these shards (none: all) take one now, and waits; what came of each. `told` hears how far that is. Raises
    OperatorError also for a shard that the cluster has not."""

    async def ask(client: Client) -> list[SnapshotSaid]:
        founding = await _patiently(client, lambda client: find_founded(client, cluster))
        for shard in shards:
            if shard >= founding.shards:
                hint = f"the last one is {founding.shards - 1}"
                raise OperatorError("take a snapshot of", f"shard {shard}", f"the cluster has {founding.shards} shards", hint)
        wanted = list(dict.fromkeys(shards)) or list(range(founding.shards))
        return await wish_for_snapshots(client, cluster, wanted, told, PASSING_S)

    return asked(servers, cluster, ask, again=False)


def hosts_there(servers: Sequence[str], cluster: str) -> tuple[int, list[str]]:
    """How many shards the cluster has, and the names of its hosts that say something within a second or so."""

    async def ask(client: Client) -> tuple[int, list[str]]:
        founding = await find_founded(client, cluster)
        if not founding.made:
            hint = "start a service in it"
            raise OperatorError("look for the cluster", cluster, "it is still being founded", hint, passes=True)
        return founding.shards, [beat.name for beat in (await listen(client, cluster, LISTEN_S)).values()]

    return asked(servers, cluster, ask)


def change(servers: Sequence[str], cluster: str, edit: Edit) -> ClusterPlacement:
    """Replaces the placement by what `edit` makes of it and of who is there; again, where a host was faster."""

    async def ask(client: Client) -> ClusterPlacement:
        record = await _record(client, cluster)
        live = await listen(client, cluster, LISTEN_S)
        for _ in range(_WRITE_TRIES):
            placement, revision = await record.read()
            edited = edit(placement, live)
            if edited == placement or await record.replace(edited, revision):
                return edited
        raise OperatorError("change the placement of", cluster, "its hosts change it all the time", "try again", passes=True)

    return asked(servers, cluster, ask)


class Foreseen(msgspec.Struct, frozen=True):
    """What would come of an edit in the end, if hosts neither came nor went."""

    moves: tuple[ShardMove, ...]
    """Of it; one that would move without it, and does not, goes from a host to itself."""
    anyway: tuple[ShardMove, ...]
    """Those that come whether or not."""
    is_kept: bool
    """The placement would be another one, also where nothing moves."""
    names: dict[str, str]
    """Of hosts, by id."""


def foresee(servers: Sequence[str], cluster: str, edit: Edit) -> Foreseen:
    """What `change` would do, if it were given that. Nothing is changed."""

    async def ask(client: Client) -> Foreseen:
        record = await _record(client, cluster)
        live = await listen(client, cluster, LISTEN_S)
        placement, _ = await record.read()
        edited = edit(placement, live)
        before, after = _goals(placement, live), _goals(edited, live)
        each = [ShardMove(shard, owner, after[shard]) for shard, owner in enumerate(placement.owners)]
        moves = tuple(move for move in each if move.target != before[move.shard])
        anyway = tuple(move for move in each if move.target == before[move.shard] != move.source)
        return Foreseen(moves, anyway, edited != placement, host_names(placement, live))

    return asked(servers, cluster, ask)


def _goals(placement: ClusterPlacement, live: Mapping[str, Beat]) -> tuple[str, ...]:
    """Who has each shard in the end. Who waits after a loss gets nothing yet."""
    waits = {id for id, loss in placement.losses.items() if id in live and live[id].run == loss.run and id not in placement.hosts}
    present = {id: PlacedHost(beat.name, beat.weight, beat.run) for id, beat in live.items() if id not in waits}
    leaving = {id for id, beat in live.items() if beat.leaving}
    return in_the_end(placement, present, leaving).owners


def balance_load(servers: Sequence[str], cluster: str, for_s: float, *, is_tried: bool = False) -> tuple[Balance, dict[str, str]]:
    """Measures the load of shards for so long, and has those exchanged for which it is worth it (`is_tried`: has nothing
    exchanged); what was found, and the names of hosts by id. Raises OperatorError also while shards are under way."""

    async def ask(client: Client) -> tuple[Balance, dict[str, str]]:
        record = await _patiently(client, lambda client: _record(client, cluster))
        beats: list[Beat] = []
        await listen(client, cluster, for_s, beats.append)
        live = await listen(client, cluster, LISTEN_S)
        for _ in range(_WRITE_TRIES):
            placement, revision = await _patiently(client, lambda _: record.read())
            if any(each.serves != each.should for each in picture(placement, live).shards):
                hint = "wait until they have arrived: tidegate cluster status"
                raise OperatorError("balance the load of", cluster, "shards are under way, or not served", hint, passes=True)
            found = balance(placement, measured_load(beats, len(placement.owners)), live)
            following = exchanged(placement, found.moves)
            if is_tried or not found.moves or await is_written(client, record, following, revision):
                return found, {id: beat.name for id, beat in live.items()}
        raise OperatorError("change the placement of", cluster, "its hosts change it all the time", "try again", passes=True)

    return asked(servers, cluster, ask, again=False)


async def is_written(client: Client, record: PlacementRecord, placement: ClusterPlacement, revision: int) -> bool:
    """As `PlacementRecord.replace`, with owners that nobody else would come to. Where the answer is lost it is looked whether it
    was stored, and else stored; what was measured before it is not measured again. Raises OperatorError where that cannot be
    known."""

    async def look_and_write(client: Client) -> bool:
        found, newest = await record.read()
        return found.owners == placement.owners or (newest == revision and await record.replace(placement, revision))

    try:
        return await record.replace(placement, revision)
    except (nats.errors.Error, OSError):
        pass
    try:
        return await _patiently(client, look_and_write)
    except (nats.errors.Error, OSError) as error:
        hint = "see what was moved, before you try again: tidegate cluster status"
        problem = f"whether it was changed is not known: {said_by(error)}"
        raise OperatorError("change the placement of", "the cluster", problem, hint) from error


async def _record(client: Client, cluster: str) -> PlacementRecord:
    return PlacementRecord(client, cluster, (await find_founded(client, cluster)).shards)


def asked(servers: Sequence[str], cluster: str, ask: Callable[[Client], Awaitable[T]], *, again: bool = True) -> T:
    """What `ask` says of it; it is asked again where servers refuse what they may do in a moment. Not `again`: it sees to that
    itself, step by step, for what it has measured or begun is not to be begun anew."""

    async def asking() -> T:
        client = await connect(servers)
        try:
            return await (_patiently(client, ask) if again else ask(client))
        except (nats.errors.Error, OSError) as error:
            raise OperatorError("ask the cluster", cluster, said_by(error), next_step_after(error), passes=True) from error
        except msgspec.MsgspecError as error:
            hint = "see that this version of Tidegate is that of its hosts"
            raise OperatorError("read the placement of", cluster, str(error), hint) from error
        finally:
            await close(client)

    return run(asking())


async def _patiently(client: Client, ask: Callable[[Client], Awaitable[T]]) -> T:
    clock = asyncio.get_running_loop().time
    give_up_at = math.inf
    while True:
        try:
            return await ask(client)
        except (nats.js.errors.NotFoundError, nats.js.errors.BadRequestError):
            raise  # So it will be in a moment, too.
        except (nats.errors.Error, OSError):
            give_up_at = min(give_up_at, clock() + PASSING_S)
            if client.is_closed or clock() >= give_up_at:
                raise
        await asyncio.sleep(START_PAUSE_S)
