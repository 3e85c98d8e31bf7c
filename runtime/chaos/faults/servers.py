"""What befalls the NATS servers: one is killed, sleeps, or retires; so many that the rest is no majority."""

from __future__ import annotations

import itertools
import signal
from abc import ABC, abstractmethod
from random import Random

from tidegate.runtime.chaos.faults.fault import Stage
from tidegate.runtime.chaos.faults.shapes import apart
from tidegate.runtime.chaos.stage.cluster import ChaosCluster
from tidegate.runtime.chaos.stage.leaders import META

NO_MAJORITY_S = 0.5, 12.0


def some_leader(cluster: ChaosCluster, chance: Random) -> str:
    """A server that leads something, as far as is known; that which leads the servers as often as one that leads a stream."""
    leading = cluster.leaders()
    streams = sorted(set(leading) - {META})
    what = META if chance.random() < 0.5 or not streams else chance.choice(streams)
    return leading.get(what, cluster.servers.names[0])


def _victim(cluster: ChaosCluster, chance: Random) -> tuple[str, str]:
    """What to call it, and its name."""
    if chance.random() < 0.7:
        return "a leader", some_leader(cluster, chance)
    return "a server", chance.choice(cluster.servers.names)


class OneServer(ABC):
    """Away for a while."""

    away_s: tuple[float, float]

    def strike(self, stage: Stage, chance: Random) -> str:
        cluster = stage.hosts
        what, name = _victim(cluster, chance)
        seconds = chance.uniform(*self.away_s)
        self.goes(cluster, name)
        try:
            stage.pause(seconds)
        finally:
            self.comes_back(cluster, name)
        return what

    @abstractmethod
    def goes(self, cluster: ChaosCluster, name: str) -> None: ...

    @abstractmethod
    def comes_back(self, cluster: ChaosCluster, name: str) -> None: ...


class KillServer(OneServer):
    away_s = 0.0, 5.0

    def goes(self, cluster: ChaosCluster, name: str) -> None:
        cluster.servers.signal(name, signal.SIGKILL)

    def comes_back(self, cluster: ChaosCluster, name: str) -> None:
        cluster.start_server(name)


class FreezeServer(OneServer):
    away_s = 0.1, 8.0

    def goes(self, cluster: ChaosCluster, name: str) -> None:
        cluster.servers.signal(name, signal.SIGSTOP)

    def comes_back(self, cluster: ChaosCluster, name: str) -> None:
        cluster.servers.signal(name, signal.SIGCONT)


class RetireServer(OneServer):
    """As before an upgrade of it."""

    away_s = 0.5, 8.0

    def goes(self, cluster: ChaosCluster, name: str) -> None:
        cluster.servers.retire(name)

    def comes_back(self, cluster: ChaosCluster, name: str) -> None:
        cluster.servers.signal(name, signal.SIGKILL)
        cluster.start_server(name)


class LoseMajority:
    """Two of three are away, or none hears another."""

    def strike(self, stage: Stage, chance: Random) -> str:
        cluster = stage.hosts
        seconds = chance.uniform(*NO_MAJORITY_S)
        names = chance.sample(cluster.servers.names, 2)
        how = chance.choice(("killed", "asleep") if cluster.network is None else ("killed", "asleep", "apart"))
        try:
            if how == "apart":
                assert cluster.network is not None
                everyone = map(cluster.machine_of, cluster.servers.names)
                pairs = (apart([one], [other]) for one, other in itertools.combinations(everyone, 2))
                cluster.network.cut(frozenset[tuple[str, str]]().union(*pairs))
            for name in () if how == "apart" else names:
                cluster.servers.signal(name, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
            stage.pause(seconds)
        finally:
            if how == "apart" and cluster.network is not None:
                cluster.network.heal()
            for name in () if how == "apart" else names:
                cluster.start_server(name) if how == "killed" else cluster.servers.signal(name, signal.SIGCONT)
        return f"two {how}" if how != "apart" else "all apart"
