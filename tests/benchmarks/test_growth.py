"""benchmarks/growth.py runs, tiny, in every test run."""

from __future__ import annotations

import subprocess
import sys

import msgspec

from tidegate.benchmarks.growth import SMALL, Growth


def test_growth_is_measured_through_a_stop_and_a_kill_and_nothing_confirmed_is_missing() -> None:
    command = [sys.executable, "-m", "tidegate.benchmarks", "growth", "--smoke", "--zipf", "--workers", "1", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120)
    found = msgspec.json.decode(done.stdout, type=Growth)
    assert (found.objects, found.checked) == (SMALL, SMALL)
    assert [one.load for one in found.windows] == ["uniform, 1,000 objects", "uniform", "zipf 1, 1,000 objects", "zipf 1"]
    assert all(one.rate > 0 and one.worker_us > 0 for one in found.windows)
    assert found.summary["uniform"]["ratio"] > 0
    assert found.memory_mib["settled"].keys() == {"supervisor", "router", "worker 0"}
    assert found.ready_s > 0
    assert found.killed_ready_s > 0
    assert found.lost_calls > 0
