"""The network is cut for a while, in one of many shapes. Each has its turn before one comes again."""

from __future__ import annotations

from random import Random

from tidegate.runtime.chaos.faults.fault import Stage
from tidegate.runtime.chaos.faults.servers import some_leader
from tidegate.runtime.chaos.faults.shapes import SHAPES, Machines
from tidegate.runtime.chaos.stage.network import CALLERS

SECONDS = 0.3, 12.0


class CutNetwork:
    def __init__(self) -> None:
        self._left: list[str] = []

    def strike(self, stage: Stage, chance: Random) -> str:
        cluster = stage.hosts
        assert cluster.network is not None
        self._left = self._left or chance.sample(list(SHAPES), len(SHAPES))
        shape = self._left.pop()
        servers = [cluster.machine_of(name) for name in cluster.servers.names]
        there = Machines(list(cluster.hosts), servers, CALLERS, cluster.machine_of(some_leader(cluster, chance)))
        seconds = chance.uniform(*SECONDS)
        cluster.network.cut(SHAPES[shape](there, chance))
        try:
            stage.pause(seconds)
        finally:
            cluster.network.heal()
        return shape
