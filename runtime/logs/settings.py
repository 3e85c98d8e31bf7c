"""What a process is told about its log: by the configuration, and a child by its supervisor.

Rule: pure. Where the journal is, and what a process inherits, is looked up in `capture`.
"""

from __future__ import annotations

import msgspec

from tidegate.runtime.logs.line import Format, Level

VARIABLE = "TIDEGATE_LOG"
"""Environment variable by which the supervisor tells its children all of this; for nobody else."""


class LogSettings(msgspec.Struct, frozen=True):
    level: Level = "info"
    format: Format = "auto"
    """`auto`: native to journald where that reads the stream, else text."""
    levels: dict[str, Level] = {}
    """Of loggers, by name: they go before `level` and before what the app says."""
    journal: tuple[bool, bool] = (False, False)
    """Of a child: whether stdout and stderr of the service end in the journal."""


encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(LogSettings).decode


def decode(text: str) -> LogSettings:
    """Of what a supervisor has said; the defaults where nobody has."""
    try:
        return _decode(text)
    except msgspec.MsgspecError:
        return LogSettings()
