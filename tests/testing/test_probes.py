"""What the timeline tells of storage, HTTP and calls between objects; and which reads may wait for the disk."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.testing.catalogue import Purse
from tidegate import AlarmInfo, DurableObject, Storage
from tidegate.testing import Objects
from tidegate.testing.exploration import Exploration
from tidegate.testing.probes import OPERATIONS
from tidegate.testing.schedule import Schedule

WHEN = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
CALLS: dict[str, Callable[[Any], Any]] = {
    "get": lambda storage: storage.get("a", 7, type=int),
    "get_many": lambda storage: storage.get_many(key for key in ("a", "b")),
    "list": lambda storage: storage.list(prefix="a", limit=3),
    "put": lambda storage: storage.put("a", 1, no_cache=True),
    "put_many": lambda storage: storage.put_many({"a": 1}),
    "delete": lambda storage: storage.delete("a"),
    "delete_many": lambda storage: storage.delete_many(keys=iter(["a", "b"])),
    "delete_all": lambda storage: storage.delete_all(),
    "get_alarm": lambda storage: storage.get_alarm(),
    "set_alarm": lambda storage: storage.set_alarm(WHEN),
    "delete_alarm": lambda storage: storage.delete_alarm(),
    "sync": lambda storage: storage.sync(),
}
LINES = {
    "get": "get('a', 7)",
    "get_many": "get_many(['a', 'b'])",
    "list": "list(prefix='a', limit=3)",
    "put": "put('a', 1, no_cache=True)",
    "put_many": "put_many({'a': 1})",
    "delete": "delete('a')",
    "delete_many": "delete_many(['a', 'b'])",
    "delete_all": "delete_all()",
    "get_alarm": "get_alarm()",
    "set_alarm": f"set_alarm({WHEN!r})",
    "delete_alarm": "delete_alarm()",
    "sync": "sync()",
}
Act = Callable[["Actor"], Coroutine[Any, Any, Any]]


class Actor(DurableObject):
    """Does what the test says."""

    act: Act

    async def do(self) -> None:
        await type(self).act(self)

    async def fill(self) -> None:
        await self.storage.put_many({"cold": 1, "cool": 2})

    async def alarm(self, info: AlarmInfo) -> None: ...


def told(act: Act, *, filled: bool = False, schedule: Schedule | None = None) -> list[str]:
    """What the timeline says of it, without times."""
    Actor.act = act
    objects = Objects()
    objects.begin(schedule or Schedule({}), Exploration(1, 1, True, False, True), timeline=True)
    objects.http.answer("https://bank.example/*", {"ok": True})
    try:
        if filled:
            objects.run(objects(Actor, "a").fill())
        objects.run(objects(Actor, "a").do())
        objects.check()
        return [line.partition(" s  ")[2].strip() for line in objects.timeline]
    finally:
        objects.abandon()


def asked(act: Act) -> list[str]:
    """Reads of which the schedule is asked whether they wait for the disk."""
    labels: list[str] = []

    class Listening(Schedule):
        def choose(self, label: str, ways: int) -> int:
            labels.append(label)
            return super().choose(label, ways)

    told(act, filled=True, schedule=Listening({}))
    return [label.partition(" by ")[0].removeprefix("the read of ") for label in labels if "waits for the disk" in label]


def test_the_table_has_every_operation_there_is() -> None:
    public = {name for name, thing in vars(Storage).items() if callable(thing) and not name.startswith("_")}
    assert public == {*OPERATIONS, "transaction", "detach"}
    assert {*CALLS} == {*LINES} == {*OPERATIONS}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_leaves_a_line(operation: str) -> None:
    async def act(actor: Actor) -> None:
        await CALLS[operation](actor.storage)
        async with actor.storage.transaction() as txn:
            await CALLS[operation](txn if operation != "sync" else actor.storage)

    assert [line for line in told(act) if operation in line] == [f"Actor/a {LINES[operation]}"] * 2


async def commits(actor: Actor) -> None:
    async with actor.storage.transaction() as txn:
        await txn.put("a", 1)


async def raises(actor: Actor) -> None:
    try:
        async with actor.storage.transaction():
            raise ValueError
    except ValueError:
        pass


async def rolls_back(actor: Actor) -> None:
    async with actor.storage.transaction() as txn:
        txn.rollback()


@pytest.mark.parametrize(("act", "end"), [(commits, "committed"), (raises, "rolled back"), (rolls_back, "rolled back")])
def test_a_transaction_is_told_with_its_end(act: Act, end: str) -> None:
    lines = [line for line in told(act) if "transaction" in line]
    assert lines == ["Actor/a transaction begins", f"Actor/a transaction {end}"]


def test_what_other_objects_and_the_network_answer_is_told() -> None:
    async def act(actor: Actor) -> None:
        await actor.stub(Purse, "p").pay(5)
        await actor.stub(Actor, "a2").fill()
        async with actor.fetch.post("https://bank.example/pay", json=1):
            pass

    objects = Objects(workers=3)
    places = {objects._service.worker_of(*of).index for of in (("Actor", "a"), ("Purse", "p"), ("Actor", "a2"))}
    objects.abandon()
    assert len(places) > 1, "one of them is on another worker, one is not"
    lines = told(act)
    for line in (
        *("test -> Actor/a.do()", "Actor/a -> Purse/p.pay", "Purse/p.pay -> Actor/a: None"),
        *("Actor/a -> Actor/a2.fill", "Actor/a2.fill -> Actor/a: None", "Actor/a.do -> test: None"),
        *("HTTP POST https://bank.example/pay", "HTTP POST https://bank.example/pay -> 200"),
    ):
        assert lines.count(line) == 1, (line, lines)


# Reads that wait for the disk


async def writes_then_reads(actor: Actor) -> None:
    actor.storage.put("new", 1)
    await actor.storage.get("cold")


def test_a_read_between_two_writes_may_wait_for_the_disk() -> None:
    assert asked(writes_then_reads) == ["get('cold')"]


async def reads_only(actor: Actor) -> None:
    await actor.storage.get("cold")
    await actor.storage.list()


async def reads_what_it_has_read(actor: Actor) -> None:
    await actor.storage.get("cold")
    actor.storage.put("new", 1)
    await actor.storage.get("cold")
    await actor.storage.get("new")


async def reads_in_a_transaction_what_that_has_written(actor: Actor) -> None:
    actor.storage.put("new", 1)
    async with actor.storage.transaction() as txn:
        await txn.put("cold", 1)
        await txn.get("cold")


@pytest.mark.parametrize("act", [reads_only, reads_what_it_has_read, reads_in_a_transaction_what_that_has_written])
def test_what_is_in_memory_or_changes_nothing_never_waits(act: Act) -> None:
    assert asked(act) == []


def test_ranges_several_keys_and_answers_of_deletes_may_wait_too() -> None:
    async def act(actor: Actor) -> None:
        actor.storage.put("new", 1)
        await actor.storage.list(prefix="c")
        await actor.storage.get_many(["new", "cold"])
        await actor.storage.delete("cool")

    assert asked(act) == ["list(prefix='c')", "get_many(['new', 'cold'])", "delete('cool')"]


def test_reads_of_tasks_that_run_side_by_side_may_wait() -> None:
    async def act(actor: Actor) -> None:
        await asyncio.gather(reads_only(actor), reads_only(actor))

    assert asked(act)[0] == "get('cold')"


def test_what_was_written_before_a_read_that_waits_is_durable_before_it_is_answered() -> None:
    async def act(actor: Actor) -> None:
        actor.storage.put("new", 1)
        assert await actor.storage.get("cold") == 1
        actor.storage.put("newer", 1)

    class Waiting(Schedule):
        def choose(self, label: str, ways: int) -> int:
            super().choose(label, ways)
            return int("waits for the disk" in label)

    lines = told(act, filled=True, schedule=Waiting({}))
    begun = lines.index("Actor/a.do begins")
    assert [line.removeprefix("Actor/a ") for line in lines[begun + 1 : -1]] == [
        *("put('new', 1)", "get('cold')", "-- the read of get('cold') by Actor/a waits for the disk"),
        *("durable", "put('newer', 1)", "durable"),
    ]
