"""However many ask, it is fetched once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tidegate.runtime.console.shared import Shared, UnderWay


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    return run


class Source:
    def __init__(self) -> None:
        self.fetches = 0
        self.may_answer = asyncio.Event()
        self.error: Exception | None = None

    async def fetch(self) -> dict[str, Any]:
        self.fetches += 1
        number = self.fetches
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return {"number": number}


@in_a_loop
async def test_those_who_ask_at_the_same_time_get_one_answer_and_also_those_who_ask_soon_after() -> None:
    source = Source()
    shared = Shared(source.fetch, kept_s=1_000.0)
    asked = [asyncio.ensure_future(shared.get()) for _ in range(50)]
    await asyncio.sleep(0)
    source.may_answer.set()
    assert await asyncio.gather(*asked) == [{"number": 1}] * 50
    assert await shared.get() == {"number": 1}


@in_a_loop
async def test_an_answer_that_is_old_is_fetched_again() -> None:
    source = Source()
    source.may_answer.set()
    shared = Shared(source.fetch, kept_s=-1.0)
    assert [await shared.get(), await shared.get()] == [{"number": 1}, {"number": 2}]


@in_a_loop
async def test_an_error_is_given_to_all_who_waited_and_not_kept() -> None:
    source = Source()
    source.may_answer.set()
    source.error = ValueError("no")
    shared = Shared(source.fetch, kept_s=1_000.0)
    told = await asyncio.gather(shared.get(), shared.get(), return_exceptions=True)
    assert [str(each) for each in told] == ["no", "no"]
    assert source.fetches == 1
    source.error = None
    assert await shared.get() == {"number": 2}


@in_a_loop
async def test_who_goes_away_takes_the_answer_from_nobody_else() -> None:
    source = Source()
    shared = Shared(source.fetch, kept_s=1_000.0)
    first, second = (asyncio.ensure_future(shared.get()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    source.may_answer.set()
    assert await second == {"number": 1}
    with pytest.raises(asyncio.CancelledError):
        await first


@in_a_loop
async def test_what_was_read_before_a_change_is_given_to_nobody_who_asks_after_it() -> None:
    source = Source()
    shared, under_way = Shared(source.fetch, kept_s=1_000.0), UnderWay()
    before = [asyncio.ensure_future(each) for each in (shared.get(), under_way.get("a", source.fetch))]
    await asyncio.sleep(0)
    shared.forget()
    under_way.forget()
    after = [asyncio.ensure_future(each) for each in (shared.get(), under_way.get("a", source.fetch))]
    await asyncio.sleep(0)
    source.may_answer.set()
    assert [each["number"] for each in await asyncio.gather(*before, *after)] == [1, 2, 3, 4]


@in_a_loop
async def test_of_many_questions_each_is_under_way_once_and_nothing_of_it_is_kept() -> None:
    source, under_way = Source(), UnderWay()
    asked = [asyncio.ensure_future(under_way.get(key, source.fetch)) for key in "abab" * 10]
    await asyncio.sleep(0)
    asked.pop().cancel()
    source.may_answer.set()
    assert [each["number"] for each in await asyncio.gather(*asked)] == ([1, 2] * 20)[:-1]
    assert under_way._tasks == {}
    assert await under_way.get("a", source.fetch) == {"number": 3}
