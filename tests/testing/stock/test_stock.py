"""What is found in classes of which nothing is known: planted mistakes, and nothing in their twins.

The catalogue is that of `@explore`. Mistakes that only their purpose makes one (a bell that drifts, an order that is refused
after it was told) cannot be found without knowing it, and are left out, as are two twins that do on purpose what
looks like one: one gives up a bad hour, one refuses calls while it is busy."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from tests.testing import catalogue
from tests.testing.test_catalogue import quiet
from tidegate import DurableObject
from tidegate.shard.objects.methods import ObjectClass
from tidegate.testing.stock.stock import Discovered, StockExploration

KINDS = {
    "an await between reading and writing": {"together"},
    "two calls of one event": {"together"},
    "a transfer that is not written down": {"half"},
    "a transfer that arrives twice": {"crash", "failure"},
    "a write after the reply": {"memory"},
    "a count in memory": {"memory"},
    "a cached value that is not renewed": {"memory"},
    "numbers that begin anew": {"memory"},
    "state of a module": {"outside"},
    "a bonus at each start": {"memory"},
    "a timer for what must happen": {"memory"},
    "an alarm that is not idempotent": {"crash"},
    "a look before a step": {"together"},
    "taken before it is given": {"crash"},
    "a saga that compensates twice": {"together"},
    "a read from disk between two halves": {"half"},
    "orders that only memory knows": {"memory"},
}
ASKED = (catalogue.Purse, catalogue.Stock, catalogue.Page, catalogue.Reader)
"""Classes that others of the catalogue ask."""
NOT_USABLE = {"SetsTheNextFirst", "IsBusyAsLongAsItIs"}


def classes(cls: type[DurableObject]) -> list[ObjectClass]:
    """With those that it asks."""
    source = "".join(
        name for function in vars(cls).values() if hasattr(function, "__code__") for name in function.__code__.co_names
    )
    for base in cls.__mro__[1:-2]:
        source += "".join(name for each in vars(base).values() if hasattr(each, "__code__") for name in each.__code__.co_names)
    return [ObjectClass(each) for each in (cls, *(each for each in ASKED if each.__name__ in source))]


def explored(cls: type[DurableObject], scripts: int) -> tuple[StockExploration, list[Discovered]]:
    catalogue.SHARED.clear()
    with quiet():
        exploration = StockExploration(classes(cls), scripts)
        return exploration, list(exploration.explore(1e9, lambda share: None))


@pytest.mark.parametrize("planted", [each for each in catalogue.CATALOGUE if each.name in KINDS], ids=lambda each: each.name)
def test_the_mistake_is_found_and_its_seed_shows_it_again(planted: catalogue.Planted) -> None:
    catalogue.SHARED.clear()
    with quiet():
        exploration = StockExploration(classes(planted.wrong), 60)
        found = next(each for each in exploration.explore(1e9, lambda share: None) if each.kind in KINDS[planted.name])
        again = StockExploration(classes(planted.wrong)).again(found.seed)
    assert again is not None
    assert again.told == found.told or found.kind == "outside"  # Which ends otherwise each time: that is what is wrong.
    assert again.outcome.timeline


TWINS: list[type[DurableObject]] = sorted(
    {each.right for each in catalogue.CATALOGUE if each.right.__name__ not in NOT_USABLE}, key=lambda cls: cls.__name__
)


@pytest.mark.parametrize("twin", TWINS, ids=lambda cls: cls.__name__)
def test_no_twin_is_blamed(twin: type[DurableObject]) -> None:
    exploration, found = explored(twin, 7)
    assert found == [], [each.told for each in found]
    assert exploration.scripts == 7
    assert not exploration.out_of_time
    assert not exploration.left_out


def test_what_is_found_is_told_by_the_fewest_calls() -> None:
    _, found = explored(catalogue.CountsInMemory, 3)
    (one,) = found
    assert [step.method for step in one.steps] == ["take", "take"]  # type: ignore[union-attr]  # no time passes
    assert one.happened == ["everything leaves memory after step 1"]


def test_what_differs_by_chance_or_time_is_no_finding() -> None:
    import datetime
    import random
    import uuid

    class Noisy(DurableObject):
        async def note(self) -> list[Any]:
            now = datetime.datetime.now(datetime.UTC)
            self.storage.put(f"{now} {random.random()} {uuid.uuid4()}", random.random())
            return [random.random(), now]

    exploration, found = explored(Noisy, 5)
    assert not found
    assert exploration.runs > 50


def test_an_hour_in_which_very_much_happens_is_made_shorter() -> None:
    import datetime

    from tidegate import AlarmInfo

    class Busy(DurableObject):
        async def begin(self) -> None:
            await self.storage.set_alarm(datetime.timedelta(milliseconds=200))

        async def alarm(self, info: AlarmInfo) -> None:
            await self.storage.set_alarm(info.scheduled_for + datetime.timedelta(milliseconds=200))

    exploration, found = explored(Busy, 1)
    assert exploration._fast
    assert not found


def test_it_ends_when_the_time_is_up() -> None:
    ticks = itertools.count()
    exploration = StockExploration([ObjectClass(catalogue.CountsInStorage)], 60, clock=lambda: float(next(ticks)))
    assert not list(exploration.explore(100.0, lambda share: None))
    assert exploration.out_of_time
    assert exploration.scripts < 60


def test_what_could_not_be_tried_is_said() -> None:
    @dataclasses.dataclass
    class Form:
        name: str

        def __post_init__(self) -> None:
            raise ValueError("of another time")

    class Desk(DurableObject):
        async def fill(self, form: Form) -> None: ...

        async def refuse(self) -> None:
            raise ValueError("closed")

    Desk.fill.__annotations__["form"] = Form
    exploration, _ = explored(Desk, 3)
    assert [note.partition(":")[0] for note in exploration.notes] == [
        "Desk.fill is not called", "Desk.refuse raised each time that it was called",
    ]  # fmt: skip
