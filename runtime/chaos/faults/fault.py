"""What every fault has, and what it may reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from tidegate.runtime.chaos.calls.own_calls import OwnCalls
from tidegate.runtime.chaos.calls.workload import Roster
from tidegate.runtime.chaos.stage.cluster import ChaosCluster
from tidegate.runtime.chaos.stage.disk import Disk
from tidegate.runtime.chaos.stage.proxy import Proxy
from tidegate.runtime.chaos.stage.service import ChaosService
from tidegate.runtime.chaos.stage.syncs import Syncs


@dataclass
class Stage:
    """The service and what it stands on."""

    services: Sequence[ChaosService]
    """One, or that of each host of a cluster."""
    proxies: Sequence[Proxy]
    """One in front of each."""
    cluster: ChaosCluster | None
    disk: Disk | None
    syncs: Syncs | None
    roster: Roster
    pause: Callable[[float], None]
    """Waits so many seconds while the run is looked after. Raises what ends a run early."""
    calls: OwnCalls
    """Verified as all the others are."""

    @property
    def service(self) -> ChaosService:
        """The only one."""
        assert len(self.services) == 1
        return self.services[0]

    @property
    def hosts(self) -> ChaosCluster:
        """Of faults that need some."""
        assert self.cluster is not None
        return self.cluster

    def some_service(self, chance: Random) -> ChaosService:
        return self.services[0] if len(self.services) == 1 else chance.choice(self.services)

    @property
    def running(self) -> bool:
        return all(service.running for service in self.services)

    def start(self) -> None:
        """All at the same time. Raises ServiceFailed."""
        for service in self.services:
            service.launch()
        for service in self.services:
            service.wait_until_ready()

    def stop(self) -> None:
        """The same."""
        for service in self.services:
            service.terminate()
        for service in self.services:
            service.wait_until_stopped()

    def kill_all(self) -> None:
        for service in self.services:
            service.kill_all()

    def log_says(self) -> str:
        """See `ChaosService`."""
        return next(filter(None, (service.log_says() for service in self.services)), "")


class Fault(Protocol):
    def strike(self, stage: Stage, chance: Random) -> str:
        """What was done, in a few words. Raises ServiceFailed."""
        ...
