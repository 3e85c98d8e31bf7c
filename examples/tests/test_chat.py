"""Messages are numbered without gaps, and whoever waits hears of the next one."""

import asyncio

import pytest
from chat import KEPT, Room, key_of

from tidegate.testing import Objects, explore
from tidegate.testing.judges import unique_and_gap_free


@explore(schedules=40)
async def test_each_message_has_its_number_under_every_schedule(objects: Objects) -> None:
    room = objects(Room, "lobby")
    unique_and_gap_free(await asyncio.gather(*(room.post("alice", text) for text in ("one", "two", "three"))))
    assert [message["number"] for message in await room.history()] == [0, 1, 2]


async def test_who_waits_is_told_the_next_message_or_nothing_in_time(objects: Objects) -> None:
    room = objects(Room, "lobby")
    waiting = asyncio.ensure_future(room.wait(-1))
    await objects.clock.advance("5s")
    await room.post("alice", "hello")
    assert [message["text"] for message in await waiting] == ["hello"]
    assert await room.wait(0, seconds=1.0) == []


async def test_the_history_comes_in_pages(objects: Objects) -> None:
    room = objects(Room, "lobby")
    for number in range(5):
        await room.post("alice", f"{number}")
    assert [message["text"] for message in await room.history(2)] == ["3", "4"]
    assert [message["text"] for message in await room.history(2, before=3)] == ["1", "2"]


async def test_the_oldest_goes_when_too_many_are_kept(objects: Objects) -> None:
    room = objects(Room, "lobby")
    await room.post("alice", "first")
    objects.storage(room)["next"] = KEPT
    objects.evict()
    await room.post("alice", "newest")
    assert key_of(0) not in objects.storage(room)


async def test_a_text_without_characters_is_refused(objects: Objects) -> None:
    with pytest.raises(ValueError, match="1 to"):
        await objects(Room, "lobby").post("alice", "")
