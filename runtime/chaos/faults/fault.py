"""What every fault has, and what it may reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

from tidegate.runtime.chaos.calls.own_calls import OwnCalls
from tidegate.runtime.chaos.calls.workload import Roster
from tidegate.runtime.chaos.stage.disk import Disk
from tidegate.runtime.chaos.stage.proxy import Proxy
from tidegate.runtime.chaos.stage.service import ChaosService
from tidegate.runtime.chaos.stage.syncs import Syncs


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
