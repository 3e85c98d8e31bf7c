from __future__ import annotations

from pathlib import Path

import msgspec

from tidegate.benchmarks.figures.results import Result, append, commit, fdatasync_ms, machine_facts, read_all


def result(settings: dict[str, int]) -> Result:
    return Result("compare", "2026-01-01T00:00:00+00:00", "abc", {}, settings, [], [], [])


def test_results_are_added_one_a_line_and_read_back_as_they_were(tmp_path: Path) -> None:
    kept = [result({"rounds": 1}), result({"rounds": 2})]
    paths = {append(one, tmp_path / "results") for one in kept}
    assert len(paths) == 1
    lines = paths.pop().read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=Result) for line in lines] == kept
    assert read_all(tmp_path / "results") == kept


def test_the_machine_is_described_without_leaving_files(tmp_path: Path) -> None:
    facts = machine_facts(tmp_path)
    assert facts["cores"] >= 1
    assert facts["filesystem"] not in ("", "unknown")
    assert fdatasync_ms(tmp_path) > 0
    assert list(tmp_path.iterdir()) == []


def test_the_results_in_the_tree_can_be_read() -> None:
    assert all(one.summaries for one in read_all())


def test_the_commit_is_named() -> None:
    assert len(commit().rstrip("+")) in (len("unknown"), 12)
