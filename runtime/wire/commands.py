"""What a command of an operator and the supervisor say to each other: JSON, one object a line, over a unix socket.

The command is the first line and the only one from that side; `Said` may follow any number of times, `Ended` closes. `status`
is answered by `Status` alone, `config` by `ShownConfig`. Who may open the socket may command: it is in the run directory, which
only the service's user can enter.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tidegate.runtime.wire.supervisor_messages import Failed


class Command(msgspec.Struct, frozen=True):
    what: Literal["reload", "restart", "status", "config"]
    """`reload`: all workers are replaced, one by one, with the app and the configuration as they are now. `restart`: the routers
    too. `status`: how the service is at this moment, also while no router answers. `config`: what is in effect."""


class Replaced(msgspec.Struct, frozen=True):
    """One process that was replaced, and what its callers noticed of it."""

    name: str
    app_version: str
    """Of the new worker; empty of a router."""
    waited_calls: int
    """Calls that were kept back until the new process served."""
    waited_ms_max: float
    """The longest of these waits."""
    unanswered: int
    """Calls that ran beyond the bound and were answered `shard_lost`."""
    gap_ms: float
    """From when the old process got no new calls until the new one served."""


class ConfigChange(msgspec.Struct, frozen=True):
    """One option that is set to something else than before."""

    option: str
    """Its full name."""
    before: Any
    after: Any
    takes: str
    """What the change takes until it is in effect."""


class ConfigChanges(msgspec.Struct, frozen=True):
    """What a replacement has found to be set otherwise."""

    changed: tuple[ConfigChange, ...] = ()
    """What it brings into effect."""
    waiting: tuple[ConfigChange, ...] = ()
    """What takes more than it."""


class Said(msgspec.Struct, frozen=True, tag="said"):
    text: str


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    replaced: tuple[Replaced, ...]
    failed: Failed | None = None
    """Why not every process is a new one."""
    mixed: bool = False
    """Some workers run one version of the app, and some another."""
    config: ConfigChanges = ConfigChanges()


class Status(msgspec.Struct, frozen=True, tag="status"):
    status: dict[str, Any]
    """What the system call of that name answers."""


class ShownConfig(msgspec.Struct, frozen=True, tag="config"):
    options: list[Any]
    """Each as `tidegate config show` has it."""


encode = msgspec.json.Encoder().encode
decode_command = msgspec.json.Decoder(Command).decode
decode_answer = msgspec.json.Decoder(Said | Ended | Status | ShownConfig).decode
