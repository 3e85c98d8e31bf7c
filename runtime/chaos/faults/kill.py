"""SIGKILL: a worker, a router, the supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
from random import Random

from tidegate.runtime.chaos.faults.fault import Stage
from tidegate.runtime.chaos.stage.service import ChaosService

ROLES = {"shard": 0.70, "router": 0.24, "supervisor": 0.06}
NAMES = {"shard": "a worker", "router": "a router", "supervisor": "the supervisor"}
WAIT_S = 0.1


def victim(stage: Stage, service: ChaosService, chance: Random) -> tuple[str, int]:
    """A process of it that lives, of a role that is drawn; of the other one where none of it does. What was killed often is
    started again after a while only."""
    drawn = chance.choices(list(ROLES), list(ROLES.values()))[0]
    draw = chance.random()
    roles = {"shard": ("shard", "router"), "router": ("router", "shard")}.get(drawn, (drawn,))
    while True:
        for role in roles:
            if pids := service.pids_of(role):
                return role, pids[int(draw * len(pids))]
        stage.pause(WAIT_S)


class KillProcess:
    def strike(self, stage: Stage, chance: Random) -> str:
        service = stage.some_service(chance)
        role, pid = victim(stage, service, chance)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if role == "supervisor":
            service.wait_until_ended()
            service.launch()
            service.wait_until_ready(stage.pause)
        return NAMES[role]
