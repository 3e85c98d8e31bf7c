"""Deadlines of raw clients, and starts that take their time: every call is answered when it was promised."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

import tidegate
from tests.support.service import COUNTER, Serve, exchange
from tests.support.waiting import wait_until

SLUGGISH = str(Path(__file__).parent / "apps" / "sluggish.py")
LATE_S_MAX = 1.5
"""The machine is busy with other tests."""


def timed_exchange(endpoint: str, *request: Any) -> tuple[float, int, Any]:
    began = time.monotonic()
    status, result = exchange(endpoint, *request, timeout_s=20)
    return time.monotonic() - began, status, result


@pytest.mark.parametrize("method", ["wait", "block"])
def test_a_call_that_runs_past_its_deadline_is_answered_at_it_by_whoever_can(serve: Serve, method: str) -> None:
    service = serve(1, app=SLUGGISH)
    service.expect("held up")
    took_s, status, error = timed_exchange(service.endpoint, "Sluggish", "a", method, [3.0], {"deadline_ms": 300})
    assert (status, error["code"], error["outcome"]) == (1, "deadline_exceeded", "unknown")
    assert 0.3 <= took_s < 0.3 + LATE_S_MAX
    # Behind a worker that is stuck, too, and then it has not run.
    took_s, status, error = timed_exchange(service.endpoint, "Sluggish", "b", "add", [1], {"deadline_ms": 200})
    if status:
        assert (error["code"], method) == ("deadline_exceeded", "block")
        assert took_s < 0.2 + LATE_S_MAX
    wait_until(lambda: service.call("Sluggish", "b", "add", 0) in (0, 1), "an answer")


def test_a_direct_client_is_answered_at_its_deadline(serve: Serve) -> None:
    service = serve(1, app=SLUGGISH)
    endpoint = service.call("", "", "topology")["shards"][0]["endpoint"]
    took_s, status, error = timed_exchange(endpoint, "Sluggish", "a", "wait", [3.0], {"deadline_ms": 300})
    assert (status, error["code"], error["outcome"]) == (1, "deadline_exceeded", "unknown")
    assert 0.3 <= took_s < 0.3 + LATE_S_MAX


def test_json_and_a_batch_have_deadlines_of_their_own(serve: Serve) -> None:
    service = serve(1, app=SLUGGISH)
    with zmq.Context() as context, context.socket(zmq.REQ) as req:
        req.linger = 0
        req.rcvtimeo = 20_000
        req.connect(service.endpoint)
        req.send(
            b'[[1, "Sluggish", "a", "wait", [2.5], {"deadline_ms": 200}], [2, "Sluggish", "b", "add", [5]],'
            b' [3, "Sluggish", "c", "wait", [0.1], {"deadline_ms": 10000}]]'
        )
        replies = {row[0]: row[1:] for row in msgspec.json.decode(req.recv())}
    assert replies[1][0] == 1
    assert replies[1][1]["code"] == "deadline_exceeded"
    assert replies[2] == [0, 5]
    assert replies[3] == [0, "late"]


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, to make the disk slow")
def test_calls_that_come_while_a_slow_start_is_under_way_wait_for_it(serve: Serve) -> None:
    """Nothing is down: the disk takes its time. Also when a worker is started again."""
    service = serve(2, app=COUNTER, start=False)
    slow = ["strace", "-f", "-qq", "-o", "/dev/null", *(f"-einject={call}:delay_exit=300000" for call in ("fdatasync", "fsync"))]
    slow.append("-einject=io_submit:error=EAGAIN")  # Whose syncs nothing would slow down.
    service.launch(2, wrapper=slow)
    numbers = [service.call("Counter", f"c{n}", "get_unique_number", timeout_s=60) for n in range(6)]
    assert numbers == [0] * 6
    service.wait_for_output("is ready on")
    service.kill_everything()  # A stop would take as long.


def test_a_python_client_is_told_what_the_service_knows_of_a_call_that_took_too_long(serve: Serve) -> None:
    """And not just that nothing came: a call that was never started may be made again."""
    service = serve(1, app=SLUGGISH)
    with tidegate.connect_sync(service.endpoint) as client:
        holding = client.stub("Sluggish", "a", timeout=20)
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(holding.hold, 8.0)
            wait_until(lambda: service.status()["processes"][2]["statistics"].get("tasks", 0) > 0, "the first call", 20)
            outcomes: list[str] = []
            while "not_executed" not in outcomes and len(outcomes) < 5:  # On a busy machine an answer may come too late.
                with pytest.raises(tidegate.DeadlineExceeded) as caught:
                    client.stub("Sluggish", "a", timeout=1.0).add(1)
                outcomes.append(caught.value.outcome)
            assert "not_executed" in outcomes, outcomes
            with pytest.raises(tidegate.DeadlineExceeded) as caught:
                client.stub("Sluggish", "b", timeout=0.5).wait(3.0)
            assert caught.value.outcome == "unknown"
            held.result()
        assert client.stub("Sluggish", "a").add(0) == 0
