"""A call that its worker no longer knows is answered all the same, and leaves the books of whoever has sent it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.service import Serve, exchange
from tests.support.waiting import wait_until
from tidegate.runtime.ids import shard_of_slot, slot_of

APP = str(Path(__file__).parent / "apps" / "vanishing.py")
SOONER = "import tidegate.runtime.limits\ntidegate.runtime.limits.INQUIRY_S = 0.5\n"
LOST = r"worker \d no longer knows of \d+ call"


def test_calls_that_vanish_are_answered_by_router_and_peers_and_one_that_takes_long_is_left_alone(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SOONER)  # Every process asks so much sooner; nothing else is different.
    service = serve(2, app=APP, environment={"PYTHONPATH": str(tmp_path)})
    service.expect(LOST)
    shards = int(service.status()["shards"]) if "shards" in service.status() else 8
    worker = {name: shard_of_slot(slot_of("Vanishing", name), shards) % 2 for name in "abcdefgh"}
    other = next(name for name in worker if worker[name] != worker["a"])
    with ThreadPoolExecutor() as pool:
        long = pool.submit(service.call, "Vanishing", "a", "take_long", 4.0)
        lost = [pool.submit(exchange, service.endpoint, "Vanishing", name, "vanish") for name in "abc"]
        for status, error in (each.result() for each in lost):
            assert (status, error["code"], error["outcome"], error["retryable"]) == (1, "internal", "unknown", False)
        assert "no longer knows of the call" in service.call("Vanishing", "a", "call_another", other)
        assert long.result() == "done"
    service.wait_for_output(LOST)
    wait_until(lambda: service.status()["router"]["in_flight"] == [0, 0], "the books are empty")
    assert service.status()["router"]["forgotten"] == 3
    assert service.call("Vanishing", "a", "take_long", 0.0) == "done"
