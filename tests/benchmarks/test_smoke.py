"""Every benchmark runs, tiny, in every test run: benchmarks do not rot, and their answers are checked."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.service import FULL
from tests.support.waiting import wait_until
from tidegate.benchmarks.load.workloads import WORKLOADS
from tidegate.benchmarks.runner import PEERS

REPOSITORY = Path(__file__).resolve().parents[2]


def run_benchmark(*arguments: str, within_s: float = 90) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tidegate.benchmarks", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=within_s)


def smoke(*arguments: str) -> Any:
    ended = run_benchmark(*arguments, "--smoke", "--json", "--workers", "2")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def check_summaries(result: Any, peers: set[str]) -> None:
    summaries = result["summaries"]
    cases = {(one["peer"], one["route"], one["concurrency"]) for one in summaries}
    assert cases == {(peer, route, many) for peer in peers for route in ("direct", "router") for many in (1, 16)}
    for one in summaries:
        assert one["rate"] > 0
        assert one["cpu_us"]["workers"] > 0
        assert one["cpu_us"]["load"] > 0


@pytest.mark.parametrize("sync", ["thread", "inline", "none"][: 3 if FULL else 1])
def test_the_bare_pipeline_gives_right_answers_directly_and_through_its_router(sync: str) -> None:
    check_summaries(smoke("pipeline", "--workload", "read,unique", "--sync", sync), {"pipeline"})


def test_a_person_gets_a_table() -> None:
    ended = run_benchmark("pipeline", "--smoke", "--workers", "1", "--route", "direct", "--concurrency", "4")
    assert ended.returncode == 0, ended.stderr
    assert "unique" in ended.stdout
    assert "pipeline" in ended.stdout
    assert "fdatasync" in ended.stdout


def test_every_workload_gives_right_answers_directly_and_through_the_router() -> None:
    summaries = smoke("all")["summaries"]
    assert {(one["workload"], one["route"]) for one in summaries} == set(itertools.product(WORKLOADS, ("direct", "router")))
    assert all(one["rate"] > 0 for one in summaries)


def test_the_python_client_gives_right_answers_directly_and_through_the_router() -> None:
    check_summaries(smoke("mixed", "--load", "client"), {"tidegate"})


@pytest.mark.parametrize("load", ["keyed", "client", "lean"][: 3 if FULL else 1])
def test_several_processes_make_an_open_loop_over_skewed_objects(load: str) -> None:
    result = smoke("unique", "--load", load, "--rate", "500", "--requests", "100", "--generators", "2", "--zipf", "1.1")
    assert [(one["route"], one["concurrency"], one["offered"]) for one in result["summaries"]] == [
        ("direct", 0, 500),
        ("router", 0, 500),
    ]
    for one in result["measurements"]:
        assert (one["generators"], one["zipf"], one["requests"]) == (2, 1.1, 100)


@pytest.mark.parametrize("load", ["bulk-keyed", "bulk"][: 2 if FULL else 1])
def test_maps_of_the_python_client_give_right_answers_and_have_no_open_loop(load: str) -> None:
    check_summaries(smoke("mixed", "--load", load), {"tidegate"})
    ended = run_benchmark("mixed", "--smoke", "--load", load, "--rate", "100")
    assert ended.returncode == 2
    assert "has no open loop" in ended.stderr


def test_two_routers_share_the_load_of_one_generator() -> None:
    result = smoke("unique", "--route", "router", "--routers", "2", "--transport", "tcp")
    assert [(one["route"], one["concurrency"]) for one in result["summaries"]] == [("router", 1), ("router", 16)]
    ended = run_benchmark("unique", "--smoke", "--routers", "2")
    assert ended.returncode == 2
    assert "several routers share a TCP port: add --transport tcp" in ended.stderr


def test_numbers_of_one_object_are_unique_over_all_processes_that_call_it() -> None:
    result = smoke("hot", "--generators", "3", "--route", "direct")
    assert [one["requests"] for one in result["measurements"]] == [200, 200]


def test_a_comparison_measures_both_and_gives_ratios() -> None:
    result = smoke("compare")
    check_summaries(result, {"tidegate", "pipeline"})
    assert {(one["peer"], one["against"]) for one in result["ratios"]} == {("tidegate", "pipeline")}
    assert len(result["ratios"]) == 4


def test_peers_run_beside_the_product_and_their_syncs_are_counted_or_it_is_said_why_not() -> None:
    result = smoke("peers", "--concurrency", "4", "--requests", "50")
    measured = {one["peer"] for one in result["summaries"]}
    assert {"tidegate", "tidegate lean", "pipeline", "aiohttp + sqlite"} <= measured
    assert result["skipped"].keys() >= {"workerd", "restate"}
    assert len(measured) + len(result["skipped"].keys() - {"syncs"}) == len(PEERS)
    if "syncs" not in result["skipped"]:
        counted = {one["peer"]: one["calls"] / one["syncs"] for one in result["syncs"]}
        assert counted.keys() == measured
        assert counted["aiohttp + sqlite"] <= 1.0
        assert counted["tidegate"] > 1.0, "calls share commits"


def test_a_service_without_the_class_is_refused() -> None:
    ended = run_benchmark("unique", "--smoke", "--json", "--connect", "ipc:///nowhere/at-all")
    assert ended.returncode == 1
    assert "did not answer" in ended.stderr


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Unix sockets have room in its path, which is not sure in pytest's."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_a_folder_whose_path_is_too_long_for_sockets_is_refused_with_what_to_do(short_folder: Path) -> None:
    deep = short_folder / ("x" * 100)
    deep.mkdir()
    ended = run_benchmark("unique", "--smoke", "--json", "--folder", str(deep))
    assert ended.returncode == 1
    assert "name a shorter --folder" in ended.stderr
    assert list(deep.iterdir()) == []


def test_a_run_that_is_terminated_stops_what_it_started_and_leaves_no_folder(short_folder: Path) -> None:
    command = [sys.executable, "-m", "tidegate.benchmarks", "unique", "--json", "--seconds", "60", "--folder", str(short_folder)]
    with subprocess.Popen([*command, "--concurrency", "4"], cwd=REPOSITORY, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: list(short_folder.glob("*/*/*/service")), "the service's folder", within_s=90.0)
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert list(short_folder.iterdir()) == []
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not any(str(short_folder) in command for command in commands)
