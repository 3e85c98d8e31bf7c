"""Whoever asks with --json finds JSON on stdout, whatever has failed: of every command that has the option."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.cli.test_help import commands
from tidegate.runtime.cli.cli import main

NOWHERE = ("--connect", "tcp://127.0.0.1:1")
FAILING = {
    "alarms": NOWHERE,
    "backup": ("kept", "--data", "nowhere"),
    "bench": NOWHERE,
    "call": ("Counter", "alice", "current", *NOWHERE),
    "chaos": ("--faults", "nonsense"),
    "check": ("nowhere",),
    "classes": NOWHERE,
    "cluster doctor": (),
    "cluster drain": ("a",),
    "cluster hosts": (),
    "cluster move": ("1", "a"),
    "cluster rebalance": (),
    "cluster snapshot": (),
    "cluster status": (),
    "compact": ("nowhere",),
    "config check": ("nowhere.toml",),
    "config show": ("nowhere.toml",),
    "console": NOWHERE,
    "inspect": ("Counter", "alice", *NOWHERE),
    "install-service": ("nowhere.py", "--dry-run"),
    "keys": ("list", "--data", "nowhere"),
    "lint": ("nowhere.py",),
    "migrate": ("nowhere", "--to", "nats://127.0.0.1:1,nats://127.0.0.1:2,nats://127.0.0.1:3/x"),
    "objects alarms": NOWHERE,
    "objects blocked": NOWHERE,
    "objects call": ("Counter", "alice", "current", *NOWHERE),
    "objects delete": ("Counter", "alice", "key", *NOWHERE),
    "objects errors": NOWHERE,
    "objects evict": ("Counter", "alice", *NOWHERE),
    "objects export": ("Counter", *NOWHERE),
    "objects get": ("Counter", "alice", "key", *NOWHERE),
    "objects history": ("Counter", "alice", *NOWHERE),
    "objects hot": NOWHERE,
    "objects import": ("nowhere.jsonl",),
    "objects ls": NOWHERE,
    "objects put": ("Counter", "alice", "key", "1", *NOWHERE),
    "objects release": ("Counter", "alice", *NOWHERE),
    "objects show": ("Counter", "alice", *NOWHERE),
    "objects undo": ("Counter", "alice", *NOWHERE),
    "reload": NOWHERE,
    "repair": ("nowhere", "--shard", "0"),
    "reshard": ("nowhere", "--shards", "4"),
    "restart": ("--rolling", *NOWHERE),
    "restore": ("nowhere", "--list"),
    "status": NOWHERE,
    "test": ("nowhere.py",),
    "uninstall-service": ("--name", "no_such_name!"),
    "upgrade": ("nowhere",),
}
"""How each command that has --json comes to nothing."""


def test_every_command_that_has_the_option_is_here() -> None:
    having = {name for name, parser in commands().items() if "--json" in parser._option_string_actions}
    assert set(FAILING) == having


@pytest.mark.parametrize("name", FAILING)
def test_a_failure_is_json_on_stdout_and_a_line_on_stderr(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("TIDEGATE_SERVICE_CLUSTER", "TIDEGATE_CONFIG", "STATE_DIRECTORY"):
        monkeypatch.delenv(variable, raising=False)
    assert main([*name.split(), *FAILING[name], "--json"]) == 1
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    if name == "config check":  # What is wrong is what was asked for.
        assert answer["mistakes"]
        return
    assert answer["error"]["code"]
    assert printed.err == f"tidegate: {answer['error']['message']}\n"


def test_a_command_line_that_is_wrong_is_said_on_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["status", "--json", "--nonsense"])
    assert ended.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives the command, and another user carries it out")
def test_it_is_so_where_root_has_another_user_carry_it_out(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, 65534, 65534)
    done = subprocess.run([sys.executable, "-P", "-m", "tidegate", "check", str(data), "--json"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"tidegate: {json.loads(done.stdout)['error']['message']}\n"
