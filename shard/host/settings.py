"""What a host is told at its start, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.runtime.limits import IDLE_EVICT_S, OFFLOAD_PROCESSES, OFFLOAD_S, SLOW_CALL_S, WAITING_CALL_BYTES_MAX
from tidegate.runtime.wire.protocol import own_identity
from tidegate.runtime.wire.supervisor_messages import KEYS_DEFAULT, KeyBounds, QuarantinedObject
from tidegate.shard.core.alarms import Abandoned


@dataclass(frozen=True)
class HostSettings:
    shards_total: int
    cache_bytes: int = 256 << 20
    idle_evict_s: float = IDLE_EVICT_S
    dev: bool = False
    """Tracebacks of methods that raised cross to the caller."""
    quarantined: tuple[QuarantinedObject, ...] = ()
    """Nothing of them runs for a while."""
    call_bytes_max: int = WAITING_CALL_BYTES_MAX
    """Of calls that wait to be started."""
    spare_task: bool = True
    """False: each call gets a task of its own (see `loop.spare`)."""
    keys: KeyBounds = KEYS_DEFAULT
    slow_call_s: float = SLOW_CALL_S
    """A call that takes longer is named in the log."""
    offload_processes: int = OFFLOAD_PROCESSES
    offload_s: float = OFFLOAD_S
    """For so long what an object offloads may compute."""
    worker: int = 0
    """Which one of the service it is."""
    proves: bool = False
    """Each shard has a log of its own, and others may want to own it: see `core.proving`. What is in one commit is durable
    together within one shard only, so that objects of two shards hear nothing of each other that is not durable."""
    own_clients: bytes = own_identity("")
    """What the routing ids of the service's own processes begin with."""


@dataclass(frozen=True)
class WaitingObject:
    """Behind whose gate somebody has waited for more than a second."""

    object: str
    since_ms: int
    """Unix time."""
    waiting: int
    """Calls, sections and other events."""
    closed_by: str
    waits_for: str
    """Where that is known: what the code that keeps the gate closed waits for."""

    def told(self, waited_s: float) -> str:
        """Where it is said already of which object."""
        waits = f", which waits for {self.waits_for}" if self.waits_for else ""
        events = "1 event has" if self.waiting == 1 else f"{self.waiting} events have"
        return f"{events} waited behind its gate for {waited_s:.1f} s: it is closed by {self.closed_by}{waits}"


@dataclass(frozen=True)
class LongCall:
    """The call of an object that has run for longest, where that is very long."""

    object: str
    method: str
    since_ms: int
    """Unix time."""
    calls: int
    """Of the object that have run for so long, this one among them."""
    waits_for: str
    """Where that is known: what its code waits for."""

    def told(self, for_s: float) -> str:
        """Where it is said already which call."""
        more = f", and {self.calls - 1} more of its object" if self.calls > 1 else ""
        waits = f": it waits for {self.waits_for}" if self.waits_for else ""
        return f"has run for {for_s:.0f} s without an answer{more}{waits}"


@dataclass(frozen=True)
class PiledUp:
    """An object that has very much of something, as it was when it was looked at last."""

    object: str
    tasks: int
    """Calls that run, and what its code has started."""
    callbacks: int
    """Timers among them."""
    cached_bytes: int
    """Of its storage, what is not durable yet among them."""
    kept_bytes: int
    """By its instance, about."""

    def shown(self) -> str:
        parts = {
            f"{self.tasks:,} tasks": self.tasks,
            f"{self.callbacks:,} timers and callbacks": self.callbacks,
            f"{self.cached_bytes / 1e6:,.0f} MB cached of its storage": self.cached_bytes > 500_000,
            f"about {self.kept_bytes / 1e6:,.0f} MB in its attributes": self.kept_bytes > 500_000,
        }
        return f"{self.object} piles up {', '.join(part for part, counts in parts.items() if counts)}"


@dataclass(frozen=True)
class HotObject:
    """One of those that are called most."""

    class_name: str
    name: str
    calls_per_s: float
    """About, now."""
    minute_per_s: float
    """About, in the last minute."""


@dataclass(frozen=True)
class HostStatistics:
    activations: int
    tasks: int
    queued_calls: int
    """To be started, wherever they wait."""
    held_messages: int
    cache_bytes: int
    calls: int
    commits: int
    commit_writes: int
    resets: int
    evictions: int
    alarms_rung: int
    alarms_abandoned: int
    """By this worker and by those before it."""
    newest_abandoned: list[Abandoned]
    waiting_objects: list[WaitingObject]
    long_calls: list[LongCall]
    piles: list[PiledUp]
    hot_objects: list[HotObject]
    """Those that are called most now, the first of them most."""
    hot_objects_minute: list[HotObject]
    """The same of the last minute."""
    shard_calls: dict[int, int]
    """Calls by shard."""
    answers: int
    """Kept for calls with a key."""
    answers_bytes: int
    answers_dropped: int
    """Before their time: for want of room, or because their object had been given so many others."""
    repeats: int
    """Calls with a key that were answered what another one was."""
    alarm_due_ms: int | None
    """Unix time at which the next alarm rings, if any is pending."""
