"""What each fault does that befalls hosts only. Loads what speaks with NATS."""

from __future__ import annotations

from tidegate.runtime.chaos.faults.cut import CutNetwork
from tidegate.runtime.chaos.faults.fault import Fault
from tidegate.runtime.chaos.faults.full import FillStream
from tidegate.runtime.chaos.faults.hosts import LoseHost, Sleep
from tidegate.runtime.chaos.faults.move import MoveShards
from tidegate.runtime.chaos.faults.servers import FreezeServer, KillServer, LoseMajority, RetireServer

STRIKERS: dict[str, type[Fault]] = {
    "host": LoseHost,
    "sleep": Sleep,
    "move": MoveShards,
    "server": KillServer,
    "stall": FreezeServer,
    "retire": RetireServer,
    "majority": LoseMajority,
    "full": FillStream,
    "cut": CutNetwork,
}
"""By name."""
