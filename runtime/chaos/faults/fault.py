"""What every fault has, and what it may reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

from tidegate.runtime.chaos.disk import Disk
from tidegate.runtime.chaos.own_calls import OwnCalls
from tidegate.runtime.chaos.proxy import Proxy
from tidegate.runtime.chaos.service import ChaosService
from tidegate.runtime.chaos.syncs import Syncs
from tidegate.runtime.chaos.workload import Roster


@dataclass
class Stage:
    """The service and what it stands on."""

    service: ChaosService
    proxy: Proxy
    disk: Disk | None
    syncs: Syncs | None
    roster: Roster
    pause: Callable[[float], None]
    """Waits so many seconds while the run is looked after. Raises what ends a run early."""
    calls: OwnCalls
    """Verified as all the others are."""


class Fault(Protocol):
    def strike(self, stage: Stage, chance: Random) -> str:
        """What was done, in a few words. Raises ServiceFailed."""
        ...
