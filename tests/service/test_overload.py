"""Clients that ask for too much, or do not read what they asked for: no process takes more than its budget, everybody is
answered, and a polite client hardly notices. The scenarios are those of `benchmarks/overload.py`, which has them in any size."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Serve, ask
from tidegate.benchmarks import overload
from tidegate.benchmarks.overload import run

APP = str(Path(__file__).resolve().parents[2] / "benchmarks" / "overload_app.py")
BUDGET_MIB = 512
GIVEN_BACK_MIB = 200
WORST_MS = 5_000
"""Of a neighbour's call; docs/reliability.md has the figures of a quiet machine."""

pytestmark = pytest.mark.alone  # How long a neighbour waits says nothing where other tests take the cores.


def overloaded(serve: Serve, scenario: str, **options: Any) -> dict[str, Any]:
    """What was seen beside it, once what must hold in every scenario is checked."""
    service = serve(1, app=APP)
    usual = {"name": "o", "direct": False, "read": True, "alone": 0.2, "pause_ms": 0.0, "nice": 0}
    seen = run(service.endpoint, scenario, argparse.Namespace(**{**usual, **options}))
    during = seen["during"]
    assert not during["errors"]
    assert during["worst_ms"] < WORST_MS, seen
    assert max(during["most_mib"].values()) < BUDGET_MIB, seen
    assert seen["answers"].get("none", 0) == 0, seen
    assert max(seen["after"]["now_mib"].values()) < GIVEN_BACK_MIB, seen
    assert ask(service.endpoint, "Bulk", "after", "number") == 0
    return seen


@pytest.mark.parametrize("direct", [False, True], ids=["router", "direct"])
def test_a_client_that_asks_for_much_and_does_not_read_costs_what_it_may_and_holds_up_nobody(serve: Serve, direct: bool) -> None:
    seen = overloaded(serve, "unread", clients=1, calls=120, bytes=15 << 20, spread=1, seconds=1.0, direct=direct)
    assert seen["answers"]["ok"] >= 2
    assert not direct or seen["answers"] == {"ok": 120}, "who does not read is waited for, and nothing is lost"


def test_a_client_that_reads_at_its_own_speed_loses_no_reply_of_a_call_that_has_run(serve: Serve) -> None:
    """Through the router. Calls that find no room are refused before they run, wherever they wait."""
    seen = overloaded(serve, "unread", clients=2, calls=400, bytes=1 << 20, spread=4, pause_ms=2.0)
    assert set(seen["answers"]) <= {"ok", "overloaded/not_executed"}
    assert seen["answers"]["ok"] >= 20


def test_ten_clients_that_do_not_read_hold_up_nobody(serve: Serve) -> None:
    overloaded(serve, "unread", clients=10, calls=120, bytes=1 << 20, spread=10, seconds=1.0)


def test_large_messages_of_many_clients_are_refused_before_they_take_the_memory(serve: Serve) -> None:
    seen = overloaded(serve, "messages", clients=12, calls=4, bytes=15 << 20)
    assert seen["answers"]["ok"] >= 2
    assert set(seen["answers"]) <= {"ok", "overloaded/not_executed"}


def test_of_very_many_large_messages_that_begin_at_the_same_time_some_may_be_given_up_and_the_router_goes_on(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeroMQ takes the room for all of a message when it has begun. How much they take together depends on the machine."""
    monkeypatch.setattr(overload, "_ANSWER_MS_MAX", 1_000)
    service = serve(1, app=APP)
    service.expect("of a message which had not ended")
    options = argparse.Namespace(
        clients=30, calls=2, bytes=(16 << 20) - 1_000, name="o", direct=False, alone=0.2, pause_ms=0.0, nice=0
    )
    seen = run(service.endpoint, "messages", options)
    assert not seen["during"]["errors"]
    assert ask(service.endpoint, "Bulk", "after", "number") == 0


@pytest.mark.parametrize(
    ("form", "direct"),
    [("packed", False), ("packed", True), ("json", False), ("keyed", False), ("req", True)],
    ids=["router", "direct", "JSON", "keyed", "REQ"],
)
def test_messages_of_hundreds_of_thousands_of_calls_are_taken_apart_bit_by_bit(serve: Serve, form: str, direct: bool) -> None:
    """Taken apart at once three of them took a router to 1 GB."""
    rows = 700_000 if form == "packed" else 200_000
    seen = overloaded(serve, "batches", clients=1, calls=3, rows=rows, form=form, direct=direct)
    assert set(seen["answers"]) <= {"ok", "overloaded/not_executed"}
    assert seen["answers"]["ok"] >= rows
    assert max(seen["during"]["most_mib"].values()) < BUDGET_MIB // 2, seen
