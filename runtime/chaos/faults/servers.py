"""What befalls the NATS servers: one is killed, sleeps, or retires; so many that the rest is no majority."""

from __future__ import annotations

import itertools
import signal
from random import Random

from tidegate.runtime.chaos.faults.fault import Stage
from tidegate.runtime.chaos.faults.shapes import apart
from tidegate.runtime.chaos.stage.cluster import ChaosCluster
from tidegate.runtime.chaos.stage.leaders import META

KILLED_S = 0.0, 5.0
ASLEEP_S = 0.1, 8.0
RETIRED_S = 0.5, 8.0
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


class KillServer:
    def strike(self, stage: Stage, chance: Random) -> str:
        cluster = stage.hosts
        what, name = _victim(cluster, chance)
        seconds = chance.uniform(*KILLED_S)
        cluster.servers.signal(name, signal.SIGKILL)
        try:
            stage.pause(seconds)
        finally:
            cluster.start_server(name)
        return what


class FreezeServer:
    def strike(self, stage: Stage, chance: Random) -> str:
        cluster = stage.hosts
        what, name = _victim(cluster, chance)
        seconds = chance.uniform(*ASLEEP_S)
        cluster.servers.signal(name, signal.SIGSTOP)
        try:
            stage.pause(seconds)
        finally:
            cluster.servers.signal(name, signal.SIGCONT)
        return what


class RetireServer:
    """As before an upgrade of it."""

    def strike(self, stage: Stage, chance: Random) -> str:
        cluster = stage.hosts
        what, name = _victim(cluster, chance)
        seconds = chance.uniform(*RETIRED_S)
        cluster.servers.retire(name)
        try:
            stage.pause(seconds)
        finally:
            cluster.servers.signal(name, signal.SIGKILL)
            cluster.start_server(name)
        return what


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
