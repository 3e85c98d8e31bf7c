"""What type checkers say about a user's code that uses the installed wheel."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parent / "typed").glob("*.py"))
WRONG = "# wrong"
"""How a line of these ends that each checker must report. No other may be reported."""

needs_pyright = pytest.mark.skipif(
    importlib.util.find_spec("pyright") is None or shutil.which("node") is None,
    reason="needs node and the package pyright",
)


def marked() -> dict[str, set[int]]:
    assert FILES
    return {
        file.name: {number for number, line in enumerate(file.read_text().splitlines(), 1) if line.endswith(WRONG)}
        for file in FILES
    }


def reported(tmp_path: Path, *command: str) -> str:
    """Runs it on copies of the files, away from the tree."""
    for file in FILES:
        shutil.copy(file, tmp_path)
    names = [file.name for file in FILES]
    done = subprocess.run([sys.executable, "-m", *command, *names], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def compare(found: list[tuple[str, int, str]]) -> None:
    lines: dict[str, set[int]] = {file.name: set() for file in FILES}
    for name, number, _ in found:
        lines[name].add(number)
    assert lines == marked(), "\n".join(f"{name}:{number}: {message}" for name, number, message in found)


def test_mypy_reports_what_is_wrong_in_a_users_file_and_nothing_else(installed: Path, tmp_path: Path) -> None:
    command = ["mypy", "--strict", "--output", "json", "--config-file", "", "--python-executable", str(installed / "python")]
    lines = [json.loads(line) for line in reported(tmp_path, *command, "--cache-dir", str(tmp_path / "cache")).splitlines()]
    compare([(line["file"], line["line"], line["message"]) for line in lines if line["severity"] == "error"])


@needs_pyright
def test_pyright_reports_what_is_wrong_in_a_users_file_and_nothing_else(installed: Path, tmp_path: Path) -> None:
    output = reported(tmp_path, "pyright", "--outputjson", "--pythonpath", str(installed / "python"))
    problems = [each for each in json.loads(output)["generalDiagnostics"] if each["severity"] == "error"]
    compare([(Path(each["file"]).name, each["range"]["start"]["line"] + 1, each["message"]) for each in problems])
