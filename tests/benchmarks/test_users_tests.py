"""The benchmark of users' tests runs, and says what they took."""

from __future__ import annotations

import re

import pytest

from tidegate.benchmarks.users_tests import main


def test_both_figures_are_told_with_the_time_that_they_took(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tests", "3", "--days", "2", "--rounds", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == ["3 tests, with the start of pytest", "2 days of hourly alarms"]
    assert all(re.fullmatch(r".*: \d+\.\d\d s, of the processor \d+\.\d\d s", line) for line in said)
