"""The examples of docs/testing.md, run as a reader would: each file is written, and pytest runs those that are tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
BLOCK = re.compile(r"^```python\n# file: (\S+)( fails)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLES = {name: (bool(fails), text) for name, fails, text in BLOCK.findall(PAGE.read_text())}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, (_, text) in EXAMPLES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.timeout(300)
def test_every_test_of_the_page_passes_or_fails_as_it_says(folder: Path) -> None:
    failing = [name for name, (fails, _) in EXAMPLES.items() if fails]
    passing = [name for name in EXAMPLES if name.startswith("test_") and name not in failing]
    assert failing
    assert len(passing) > 3
    for names, code, said in ((passing, 0, " passed"), (failing, 1, "assert (70 + 0) == 100")):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", *names]
        environment = {**os.environ, "PYTHONPATH": str(folder), "PYTEST_ADDOPTS": ""}
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment, timeout=100)
        assert done.returncode == code, done.stdout + done.stderr
        assert said in done.stdout


@pytest.mark.timeout(300)
def test_a_strict_type_checker_finds_nothing_in_the_files_of_the_page(folder: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(folder / "cache"), *EXAMPLES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_tidegate_test_finds_in_the_bank_of_the_page_is_what_it_says(folder: Path) -> None:
    command = [sys.executable, "-m", "tidegate", "test", "bank.py", "--scripts", "1", "--seconds", "60"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 1, done.stderr
    shown = PAGE.read_text().partition("$ tidegate test bank.py\n")[2].partition("```")[0]
    assert done.stdout.startswith(shown)
