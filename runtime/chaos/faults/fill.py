"""The disk is full to its last block; large values are written until one is refused, and after the disk has room again, until one
is taken."""

from __future__ import annotations

from random import Random

from tidegate.runtime.chaos.faults.fault import Stage
from tidegate.runtime.chaos.service import ServiceFailed

SECONDS = 0.2, 2.0
VALUE_BYTES = 1 << 20
WRITES_MAX = 400


class Fill:
    def __init__(self) -> None:
        self._value = 0

    def strike(self, stage: Stage, chance: Random) -> str:
        assert stage.disk is not None
        seconds = chance.uniform(*SECONDS)
        stage.disk.fill()
        try:
            refused_after = self._write_until(stage, chance, answered=False)
            stage.pause(seconds)
        finally:
            stage.disk.empty()
        self._write_until(stage, chance, answered=True)
        return f"a commit met it after {refused_after} MiB"

    def _write_until(self, stage: Stage, chance: Random, *, answered: bool) -> int:
        """How many writes went otherwise. Raises ServiceFailed."""
        for count in range(WRITES_MAX):
            self._value += 1
            operation = stage.calls.call(("Bulk", chance.choice(stage.roster.now("Bulk")), "write", (self._value, VALUE_BYTES)))
            if (operation.fate == "answered") is answered:
                return count
            stage.pause(0.1 if answered else 0.0)
        wanted = (
            "no write is answered though the disk has room" if answered else "every write is answered though the disk is full"
        )
        raise ServiceFailed(f"{wanted}: {WRITES_MAX} were tried; the last one: {operation.fate} {operation.error}")
