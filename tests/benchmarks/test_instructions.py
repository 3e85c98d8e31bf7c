from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tidegate.benchmarks import instructions
from tidegate.benchmarks.load.workloads import BenchmarkFailed


def test_without_anything_that_counts_instructions_that_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchmarkFailed, match="install valgrind, or perf"):
        instructions.measure(smoke=True)


@pytest.mark.skipif(
    shutil.which("valgrind") is None and shutil.which("perf") is None, reason="neither valgrind nor perf is installed"
)
def test_calls_with_keys_take_more_instructions_than_those_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "_BATCHES", 30)
    monkeypatch.setattr(instructions, "PARTS", dict(list(instructions.PARTS.items())[:2]))
    try:
        counts = {one.part: one.per_call for one in instructions.measure()}
    except BenchmarkFailed as error:
        pytest.skip(str(error))
    plain, keyed = counts.values()
    assert 10_000 < plain < keyed < 1_000_000
