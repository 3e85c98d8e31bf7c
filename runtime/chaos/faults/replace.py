"""Processes are replaced one by one, by the command that an operator would give: workers by a new version of the app, now and
then by one that cannot be loaded and so must change nothing; or all but the supervisor."""

from __future__ import annotations

from random import Random

from tidegate.runtime.chaos.faults.fault import Stage
from tidegate.runtime.chaos.stage.service import ServiceFailed
from tidegate.runtime.chaos.verdict.report import NOT_DONE

BROKEN_SHARE = 0.15
POLL_S = 0.05


class Reload:
    def __init__(self) -> None:
        self._version = 0

    def strike(self, stage: Stage, chance: Random) -> str:
        """Raises ServiceFailed if a version that cannot be loaded is taken."""
        self._version += 1
        if chance.random() < BROKEN_SHARE:
            stage.service.write_app("raise RuntimeError('a version that cannot be loaded')")
            if not (said := _ended(stage, "reload")):
                raise ServiceFailed("a version of the app that cannot be loaded was taken")
            stage.service.write_app(f"VERSION = {self._version}")
            return "a broken version, refused" if "cannot be loaded" in said else f"{NOT_DONE}: {said}"
        stage.service.write_app(f"VERSION = {self._version}")
        said = _ended(stage, "reload")
        return f"{NOT_DONE}: {said}" if said else "a new version"


class Roll:
    def strike(self, stage: Stage, chance: Random) -> str:
        said = _ended(stage, "restart", "--rolling")
        return f"{NOT_DONE}: {said}" if said else "every process"


def _ended(stage: Stage, *command: str) -> str:
    """What it complains of, when it has ended. Empty: it was done."""
    with stage.service.command(*command) as running:
        while running.poll() is None:
            stage.pause(POLL_S)
        return (running.stderr.read() if running.stderr else "").strip() if running.returncode else ""
