"""`tidegate serve --dev`: what is saved is what runs, with the objects' data as it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.service import Serve, Service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(400)
RELOADED_S = 120.0
"""Within this a reload is over, also on a machine that has no time for it."""

APP = """
from tidegate import DurableObject
from prices import PRICE

class Till(DurableObject):
    async def sell(self) -> list[int]:
        sold = await self.storage.get("sold", 0) + 1
        await self.storage.put("sold", sold)
        return [sold, PRICE, {factor}]
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "prices.py").write_text("PRICE = 1\n")
    (tmp_path / "till.py").write_text(APP.format(factor=1))
    return tmp_path / "till.py"


def replace(path: Path, text: str) -> None:
    """As editors do that write beside a file and put what they have written into its place."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    os.rename(beside, path)


def sells(service: Service, price: int, factor: int) -> int:
    """How much the till of alice has sold, once it sells so."""

    def sold() -> int:
        count, *way = service.call("Till", "alice", "sell")
        return int(count) if way == [price, factor] else 0

    return wait_until(sold, f"selling at {price} times {factor}", RELOADED_S)


def test_what_is_saved_runs_a_moment_later_with_the_objects_data_kept(serve: Serve, app: Path) -> None:
    app.write_text(APP.format(factor=1) + "    async def look(self) -> None:\n        open('x')\n")
    service = serve(1, "--dev", app=str(app))
    service.expect("till.py:11: blocks: open")
    service.wait_for_output(r"till\.py:11: blocks: open holds up every object", within_s=RELOADED_S)
    assert service.call("Till", "alice", "sell") == [1, 1, 1]
    replace(app.with_name("prices.py"), "PRICE = 2\n")
    assert sells(service, 2, 1) > 1
    replace(app.with_name("prices.py"), "PRICE = 3\n")  # Two files, one reload: the log counts them.
    app.write_text(APP.format(factor=3))
    assert sells(service, 3, 3) > 2
    assert service.output.count("the app is loaded again") == 2


def test_a_save_that_cannot_be_loaded_leaves_the_old_one_running_says_where_and_is_mended_by_the_next(
    serve: Serve, app: Path
) -> None:
    service = serve(1, "--dev", app=str(app))
    service.expect("reload failed", "Traceback", "SyntaxError", "ModuleNotFoundError")
    app.write_text(f"{APP.format(factor=2)}\ndef f(:\n")
    service.wait_for_output(r"till\.py:11\); the old version goes on", within_s=RELOADED_S)
    assert service.call("Till", "alice", "sell")[1:] == [1, 1]
    app.write_text(f"import discounts\n{APP.format(factor=4)}")
    service.wait_for_output("No module named 'discounts'", within_s=RELOADED_S)
    wait_until(lambda: "discounts" in str(service.status()["problems"]), "the problem in the status")
    app.with_name("discounts.py").write_text("")
    assert sells(service, 1, 4) > 1
    wait_until(lambda: service.status()["problems"] == [], "the end of the problem")
