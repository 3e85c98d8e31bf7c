"""benchmarks/moves.py runs, tiny, in every test run: what was killed is begun again, and nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys


def test_a_directory_is_backed_up_restored_and_resharded_over_kills_and_is_the_same() -> None:
    command = [sys.executable, "-m", "tidegate.benchmarks.moves", "--gigabytes", "0.02"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert [step["step"].split()[0] for step in steps if step.get("killed")] == ["backup", "restore", "reshard"]
    assert sum(step["step"].startswith("check") for step in steps) == 5
