"""Work in other processes: it holds up nobody, its result passes the gate, and what goes wrong there harms nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import KILLED_BY_TEST, Service, exchange, services_in
from tests.support.service_process import is_alive
from tests.support.waiting import wait_until

pytestmark = pytest.mark.alone  # How long a neighbour waits says nothing where other tests take the cores.

BOUND_S = 4.0
APP = str(Path(__file__).with_name("apps") / "offloading.py")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with services_in(tmp_path_factory.mktemp("offload")) as serve:
        config = tmp_path_factory.mktemp("config") / "tidegate.toml"
        config.write_text(f"[service]\noffload_s = {BOUND_S}\n")
        service = serve(1, "--config", str(config), app=APP)
        service.expect("raised: LookupError", "raised: TimeoutError", "raised: TypeError", "raised: RuntimeError", "Traceback")
        service.expect("was reset: enough", "waited behind its gate", KILLED_BY_TEST)
        yield service


def ask(service: Service, name: str, method: str, *args: Any) -> tuple[int, Any]:
    return exchange(service.endpoint, "Offloads", name, method, list(args))


def test_work_that_takes_long_holds_up_nobody_and_its_result_comes_back(service: Service) -> None:
    ask(service, "a", "pid")
    answers: list[tuple[int, Any]] = []
    call = threading.Thread(target=lambda: answers.append(ask(service, "a", "burn", 1.0)), daemon=True)
    call.start()
    worst_s = 0.0
    while call.is_alive():
        began_s = time.monotonic()
        assert ask(service, "b", "hello") == (0, "hello")
        worst_s = max(worst_s, time.monotonic() - began_s)
    print(f"the slowest call meanwhile took {worst_s:.3f} s")
    assert answers == [(0, 1.0)]
    assert worst_s < 0.5
    assert "held up" not in service.output


def test_it_runs_in_processes_of_its_own_that_stand_behind_the_workers(service: Service) -> None:
    pid = ask(service, "a", "pid")[1]
    assert pid not in service.worker_pids()
    assert ask(service, "a", "niceness")[1] == os.nice(0) + 5


def test_what_the_function_raises_comes_back_and_what_cannot_be_sent_is_said(service: Service) -> None:
    status, error = ask(service, "a", "fail")
    assert (status, error["type"], error["message"]) == (1, "LookupError", "no such thing")
    status, error = ask(service, "a", "unsendable")
    assert (status, error["type"]) == (1, "TypeError")
    assert "cannot be sent to another process" in error["message"]
    assert "give it a function of a module and plain values" in error["message"]


def test_a_process_that_ends_is_an_error_of_its_call_and_the_next_one_gets_another(service: Service) -> None:
    before, worker = ask(service, "a", "pid")[1], service.worker_pids()
    status, error = ask(service, "a", "end")
    assert (status, error["type"]) == (1, "RuntimeError")
    assert "the process that ran end ended: what it did is unknown" in error["message"]
    status, after = ask(service, "a", "pid")
    assert status == 0
    assert after != before
    assert service.worker_pids() == worker


def test_functions_that_never_end_are_killed_at_their_bound_and_others_go_on(service: Service) -> None:
    """Two of them have all processes, so that the third one waits; what another has begun in the second is not killed."""
    answers: dict[str, tuple[int, Any]] = {}

    def keep(name: str, *call: Any) -> None:
        answers[name] = ask(service, name, *call)

    calls = [threading.Thread(target=keep, args=args) for args in (("never", "forever"), ("nor", "forever"), ("last", "pid"))]
    began_s = time.monotonic()
    for call in calls:
        call.start()
        time.sleep(0.3)
    for call in calls:
        call.join(60)
    assert time.monotonic() - began_s > BOUND_S
    for name in ("never", "nor"):
        status, error = answers[name]
        assert (status, error["type"]) == (1, "TimeoutError")
        assert error["message"] == f"offload: forever was not done after {BOUND_S:g} s and was killed ([service] offload_s)"
    assert answers["last"][0] == 0
    assert ask(service, "a", "hello") == (0, "hello")


def test_a_result_passes_the_gate_of_its_object(service: Service) -> None:
    assert ask(service, "gate", "in_section") == (0, ["section", "result"])


def test_an_object_that_is_reset_waits_for_nothing_it_has_offloaded(service: Service) -> None:
    status, error = ask(service, "reset", "reset")
    assert (status, error["code"]) == (1, "object_reset")
    assert ask(service, "reset", "hello") == (0, "hello")


def test_the_processes_end_with_a_worker_that_is_killed(service: Service) -> None:
    pid, [worker] = ask(service, "a", "pid")[1], service.worker_pids()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "the end of the process")
    wait_until(lambda: service.worker_pids() not in ([], [worker]), "the next worker")
    assert ask(service, "a", "hello") == (0, "hello")
