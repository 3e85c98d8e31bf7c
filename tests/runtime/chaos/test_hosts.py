"""Short runs over three hosts and three NATS servers. What each is told is in `docs/reliability.md`, with longer ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import FULL, processes_with_files_in
from tidegate.runtime.chaos.stage.network import may_have_network

ON_ANY_MACHINE = ("host", "sleep", "move", "server", "stall", "retire", "majority", "full")
TIMES = 60 if FULL else 6


def run(folder: Path, *options: str) -> dict[str, Any]:
    """In a process of its own, which may leave the network."""
    command = [sys.executable, "-m", "tidegate", "chaos", "--hosts", "3", "--json", "--data", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert processes_with_files_in(folder) == [], "nothing is left"
    report: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, report["violations"], report["undecided"]) == (0, [], [])
    assert report["ended_by"] == "every strike was made"
    assert report["checked"] > 100
    return report


@pytest.mark.timeout(3_000 if FULL else 400)
def test_hosts_and_servers_that_are_lost_asleep_and_full_break_no_promise(tmp_path: Path) -> None:
    faults = ",".join(ON_ANY_MACHINE)
    report = run(tmp_path / "run", "--faults", faults, "--times", str(TIMES), "--every", "0.5", "--seed", "8", "--no-network")
    assert report["stage"] == "3 hosts and 3 NATS servers on loopback"
    assert sum(report["faults"].values()) == TIMES


@pytest.mark.root
@pytest.mark.timeout(3_000 if FULL else 400)
def test_cuts_of_the_network_and_lost_hosts_break_no_promise_and_with_keys_nobody_sees_them(tmp_path: Path) -> None:
    if why := may_have_network():
        pytest.skip(f"needs a network of its own: {why}")
    faults = "cut,cut,host,move,move,move"  # On a slow machine one of them may find no leader that answers in time.
    report = run(tmp_path / "run", "--faults", faults, "--times", str(TIMES), "--every", "0.5", "--seed", "9", "--keys")
    assert report["stage"] == "3 hosts and 3 NATS servers in a network of their own"
    assert report["calls"]["errors"] == {}
    assert report["faults"].keys() <= {"cut", "host", "move"}, "one that was not done is not counted, and another takes its place"
    assert report["faults"].keys() >= {"cut", "move"}
    assert sum(report["faults"].values()) == TIMES


@pytest.mark.root
@pytest.mark.timeout(400)
def test_ctrl_c_on_the_terminal_ends_a_campaign_and_nothing_that_it_looks_after(tmp_path: Path) -> None:
    """It told every process, and those that hold the networks were gone before the last check."""
    if why := may_have_network():
        pytest.skip(f"needs a network of its own: {why}")
    command = [sys.executable, "-m", "tidegate", "chaos", "--hosts", "3", "--faults", "cut", "--data", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as campaign:
        assert campaign.stderr is not None
        for line in campaign.stderr:
            if " cut" in line and " calls, " in line:
                break
        os.killpg(campaign.pid, signal.SIGINT)
        page, said = campaign.communicate()
    assert campaign.returncode == 0, f"{page}{said}"
    assert "interrupted" in page
    assert processes_with_files_in(tmp_path / "run") == [], "nothing is left"
