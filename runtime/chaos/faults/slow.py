"""Every sync takes much longer for a while."""

from __future__ import annotations

from random import Random

from tidegate.runtime.chaos.faults.fault import Stage

DELAY_S = 0.01, 1.0
SECONDS = 0.5, 4.0


class Slow:
    def strike(self, stage: Stage, chance: Random) -> str:
        assert stage.syncs is not None
        delay_s, seconds = chance.uniform(*DELAY_S), chance.uniform(*SECONDS)
        stage.syncs.slow_down(delay_s)
        try:
            stage.pause(seconds)
        finally:
            stage.syncs.slow_down(0)
        return f"syncs by {delay_s * 1_000:.0f} ms for {seconds:.1f} s"
