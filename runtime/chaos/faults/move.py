"""Shards are to be elsewhere, as operators want it. It is not waited for: what strikes next meets shards on their way."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from tidegate.runtime.chaos.faults.fault import Stage
from tidegate.runtime.chaos.stage.cluster import CLUSTER
from tidegate.runtime.chaos.verdict.report import NOT_DONE
from tidegate.runtime.cluster.operating import change
from tidegate.runtime.cluster.placement import drained, moved_by_hand, rebalanced
from tidegate.runtime.cluster.records import Beat, ClusterPlacement
from tidegate.runtime.errors import OperatorError

WISHES = {"a shard to a host": 0.4, "all of a host to the others": 0.3, "dealt evenly": 0.3}


class MoveShards:
    def strike(self, stage: Stage, chance: Random) -> str:
        wish = chance.choices(list(WISHES), list(WISHES.values()))[0]
        seed = chance.random()

        def edit(placement: ClusterPlacement, live: Mapping[str, Beat]) -> ClusterPlacement:
            return _wanted(wish, placement, sorted(live), Random(seed))  # The same for each try to write it.

        try:
            before = change(stage.hosts.servers.urls, CLUSTER, edit)
        except OperatorError as error:
            return f"{NOT_DONE}: {error.problem}"
        return wish if before.owners else f"{NOT_DONE}: there are no shards"


def _wanted(wish: str, placement: ClusterPlacement, live: list[str], chance: Random) -> ClusterPlacement:
    if wish == "a shard to a host" and live:
        return moved_by_hand(placement, chance.randrange(len(placement.owners)), chance.choice(live))
    if wish == "all of a host to the others" and len(set(live) - placement.draining) > 1:
        return drained(placement, chance.choice(sorted(set(live) - placement.draining)), on=True)
    for host in placement.draining:
        placement = drained(placement, host, on=False)
    return rebalanced(placement)
