"""`tidegate bench` against a service that runs somebody's own app."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tidegate.benchmarks.peers.ours import Service
from tidegate.benchmarks.processes import REPOSITORY
from tidegate.runtime.addresses import free_port


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("s"), workers=2, transport="tcp", app=str(REPOSITORY / "examples" / "counter.py"))
    yield running
    running.close()


def bench(*arguments: str, variable: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tidegate", "bench", *arguments]
    env = {**os.environ, "TIDEGATE_CONNECT": variable}
    return subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_any_class_with_the_method_of_a_running_service_is_measured(service: Service) -> None:
    few = ("--requests", "200", "--objects", "20", "--concurrency", "8,16", "--json")
    ended = bench("--connect", service.front, "--class", "MemoryCounter", *few)
    assert ended.returncode == 0, ended.stderr
    summaries = json.loads(ended.stdout)["summaries"]
    cases = {(one["route"], one["concurrency"]) for one in summaries}
    assert cases == {("direct", 8), ("direct", 16), ("router", 8), ("router", 16)}
    assert all(one["rate"] > 0 and one["generator"] == "client" for one in summaries)


@pytest.mark.parametrize("load", ["keyed", "lean-keyed"])
def test_calls_with_keys_as_ordinary_clients_make_them_are_measured(service: Service, load: str) -> None:
    few = ("--requests", "100", "--objects", "10", "--concurrency", "8", "--route", "direct", "--json")
    ended = bench("--connect", service.front, "--load", load, *few)
    assert ended.returncode == 0, ended.stderr
    [summary] = json.loads(ended.stdout)["summaries"]
    assert summary["generator"] == load


def test_a_class_that_is_not_there_is_named(service: Service) -> None:
    ended = bench("--connect", service.front, "--class", "Order", "--json")
    assert ended.returncode == 1
    assert "no class Order with get_unique_number()" in ended.stderr
    assert "MemoryCounter" in ended.stderr
    assert "measuring" not in ended.stderr, "a program may read it"


def test_which_service_is_measured_is_said_and_by_what() -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    assert "measuring" not in bench("--connect", endpoint).stderr
    assert bench(variable=endpoint).stderr.splitlines()[0] == f"measuring {endpoint} (by TIDEGATE_CONNECT)"


def test_nobody_listening_is_said_at_once() -> None:
    ended = bench("--connect", f"tcp://127.0.0.1:{free_port()}")
    assert ended.returncode == 1
    assert "nothing is listening there" in ended.stderr
