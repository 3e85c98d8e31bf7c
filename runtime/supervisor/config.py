"""The configuration of a service: a frozen tree, put together from defaults, a TOML file, the environment and the command line.

Rule 1: pure. Reading files and the environment is the caller's business.
Rule 2: later wins: defaults, then the file, then the environment, then the command line.
Rule 3: everything wrong is told at once, each in one form: where it was given, which option, what is allowed, what was given.

To add an option, add a field here, in one of the sections, and nothing else:

* its type says what is allowed, by msgspec's constraints; a message says the same in words, which are made of the type;
* its name ends in its unit, `_s` or `_mib`;
* its `Meta` has the sentence that explains it, for `--help`, the sample and the page: `python -m tests.support.option_pages`
  writes `systemd/tidegate.toml` and `docs/configuration.md` anew, and a test says when that was forgotten;
* `flag` in its `extra` puts it on the command line of `tidegate serve`: `--workers N|auto`, `--dev` (takes no value), `APP` (has
  no flag); without one it is set there by `--set SECTION.NAME=VALUE`, as every option is;
* `takes` in it says that a change of it is in effect before the service is stopped and started: `ChangeTakes.RELOAD`, if every
  worker reads it at its start or the supervisor does at each use.

What reads it gets it from the supervisor: in `WorkerSpec` or `RouterSpec`, if a child does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tidegate.runtime.addresses import (
    DOOR_DEFAULT,
    LISTEN_DEFAULT,
    check_address,
    check_cluster,
    check_door,
    check_endpoint,
    cluster_shown,
)
from tidegate.runtime.limits import (
    BUDGET_BYTES,
    BUDGET_BYTES_MIN,
    HELD_UP_NAMED_S,
    HELD_UP_S,
    IDLE_EVICT_S,
    KEYS_BYTES,
    KEYS_KEPT_S,
    KEYS_PER_OBJECT,
    OFFLOAD_PROCESSES,
    OFFLOAD_PROCESSES_MAX,
    OFFLOAD_S,
    ROUTERS_MAX,
    SHARDS_MAX,
    SLOW_CALL_S,
    SNAPSHOT_BYTES,
    SNAPSHOT_S,
)
from tidegate.runtime.logs.line import Format, Level
from tidegate.runtime.logs.settings import LogSettings
from tidegate.runtime.options.option import ChangeTakes, Option, Path, Table, table_of
from tidegate.runtime.options.reading import Mistake, Mistakes, SetBy, ValueLayer, read, value_at
from tidegate.runtime.options.settings import SECTION, AppSources, section_of
from tidegate.runtime.options.shown import ShownOption, shown_option
from tidegate.runtime.options.texts import PREFIX, is_of_kubernetes, nested, parse_toml, texts_of, variable
from tidegate.runtime.wire.supervisor_messages import KeyBounds

DATA_DEFAULT = "tidegate-data"
ACCESS_NAME = "access.json"
"""Of the list of access keys, in the data directory."""

_Auto = Literal["auto"]
_Text = Annotated[str, Meta(min_length=1)]


class ServiceConfig(msgspec.Struct, frozen=True):
    app: Annotated[
        _Text,
        Meta(
            description="The objects to serve: a file or module, or some of its classes: app.py:Class,Class.",
            extra={"flag": "APP", "takes": ChangeTakes.RELOAD},
        ),
    ] = ""
    data: Annotated[
        _Text,
        Meta(
            description=f"The data directory. Unless given, $STATE_DIRECTORY, which systemd sets, else ./{DATA_DEFAULT}.",
            extra={"flag": "--data DIR"},
        ),
    ] = ""
    listen: Annotated[
        str,
        Meta(
            description="Where clients connect. Where other machines can connect, clients need access keys (tidegate keys), or "
            "insecure has to be set. Where systemd opens the socket (install-service), that of the socket unit counts: give "
            "install-service again after a change.",
            extra={"flag": "--listen ENDPOINT", "problem": check_endpoint},
        ),
    ] = LISTEN_DEFAULT
    access: Annotated[
        str,
        Meta(
            description="The list of access keys, which `tidegate keys` writes. If there is one, every client needs a key, and "
            f"all that it says and hears is encrypted. Unless given, {ACCESS_NAME} in the data directory.",
            extra={"flag": "--access FILE"},
        ),
    ] = ""
    insecure: Annotated[
        bool,
        Meta(
            description="Listen without access keys also where other machines can connect: whoever reaches it may call "
            "everything, and read what others send.",
            extra={"flag": "--insecure"},
        ),
    ] = False
    workers: Annotated[
        _Auto | Annotated[int, Meta(ge=1, le=SHARDS_MAX)],
        Meta(
            description='Worker processes; "auto" is one for each core the service may use. May change at every start; moves no '
            "data.",
            extra={"flag": "--workers N|auto"},
        ),
    ] = "auto"
    routers: Annotated[
        _Auto | Annotated[int, Meta(ge=1, le=ROUTERS_MAX)],
        Meta(
            description='Router processes. Several share the TCP port of "listen"; the kernel deals the connections of '
            'clients to them. "auto" is one for each 16 cores. One is enough until `tidegate status` shows it busy: Python '
            "clients on this machine need it rarely.",
            extra={"flag": "--routers N|auto"},
        ),
    ] = 1
    liveness_s: Annotated[
        float,
        Meta(
            ge=1,
            le=3_600,
            description="A process that does not answer for this long is killed and started again.",
            extra={"takes": ChangeTakes.RELOAD},
        ),
    ] = 30.0
    held_up_s: Annotated[
        float,
        Meta(
            ge=HELD_UP_NAMED_S,
            le=3_600,
            description="Code of an object that holds up its worker for this long, by computing or blocking, is interrupted and "
            "the object reset; if that does not help the worker is started again. Not with --dev.",
            extra={"takes": ChangeTakes.RELOAD},
        ),
    ] = HELD_UP_S
    offload_processes: Annotated[
        int,
        Meta(
            ge=1,
            le=OFFLOAD_PROCESSES_MAX,
            description="Processes of each worker that run what objects offload, started when needed. What they cannot take at "
            "once waits.",
            extra={"takes": ChangeTakes.RELOAD},
        ),
    ] = OFFLOAD_PROCESSES
    offload_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=86_400,
            description="What an object offloads may compute for this long. Then its process is killed, and whoever waits for it "
            "gets a TimeoutError.",
            extra={"takes": ChangeTakes.RELOAD},
        ),
    ] = OFFLOAD_S
    stop_s: Annotated[
        float,
        Meta(
            ge=0.5,
            le=3_600,
            description="A stop answers what is in flight and writes checkpoints within this time; what is left then is killed. "
            "Keep TimeoutStopSec of the unit above it.",
            extra={"takes": ChangeTakes.RELOAD},
        ),
    ] = 9.0
    reload_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3_600,
            description="When a worker is replaced (`tidegate reload`), the calls that it has begun get this time to end; what "
            "runs longer is answered shard_lost. New calls wait meanwhile.",
            extra={"takes": ChangeTakes.RELOAD},
        ),
    ] = 10.0
    budget_mib: Annotated[
        _Auto | Annotated[int, Meta(ge=BUDGET_BYTES_MIN >> 20, le=1 << 20)],
        Meta(
            description="Memory of each router and worker for calls and replies: what waits, what is being received, what "
            f'clients have not read. Beyond, calls are refused as overloaded. "auto" is an eighth of the machine\'s, dealt to '
            f"them, from {BUDGET_BYTES_MIN >> 20} to {BUDGET_BYTES >> 20} MiB.",
            extra={"takes": ChangeTakes.RESTART},
        ),
    ] = "auto"
    cluster: Annotated[
        str,
        Meta(
            description="Three NATS servers or more that keep the log instead of this machine's disk, and the name of the "
            "cluster, if not tidegate: nats://a:4222,nats://b:4222,nats://c:4222/NAME. The data directory is a cache of what "
            "they keep.",
            extra={"flag": "--cluster SERVERS", "problem": check_cluster, "shown": cluster_shown},
        ),
    ] = ""
    host_name: Annotated[
        str,
        Meta(
            max_length=256,
            description="What operators call this host of a cluster. Unless given, the name of the machine.",
            extra={"flag": "--host-name NAME"},
        ),
    ] = ""
    advertise: Annotated[
        str,
        Meta(
            description="Where the other hosts of a cluster reach this one: an address of this machine and a port that is free "
            "there, tcp://host-a:7712. A port of 0 is any. What they say to each other is encrypted.",
            extra={"flag": "--advertise ENDPOINT", "problem": check_door},
        ),
    ] = DOOR_DEFAULT
    snapshot_mib: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 20,
            description="In a cluster, a snapshot of a shard is taken when its stream has grown by so much since the last one, "
            "and by half of what the data file of that one took. What is before the last but one is removed from the stream "
            "then, so that it keeps about twice as much.",
        ),
    ] = SNAPSHOT_BYTES >> 20
    snapshot_s: Annotated[
        float,
        Meta(
            ge=1,
            le=86_400 * 365,
            description="In a cluster, a snapshot of a shard that is older than this is followed by another one, if the stream "
            "has grown at all.",
        ),
    ] = SNAPSHOT_S
    dev: Annotated[
        bool,
        Meta(
            description="For development only: the app is loaded again when its source is saved, errors carry tracebacks to the "
            "caller, which show source code, breakpoint() stops a worker, and code that holds one up is not interrupted.",
            extra={"flag": "--dev"},
        ),
    ] = False


class StorageConfig(msgspec.Struct, frozen=True):
    cache_mib: Annotated[
        _Auto | Annotated[int, Meta(ge=0, le=1 << 20)],
        Meta(
            description='Memory for objects and cached data of each worker; "auto" is a quarter of the machine\'s, dealt to the '
            "workers. 0: every object leaves memory as soon as it has nothing to do.",
            extra={"takes": ChangeTakes.RELOAD},
        ),
    ] = "auto"
    idle_evict_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400 * 365,
            description="Objects without calls for this long leave memory. They lose nothing but memory.",
            extra={"takes": ChangeTakes.RELOAD},
        ),
    ] = IDLE_EVICT_S
    keys_mib: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 20,
            description="Memory of each worker for what calls with a key were answered, dealt to its shards. When it is full the "
            "oldest answers leave, and are counted (answers_dropped in the status).",
            extra={"takes": ChangeTakes.RELOAD},
        ),
    ] = KEYS_BYTES >> 20
    keys_kept_s: Annotated[
        int,
        Meta(
            ge=60,
            le=86_400 * 365,
            description="A key that is repeated within this time is answered as it was the first time.",
            extra={"takes": ChangeTakes.RELOAD},
        ),
    ] = KEYS_KEPT_S
    keys_per_object: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="Of the keys of one object, the answers to so many are kept, the newest. (Those of clients that number "
            "their calls, as the Python clients do, leave when they have arrived, and do not count.)",
            extra={"takes": ChangeTakes.RELOAD},
        ),
    ] = KEYS_PER_OBJECT


CACHE_BYTES_MIN = 64 << 20
"""Of each worker, where it follows the machine."""


def cache_bytes(storage: StorageConfig, memory_bytes: int, workers: int) -> int:
    """Of each worker."""
    if isinstance(storage.cache_mib, int):
        return storage.cache_mib << 20
    return max(CACHE_BYTES_MIN, memory_bytes // 4 // workers)


def key_bounds(storage: StorageConfig) -> KeyBounds:
    """Of each worker."""
    return KeyBounds(storage.keys_mib << 20, storage.keys_kept_s, storage.keys_per_object)


BUDGET_SHARE_OF_MACHINE = 8


def budget_bytes(service: ServiceConfig, memory_bytes: int, processes: int) -> int:
    """Of each router and worker."""
    if isinstance(service.budget_mib, int):
        return service.budget_mib << 20
    return min(BUDGET_BYTES, max(BUDGET_BYTES_MIN, memory_bytes // BUDGET_SHARE_OF_MACHINE // processes))


class LogConfig(msgspec.Struct, frozen=True):
    level: Annotated[
        Level,
        Meta(
            description="The least grave of what is logged: debug, info, warning or error.",
            extra={"flag": "--log-level LEVEL", "takes": ChangeTakes.RELOAD},
        ),
    ] = "info"
    format: Annotated[
        Format,
        Meta(
            description='How lines are written: "text", "json" (one object a line), or "auto": with fields of their own to '
            "journald where the standard error ends there, else text.",
            extra={"flag": "--log-format FORMAT"},
        ),
    ] = "auto"
    levels: Annotated[
        dict[str, Level],
        Meta(
            description="Levels of loggers by their names; they go before the level above and before what the app sets. Those of "
            'the service begin with "tidegate".',
            extra={"takes": ChangeTakes.RELOAD},
        ),
    ] = {}

    slow_call_s: Annotated[
        float,
        Meta(
            ge=0.001,
            le=1e6,
            description="A call that takes longer, from its arrival at its worker to its answer, is a line of the log that says "
            "where its time went. Of one method a line comes each second at most.",
            extra={"takes": ChangeTakes.RELOAD},
        ),
    ] = SLOW_CALL_S

    def settings(self) -> LogSettings:
        """As processes are told."""
        return LogSettings(self.level, self.format, self.levels)


class MetricsConfig(msgspec.Struct, frozen=True):
    listen: Annotated[
        str,
        Meta(
            description="Where Prometheus finds /metrics, and probes find /livez and /readyz, over HTTP: 127.0.0.1:9464. Empty: "
            "nowhere. Whoever reaches it sees names of classes and numbers, no object and no data.",
            extra={"problem": check_address},
        ),
    ] = ""


class Config(msgspec.Struct, frozen=True):
    service: ServiceConfig = ServiceConfig()
    storage: StorageConfig = StorageConfig()
    log: LogConfig = LogConfig()
    metrics: MetricsConfig = MetricsConfig()


# Read


TABLE = table_of(Config)
SET = "--set"
"""The flag that sets any option."""
OPTIONS: Mapping[str, Mapping[str, Option]] = {
    section: {option.name: option for option in part.options()}
    for section, part in TABLE.parts.items()
    if isinstance(part, Table)
}
"""By section, in the order in which they are explained."""
_BY_SET = {f"{SET} {'.'.join(option.path)}": option.path for option in TABLE.options()}
_BY_VARIABLE = {variable(option.path): option.path for option in TABLE.options()}
APP_VARIABLES = variable((SECTION, ""))
"""What those of the app's settings begin with."""
_SECTIONS = tuple(variable((section, "")) for section in OPTIONS)
_WITHOUT_SECTION = {variable((option.name,)): variable(option.path) for option in TABLE.options()}


@dataclass(frozen=True)
class Sources:
    """What a configuration is put together from; later ones go before earlier ones."""

    file: str = ""
    """Its name; empty where there is none."""
    text: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    sets: Mapping[str, str] = field(default_factory=dict)
    """By full name: what `--set` says."""
    flags: Mapping[Path, Any] = field(default_factory=dict)
    """What the flags of options say."""
    credentials: Mapping[str, str] = field(default_factory=dict)
    """Of the app, by name."""
    mistakes: Sequence[Mistake] = ()
    """What is wrong already."""


@dataclass(frozen=True)
class Configuration:
    """A configuration as it was read."""

    config: Config
    origins: Mapping[Path, SetBy] = field(default_factory=dict)
    """Of everything that is not as by default."""
    notes: tuple[str, ...] = ()
    """What is no mistake, and perhaps not what was meant."""
    app: AppSources = field(default_factory=AppSources)

    def shown(self) -> list[ShownOption]:
        return [shown_option(option, value_at(TABLE, self.config, option.path), self.origins) for option in TABLE.options()]


def put_together(sources: Sources) -> Configuration:
    """Raises Mistakes."""
    values, wrong_file = parse_toml(sources.text, sources.file)
    if SECTION in values:  # Who has imported the app reads it.
        wrong_file = section_of(sources.text, sources.file)[1]
        values = {name: value for name, value in values.items() if name != SECTION}
    mistakes = [*sources.mistakes, *wrong_file]
    layers = [ValueLayer("file", sources.file, values)]
    named = {name: text for name, text in sources.environment.items() if text and name.startswith(f"{PREFIX}_")}
    given = {
        name: text
        for name, text in named.items()
        if name in _BY_VARIABLE or (name.startswith(_SECTIONS) and not is_of_kubernetes(name))
    }
    sets = {f"{SET} {name}": text for name, text in sources.sets.items()}
    app_sets = {name: text for name, text in sets.items() if name.startswith(f"{SET} {SECTION}.")}
    of_app = {name: text for name, text in named.items() if name.startswith(APP_VARIABLES)}
    for layer, wrong in (
        texts_of("environment", "environment", TABLE, _BY_VARIABLE, given),
        texts_of("flag", "command line", TABLE, _BY_SET, {name: sets[name] for name in sets if name not in app_sets}),
    ):
        layers.append(layer)
        mistakes += wrong
    written = {path: flag.partition(" ")[0] for path in sources.flags if (flag := option_at(path).flag)}
    layers.append(ValueLayer("flag", "command line", nested(sources.flags), True, written))
    reading = read(TABLE, layers)
    if mistakes := [*mistakes, *reading.mistakes]:
        raise Mistakes(mistakes, reading=reading)
    notes = tuple(
        f"{name} is heeded by nobody: the option is {_WITHOUT_SECTION[name]}" for name in named if name in _WITHOUT_SECTION
    )
    app = AppSources(sources.file, sources.text, dict(sources.credentials), of_app, app_sets)
    return Configuration(reading.value, reading.origins, notes, app)


def option_at(path: Path) -> Option:
    section, name = path
    return OPTIONS[section][name]


def merge(config: Config, values: Mapping[str, Mapping[str, Any]], place: str) -> Config:
    """`config` with `values` laid over it, by section; `place` says in messages where they come from. Raises Mistakes."""
    reading = read(table_of(Config, base=config), [ValueLayer("file", place, values)])
    if reading.mistakes:
        raise Mistakes(reading.mistakes)
    merged: Config = reading.value
    return merged
