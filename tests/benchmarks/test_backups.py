"""benchmarks/backups.py runs, tiny, in every test run."""

from __future__ import annotations

import json
import subprocess
import sys


def test_the_cost_of_backups_is_measured_and_what_was_backed_up_is_restored() -> None:
    command = [sys.executable, "-m", "tidegate.benchmarks.backups", "--gigabytes", "0.01", "--seconds", "4", "--rounds", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert set(found) == {"full_ratio", "incremental_ratio", "full_s", "restored_s"}
    assert all(value > 0 for value in found.values())
