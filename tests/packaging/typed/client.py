"""What a user's type checker says about clients. A line that ends in `# wrong` must be reported by each checker, no other may."""

import asyncio
from collections.abc import Callable
from typing import Any, assert_type

from tidegate import (
    ClassInfo,
    Client,
    DurableObject,
    MethodInfo,
    ServiceStatus,
    ServiceTopology,
    SyncClient,
    SyncStub,
    connect,
    connect_sync,
)


class Named:
    async def rename(self, name: str) -> None: ...


class Counter(Named, DurableObject):
    async def add(self, amount: int = 1, *, note: str | None = None) -> int:
        await self.storage.put("note", note)
        return amount

    async def history(self, *days: int) -> list[str]:
        return [str(day) for day in days]


class Other(DurableObject):
    async def add(self, amount: str) -> str:
        return amount


async def in_a_loop() -> None:
    async with connect("tcp://127.0.0.1:7711", timeout=5.0) as client:
        assert_type(client, Client)
        counter = client.stub(Counter, "alice", timeout=1.0)
        assert_type(counter, Counter)
        assert_type(await counter.add(2), int)
        assert_type(await counter.rename("bob"), None)
        assert_type(await counter.history(1, 2), list[str])
        assert_type(await client.stub("Counter", "alice").add(2), Any)
        async with asyncio.TaskGroup() as tasks:
            assert_type(tasks.create_task(counter.add(2)), asyncio.Task[int])
            assert_type(await asyncio.create_task(client.call("Counter", "alice", "add")), Any)
            assert_type(await asyncio.gather(counter.add(2), counter.add(3)), tuple[int, int])
        assert_type(await client.map(Counter, Counter.add, [("alice", 2), "bob"]), list[int])
        assert_type(await client.map(Counter, Counter.history, ["bob"], return_exceptions=True), list[list[str] | BaseException])
        assert_type(await client.map("Counter", "add", ["alice"]), list[Any])
        await client.map(Counter, Other.add, ["alice"])  # wrong
        await client.map(Counter, Counter.add, [7])  # wrong
        await client.map(Counter, "add", ["alice"])  # wrong
        await counter.add("x")  # wrong
        await counter.ad()  # wrong
        text: str = await counter.add()  # wrong
        number: int = counter.add()  # wrong
        client.stub(7, "alice")  # wrong
        client.stub(Counter, "alice", wait=1.0)  # wrong
        print(text, number)

        assert_type(await client.ping(), str)
        status = await client.status(timeout=1.0)
        assert_type(status, ServiceStatus)
        assert_type([process.pid for process in status.processes], list[int | None])
        assert_type(await client.topology(), ServiceTopology)
        assert_type(await client.classes(), dict[str, ClassInfo])
        status["state"]  # wrong
        status.state = "serving"  # wrong


def in_a_thread() -> None:
    with connect_sync("tcp://127.0.0.1:7711", timeout=5.0) as client:
        assert_type(client, SyncClient)
        counter = client.stub(Counter, "alice", timeout=1.0)
        assert_type(counter, SyncStub[Counter])
        assert_type(counter(Counter.add), int)
        assert_type(counter(Counter.add, 2, note="two"), int)
        assert_type(counter(Counter.add, amount=2), int)
        assert_type(counter(Counter.rename, "bob"), None)
        assert_type(counter(Named.rename, name="bob"), None)
        assert_type(counter(Counter.history, 1, 2), list[str])
        assert_type(client.stub("Counter", "alice").add(2), Any)
        assert_type(client.map(Counter, Counter.add, [("alice", 2), "bob"]), list[int])
        assert_type(client.map(Counter, Counter.add, ["bob"], return_exceptions=True), list[int | BaseException])
        client.map(Counter, Other.add, ["alice"])  # wrong
        counter(Counter.add, "x")  # wrong
        counter(Counter.add, amout=2)  # wrong
        counter(Counter.add, 1, 2)  # wrong
        counter(Counter.history, "x")  # wrong
        counter(Counter.ad)  # wrong
        counter(Other.add, "x")  # wrong
        counter("add")  # wrong
        text: str = counter(Counter.add)  # wrong
        counter.add(2)  # wrong
        counter.ad()  # wrong
        client.stub(7, "alice")  # wrong
        print(text)

        def count(stub: SyncStub[Counter]) -> int:
            return stub(Counter.add, 2)

        counting: Callable[[SyncStub[Counter]], int] = count
        assert_type(counting(counter), int)
        count(client.stub(Other, "alice"))  # wrong

        assert_type(client.ping(), str)
        status = client.status(timeout=1.0)
        assert_type(status, ServiceStatus)
        assert_type(status.quarantined_objects[0].offences, int)
        assert_type(status.config_waits[0].option, str)
        assert_type(status.router, dict[str, Any])
        place = client.topology().shards[0]
        assert_type(place.slots, tuple[int, int])
        assert_type(place.endpoint, str | None)
        assert_type(client.classes()["Counter"].methods["add"], MethodInfo)
        client.topology()["slots"]  # wrong
        print(client.status().workers)  # wrong
