"""What `pip install tidegate-….whl` alone has: no package that only some commands need, each of which says so in a line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

APP = """
from tidegate import DurableObject

class Counter(DurableObject):
    async def current(self) -> int:
        return 0
"""
SERVERS = "nats://127.0.0.1:1,nats://127.0.0.1:2,nats://127.0.0.1:3/x"
LACKING = (
    ("cluster", "up", "app.py"),
    ("cluster", "status", "--cluster", SERVERS),
    ("cluster", "hosts", "--cluster", SERVERS),
    ("cluster", "move", "1", "a", "--cluster", SERVERS),
    ("cluster", "drain", "a", "--cluster", SERVERS),
    ("cluster", "rebalance", "--cluster", SERVERS),
    ("cluster", "rebalance", "--by", "load", "--cluster", SERVERS),
    ("cluster", "snapshot", "--cluster", SERVERS),
    ("cluster", "doctor", "--cluster", SERVERS),
    ("migrate", "data", "--to", SERVERS),
    ("migrate", "data", "--from", SERVERS),
    ("migrate", "--undo", SERVERS),
    ("chaos", "--hosts", "3"),
    ("completion", "bash"),
    ("console",),
    ("restore", "s3://a/b", "--list"),
)
"""Commands that need a package more than that."""
EACH = """
import contextlib, io, json, sys, traceback
from tidegate.runtime.cli.cli import main

for command in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            code = main(command)
        except BaseException:
            code = None
            traceback.print_exc()
    print(json.dumps([code, said.getvalue()]))
"""


def test_a_command_that_needs_a_package_more_says_in_a_line_how_to_install_it(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "data").mkdir()
    done = subprocess.run(
        [plain, "-c", EACH], input=json.dumps(LACKING), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [
        (command, code, said)
        for command, (code, said) in zip(LACKING, answers, strict=True)
        if code != 1 or said.count("\n") != 1 or "pip install" not in said
    ]
    assert wrong == []


def test_a_service_of_a_cluster_says_so_too(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    done = run_in(tmp_path, plain, "serve", "app.py", "--cluster", SERVERS)
    assert done.returncode == 1
    assert "pip install 'tidegate[cluster]'" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


OTHERS = (("--help",), ("new", "shop"), ("config", "show"), ("lint", "app.py"), ("test", "app.py", "--scripts", "1"))


@pytest.mark.parametrize("command", OTHERS)
def test_the_other_commands_need_nothing_more(plain: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "app.py").write_text(APP)
    done = run_in(tmp_path, plain, *command)
    assert done.returncode == 0, done.stderr


def run_in(folder: Path, python: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, "-m", "tidegate", *command], cwd=folder, capture_output=True, text=True, check=False)
