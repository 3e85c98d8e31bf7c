"""The power goes: what the disk was not told to flush is lost, every process ends, and the service is started again."""

from __future__ import annotations

from random import Random

from tidegate.runtime.chaos.faults.fault import Stage

DYING_S = 0.0, 0.3
"""Between the last write that the disk takes and the end of the processes."""


class Power:
    def strike(self, stage: Stage, chance: Random) -> str:
        assert stage.disk is not None
        dying_s = chance.uniform(*DYING_S)
        stage.disk.cut_power()
        stage.pause(dying_s)
        stage.service.kill_all()
        stage.disk.restore_power()
        stage.service.start()
        return f"ended {dying_s * 1_000:.0f} ms later"
