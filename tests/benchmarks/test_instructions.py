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
def test_the_instructions_of_a_call_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one part, since most of the time is the start of Python under the counter."""
    monkeypatch.setattr(instructions, "_BATCHES", 20)
    monkeypatch.setattr(instructions, "PARTS", dict(list(instructions.PARTS.items())[:1]))
    try:
        (one,) = instructions.measure()
    except BenchmarkFailed as error:
        pytest.skip(str(error))
    assert 10_000 < one.per_call < 1_000_000
