"""An app that is edited while its service runs: until the next start all workers run the version of this one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.support.service import KILLED_BY_TEST, Serve
from tests.support.waiting import wait_until

APP = """
from tidegate import DurableObject
import rules

class Shop(DurableObject):
    async def price(self) -> list[int]:
        return [{price}, rules.TAX]
"""


def test_a_worker_that_is_started_again_runs_the_version_of_the_others_until_the_next_start(serve: Serve, tmp_path: Path) -> None:
    app, rules = tmp_path / "shop.py", tmp_path / "rules.py"
    app.write_text(APP.format(price=1))
    rules.write_text("TAX = 10\n")
    service = serve(2, app=str(app))
    names = [f"s{number}" for number in range(40)]
    first = service.status()["app_version"]

    app.write_text(APP.format(price=2))
    rules.unlink()
    service.expect(KILLED_BY_TEST, r"shop\.py, .*rules\.py changed on disk since it was loaded")
    os.kill(service.worker_pid(0), signal.SIGKILL)
    wait_until(lambda: service.status()["processes"][2]["restarts"] == 1, "the restart")
    assert {tuple(service.call("Shop", name, "price")) for name in names} == {(1, 10)}
    assert service.status()["app_version"] == first

    rules.write_text("TAX = 20\n")
    assert service.stop() == 0
    service.start(2)
    assert {tuple(service.call("Shop", name, "price")) for name in names} == {(2, 20)}
    assert service.status()["app_version"] != first
