"""This tree beside another commit of it. What is measured is seen in a repository of two commits, made for the test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate.benchmarks import versus
from tidegate.benchmarks.figures.compare import Ratio

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of this tree, as a repository whose only commit it is."""
    folder = tmp_path_factory.mktemp("copy")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    for name in listed.decode().split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith(("tests/", "docs/", "findings/")):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not any(parent.is_symlink() for parent in (ROOT / name).parents if parent != ROOT):
                shutil.copyfile(ROOT / name, target)
    shutil.copytree(ROOT / "tidegate", folder / "tidegate", symlinks=True, dirs_exist_ok=True)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run(["git", *command], cwd=folder, check=True, env={**os.environ, **NAMES})
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tidegate.benchmarks", "versus", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_both_trees_are_measured_in_every_round_and_the_slower_one_ends_with_1(copy: Path) -> None:
    few = ("--smoke", "--json", "--rounds", "2", "--concurrency", "4", "--requests", "100", "--workers", "1", "--load", "lean")
    ended = run(copy, "HEAD", *few, "--at-least", "1000")
    result = json.loads(ended.stdout)
    peers = [one["peer"] for one in result["measurements"]]
    other = peers[1]
    assert peers == ["this tree", other, other, "this tree"]
    [ratio] = result["ratios"]
    assert (ratio["peer"], ratio["against"]) == ("this tree", other)
    assert ended.returncode == 1
    assert "slower than it may be" in ended.stderr


def test_a_commit_that_is_not_there_is_named(copy: Path) -> None:
    ended = run(copy, "no-such-tag", "--smoke", "--json")
    assert ended.returncode == 1
    assert "git knows no commit 'no-such-tag' here" in ended.stderr


def test_a_tree_that_does_not_run_here_is_named(copy: Path, tmp_path: Path) -> None:
    shutil.copytree(copy / "tidegate" / "..", tmp_path / "broken", symlinks=True)
    broken = tmp_path / "broken"
    (broken / "benchmarks" / "__main__.py").write_text("import a_package_of_long_ago\n")
    subprocess.run(["git", "commit", "-qam", "two"], cwd=broken, check=True, env={**os.environ, **NAMES})
    shutil.copyfile(copy / "benchmarks" / "__main__.py", broken / "benchmarks" / "__main__.py")
    ended = run(broken, "HEAD", "--smoke", "--json")
    assert ended.returncode == 1
    assert (
        "does not run with the packages installed here: ModuleNotFoundError: No module named 'a_package_of_long_ago'"
        in ended.stderr
    )


def test_cases_that_have_less_than_their_share_are_named() -> None:
    def ratio(rate: float) -> Ratio:
        return Ratio("this tree", "abc", "unique", "direct", "client", 64, rate, rate - 0.1, rate + 0.1, 1.0)

    assert versus.slower([ratio(0.97), ratio(1.2)], 0.97) == []
    [line] = versus.slower([ratio(0.969), ratio(1.2)], 0.97)
    assert line == "unique, direct, 64 at once: 0.969 of abc (0.869 to 1.069), less than 0.97"
    assert versus.longer([versus.Change("worker", 100.0, 100.0, "abc"), versus.Change("client", 90.0, 100.0, "abc")], 1.0) == []
    [line] = versus.longer([versus.Change("worker", 104.0, 100.0, "abc")], 0.97)
    assert line == "worker: 104 instructions against 100 of abc, 0.962 is less than 0.97"
