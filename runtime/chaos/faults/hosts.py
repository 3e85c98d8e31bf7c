"""What befalls a whole host of a cluster: it is lost, now and then with its disk, or sleeps long enough to be taken for lost."""

from __future__ import annotations

import shutil
import signal
from random import Random

from tidegate.runtime.chaos.faults.fault import Stage

AWAY_S = 0.0, 8.0
ASLEEP_S = 0.5, 10.0
"""Others take it for lost after 3 s."""
WITH_ITS_DISK = 0.25


class LoseHost:
    def strike(self, stage: Stage, chance: Random) -> str:
        host = chance.choice(list(stage.hosts.hosts.values()))
        seconds = chance.uniform(*AWAY_S)
        with_disk = chance.random() < WITH_ITS_DISK
        host.kill_all()
        if with_disk:
            shutil.rmtree(host.data)
        try:
            stage.pause(seconds)
        finally:
            host.launch()
        host.wait_until_ready(stage.pause)
        return "with its disk" if with_disk else "with its disk kept"


class Sleep:
    def strike(self, stage: Stage, chance: Random) -> str:
        host = chance.choice(list(stage.hosts.hosts.values()))
        seconds = chance.uniform(*ASLEEP_S)
        asleep = host.signal_all(signal.SIGSTOP)
        try:
            stage.pause(seconds)
        finally:
            host.signal_all(signal.SIGCONT, asleep)
        return "for long" if seconds > 3 else "for less than others wait"
