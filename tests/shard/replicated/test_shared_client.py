"""shard/replicated/shared_client.py, with a real nats-server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from nats.aio.client import Client

from tidegate.runtime.cluster.nats_servers import NatsServers
from tidegate.runtime.errors import OperatorError
from tidegate.shard.replicated.shared_client import SharedClient


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    with NatsServers(tmp_path_factory.mktemp("nats"), servers=1) as started:
        yield started


def test_all_who_ask_have_one_connection_until_it_is_closed(server: NatsServers) -> None:
    async def tried() -> None:
        shared = SharedClient(server.urls)
        first, second = await asyncio.gather(shared.get(), shared.get())
        assert first is second is await shared.get() is shared.newest
        await first.close()
        third = await shared.get()
        assert third is not first
        assert third.is_connected
        await shared.close()
        assert third.is_closed

    asyncio.run(tried())


def test_all_who_waited_for_an_attempt_hear_how_it_failed_and_the_next_one_tries_anew(server: NatsServers) -> None:
    begun: list[Client] = []

    async def begin(client: Client) -> None:
        begun.append(client)
        if len(begun) == 1:
            raise OperatorError("begin", "a test", "the first time it fails", "try again")

    async def tried() -> None:
        shared = SharedClient(server.urls, begin)
        failed = await asyncio.gather(shared.get(), shared.get(), return_exceptions=True)
        assert [isinstance(error, OperatorError) and error.problem for error in failed] == ["the first time it fails"] * 2
        assert begun[0].is_closed
        assert await shared.get() is begun[1]
        await shared.close()

    asyncio.run(tried())


def test_who_gives_up_does_not_end_the_attempt_of_the_others(server: NatsServers) -> None:
    async def tried() -> None:
        shared = SharedClient(server.urls)
        impatient, patient = (asyncio.get_running_loop().create_task(shared.get()) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        assert (await patient).is_connected
        await shared.close()

    asyncio.run(tried())
