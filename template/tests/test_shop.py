"""What callers may rely on: the real core in virtual time, a millisecond a test."""

import asyncio

import pytest
from tidegate.testing import Objects

from shop import Settings, Stock


async def test_what_is_added_can_be_sold(objects: Objects) -> None:
    tea = objects(Stock, "tea")
    assert await tea.add(3) == 3
    assert await tea.sell(2) == 1
    assert await tea.left() == 1
    assert await objects(Stock, "milk").left() == 0


async def test_what_is_not_there_is_not_sold(objects: Objects) -> None:
    tea = objects(Stock, "tea")
    await tea.add(1)
    with pytest.raises(ValueError, match="cannot sell 2 of 1"):
        await tea.sell(2)
    assert await tea.left() == 1


@pytest.mark.tidegate(settings=Settings(pieces_max=5))
async def test_what_there_is_no_room_for_is_not_added(objects: Objects) -> None:
    tea = objects(Stock, "tea")
    await tea.add(5)
    with pytest.raises(ValueError, match="no room for 6"):
        await tea.add(1)
    assert await tea.left() == 5


async def test_nobody_is_sold_the_same_piece_twice(objects: Objects) -> None:
    tea = objects(Stock, "tea")
    await tea.add(20)
    left = await asyncio.gather(*(tea.sell() for _ in range(20)))
    assert sorted(left) == list(range(20))


async def test_what_was_answered_is_there_after_a_crash(objects: Objects) -> None:
    tea = objects(Stock, "tea")
    await tea.add(5)
    objects.crash()
    assert await tea.left() == 5
