"""Under a real systemd-journald every line is an entry with fields. In a mount namespace of its own; needs root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import ROOT

JOURNALD = Path("/usr/lib/systemd/systemd-journald")
APP = Path(__file__).with_name("apps") / "talk.py"

SERVE = """
import os, socket, sys
stream = socket.socket(socket.AF_UNIX)
stream.connect("/run/systemd/journal/stdout")
stream.sendall(b"tidegate\\n\\n6\\n1\\n0\\n0\\n0\\n")
status = os.fstat(stream.fileno())
for fd in (1, 2):
    os.dup2(stream.fileno(), fd)
os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
os.execv(sys.executable, [sys.executable, "-m", "tidegate", "serve", *sys.argv[1:]])
"""
SCRIPT = """
set -e
for folder in /run/systemd /run/log; do mkdir -p $folder; mount -t tmpfs tmpfs $folder; done
mkdir -p /run/systemd/journal
$JOURNALD >/dev/null 2>&1 & journald=$!
until [ -S /run/systemd/journal/socket ]; do sleep 0.05; done
$PYTHON serve.py $APP --data data --listen ipc://$PWD/s --workers 1 & service=$!
call() { $PYTHON -m tidegate call --connect ipc://$PWD/s Talk "$@" || true; }
until [ -S s ]; do sleep 0.05; done
call alice say '"hello"'
call alice fail '"no"'
call alice past_python
kill $service; wait $service || true
until journalctl -o json | grep -q "stopping: answering"; do sleep 0.1; done
journalctl -o json --all >entries
kill $journald
"""


@pytest.fixture
def entries(tmp_path: Path) -> list[dict[str, Any]]:
    (tmp_path / "serve.py").write_text(SERVE)
    environment = {**os.environ, "JOURNALD": str(JOURNALD), "PYTHON": sys.executable, "APP": str(APP), "PYTHONPATH": str(ROOT)}
    command = ["unshare", "--mount", "bash", "-c", SCRIPT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    read = [json.loads(line) for line in (tmp_path / "entries").read_text().splitlines()]
    return [entry for entry in read if "TIDEGATE_PROCESS" in entry]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or not JOURNALD.exists(), reason="needs root and systemd-journald")
def test_a_real_journald_has_every_line_as_an_entry_with_its_fields(entries: list[dict[str, Any]]) -> None:
    by_alice = [each for each in entries if each.get("TIDEGATE_OBJECT") == "Talk/alice"]
    assert {each["TIDEGATE_METHOD"] for each in by_alice} == {"say", "fail"}
    assert {each["LOGGER"] for each in by_alice} >= {"stdout", "stderr", "app.orders", "some.library", "py.warnings"}
    (logged,) = [each for each in by_alice if each["LOGGER"] == "app.orders"]
    assert logged["MESSAGE"].endswith("(app.orders): logged hello")
    assert (logged["PRIORITY"], logged["TIDEGATE_PROCESS"], logged["TIDEGATE_EXTRA"]) == ("6", "worker 0", '{"order":7}')
    assert logged["TIDEGATE_CALL"] in logged["MESSAGE"]
    (failed,) = [each for each in by_alice if each["LOGGER"] == "tidegate.objects"]
    assert (failed["PRIORITY"], failed["TIDEGATE_TRACEBACK"].splitlines()[-1]) == ("4", "ValueError: no")
    past = [each for each in entries if each.get("LOGGER") == "stderr" and "TIDEGATE_OBJECT" not in each]
    assert [each["MESSAGE"].partition(": ")[2] for each in past if "written to 2" in each["MESSAGE"]] == ["written to 2"]
    assert not [each for each in entries if each["PRIORITY"] == "3"]
    assert len({each["_PID"] for each in entries}) == 2, "the supervisor, and the worker itself"
