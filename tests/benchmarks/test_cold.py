from __future__ import annotations

import subprocess
import sys

import msgspec

from tidegate.benchmarks.cold import IN_MEMORY, BareCold, Memory
from tidegate.benchmarks.micro import BATCH


def test_each_call_brings_an_object_in_and_another_one_leaves_memory() -> None:
    batches = 2 * IN_MEMORY // BATCH
    cold = BareCold(batches * BATCH)
    table = cold.bare.host.table
    for number in range(1, batches + 1):
        cold.batch()
        assert table.added == number * BATCH
        assert len(table) <= IN_MEMORY
    assert table.evictions == table.added - len(table)
    assert table.evictions > 0


def test_what_an_object_takes_is_measured_idle_and_in_use() -> None:
    # In a process of its own, which has freed nothing that it could use again.
    command = [sys.executable, "-m", "tidegate.benchmarks", "micro", "--memory", "--smoke", "--json"]
    idle, in_use = msgspec.json.decode(subprocess.check_output(command), type=list[Memory])
    assert (idle.what, in_use.what) == ("idle", "in use")
    assert 0 < idle.bytes_each <= in_use.bytes_each < 10_000
