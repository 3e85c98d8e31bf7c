"""What a service answers for itself: `status`, `topology`, `classes`, and how it is asked.

All of these are frozen. Fields that a newer service adds are left out; `client.call("", "", "status")` has everything, as plain
dicts, as protocol.md describes it.
"""

from __future__ import annotations

from typing import Any

import msgspec


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the service, as the supervisor knows it."""

    name: str
    """`supervisor`, `router`, `router 0` …, `worker 0` …"""
    pid: int | None = None
    """None while it does not run."""
    state: str | None = None
    """`starting`, `ready`, … None: the supervisor, which is what answers."""
    core: int | None = None
    """The processor that a worker is pinned to. None: to none."""
    shards: tuple[int, ...] = ()
    """Those that a worker owns."""
    endpoint: str | None = None
    """Where it listens. None while it does not."""
    restarts: int = 0
    """How often it was started again since the start of the service."""
    silent_s: float | None = None
    """How long ago its last answer came, while it owes one: it hangs. None: it answers."""
    flapping: bool = False
    """It fails again and again."""
    last_problem: str = ""
    """Why it ended the last time. Empty: it did not."""
    app_version: str = ""
    """Of the source of the app that a worker runs."""
    rss_mib: int | None = None
    """Memory in MiB."""
    cpu_percent: int | None = None
    """Of one core, over the last second or more. None in the first second of a process."""
    rates: dict[str, Any] = {}
    """How fast it goes, over the last two seconds or so: `calls_per_s`, `errors_per_s`, and how long it has taken to answer,
    `answer_p50_ms`, `answer_p95_ms` and `answer_p99_ms` (None: nothing was answered). Empty: it has not been heard of lately."""
    statistics: dict[str, Any] = {}
    """Numbers of its own, by name, some seconds old. Which there are may change with every version."""


class ObjectQuarantine(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing of an object runs for a while: its code has held up or ended its worker again and again."""

    object: str
    """`Class/name`."""
    offences: int
    """How often: interruptions, and deaths of its worker."""
    code: str
    """What of it ran the last time: a method or another function."""
    for_s: float = 0.0
    """So much longer, when that was told."""
    why: str = ""
    """What it did the last time, as a sentence; empty where the service is older than that."""


class ServiceProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong now, and what an operator can do about it."""

    what: str
    """What is wrong, in words."""
    where: str
    """The process, object, file or shard."""
    next: str
    """What to do about it."""


class WaitingOption(msgspec.Struct, frozen=True, kw_only=True):
    """An option that was changed and is not in effect."""

    option: str
    """Its full name: `service.workers`."""
    before: Any
    """What is in effect."""
    after: Any
    """What is set."""
    takes: str
    """What it takes until that is in effect."""


class BackupState(msgspec.Struct, frozen=True, kw_only=True):
    """How backups to one place went. Times are Unix times in milliseconds."""

    place: str
    ended_ms: int
    """When the last one ended, well or not."""
    error: str = ""
    """Why it failed; empty: it did not."""
    good_ms: int = 0
    """When the newest one that succeeded had ended; 0: none has."""
    backup: str = ""
    """That one: LINEAGE/NUMBER."""
    due_s: float = 0.0
    """The next one has to have succeeded so long after that; 0: whenever it likes."""


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A service and its processes. The router that is asked adds numbers of its own, as of now."""

    state: str = "starting"
    """`serving`; `degraded`: see `problems`; `stopping`; `starting`: the router has not heard from the supervisor yet, and the
    other fields are empty."""
    problems: tuple[ServiceProblem, ...] = ()
    """What is wrong now; empty while everything is as it should be."""
    version: str = ""
    """Of Tidegate."""
    app: str = ""
    """The file or the module."""
    app_version: str = ""
    """Of the app's source: equal texts, equal source. Empty while no worker has loaded it."""
    data: str = ""
    """The data directory."""
    listen: str = ""
    """Where clients connect."""
    start: int = 0
    """Number of this start of the service on its data."""
    started_at_ms: int = 0
    """Unix time in milliseconds."""
    may_use: dict[str, float] = {}
    """`cores` and `memory_bytes` of the machine, or what the control group of a container or unit leaves the service."""
    epoch: int = 0
    """Of the topology: grows with every change."""
    shards: int = 0
    """How many the data are split into."""
    class_names: tuple[str, ...] = ()
    """Of the app."""
    rates: dict[str, Any] = {}
    """Of all workers together: see `ProcessStatus.rates`."""
    class_rates: dict[str, dict[str, Any]] = {}
    """The same by class."""
    processes: tuple[ProcessStatus, ...] = ()
    """Supervisor, routers, workers."""
    backups: tuple[BackupState, ...] = ()
    """By place, as far as `tidegate backup` has left word of it in the data directory."""
    config_waits: tuple[WaitingOption, ...] = ()
    """What a reload has found to be set, and could not bring into effect."""
    quarantined_objects: tuple[ObjectQuarantine, ...] = ()
    router: dict[str, Any] = {}
    """Numbers of the router that has answered, by name. Which there are may change with every version."""


class ShardPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where the objects of one shard live."""

    shard: int
    slots: tuple[int, int]
    """First and last slot, both included."""
    worker: int
    """Index of the worker that owns it."""
    endpoint: str | None
    """Where that worker listens. None while it does not."""
    stream: str | None = None
    """The path where it takes streams of clients on its host. None: it takes none."""


class ServiceTopology(msgspec.Struct, frozen=True, kw_only=True):
    """Which worker owns which shard. An object's slot is `crc32(Class/name)` modulo `slots` (protocol.md, placement)."""

    epoch: int
    """Grows with every change."""
    slots: int
    """How many there are: 16,384."""
    shards: tuple[ShardPlace, ...]
    """Every one, in the order of their slots."""


class MethodInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A method that may be called from outside."""

    signature: str
    """As Python shows it, without `self` and the result."""
    doc: str
    """Its docstring, or an empty text."""
    arguments: dict[str, Any]
    """JSON Schema of the arguments, as the properties of an object."""
    read_only: bool = False
    """It is marked by `@readonly`: access keys that are read-only may call it."""


class ClassInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A class of the running app."""

    doc: str
    """Its docstring, or an empty text."""
    methods: dict[str, MethodInfo]
    """By name."""
