"""What supervisor and its children (workers, router) tell each other. How it travels: `runtime/child/control.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tidegate.runtime.limits import (
    BUDGET_BYTES,
    KEYS_BYTES,
    KEYS_KEPT_S,
    KEYS_PER_OBJECT,
    OFFLOAD_PROCESSES,
    OFFLOAD_S,
    SLOW_CALL_S,
    SNAPSHOT_BYTES,
    SNAPSHOT_S,
)
from tidegate.runtime.options.settings import AppSources
from tidegate.runtime.options.shown import ShownOption
from tidegate.runtime.wire.access import AccessKey
from tidegate.runtime.wire.counts import Counts
from tidegate.runtime.wire.wishes import Wish

KEPT_SOURCE = "app"
"""The folder in the run directory where workers keep the source of the app, with a folder in it for each version: workers that
are started with one version run the same."""


def split_app(app: str) -> tuple[str, list[str]]:
    """The file `app.py` or the module, and the classes of it that are named: `app.py:Class,Class`. None: all of them."""
    if app.endswith(".py"):
        return app, []
    target, _, chosen = app.rpartition(":") if ":" in app else (app, "", "")
    return target, [name.strip() for name in chosen.split(",") if name.strip()]


class Topology(msgspec.Struct, frozen=True):
    """Which worker owns which shard, and where each worker listens. Changes only with a larger `epoch`."""

    epoch: int
    owners: tuple[int, ...]
    """Worker index by shard. Its length is the number of shards, a power of two."""
    endpoints: tuple[str | None, ...]
    """ZeroMQ endpoint by worker index, None while that worker does not listen."""
    down: tuple[int, ...] = ()
    """Of the workers that do not listen, those that fail again and again. The others are being started."""
    streams: tuple[str | None, ...] = ()
    """By worker index, the path where it takes streams of clients on its host. None: it takes none. Empty: nobody does."""
    nobody: int | None = None
    """The index, without an endpoint, of no worker: it owns the shards that are on their way from one to another."""


# Supervisor to child


HELD_UP_EXIT = 75
"""Exit code of a worker that could not interrupt the code which held it up."""


class Running(msgspec.Struct, array_like=True, frozen=True):
    """An object, and which code of it: the name of a method, a hook or a coroutine."""

    class_name: str
    name: str
    code: str


class QuarantinedObject(msgspec.Struct, frozen=True):
    """Its code has held up or ended workers: nothing of it runs for a while."""

    class_name: str
    name: str
    offences: int
    code: str
    """What of it ran the last time."""
    for_s: float
    why: str = ""
    """What it did then, as a sentence."""


class KeyBounds(msgspec.Struct, array_like=True, frozen=True):
    """How much of the answers to calls with a key a worker keeps."""

    bytes_max: int = KEYS_BYTES
    kept_s: int = KEYS_KEPT_S
    per_object: int = KEYS_PER_OBJECT


KEYS_DEFAULT = KeyBounds()


class Access(msgspec.Struct, frozen=True):
    """Clients need an access key."""

    secret: str
    """The service's own."""
    keys: tuple[AccessKey, ...]
    """Those that are valid now."""

    def __repr__(self) -> str:  # What has it is shown when something is wrong.
        return f"Access({len(self.keys)} keys)"


class ClusterPlace(msgspec.Struct, frozen=True):
    """Where the logs of the shards are kept."""

    servers: tuple[str, ...]
    name: str
    """Of the cluster: its streams are `NAME-SHARD`."""
    snapshot_bytes: int = SNAPSHOT_BYTES
    """A snapshot of a shard is taken when its stream has grown by so much since the last one,"""
    snapshot_s: float = SNAPSHOT_S
    """or at all, and the last one is so old."""

    def __repr__(self) -> str:  # There may be passwords in it.
        return f"ClusterPlace({self.name})"


class WorkerSpec(msgspec.Struct, frozen=True, tag="worker"):
    """Everything one worker process needs to know to start."""

    index: int
    workers: int
    incarnation: int
    """Grows each time this worker index is started; part of its endpoint, so that nothing old can reach it."""
    start: int
    """Number of this start of the service; names the logs."""
    cpu: int | None
    shards: tuple[int, ...]
    shards_total: int
    data_dir: str
    run_dir: str
    app: str
    cache_bytes: int
    idle_evict_s: float
    dev: bool
    witness: str = ""
    """The file in which to write down whose code runs."""
    watched: bool = False
    """Whether to do so with every step: somebody has died lately. Else for code that holds up the worker."""
    quarantined: tuple[QuarantinedObject, ...] = ()
    held_up_s: float | None = None
    """For so long code of an object may hold up the worker before it is interrupted. None: for ever."""
    offload_processes: int = OFFLOAD_PROCESSES
    offload_s: float = OFFLOAD_S
    slow_call_s: float = SLOW_CALL_S
    """A call that takes longer is named in the log."""
    keys: KeyBounds = KEYS_DEFAULT
    source: str = ""
    """The folder where the source of the app is kept that this worker runs, or will be, by whoever imports it first."""
    budget_bytes: int = BUDGET_BYTES
    """Of memory, for calls and replies."""
    settings: AppSources = AppSources()
    """What is set for the app."""
    secret: str = ""
    """Of this start of the service, by which its processes know each other: see `own_identity`."""
    access: Access | None = None
    """None: nobody is asked for a key."""
    cluster: ClusterPlace | None = None
    """None: the log is on this machine's disk."""
    hosts_secret: str = ""
    """By which the hosts of a cluster know each other."""


class RouterSpec(msgspec.Struct, frozen=True, tag="router"):
    index: int
    listen: str
    run_dir: str
    shards_total: int
    workers: int
    name: str = "router"
    listen_fds: tuple[int, ...] = ()
    """Sockets that are bound to `listen` and inherited under these numbers."""
    budget_bytes: int = BUDGET_BYTES
    """Of memory, for calls and replies."""
    secret: str = ""
    """The same that workers have."""
    access: Access | None = None
    """None: nobody is asked for a key."""
    hosts_secret: str = ""
    """By which the hosts of a cluster know each other."""
    is_door: bool = False
    """It hears other hosts of its cluster, and passes nothing on to another one."""
    is_clustered: bool = False
    """Shards come and go."""


class TopologyChanged(msgspec.Struct, frozen=True, tag="topology"):
    topology: Topology


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    number: int


class OpenShards(msgspec.Struct, frozen=True, tag="open"):
    """To a worker that has said `Loaded`, or will: nobody else has its shards open; they are its own from now on."""

    shards: tuple[int, ...] | None = None
    """These, and not those of its spec: others may have come and gone since."""


class OwnShards(msgspec.Struct, frozen=True, tag="own"):
    """To a worker of a cluster: what it is to have from now on. It gives what it has besides and takes what it lacks, and says by
    `Owned` how far that has come."""

    number: int
    """Grows with each."""
    shards: tuple[int, ...]
    give_s: float
    """For so long calls may take that have begun in a shard which goes; then they are reset."""
    ahead: tuple[int, ...] = ()
    """Shards that it is to have next, and that another host still serves: it reads what their logs have so far."""


class Prepare(msgspec.Struct, frozen=True, tag="prepare"):
    """To a worker that is about to be replaced: make a checkpoint, and serve meanwhile; then answer `Prepared`."""


class Park(msgspec.Struct, frozen=True, tag="park"):
    """To routers and workers: `worker` is about to be replaced. Keep back what is for it, until a topology names another endpoint
    for it, and then say by `Waited` how long that took. Answer `Parked`, with the round, as soon as all that it has been sent is
    answered. A worker (not a router) sends what it has kept back when it hears of another round. `worker` itself answers as soon
    as it has nothing to answer anybody."""

    worker: int
    round: int


class HoldAll(msgspec.Struct, frozen=True, tag="hold"):
    """To all: let no call of a client in until it is over. Routers keep them; workers send clients to the routers."""

    on: bool


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Start nothing new, finish what was accepted within `timeout_s`, then answer `Drained` and exit 0. A worker says `Quiet` in
    between and goes on serving the other workers until it is told to `Leave`, or until the time is over. `moving`: a successor
    takes over, so nobody is told that the service stops."""

    timeout_s: float
    moving: bool = False


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    """To a draining worker: nobody of the service will call it any more."""


class StatusChanged(msgspec.Struct, frozen=True, tag="status"):
    """To the router, which answers the system call `status` with it."""

    status: dict[str, Any]


class LevelsChanged(msgspec.Struct, frozen=True, tag="levels"):
    """To a router: levels of its log, for all loggers and for some by name."""

    level: str
    levels: Mapping[str, str]


class QuarantineChanged(msgspec.Struct, frozen=True, tag="quarantine"):
    """To a worker: all objects that are in quarantine now."""

    objects: tuple[QuarantinedObject, ...]


class AccessChanged(msgspec.Struct, frozen=True, tag="access"):
    """To all, where clients need an access key: these are valid from now on, and no others."""

    keys: tuple[AccessKey, ...]


class Administer(msgspec.Struct, frozen=True, tag="administer"):
    """To the worker of an object: do what an operator asks (`method` is one of `OBJECT_CALLS`, or WISH), and say `Administered`
    when it is durable."""

    number: int
    method: str
    object: str
    wish: Wish | None = None
    timeout_s: float = 0.0
    """What cannot be begun in this time is not done."""


FromSupervisor = (
    TopologyChanged
    | Ping
    | Drain
    | Leave
    | StatusChanged
    | Prepare
    | Park
    | HoldAll
    | QuarantineChanged
    | AccessChanged
    | Administer
    | LevelsChanged
    | OwnShards
)
"""What a child hears after its spec; a worker after `OpenShards`."""
ToChild = WorkerSpec | RouterSpec | OpenShards | FromSupervisor


# Child to supervisor


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """A worker has imported the app and tested its Python; it has not touched the data, and waits for `OpenShards`."""

    app_version: str = ""
    settings: list[ShownOption] = []
    """Of the app, as they are."""


class Prepared(msgspec.Struct, frozen=True, tag="prepared"):
    """The checkpoint that `Prepare` asked for is made, or could not be."""


class Parked(msgspec.Struct, frozen=True, tag="parked"):
    """To `Park`: everything that the worker was sent is answered, and it is sent nothing more before the next round."""

    worker: int
    round: int


class Waited(msgspec.Struct, frozen=True, tag="waited"):
    """So many calls had been kept back for the worker, which serves again."""

    worker: int
    calls: int
    longest_ms: float


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The child answers calls from now on."""

    endpoint: str
    classes: dict[str, Any] = {}
    """By class name: what the system call `classes` answers. Only from workers."""
    recovered_records: int = 0
    app_version: str = ""
    """Of the source that a worker runs: equal texts, equal source."""
    keeps_logs: bool = False
    """What earlier logs hold is not in all stores, for want of room or because a shard is damaged: they have to stay."""
    stream: str | None = None
    """The path where a worker takes streams of clients on its host."""


class Owned(msgspec.Struct, frozen=True, tag="owned"):
    """Of a worker of a cluster, at its start and whenever it changes."""

    number: int
    """Of the newest `OwnShards` that it has heard; 0: none."""
    shards: tuple[int, ...]
    """Which it has claimed and serves, or is about to give. Whatever has left them it has let go."""
    busy: tuple[int, ...] = ()
    """Which it is taking, giving or reading ahead, or is about to read."""
    stopped: dict[int, str] = {}
    """Which it is to have and has not, and why."""
    ready: tuple[int, ...] = ()
    """Of those to be read ahead: it has, and uses their files no longer."""
    reads: tuple[int, ...] = ()
    """Of those to be read ahead: it is about to, or does, or could not and tries again."""


class Problem(msgspec.Struct, frozen=True):
    """Something that an operator should know of and can do something about. While there is one, the service is not `serving`."""

    what: str
    """What is wrong, in words: `nothing can be written: no space left on device`."""
    where: str
    """The process, object, file or shard: `worker 1, /var/lib/tidegate/log`."""
    next: str
    """What to do about it."""


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    number: int
    statistics: dict[str, Any] = {}
    """Numbers by name, for `status`. Under `problems` a list of `Problem`, those of now: they become problems of the service."""
    counts: Counts = {}
    """What has been counted since the process was started."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The child cannot go on and will exit. `fatal`: starting it again would not help (a broken app, damaged data)."""

    operation: str
    place: str
    problem: str
    hint: str
    traceback: str = ""
    fatal: bool = True


class HeldUp(msgspec.Struct, frozen=True, tag="held_up"):
    """Code of an object held up the worker and was interrupted."""

    running: Running
    held_s: float


class Released(msgspec.Struct, frozen=True, tag="released"):
    """Somebody has asked to let an object out of quarantine."""

    class_name: str
    name: str


class Quiet(msgspec.Struct, frozen=True, tag="quiet"):
    """A draining worker has answered every call from outside and accepts no other: of itself it calls nobody any more."""


class Drained(msgspec.Struct, frozen=True, tag="drained"):
    unanswered: int = 0


class Administered(msgspec.Struct, frozen=True, tag="administered"):
    """It is done; or why not, as the wire protocol has it."""

    number: int
    error: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    """What came of a wish."""


FromChild = (
    Loaded | Ready | Pong | Failed | Quiet | Drained | Prepared | Parked | Waited | HeldUp | Released | Administered | Owned
)
