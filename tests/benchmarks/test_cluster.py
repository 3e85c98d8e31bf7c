"""The measurement of the replicated log runs, on three real servers."""

from __future__ import annotations

import json

from tests.benchmarks.test_smoke import run_benchmark


def test_the_log_is_measured_beside_a_bare_publish() -> None:
    ended = run_benchmark("cluster", "--smoke", "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["appends"] == 50
    assert 0 < found["bare"]["p50_us"] <= found["bare"]["p99_us"] <= found["bare"]["worst_us"]
    assert found["ratio"] > 0


def test_a_person_gets_sentences_of_it() -> None:
    ended = run_benchmark("cluster", "--smoke")
    assert ended.returncode == 0, ended.stderr
    assert "bare fenced publish: p50" in ended.stdout
    assert "times the bare publish" in ended.stdout
