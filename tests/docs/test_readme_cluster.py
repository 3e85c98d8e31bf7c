"""What the README says to type to see three hosts on one machine, and one of them die, typed as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.test_pages import steps
from tests.support.service import ROOT, processes_with_files_in
from tests.support.waiting import wait_until
from tidegate.runtime.addresses import free_port

START_S = 90.0
UP, SECOND_TERMINAL = re.findall(
    r"^```console\n(.*?)^```",
    (ROOT / "README.md").read_text().partition("\n## Several hosts\n")[2].partition("\n## ")[0],
    re.MULTILINE | re.DOTALL,
)
HOSTS = 3


def as_here(command: str, port: int) -> str:
    """With this Python's program, on free ports, and with patience: the machine may be busy."""
    program = f"{shlex.quote(sys.executable)} -m tidegate"
    for at in range(HOSTS):
        command = command.replace(f"tcp://127.0.0.1:{7711 + at}", f"tcp://127.0.0.1:{port + at} --timeout {START_S:g}")
    return command.replace(".venv/bin/tidegate", program)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the reader stands."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    yield tmp_path
    for pid in processes_with_files_in(tmp_path):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.timeout(300)
def test_three_hosts_survive_that_one_is_killed_as_the_readme_says(folder: Path) -> None:
    port = next(port for port in iter(free_port, 0) if port % 4 == 0)
    ((up, nothing),) = steps(UP)
    assert nothing == ""
    log = folder / "log"
    with log.open("w") as output:
        arguments = shlex.split(f"{as_here(up, port)} --port {port}")
        process = subprocess.Popen(arguments, stdout=output, stderr=output, cwd=folder)
    try:
        wait_until(lambda: log.read_text().count("is ready on") == HOSTS, "three hosts", START_S, seen=log.read_text)
        typed = list(steps(SECOND_TERMINAL))
        assert [command.split()[0] for command, _ in typed] == [".venv/bin/tidegate", "pkill", ".venv/bin/tidegate"]
        for command, expected in typed:
            done = subprocess.run(as_here(command, port), shell=True, capture_output=True, text=True, check=False, cwd=folder)
            assert (done.stdout + done.stderr).strip() == expected, f"{command}\n{log.read_text()}"
        wait_until(lambda: "host-1 | ended (-9)" in log.read_text(), "a word on the host that died", seen=log.read_text)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
        assert processes_with_files_in(folder / "tidegate-cluster") == []
    finally:
        process.kill()
        process.wait()
