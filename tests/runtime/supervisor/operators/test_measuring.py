"""What the supervisor itself measures, and when calls are served."""

from __future__ import annotations

import os

from tests.runtime.supervisor.operators.test_status import IDENTITY, serving
from tidegate.runtime.metrics.catalogue import CATALOGUE
from tidegate.runtime.supervisor.operators.measuring import measured, why_not_ready
from tidegate.runtime.supervisor.rules.seats import ROUTER
from tidegate.runtime.supervisor.rules.supervision import Supervision
from tidegate.runtime.wire.supervisor_messages import Pong


def test_each_process_is_measured_and_what_is_gone_is_down() -> None:
    machine = serving()
    machine.child_exited(1, "was killed by SIGSEGV", False, 3.0)
    machine.timer(3.5)
    for seat in (ROUTER, 0):
        machine.child_said(seat, Pong(machine.seats[seat].ping_number, {}), 3.6)
    sums = measured(IDENTITY, machine, {ROUTER: os.getpid(), 0: os.getpid(), 1: 1 << 30}, {ROUTER: 9.0, 0: 9.5}, 10.0)
    assert sums["process_up"] == {("supervisor",): 1, ("router",): 1, ("worker 0",): 1, ("worker 1",): 0}
    assert sums["process_last_answer_seconds"] == {("router",): 1.0, ("worker 0",): 0.5}
    assert set(sums["process_resident_memory_bytes"]) == {("supervisor",), ("router",), ("worker 0",)}
    assert sums["problems"] == {(): 1}
    assert sums["ready"] == {(): 1}
    for key, values in sums.items():
        width = len(CATALOGUE[key].labels) + CATALOGUE[key].by_process
        assert all(len(labels) == width for labels in values), key


def test_a_process_that_has_never_answered_is_silent_since_it_was_asked() -> None:
    machine = serving()
    assert measured(IDENTITY, machine, {}, {}, 1.5)["process_last_answer_seconds"]["worker 0",] == 0.0
    machine.timer(2.0)
    assert measured(IDENTITY, machine, {}, {}, 9.0)["process_last_answer_seconds"]["worker 0",] == 7.0


def test_calls_are_served_while_a_router_and_a_worker_are_there() -> None:
    machine = serving()
    assert why_not_ready(machine) is None
    machine.child_exited(0, "was killed", False, 3.0)
    assert why_not_ready(machine) is None
    machine.child_exited(1, "was killed", False, 3.0)
    assert why_not_ready(machine) == "no worker serves"
    machine.child_exited(ROUTER, "was killed", False, 3.0)
    assert why_not_ready(machine) == "no router serves"


def test_a_service_that_starts_or_stops_serves_none() -> None:
    starting = Supervision((0, 0), 1, 7, 30.0, 9.0)
    starting.start(0.0)
    assert "starting" in (why_not_ready(starting) or "")
    machine = serving()
    machine.stop_requested(5.0)
    assert why_not_ready(machine) == "the service is stopping"
