"""What is measured of a cluster is measured, on three real servers and real hosts, and every answer is right."""

from __future__ import annotations

import json

from tests.benchmarks.test_smoke import run_benchmark


def test_the_log_and_calls_are_measured_beside_bare_publishes_and_the_local_log() -> None:
    ended = run_benchmark("cluster", "--smoke", "--json", "--parts", "log,calls")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    log, call, unique = found["log"], found["call"], found["unique"]
    assert log["appends"] == 50
    assert 0 < log["bare"]["p50_us"] <= log["bare"]["p99_us"] <= log["bare"]["worst_us"]
    assert log["ratio"] > 0
    assert call["calls"] == 25
    assert all(call[name] > 0 for name in ("bare_p50_us", "call_p50_us", "local_p50_us", "ratio"))
    assert unique["at_once"] == 16
    assert all(unique[name] > 0 for name in ("cluster", "few", "local", "naive", "ratio", "few_ratio"))
    assert found["losses"] is None


def test_hosts_are_killed_shards_moved_and_the_majority_lost_and_a_person_gets_sentences_of_it() -> None:
    ended = run_benchmark("cluster", "--smoke", "--parts", "losses", within_s=240)
    assert ended.returncode == 0, ended.stderr
    assert "host killed, 1 times: its objects answer elsewhere after" in ended.stdout
    assert "shard moved under load, 1 times: 0 errors in" in ended.stdout
    assert "majority lost: refused after" in ended.stdout
    assert "0 confirmed meanwhile" in ended.stdout
    assert "have not confirmed anything for" in ended.stdout
