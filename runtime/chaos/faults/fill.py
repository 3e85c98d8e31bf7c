"""The disk is full to its last block; large values are written until one is refused, and after the disk has room again, until one
is taken. A service that has grown before may find room for all of them in the files that it has: then no commit met it."""

from __future__ import annotations

from random import Random

from tidegate.runtime.chaos.faults.fault import Stage
from tidegate.runtime.chaos.stage.disk import Disk
from tidegate.runtime.chaos.stage.service import ServiceFailed
from tidegate.runtime.chaos.verdict.history import Operation
from tidegate.runtime.chaos.verdict.report import NOT_DONE

SECONDS = 0.2, 2.0
VALUE_BYTES = 1 << 20
WRITES_MAX = 400
FILL_EVERY = 20


class Fill:
    def __init__(self) -> None:
        self._value = 0

    def strike(self, stage: Stage, chance: Random) -> str:
        assert stage.disk is not None
        seconds = chance.uniform(*SECONDS)
        try:
            met = self._write_until_refused(stage, stage.disk, chance)
            stage.pause(seconds)
        finally:
            stage.disk.empty()
        self._write_until_answered(stage, chance)
        return "a commit met it" if met else f"{NOT_DONE}: no commit met it"

    def _write_until_refused(self, stage: Stage, disk: Disk, chance: Random) -> bool:
        for count in range(WRITES_MAX):
            if count % FILL_EVERY == 0:
                disk.fill()  # Again: a checkpoint may have given something back.
            if self._write(stage, chance).fate != "answered":
                return True
        return False

    def _write_until_answered(self, stage: Stage, chance: Random) -> None:
        """Raises ServiceFailed."""
        for _ in range(WRITES_MAX):
            operation = self._write(stage, chance)
            if operation.fate == "answered":
                return
            stage.pause(0.1)
        raise ServiceFailed(f"no write is answered though the disk has room; the last one: {operation.fate} {operation.error}")

    def _write(self, stage: Stage, chance: Random) -> Operation:
        self._value += 1
        return stage.calls.call(("Bulk", chance.choice(stage.roster.now("Bulk")), "write", (self._value, VALUE_BYTES)))
