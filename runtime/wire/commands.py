"""What a command of an operator and the supervisor say to each other: JSON, one object a line, over a unix socket.

The command is the first line and the only one from that side; `Said` may follow any number of times, `Ended` closes. `status`
is answered by `Status` alone, `config` by `ShownConfig`. Who may command is seen by the credentials that the kernel gives the
socket: the service's user and root. Nobody can from another machine, whatever key he has.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tidegate.runtime.limits import VALUE_BYTES_MAX
from tidegate.runtime.wire.supervisor_messages import Failed
from tidegate.runtime.wire.wishes import Wish

COMMAND_BYTES_MAX = 8 << 20
"""The largest value, as it is stored and in base64, or arguments of a call, and room to spare. Only who may command is listened
to."""
assert VALUE_BYTES_MAX * 4 // 3 * 2 < COMMAND_BYTES_MAX


AuditedValues = Literal["none", "old", "all"]


class Command(msgspec.Struct, frozen=True):
    what: Literal["reload", "restart", "status", "config", "access", "release_object", "drop_alarm", "run_alarm", "wish"]
    """`reload`: all workers are replaced, one by one, with the app and the configuration as they are now. `restart`: the routers
    too. `status`: how the service is at this moment, also while no router answers. `config`: what is in effect. `access`: the
    list of access keys has changed; over when that is in force. The rest is about one object: it is let out of quarantine, its
    abandoned alarm is forgotten, or set again for now; or what `wish` says."""
    object: str = ""
    """`CLASS/NAME`."""
    wish: Wish | None = None
    timeout_s: float = 10.0
    """Of a wish: what cannot be begun in this time is not done."""
    values: AuditedValues = "old"
    """Which the audit log gets of an edit: what has been there, if it is small, so that the edit can be taken back; all, also
    what there is now, and arguments; or none."""


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
    error: dict[str, Any] | None = None
    """Of a command about an object: what its worker has answered instead of doing it, as the wire protocol has it."""
    result: dict[str, Any] | None = None
    """What came of a wish."""


class Status(msgspec.Struct, frozen=True, tag="status"):
    status: dict[str, Any]
    """What the system call of that name answers."""


class ShownConfig(msgspec.Struct, frozen=True, tag="config"):
    options: list[Any]
    """Each as `tidegate config show` has it."""


encode = msgspec.json.Encoder().encode
decode_command = msgspec.json.Decoder(Command).decode
decode_answer = msgspec.json.Decoder(Said | Ended | Status | ShownConfig).decode
