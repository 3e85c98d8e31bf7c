"""The judges: each passes what is right and names what is not."""

from __future__ import annotations

import asyncio
from typing import Any

import pydantic
import pytest

from tests.testing.bank import Account
from tests.testing.catalogue import (
    CountsInMemory,
    CountsInStorage,
    NumberedWages,
    Purse,
    ReadsThenWaits,
    Wages,
    WaitsInASection,
)
from tidegate import AlarmInfo, DurableObject
from tidegate.testing import Objects
from tidegate.testing.judges import (
    alarm_is_idempotent,
    conserved,
    idempotent,
    keeps_all_in_storage,
    linearizable,
    unique_and_gap_free,
)


def test_numbers_that_are_given_twice_or_left_out_are_named() -> None:
    unique_and_gap_free([2, 0, 1])
    unique_and_gap_free([])
    with pytest.raises(AssertionError, match=r"given more than once: \[1\]; left out: \[2\]"):
        unique_and_gap_free([0, 1, 1, 3])


async def test_money_that_is_lost_is_missed(objects: Objects) -> None:
    await objects(Account, "a").deposit(30)
    await objects(Account, "b").deposit(70)
    conserved(objects, Account, "balance", 100)
    with pytest.raises(AssertionError, match=r"balance of all Account is 100, not 101: \{'a': 30, 'b': 70\}"):
        conserved(objects, Account, "balance", 101)


class Ticket:
    """The model."""

    def __init__(self) -> None:
        self.n = 0

    def take(self) -> int:
        self.n += 1
        return self.n - 1


async def test_answers_that_no_order_explains_are_found(objects: Objects) -> None:
    right, wrong = objects(WaitsInASection, "r"), objects(ReadsThenWaits, "w")
    for stub in (right, wrong):
        await asyncio.gather(stub.take(), stub.take())
        await stub.take()
    linearizable(objects, right, Ticket)
    with pytest.raises(AssertionError, match="no order of the calls explains what take was answered"):
        linearizable(objects, wrong, Ticket)


async def test_a_call_that_was_cut_off_may_have_run_or_not(objects: Objects) -> None:
    ticket = objects(CountsInStorage, "t")
    await ticket.take()
    objects.crash(at="after_commit")
    await objects.attempt(ticket.take())
    assert await ticket.take() == 2
    objects.crash(at="before_commit")
    await objects.attempt(ticket.take())
    assert await ticket.take() == 3
    linearizable(objects, ticket, Ticket)


class Article(pydantic.BaseModel):
    name: str
    pieces: int = 1


class Shelf(DurableObject):
    async def put(self, article: Article) -> int:
        pieces = await self.storage.get(article.name, 0) + article.pieces
        await self.storage.put(article.name, pieces)
        return pieces


class ShelfModel:
    def __init__(self) -> None:
        self.pieces: dict[str, int] = {}

    def put(self, article: dict[str, Any]) -> int:
        self.pieces[article["name"]] = self.pieces.get(article["name"], 0) + article["pieces"]
        return self.pieces[article["name"]]


async def test_arguments_reach_a_model_as_they_travel(objects: Objects) -> None:
    shelf = objects(Shelf, "s")
    await shelf.put(Article(name="tea"))
    await shelf.put(Article(name="tea", pieces=2))
    linearizable(objects, shelf, ShelfModel)


async def test_a_model_that_can_judge_nothing_is_not_taken_for_a_wrong_object(objects: Objects) -> None:
    class OfASet(ShelfModel):
        def __init__(self) -> None:
            self.names: set[str] = set()

    class OfArticles(ShelfModel):
        def __init__(self) -> None:
            self.last = [Article(name="tea")]

    class OfSlots:
        __slots__ = ("pieces",)

    class Lacking:
        def get(self) -> None: ...

    shelf = objects(Shelf, "s")
    await shelf.put(Article(name="tea"))
    for model, problem in (
        (OfASet, "names is a set that"),
        (OfArticles, "last is a list that does not come back equal"),
        (OfSlots, "__slots__"),
    ):
        with pytest.raises(TypeError, match=problem):
            linearizable(objects, shelf, model)
    with pytest.raises(AttributeError, match="no attribute 'put'"):
        linearizable(objects, shelf, Lacking)


async def test_what_is_kept_in_memory_only_is_found(objects: Objects) -> None:
    async def three(ticket: Any) -> list[int]:
        return [await ticket.take() for _ in range(3)]

    await keeps_all_in_storage(objects, CountsInStorage, three)
    with pytest.raises(AssertionError, match=r"gives \[0, 0, 0\] when it leaves memory after each call, and else \[0, 1, 2\]"):
        await keeps_all_in_storage(objects, CountsInMemory, three)


async def test_a_call_that_does_more_the_second_time_is_found(objects: Objects) -> None:
    purse = objects(Purse, "p")
    await idempotent(objects, purse, lambda: purse.pay(10, "rent"))
    with pytest.raises(AssertionError, match=r"a call that is made twice changes .*'balance': \(20, 30\)"):
        await idempotent(objects, purse, lambda: purse.pay(10))


class Diary(DurableObject):
    key = "day"

    async def begin(self) -> None:
        await self.storage.set_alarm(0.0 + 1_800_000_000)

    async def alarm(self, info: AlarmInfo) -> None:
        days = await self.storage.get("days", 0)
        await self.storage.put("days", days + 1)


async def test_an_alarm_that_does_more_the_second_time_is_found(objects: Objects) -> None:
    diary, wages = objects(Diary, "d"), objects(NumberedWages, "w")
    await wages.begin()
    await alarm_is_idempotent(objects, wages)
    with pytest.raises(AssertionError, match="has no alarm set"):
        await alarm_is_idempotent(objects, objects(Wages, "none"))
    await diary.begin()
    with pytest.raises(AssertionError, match=r"an alarm that rings twice changes .*'days': \(1, 2\)"):
        await alarm_is_idempotent(objects, diary)
