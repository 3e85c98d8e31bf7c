"""What each fault of the catalogue does, but for those of hosts only: `of_hosts`."""

from __future__ import annotations

from tidegate.runtime.chaos.faults.drop import Drop
from tidegate.runtime.chaos.faults.fail import Fail
from tidegate.runtime.chaos.faults.fault import Fault
from tidegate.runtime.chaos.faults.fill import Fill
from tidegate.runtime.chaos.faults.freeze import Freeze
from tidegate.runtime.chaos.faults.kill import KillProcess
from tidegate.runtime.chaos.faults.power import Power
from tidegate.runtime.chaos.faults.replace import Reload, Roll
from tidegate.runtime.chaos.faults.restart import RestartService
from tidegate.runtime.chaos.faults.slow import Slow

STRIKERS: dict[str, type[Fault]] = {
    "kill": KillProcess,
    "freeze": Freeze,
    "drop": Drop,
    "restart": RestartService,
    "reload": Reload,
    "roll": Roll,
    "slow": Slow,
    "fail": Fail,
    "fill": Fill,
    "power": Power,
}
"""By name."""
