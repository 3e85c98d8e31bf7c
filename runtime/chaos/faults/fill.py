"""The disk is full to its last block; large values are written until one is refused, and after the disk has room again, until one
is taken. Each is of another object, so that in the end there is more than the files of the service have room for, however much
they have grown before; then all of them get small again."""

from __future__ import annotations

from random import Random

from tidegate.runtime.chaos.calls.workload import Call
from tidegate.runtime.chaos.faults.fault import Stage
from tidegate.runtime.chaos.stage.disk import Disk
from tidegate.runtime.chaos.stage.service import ServiceFailed
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
            written, met = self._write_until_refused(stage, stage.disk)
            stage.pause(seconds)
        finally:
            stage.disk.empty()
        self._write_until_answered(stage, written[-1])
        stage.calls.call_until_answered([self._write(name, 1) for name in written])
        return "a commit met it" if met else f"{NOT_DONE}: no commit met it"

    def _write_until_refused(self, stage: Stage, disk: Disk) -> tuple[list[str], bool]:
        """Of which objects, and whether one was refused."""
        names = stage.roster.at_least("Bulk", disk.size_mib)
        for count, name in enumerate(names):
            if count % FILL_EVERY == 0:
                disk.fill()  # Again: a checkpoint may have given something back.
            if stage.calls.call(self._write(name, VALUE_BYTES)).fate != "answered":
                return names[: count + 1], True
        return names, False

    def _write_until_answered(self, stage: Stage, name: str) -> None:
        """Raises ServiceFailed."""
        for _ in range(WRITES_MAX):
            operation = stage.calls.call(self._write(name, VALUE_BYTES))
            if operation.fate == "answered":
                return
            stage.pause(0.1)
        raise ServiceFailed(f"no write is answered though the disk has room; the last one: {operation.fate} {operation.error}")

    def _write(self, name: str, size_bytes: int) -> Call:
        self._value += 1
        return "Bulk", name, "write", (self._value, size_bytes)
