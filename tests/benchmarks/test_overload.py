"""The overload benchmark in miniature: that its scenarios run, and count what they say."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

BRIEF = ("--alone", "0.1", "--seconds", "0.2", "--calls", "20", "--bytes", "100000")


@pytest.mark.parametrize("scenario", ["unread", "messages"])
def test_a_scenario_counts_every_answer_and_the_polite_calls_of_each_part(scenario: str) -> None:
    command = [sys.executable, "-m", "tidegate.benchmarks.overload", scenario, *BRIEF]
    seen = msgspec.json.decode(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout)

    assert seen["answers"] == {"ok": 20 * (12 if scenario == "messages" else 1)}
    assert all(seen[part]["calls"] > 0 and seen[part]["errors"] == [] for part in ("idle", "hungry", "during", "after"))
    assert seen["during"]["most_mib"].keys() == {"supervisor", "router", "worker 0"}


def test_a_crowd_that_takes_all_descriptors_is_let_in_in_part_and_the_polite_client_is_answered() -> None:
    command = [sys.executable, "-m", "tidegate.benchmarks.overload", "crowd", *BRIEF]
    seen = msgspec.json.decode(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout)

    assert sum(seen["answers"].values()) == seen["crowds"] * 512
    assert seen["answers"]["none"] > 0, "not all of them are let in"
    assert seen["during"]["errors"] == []
    assert seen["during"]["calls"] > 0
