import os
import subprocess
import time

from tidegate.runtime.metrics.rates import rates_of
from tidegate.runtime.supervisor.config import Config, merge
from tidegate.runtime.supervisor.operators.status import Identity, Usage, classes, listen_endpoint, snapshot
from tidegate.runtime.supervisor.rules.placement import Cores, place
from tidegate.runtime.supervisor.rules.seats import ROUTER
from tidegate.runtime.supervisor.rules.supervision import Supervision
from tidegate.runtime.wire.counts import Counts, Histogram
from tidegate.runtime.wire.supervisor_messages import Pong, Ready

PLACEMENT = place(Cores((0, 1), None), 4, 2)
IDENTITY = Identity("1.0", 7, 1_000, "/data", merge(Config(), {"service": {"app": "app.py"}}, "test"), PLACEMENT, {"cores": 1.5})


def serving(routers: int = 1) -> Supervision:
    machine = Supervision(PLACEMENT.owners, 2, 7, 30.0, 9.0, routers)
    machine.start(0.0)
    for router in machine.routers:
        machine.child_said(router, Ready("tcp://[::ffff:127.0.0.1]:7711"), 1.0)
    machine.child_said(0, Ready("ipc://w0", classes={"Counter": {"methods": {}}}), 1.0)
    machine.child_said(1, Ready("ipc://w1", classes={"Counter": {"methods": {}}}), 1.0)
    return machine


def test_the_snapshot_of_a_service_names_every_process_with_its_numbers() -> None:
    machine = serving()
    machine.child_said(1, Pong(0, {"calls": 5}), 2.0)
    status = snapshot(IDENTITY, machine, {ROUTER: os.getpid(), 0: os.getpid()}, Usage(), 4.0)
    assert (status["state"], status["start"], status["shards"], status["class_names"]) == ("serving", 7, 4, ["Counter"])
    assert status["listen"] == "tcp://127.0.0.1:7711"
    assert status["may_use"] == {"cores": 1.5}
    by_name = {process["name"]: process for process in status["processes"]}
    assert list(by_name) == ["supervisor", "router", "worker 0", "worker 1"]
    assert by_name["worker 1"]["statistics"] == {"calls": 5}
    assert by_name["worker 0"]["shards"] == [0, 2]
    assert by_name["router"]["rss_mib"] > 0
    assert "rss_mib" not in by_name["worker 1"]


def test_a_lost_worker_makes_the_service_degraded_and_is_shown_with_its_end() -> None:
    machine = serving()
    machine.child_exited(1, "was killed by SIGSEGV", False, 3.0)
    machine.timer(3.0)
    status = snapshot(IDENTITY, machine, {}, Usage(), 4.0)
    assert status["state"] == "degraded"
    lost = status["processes"][-1]
    assert (lost["state"], lost["restarts"], lost["endpoint"]) == ("starting", 1, None)
    assert lost["last_problem"] == "was killed by SIGSEGV"
    assert classes(machine) == {"Counter": {"methods": {}}}


def test_each_of_several_routers_is_shown_with_its_own_numbers() -> None:
    machine = serving(routers=2)
    machine.child_said(ROUTER - 1, Pong(0, {"messages_in": 5}), 2.0)
    machine.child_exited(ROUTER, "was killed by SIGKILL", False, 3.0)
    status = snapshot(IDENTITY, machine, {ROUTER - 1: os.getpid()}, Usage(), 4.0)
    assert [process["name"] for process in status["processes"]] == ["supervisor", "router 0", "router 1", "worker 0", "worker 1"]
    lost, other = status["processes"][1:3]
    assert (lost["state"], lost["pid"], lost["last_problem"]) == ("down", None, "was killed by SIGKILL")
    assert (other["state"], other["pid"], other["statistics"]) == ("ready", os.getpid(), {"messages_in": 5})
    assert status["state"] == "degraded"
    assert status["listen"] == listen_endpoint(machine) == "tcp://127.0.0.1:7711"
    machine.child_exited(ROUTER - 1, "was killed by SIGKILL", False, 3.0)
    assert listen_endpoint(machine) is None


def test_how_fast_it_goes_is_told_of_each_process_of_each_class_and_of_all() -> None:
    answers = Histogram()
    answers.observe(0.002, 10)
    counts: Counts = {"calls": [(("Counter",), 20)], "call_answer_seconds": [(("Counter",), answers.value())]}
    rates = {seat: rates_of(counts, 2.0) for seat in (0, 1)} | {ROUTER: rates_of({"router_calls": [((), 50)]}, 2.0)}
    status = snapshot(IDENTITY, serving(), {}, Usage(), 4.0, rates=rates)
    assert [each.get("rates", {}).get("calls_per_s") for each in status["processes"]] == [None, 25.0, 10.0, 10.0]
    assert status["rates"]["calls_per_s"] == status["class_rates"]["Counter"]["calls_per_s"] == 20.0
    assert 1 < status["rates"]["answer_p50_ms"] <= 2.5
    unheard = snapshot(IDENTITY, serving(), {}, Usage(), 4.0)
    assert (unheard["rates"]["calls_per_s"], unheard["processes"][1]["rates"]) == (0.0, {})


def test_an_idle_service_has_the_same_snapshot_twice() -> None:
    machine, usage = serving(), Usage()
    first, second = (snapshot(IDENTITY, machine, {}, usage, 4.0) for _ in range(2))
    for status in (first, second):
        status["processes"][0].pop("cpu_percent")  # This process is not idle.
        status["processes"][0].pop("rss_mib")
    assert first == second


def test_before_the_router_listens_nothing_is_claimed() -> None:
    machine = Supervision(PLACEMENT.owners, 2, 7, 30.0, 9.0)
    assert listen_endpoint(machine) is None
    assert classes(machine) == {}


def test_a_process_that_is_gone_uses_nothing() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert Usage().of(gone.pid, 0.0) == {}
    assert Usage().of(None, 0.0) == {}


def test_what_a_process_used_in_a_moment_is_not_said_as_a_share_of_a_core() -> None:
    """Nor is its start: it is asked for its numbers whenever anything happens, and much happens then."""
    usage = Usage()
    asked_ms = range(0, 1_000, 10)
    shares = set()
    for at_ms in asked_ms:
        shares.add(usage.of(os.getpid(), at_ms / 1_000)["cpu_percent"])
        use_processor_s(0.000_5)
    assert shares == {None}
    use_processor_s(0.05)
    share = usage.of(os.getpid(), 2.0)["cpu_percent"]
    assert share is not None
    assert 2 <= share <= 20
    use_processor_s(0.05)
    assert usage.of(os.getpid(), 2.5)["cpu_percent"] == share


def use_processor_s(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
