"""The configuration of a service: a frozen tree, built once from defaults, a TOML file and the command line.

Rule 1: pure. Reading files and the environment is the caller's business.
Rule 2: later wins: defaults, then the file, then the command line.
Rule 3: everything wrong is an OperatorError of one form: where it was given, which option, what is allowed, what was given.

To add an option, add a field here, in `ServiceConfig`, `StorageConfig` or `LogConfig`, and nothing else:

* its type says what is allowed, by msgspec's constraints; a message says the same in words, which are made of the type;
* its name ends in its unit, `_s` or `_mib`;
* its `Meta` has the sentence that explains it, for `--help` and for `systemd/tidegate.toml`: a test shows what is missing there;
* `flag` in it puts it on the command line of `tidegate serve`: `--workers N|auto`, `--dev` (takes no value), `APP` (has no flag).

What reads it gets it from the supervisor: in `WorkerSpec` or `RouterSpec`, if a child does.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tidegate.runtime.addresses import check_address, check_endpoint
from tidegate.runtime.errors import OperatorError
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
)
from tidegate.runtime.logs.line import Format, Level
from tidegate.runtime.logs.settings import LogSettings
from tidegate.runtime.wire.supervisor_messages import KeyBounds

LISTEN_DEFAULT = "tcp://127.0.0.1:7711"
DATA_DEFAULT = "tidegate-data"

_Auto = Literal["auto"]
_Text = Annotated[str, Meta(min_length=1)]


class ServiceConfig(msgspec.Struct, frozen=True):
    app: Annotated[
        _Text,
        Meta(
            description="The objects to serve: a file or module, or some of its classes: app.py:Class,Class.",
            extra={"flag": "APP"},
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
            description="Where clients connect. There is no authentication yet: do not listen beyond machines that you trust.",
            extra={"flag": "--listen ENDPOINT", "problem": check_endpoint},
        ),
    ] = LISTEN_DEFAULT
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
        Meta(ge=1, le=3_600, description="A process that does not answer for this long is killed and started again."),
    ] = 30.0
    held_up_s: Annotated[
        float,
        Meta(
            ge=HELD_UP_NAMED_S,
            le=3_600,
            description="Code of an object that holds up its worker for this long, by computing or blocking, is interrupted and "
            "the object reset; if that does not help the worker is started again. Not with --dev.",
        ),
    ] = HELD_UP_S
    offload_processes: Annotated[
        int,
        Meta(
            ge=1,
            le=OFFLOAD_PROCESSES_MAX,
            description="Processes of each worker that run what objects offload, started when needed. What they cannot take at "
            "once waits.",
        ),
    ] = OFFLOAD_PROCESSES
    offload_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=86_400,
            description="What an object offloads may compute for this long. Then its process is killed, and whoever waits for it "
            "gets a TimeoutError.",
        ),
    ] = OFFLOAD_S
    stop_s: Annotated[
        float,
        Meta(
            ge=0.5,
            le=3_600,
            description="A stop answers what is in flight and writes checkpoints within this time; what is left then is killed. "
            "Keep TimeoutStopSec of the unit above it.",
        ),
    ] = 9.0
    reload_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3_600,
            description="When a worker is replaced (`tidegate reload`), the calls that it has begun get this time to end; what "
            "runs longer is answered shard_lost. New calls wait meanwhile.",
        ),
    ] = 10.0
    budget_mib: Annotated[
        _Auto | Annotated[int, Meta(ge=BUDGET_BYTES_MIN >> 20, le=1 << 20)],
        Meta(
            description="Memory of each router and worker for calls and replies: what waits, what is being received, what "
            f'clients have not read. Beyond, calls are refused as overloaded. "auto" is an eighth of the machine\'s, dealt to '
            f"them, from {BUDGET_BYTES_MIN >> 20} to {BUDGET_BYTES >> 20} MiB.",
        ),
    ] = "auto"
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
        ),
    ] = "auto"
    idle_evict_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400 * 365,
            description="Objects without calls for this long leave memory. They lose nothing but memory.",
        ),
    ] = IDLE_EVICT_S
    keys_mib: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 20,
            description="Memory of each worker for what calls with a key were answered, dealt to its shards. When it is full the "
            "oldest answers leave, and are counted (answers_dropped in the status).",
        ),
    ] = KEYS_BYTES >> 20
    keys_kept_s: Annotated[
        int,
        Meta(
            ge=60,
            le=86_400 * 365,
            description="A key that is repeated within this time is answered as it was the first time.",
        ),
    ] = KEYS_KEPT_S
    keys_per_object: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="Of the keys of one object, the answers to so many are kept, the newest. (Those of clients that number "
            "their calls, as the Python clients do, leave when they have arrived, and do not count.)",
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
            extra={"flag": "--log-level LEVEL"},
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
            'the service begin with "tidegate".'
        ),
    ] = {}

    slow_call_s: Annotated[
        float,
        Meta(
            ge=0.001,
            le=1e6,
            description="A call that takes longer, from its arrival at its worker to its answer, is a line of the log that says "
            "where its time went. Of one method a line comes each second at most.",
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


# Options as data


@dataclass(frozen=True)
class Option:
    """One field of a section."""

    name: str
    type: Any
    default: Any
    description: str
    flag: str | None
    """How it is written on the command line, if it can be: the flag and what stands for its value."""
    problem: Callable[[object], str | None]
    """What its type cannot say: why a value cannot be used, or None."""

    def read(self, value: object, place: str, *, from_text: bool) -> Any:
        """Raises OperatorError."""
        problem = self.problem(value)
        if problem is None:
            if from_text and _takes_whole_numbers(msgspec.inspect.type_info(self.type)):
                value, from_text = int(value) if isinstance(value, str) and value.isdecimal() else value, False
            try:
                return msgspec.convert(value, self.type, strict=not from_text)
            except msgspec.ValidationError:
                problem = f"must be {allowed(msgspec.inspect.type_info(self.type), _unit_of(self.name))}"
        raise OperatorError("read", f"{place} {self.name}", f"{problem}, not {value!r}", "correct the value")


def _takes_whole_numbers(kind: msgspec.inspect.Type) -> bool:
    """Their texts are digits: msgspec would also take 4.0 and 1e3 for one."""
    match kind:
        case msgspec.inspect.Metadata(inner):
            return _takes_whole_numbers(inner)
        case msgspec.inspect.UnionType(kinds):
            return any(map(_takes_whole_numbers, kinds))
    return isinstance(kind, msgspec.inspect.IntType)


def _options(section: type[msgspec.Struct]) -> Iterator[Option]:
    for option in msgspec.structs.fields(section):
        info = msgspec.inspect.type_info(option.type)
        assert isinstance(info, msgspec.inspect.Metadata), option.name
        extra = info.extra or {}
        description = (info.extra_json_schema or {})["description"]
        problem = extra.get("problem", lambda value: None)
        default = option.default if option.default is not msgspec.NODEFAULT else option.default_factory()
        yield Option(option.name, option.type, default, description, extra.get("flag"), problem)


OPTIONS: dict[str, dict[str, Option]] = {
    section.name: {option.name: option for option in _options(section.type)} for section in msgspec.structs.fields(Config)
}
"""By section, in the order in which they are explained."""

_UNITS = {"_s": " of seconds", "_mib": " of MiB"}


def _unit_of(name: str) -> str:
    return next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")


def allowed(kind: msgspec.inspect.Type, unit: str) -> str:
    """What a type takes, in words."""
    match kind:
        case msgspec.inspect.Metadata():
            return allowed(kind.type, unit)
        case msgspec.inspect.UnionType():
            return " or ".join(allowed(each, unit) for each in sorted(kind.types, key=_is_number))
        case msgspec.inspect.LiteralType(values=(only,)):
            return f'"{only}"'
        case msgspec.inspect.LiteralType():
            return f"one of {', '.join(map(str, kind.values))}"
        case msgspec.inspect.IntType():
            return f"a whole number{unit}{_bounds(kind)}"
        case msgspec.inspect.FloatType():
            return f"a number{unit}{_bounds(kind)}"
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.DictType():
            return f"a table of names, each with {allowed(kind.value_type, unit)}"
        case msgspec.inspect.StrType(min_length=1):
            return "a text that is not empty"
        case msgspec.inspect.StrType():
            return "a text"
    raise TypeError(f"options of the type {kind} have no words yet")


def _bounds(kind: msgspec.inspect.IntType | msgspec.inspect.FloatType) -> str:
    words = (("from", kind.ge), ("above", kind.gt), ("to" if kind.gt is None else "up to", kind.le))
    return "".join(f" {word} {bound:.12g}" for word, bound in words if bound is not None)


def _is_number(kind: msgspec.inspect.Type) -> bool:
    return isinstance(kind, msgspec.inspect.IntType | msgspec.inspect.FloatType)


# Values

Values = Mapping[str, Mapping[str, Any]]
"""Option values by section, as TOML has them."""


def parse_toml(text: str, place: str) -> Values:
    """The values of a file, not yet checked. Raises OperatorError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise OperatorError("read", place, f"not TOML: {error}", "see systemd/tidegate.toml for an example") from error


def merge(config: Config, values: Values, place: str, *, from_text: bool = False) -> Config:
    """`config` with `values` laid over it; `place` says in messages where they come from. `from_text`: there they are texts, also
    of what is none. Raises OperatorError."""
    changes = {}
    for section, given in values.items():
        if section not in OPTIONS:
            raise OperatorError("read", place, f"unknown section [{section}]", _suggest(section, OPTIONS))
        if not isinstance(given, Mapping):
            raise OperatorError("read", place, f"{section} is not a section", f"write [{section}] on a line of its own")
        where, known = f"{place} [{section}]", OPTIONS[section]
        if unknown := [name for name in given if name not in known]:
            raise OperatorError("read", f"{where} {unknown[0]}", "unknown option", _suggest(unknown[0], known))
        read = {name: known[name].read(value, where, from_text=from_text) for name, value in given.items()}
        changes[section] = msgspec.structs.replace(getattr(config, section), **read)
    return msgspec.structs.replace(config, **changes)


def _suggest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
