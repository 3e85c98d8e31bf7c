"""shard/store/reads.py: which reads are over."""

from __future__ import annotations

import asyncio

from tests.support.cold_world import HeldReader
from tidegate.shard.store.reads import OpenReads
from tidegate.shard.store.state.memory_state import MemoryState


def test_who_waits_for_the_reads_of_now_is_told_when_they_are_over_whatever_is_asked_later() -> None:
    reads, reader, told = OpenReads(print), HeldReader(), []
    state = MemoryState(0)

    def ask(name: str) -> None:
        reads.read(reader, state.snapshot(), lambda snapshot: name, lambda result, error: told.append(result))

    async def run() -> None:
        reads.when_over(lambda: told.append("nothing to wait for"))
        ask("first")
        ask("second")
        reads.when_over(lambda: told.append("both are over"))
        ask("third")
        assert len(reads) == 3
        for _ in range(3):
            reader.release(1)
            await asyncio.sleep(0)

    asyncio.run(run())
    assert told == ["nothing to wait for", "first", "both are over", "second", "third"]
    assert len(reads) == 0
