"""The Python clients against the whole service: what the echo service cannot show."""

from __future__ import annotations

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tidegate.runtime.client.asynchronous import connect
from tidegate.runtime.client.synchronous import connect_sync
from tidegate.runtime.errors import BadArguments, CallError, UnknownClass, UnknownMethod

if TYPE_CHECKING:
    from tests.clients.conftest import RealService


class Counter:
    """Of `examples/counter.py`, as a client knows it that does not have the app."""

    async def get_unique_number(self) -> int: ...


@pytest.mark.parametrize("direct", [True, False])
def test_1_000_calls_at_once_get_1_000_different_numbers(service: RealService, direct: bool) -> None:
    async def main() -> None:
        async with connect(service.endpoint, direct=direct) as client:
            stub = client.stub(Counter, f"async direct={direct}")
            numbers = await asyncio.gather(*(stub.get_unique_number() for _ in range(1_000)))
            assert numbers == list(range(1_000)), "in the order of the calls, without a gap"
            assert client.statistics().slots_direct == (16_384 if direct else 0)

    asyncio.run(main())


def test_threads_with_one_synchronous_client_get_different_numbers(service: RealService) -> None:
    with connect_sync(service.endpoint) as client, ThreadPoolExecutor(8) as pool:
        stub = client.stub(Counter, "threads")
        numbers = list(pool.map(lambda _: stub(Counter.get_unique_number), range(200)))
        assert sorted(numbers) == list(range(200))


def test_what_the_service_refuses_is_raised_as_its_class(service: RealService) -> None:
    with connect_sync(service.endpoint) as client:
        with pytest.raises(UnknownClass):
            client.stub("Nothing", "a").get_unique_number()
        with pytest.raises(UnknownMethod):
            client.stub("Counter", "a").nothing()
        with pytest.raises(BadArguments):
            client.stub("Counter", "a").get_unique_number(1, 2, 3)


def test_the_system_answers_by_both_clients(service: RealService) -> None:
    async def main() -> None:
        async with connect(service.endpoint) as client:
            assert (await client.topology()).slots == 16_384
            assert "Counter" in await client.classes()
            status = await client.status()
            assert (status.state, status.class_names[0]) == ("serving", "Counter")
            assert status.processes[0].pid == service.process.pid
            await client.ping()

    asyncio.run(main())
    with connect_sync(service.endpoint) as client:
        assert len(client.topology().shards) >= 1
        assert client.classes()["Counter"].methods["get_unique_number"].signature == "()"
        status = client.status()
        assert [process.name for process in status.processes][:2] == ["supervisor", "router"]
        assert {shard for process in status.processes for shard in process.shards} == set(range(status.shards))
        assert status.router["name"] == "router"
        client.ping()


def test_no_number_comes_twice_and_no_call_hangs_while_workers_are_killed(service: RealService) -> None:
    names = [f"killed {number}" for number in range(50)]
    numbers: dict[str, list[int]] = {name: [] for name in names}
    outcomes: set[str] = set()

    async def main() -> None:
        async with connect(service.endpoint, timeout=20) as client:
            stubs = {name: client.stub(Counter, name) for name in names}
            stop = asyncio.Event()

            async def load(name: str) -> None:
                while not stop.is_set():
                    try:
                        numbers[name].append(await stubs[name].get_unique_number())
                    except CallError as error:
                        outcomes.add(f"{error.code} {error.outcome}")
                        await asyncio.sleep(0.01)

            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(load(name))
                for _ in range(3):
                    before = sum(map(len, numbers.values()))
                    while sum(map(len, numbers.values())) < before + 500:
                        await asyncio.sleep(0.01)
                    os.kill(worker_pids(service.process.pid)[0], signal.SIGKILL)
                await asyncio.sleep(0.5)
                stop.set()
            lasts = await asyncio.gather(*(stub.get_unique_number() for stub in stubs.values()))
            for name, last in zip(names, lasts, strict=True):
                assert numbers[name] == list(range(len(numbers[name]))), name
                assert last == len(numbers[name]), name
            assert client.statistics().calls_in_flight == 0

    asyncio.run(main())
    assert outcomes == set(), "calls are made again until they are answered"


def worker_pids(supervisor_pid: int) -> list[int]:
    """The children of the supervisor that run `python -m tidegate.shard`."""
    children = Path(f"/proc/{supervisor_pid}/task/{supervisor_pid}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in children}
    return [pid for pid, command in commands.items() if b"tidegate.shard" in command]
