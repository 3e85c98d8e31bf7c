"""A service on one machine has nothing of clusters in it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.meta.test_layers import ARROWS

PROCESSES = (
    "tidegate.shard.__main__",
    "tidegate.router.__main__",
    "tidegate.runtime.cli.cli",
    "tidegate.runtime.cli.commands.serve",
    "tidegate.runtime.supervisor.supervisor",
)


def test_no_floor_below_or_beside_knows_of_it() -> None:
    """Those import it where a cluster was asked for, and nowhere else, as the test below shows."""
    knowing = [floor for floor, below in ARROWS.items() if "shard/replicated" in below]
    assert knowing == ["runtime/cluster", "runtime/chaos/faults", "runtime/cli/commands", "shard/migration", "shard/__main__"]


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_of_a_service_imports_nothing_of_it(process: str) -> None:
    look = f"import {process}, sys; print([name for name in sys.modules if 'replicated' in name or name.startswith('nats')])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
