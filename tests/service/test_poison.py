"""Objects whose calls end or hang their worker: named, refused for a while, and everything else goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Serve, Service, exchange
from tests.support.waiting import wait_until

APP = """
import os
from tidegate import DurableObject

class Poison(DurableObject):
    async def end(self) -> None:
        os._exit(3)

    async def hang(self) -> None:
        while True:
            pass

    async def hello(self) -> str:
        return "hello"
"""


@pytest.fixture
def poisoned(serve: Serve, tmp_path: Path) -> Service:
    app = tmp_path / "poison.py"
    app.write_text(APP)
    config = tmp_path / "t.toml"
    config.write_text("[service]\nliveness_s = 1\n")
    service = serve(1, "--config", str(config), app=str(app))
    service.expect("exited with code 3", "had not answered", "is ready again")
    return service


def ask(service: Service, name: str, method: str) -> tuple[int, Any]:
    return exchange(service.endpoint, "Poison", name, method)


@pytest.mark.parametrize("method", ["end", "hang"])
def test_an_object_that_ends_its_worker_again_and_again_is_named_and_refused_and_the_others_are_served(
    poisoned: Service, method: str
) -> None:
    for _ in range(3):
        status, error = ask(poisoned, "bad", method)
        assert (status, error["code"]) == (1, "shard_lost")
        assert ask(poisoned, "good", "hello") == (0, "hello")
    status, error = ask(poisoned, "bad", method)
    [shown] = poisoned.status()["refused_objects"]  # First of all: it is refused for 4 s only.
    assert shown == {"object": "Poison/bad", "deaths": 2, "code": method}
    assert (status, error["code"], error["outcome"]) == (1, "unavailable", "not_executed")
    assert "Poison/bad is refused for" in error["message"]
    assert f"the last time in {method}" in error["message"]
    assert f"while Poison/bad ran {method}, which has ended it 2 times and is refused for 4 s" in poisoned.output
    assert ask(poisoned, "good", "hello") == (0, "hello")
    wait_until(lambda: ask(poisoned, "bad", "hello") == (0, "hello"), "the end of the refusal")
    assert "Poison/good" not in poisoned.output
