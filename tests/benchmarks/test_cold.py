from __future__ import annotations

from tidegate.benchmarks.cold import IN_MEMORY, BareCold, measure_memory
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


def test_what_an_object_takes_is_measured_in_use_and_idle() -> None:
    in_use, idle = measure_memory(smoke=True)
    assert (in_use.what, idle.what) == ("in use", "idle")
    assert 0 < idle.bytes_each < 10_000
