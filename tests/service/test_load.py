"""The judge must be able to find what it is there for, and the fixture too."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.load import LoadClient, finish, judge, start_clients
from tests.support.service import Serve, Service, processes_with_files_in
from tests.support.waiting import wait_until


@pytest.fixture
def judged(serve: Serve) -> tuple[Service, LoadClient]:
    service = serve(1)
    [client] = start_clients(service, 1, ["a", "b"], calls=100)
    finish([client])
    assert judge(service.endpoint, [client]) == []
    return service, client


def test_a_number_that_was_confirmed_twice_is_found(judged: tuple[Service, LoadClient]) -> None:
    service, client = judged
    client.confirmed.append(client.confirmed[-1])
    assert any("twice" in wrong for wrong in judge(service.endpoint, [client]))


def test_a_confirmed_number_that_the_counter_has_forgotten_is_found(judged: tuple[Service, LoadClient]) -> None:
    service, client = judged
    client.confirmed.append(("a", 1_000))
    assert any("confirmed 1000, but" in wrong for wrong in judge(service.endpoint, [client]))


def test_a_call_that_ran_though_it_was_said_not_to_is_found(judged: tuple[Service, LoadClient]) -> None:
    service, client = judged
    service.call("Counter", "a", "get_unique_number")
    assert any("0 unknown, but" in wrong for wrong in judge(service.endpoint, [client]))
    client.unknown["a"] += 1
    assert judge(service.endpoint, [client]) == []


def test_an_answer_out_of_order_is_found(judged: tuple[Service, LoadClient]) -> None:
    service, client = judged
    client.confirmed.reverse()
    assert any(" after " in wrong for wrong in judge(service.endpoint, [client]))


def test_a_process_that_outlives_its_service_and_a_suspect_line_of_the_log_are_found(tmp_path: Path) -> None:
    service = Service(
        tmp_path / "data", "no.py", 1, (sys.executable, "-c", "print('2026-11-29T12:00:00.000+00:00 ERROR   worker 0: ouch')"), {}
    )
    service.launch()
    service.wait()
    (tmp_path / "data").mkdir()
    orphan = subprocess.Popen(["sleep", "60"], stdout=(tmp_path / "data" / "lock").open("w"))
    wait_until(lambda: processes_with_files_in(service.data) == [orphan.pid], "the orphan")
    problems = service.close()
    assert [problem.split(": ")[0] for problem in problems] == [f"process {orphan.pid} was left", "in the log"]
    assert orphan.wait(10) == -9
