"""A plain stop and start, as an operator would."""

from __future__ import annotations

from random import Random

from tidegate.runtime.chaos.faults.fault import Stage

DOWN_S = 0.0, 1.0


class RestartService:
    def strike(self, stage: Stage, chance: Random) -> str:
        down_s = chance.uniform(*DOWN_S)
        service = stage.some_service(chance)
        service.stop()
        stage.pause(down_s)
        service.launch()
        service.wait_until_ready(stage.pause)
        return f"started {down_s:.1f} s later"
