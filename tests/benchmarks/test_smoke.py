"""Every benchmark runs, tiny, in every test run: benchmarks do not rot, and their answers are checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def run_benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=90)


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


@pytest.mark.parametrize("workload", ["unique", "read"])
@pytest.mark.parametrize("sync", ["inline", "thread", "none"])
def test_the_bare_pipeline_gives_right_answers_directly_and_through_its_router(workload: str, sync: str) -> None:
    check_summaries(smoke("pipeline", "--workload", workload, "--sync", sync), {"pipeline"})


def test_a_person_gets_a_table() -> None:
    ended = run_benchmark("pipeline", "--smoke", "--workers", "1", "--route", "direct", "--concurrency", "4")
    assert ended.returncode == 0, ended.stderr
    assert "unique" in ended.stdout
    assert "pipeline" in ended.stdout
    assert "fdatasync" in ended.stdout


@pytest.mark.parametrize("workload", ["unique", "read"])
@pytest.mark.parametrize("load", ["lean", "client"])
def test_the_service_gives_right_answers_directly_and_through_its_router(workload: str, load: str) -> None:
    check_summaries(smoke(workload, "--load", load), {"tidegate"})


def test_a_comparison_measures_both_and_gives_ratios() -> None:
    result = smoke("compare")
    check_summaries(result, {"tidegate", "pipeline"})
    assert {(one["peer"], one["against"]) for one in result["ratios"]} == {("tidegate", "pipeline")}
    assert len(result["ratios"]) == 4
