"""The configuration of a service: a frozen tree, built once from defaults, a TOML file and the command line.

Rule 1: pure. Reading files and the environment is the caller's business.
Rule 2: later wins: defaults, then the file, then the command line.
Rule 3: everything wrong is an OperatorError that names the file, the option and the next step.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tidegate.runtime.addresses import check_endpoint
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.limits import IDLE_EVICT_S, ROUTERS_MAX, SHARDS_MAX

LISTEN_DEFAULT = "tcp://127.0.0.1:7711"
DATA_DEFAULT = "tidegate-data"

Check = Callable[[Any], str | None]
"""Why a value cannot be used, or None."""


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and value else "must be a text that is not empty"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


def _whole(low: int, high: int) -> Check:
    def check(value: Any) -> str | None:
        ok = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return None if ok else f"must be a whole number from {low} to {high}"

    return check


def _number(low: float, high: float) -> Check:
    def check(value: Any) -> str | None:
        ok = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        return None if ok else f"must be a number from {low:g} to {high:g}"

    return check


def _auto_or_whole(low: int, high: int) -> Check:
    def check(value: Any) -> str | None:
        ok = value == "auto" or _whole(low, high)(value) is None
        return None if ok else f'must be "auto" or a whole number from {low} to {high}'

    return check


def _choice(*choices: str) -> Check:
    def check(value: Any) -> str | None:
        return None if value in choices else f"must be one of {', '.join(choices)}"

    return check


def _option(default: Any, check: Check) -> Any:
    return field(default=default, metadata={"check": check})


@dataclass(frozen=True)
class ServiceConfig:
    app: str = _option("", _text)
    """A file `app.py`, or `module` or `module:Class,Class` found on Python's path."""
    data: str = _option("", _text)
    """The data directory. Default: $STATE_DIRECTORY under systemd, else `tidegate-data` in the current directory."""
    listen: str = _option(LISTEN_DEFAULT, check_endpoint)
    workers: int | str = _option("auto", _auto_or_whole(1, SHARDS_MAX))
    """Worker processes; "auto": one for each core this service may use."""
    routers: int | str = _option(1, _auto_or_whole(1, ROUTERS_MAX))
    """Router processes, which share the port that clients connect to; "auto": one for each 16 cores, at least one."""
    liveness_s: float = _option(30.0, _number(1, 3_600))
    """A process that does not answer for this long is killed and started again."""
    stop_s: float = _option(9.0, _number(0.5, 3_600))
    """A stop answers everything in flight and checkpoints within this time; what is left then is killed."""
    dev: bool = _option(False, _flag)
    """Errors carry tracebacks to the caller."""


@dataclass(frozen=True)
class StorageConfig:
    cache_mib: int | str = _option("auto", _auto_or_whole(0, 1 << 20))
    """Memory for objects and cached data of each worker; "auto": a quarter of the machine's, dealt to the workers. 0: every
    object leaves memory as soon as it has nothing to do."""
    idle_evict_s: float = _option(IDLE_EVICT_S, _number(0, 86_400 * 365))
    """Objects without calls for this long leave memory. They lose nothing but memory."""


CACHE_BYTES_MIN = 64 << 20
"""Of each worker, where it follows the machine."""


def cache_bytes(storage: StorageConfig, memory_bytes: int, workers: int) -> int:
    """Of each worker."""
    if isinstance(storage.cache_mib, int):
        return storage.cache_mib << 20
    return max(CACHE_BYTES_MIN, memory_bytes // 4 // workers)


@dataclass(frozen=True)
class LogConfig:
    level: str = _option("info", _choice("debug", "info", "warning", "error"))


@dataclass(frozen=True)
class Config:
    service: ServiceConfig = ServiceConfig()
    storage: StorageConfig = StorageConfig()
    log: LogConfig = LogConfig()


_SECTIONS = {section.name: section.default for section in dataclasses.fields(Config)}

Values = Mapping[str, Mapping[str, Any]]
"""Option values by section, as TOML has them."""


def parse_toml(text: str, place: str) -> Values:
    """The values of a file, not yet checked. Raises OperatorError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise OperatorError("read", place, f"not TOML: {error}", "see systemd/tidegate.toml for an example") from error


def merge(config: Config, values: Values, place: str) -> Config:
    """`config` with `values` laid over it; `place` says in messages where they come from. Raises OperatorError."""
    changes = {}
    for section, options in values.items():
        if section not in _SECTIONS:
            raise OperatorError("read", place, f"unknown section [{section}]", _suggest(section, _SECTIONS))
        if not isinstance(options, Mapping):
            raise OperatorError("read", place, f"{section} is not a section", f"write [{section}] on a line of its own")
        changes[section] = _merge_section(getattr(config, section), options, f"{place} [{section}]")
    return dataclasses.replace(config, **changes)


def _merge_section(section: Any, options: Mapping[str, Any], place: str) -> Any:
    known = {option.name: option for option in dataclasses.fields(section)}
    for name, value in options.items():
        if name not in known:
            raise OperatorError("read", f"{place} {name}", "unknown option", _suggest(name, known))
        if problem := known[name].metadata["check"](value):
            raise OperatorError("read", f"{place} {name}", f"{problem}, not {value!r}", "correct the value")
    return dataclasses.replace(section, **options)


def _suggest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
