"""SIGSTOP, and after a while SIGCONT: a process that does not run, as on a machine that swaps or is suspended."""

from __future__ import annotations

import contextlib
import os
import signal
from random import Random

from tidegate.runtime.chaos.faults.fault import Stage
from tidegate.runtime.chaos.faults.kill import NAMES, victim

SECONDS = 0.05, 3.0


class Freeze:
    def strike(self, stage: Stage, chance: Random) -> str:
        role, pid = victim(stage, stage.some_service(chance), chance)
        seconds = chance.uniform(*SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            try:
                stage.pause(seconds)
            finally:
                os.kill(pid, signal.SIGCONT)
        return f"{NAMES[role]} for {seconds:.1f} s"
