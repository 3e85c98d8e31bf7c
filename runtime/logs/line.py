"""One line of the log, whatever its form: when, how grave, from which process, of whose code, and what.

Rule: pure. A line is data; `forms` makes bytes of it.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "text", "json"]

PRINTED = ("stdout", "stderr")
"""What stands in the place of a logger in lines that were printed."""


class Speaker(NamedTuple):
    """Whose code writes: the object (`Class/name`), its method or another name for what runs, and the call.

    A call is known by its key: of a Python client's, session and number; else by the id that its sender gave it (the router
    numbers those that it forwards)."""

    object: str
    method: str = ""
    call: int | str | None = None

    def __str__(self) -> str:
        return f"{self.object} {self.method}" if self.call is None else f"{self.object} {self.method}[{self.call}]"

    def __reduce__(self) -> tuple[Any, ...]:
        """A record that travels to another machine takes a text along: there may be no Tidegate."""
        return str, (str(self),)


class Line(msgspec.Struct, omit_defaults=True):
    """As JSON it has these fields, in this order; those that are empty are left out."""

    time: str
    """ISO 8601 with the zone: `2026-11-29T03:04:05.678+01:00`."""
    level: str
    """`debug`, `info`, `warning`, `error` or `critical`."""
    process: str
    """`supervisor`, `router`, `worker 3`."""
    logger: str
    """`tidegate…`: the service itself. `stdout`, `stderr`: printed."""
    message: str
    pid: int = 0
    """Of that process; missing where it is not known which of its programs has written."""
    object: str = ""
    method: str = ""
    call: int | str | None = None
    traceback: str = ""
    extra: dict[str, Any] | None = None
    """What the code has given to `logging` as `extra`."""
