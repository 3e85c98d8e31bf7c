"""Seats of a service, what is known of who sits there, and what the rules of the supervisor may ask of its shell.

A *seat* is a place to be filled by a process: a router's, or a worker's. It outlives the processes in it. While a process is to
be replaced its successor has a seat of its own, `NEXT_ROUTER` or `NEXT_WORKER`, and takes the other's when that one is gone.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tidegate.runtime.limits import SILENT_S
from tidegate.runtime.supervisor.rules.restart import RestartPolicy
from tidegate.runtime.wire.commands import Replaced
from tidegate.runtime.wire.supervisor_messages import Failed, Ready, ToChild

ROUTER = -1
"""The seat of the first router. Those of further routers follow downwards; the seat of a worker is its index."""
NEXT_WORKER = 1 << 20
NEXT_ROUTER = -NEXT_WORKER


def is_router(seat: int) -> bool:
    return seat <= ROUTER


def is_next(seat: int) -> bool:
    return seat in (NEXT_ROUTER, NEXT_WORKER)


class SeatState(enum.Enum):
    EMPTY = "down"  # Nobody there; `restart_at` says when somebody is started. Next: STARTING.
    STARTING = "starting"  # A process that has not said Ready. Next: READY, EMPTY.
    READY = "ready"  # Answers calls and pings. Next: DRAINING, EMPTY.
    DRAINING = "draining"  # Finishes what it has and exits. Next: EMPTY, or STARTING with a successor in it.


class CpuTime(NamedTuple):
    """Of a process in its life."""

    ran_s: float = 0.0
    waited_s: float = 0.0
    """For a core, of all of its threads. The kernel counts a wait when it is over."""
    wants_core: bool = False
    """One of its threads runs or waits for a core right now."""

    def starved_s(self, since: CpuTime, elapsed_s: float) -> float:
        """How much of the time since then nothing of it ran and something of it could have. A wait that is not over may be all of
        it."""
        waited_s = elapsed_s if self.wants_core else self.waited_s - since.waited_s
        return max(0.0, min(elapsed_s - (self.ran_s - since.ran_s), waited_s))


@dataclass
class Occupancy:
    """What is known of one seat and of the process in it."""

    state: SeatState = SeatState.EMPTY
    incarnation: int = 0
    generation: int = 0
    """Which version of the app is started here: it grows with every reload."""
    runs: int = 0
    """Which version the process there was started with."""
    restart_at: float | None = None
    deadline: float | None = None
    """When the process there is killed unless it has become ready, or gone."""
    ready: Ready | None = None
    statistics: dict[str, Any] = field(default_factory=dict)
    stuck_at: float | None = None
    """When it was told that no Python code of it could run, if it has not answered a ping since."""
    stuck_in: str = ""
    """Its stack then, until that has been reported."""
    cpu_time: CpuTime = field(default_factory=CpuTime)
    """Of the process, when it was looked at last since then."""
    looked_at: float = 0.0
    pinged_at: float | None = None
    """When the ping was sent to which no answer has come; None when all are answered."""
    ping_number: int = 0
    answered_at: float = 0.0
    """When it has become ready, or answered a ping, the last time."""
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    flapping: bool = False
    failed: Failed | None = None
    """Its last words, if it had time for any."""
    quiet: bool = False
    """A draining worker that has answered everybody outside: it waits for the other workers."""
    killed_because: str = ""
    """Why we killed it; empty when nobody did, or somebody else."""
    last_problem: str = ""

    def silent_s(self, now: float) -> float | None:
        """How long ago its last answer came, where it owes one for longer than others take; else None."""
        if self.pinged_at is None or now - self.pinged_at < SILENT_S:
            return None
        return now - self.answered_at


# Effects


@dataclass(frozen=True)
class Spawn:
    seat: int
    incarnation: int
    generation: int = 0
    successor_of: int | None = None
    """It loads the app and waits until it is told to open the shards of that seat; a router begins to serve."""


@dataclass(frozen=True)
class Promote:
    """The successor takes the seat."""

    successor: int
    seat: int


@dataclass(frozen=True)
class Send:
    seat: int
    message: ToChild


@dataclass(frozen=True)
class Kill:
    seat: int


@dataclass(frozen=True)
class Report:
    """A line for the operator."""

    severity: str
    text: str


@dataclass(frozen=True)
class ServiceReady:
    """Every child is ready, for the first time: every worker has checkpointed what it recovered."""


@dataclass(frozen=True)
class ReplacementSaid:
    """For who has asked for it: how it goes on."""

    number: int
    text: str


@dataclass(frozen=True)
class ReplacementEnded:
    """`failed` says why not every process is a new one, and what runs now."""

    number: int
    replaced: tuple[Replaced, ...]
    failed: Failed | None
    mixed: bool = False
    generation: int = 0
    """Of the processes that it was to bring; 0 if it never began."""


@dataclass(frozen=True)
class Finish:
    """Nobody is left. `failure` says why the service could not go on; None after a stop that was asked for."""

    failure: Failed | None


Effect = Spawn | Promote | Send | Kill | Report | ServiceReady | ReplacementSaid | ReplacementEnded | Finish
