"""No number is given twice and none is left out, however often the process dies."""

import asyncio

import pytest
from counter import Counter, MemoryCounter, StartedCounter, TransactionCounter

from tidegate.testing import Objects, explore
from tidegate.testing.judges import keeps_all_in_storage, unique_and_gap_free

KINDS = [Counter, TransactionCounter, MemoryCounter, StartedCounter]


@pytest.mark.parametrize("kind", KINDS)
@explore(schedules=40)
async def test_numbers_are_unique_and_gap_free_under_every_schedule(objects: Objects, kind: type[Counter]) -> None:
    counter = objects(kind, "a")
    unique_and_gap_free(await asyncio.gather(*(counter.get_unique_number() for _ in range(3))))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_counter_that_leaves_memory_goes_on(objects: Objects, kind: type[Counter]) -> None:
    async def three(counter: Counter) -> list[int]:
        return [await counter.get_unique_number() for _ in range(3)]

    await keeps_all_in_storage(objects, kind, three)


async def test_to_look_takes_no_number(objects: Objects) -> None:
    counter = objects(Counter, "a")
    assert [await counter.current(), await counter.get_unique_number(), await counter.current()] == [0, 0, 1]
