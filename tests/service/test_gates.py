"""The input gate in a real service: what is awaited outside, calls in order, calls between objects of different workers."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import zmq

import tidegate
from tests.support.load import finish, start_clients
from tests.support.service import ROOT, Service, services_in
from tests.support.witness import Witness, witness
from tidegate.runtime.ids import shard_of_slot, slot_of

APP = str(ROOT / "tests" / "service" / "apps" / "gates.py")
WORKERS = 2


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with services_in(tmp_path_factory.mktemp("gates")) as serve:
        service = serve(WORKERS, app=APP)
        service.expect(" raised: ", "Traceback", "ValueError: no", "comes back into an open transaction")
        yield service


@pytest.fixture(scope="module")
def outside() -> Iterator[Witness]:
    with witness() as it:
        yield it


def name_on(service: Service, worker: int, cls: str, prefix: str) -> str:
    """A name whose object lives on that worker."""
    shards = service.status()["shards"]
    names = (f"{prefix}{number}" for number in range(1_000))
    return next(name for name in names if shard_of_slot(slot_of(cls, name), shards) % WORKERS == worker)


def ask_at_once(service: Service, cls: str, name: str, calls: list[tuple[object, ...]]) -> list[Any]:
    """All calls in one batch over one connection; their results."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.rcvtimeo = 20_000
        dealer.connect(service.endpoint)
        dealer.send(msgspec.msgpack.encode([[n, cls, name, method, args] for n, (method, *args) in enumerate(calls)]))
        results: dict[int, object] = {}
        while len(results) < len(calls):
            for number, status, result in msgspec.msgpack.decode(dealer.recv()):
                assert status == 0, result
                results[number] = result
    return [results[number] for number in range(len(calls))]


@pytest.mark.parametrize("parties", [2, 64])
def test_tasks_that_each_await_an_http_request_and_then_read_modify_write_never_interfere(
    service: Service, outside: Witness, parties: int
) -> None:
    name = f"http{parties}"
    url = f"{outside.http}/meet/{name}/{parties}"  # All answers are sent at one instant.
    assert sorted(ask_at_once(service, "Counter", name, [("after_request", url)] * parties)) == list(range(parties))
    assert service.call("Counter", name, "current") == parties


def test_sub_tasks_of_one_event_get_distinct_numbers_if_only_storage_is_between_read_and_write(service: Service) -> None:
    assert service.call("Counter", "gather", "gathered", "next", 10) == list(range(10))


def test_sub_tasks_of_one_event_interfere_in_the_same_way_every_time_if_they_wait_in_between(service: Service) -> None:
    given = [service.call("Counter", f"waiting{n}", "gathered", "next_waiting", 10) for n in range(20)]
    assert given == [[0] * 10] * 20
    assert service.call("Counter", "waiting0", "current") == 1


def test_a_critical_section_keeps_sub_tasks_of_one_event_apart(service: Service) -> None:
    assert service.call("Counter", "guarded", "gathered", "next_guarded", 10) == list(range(10))


def test_calls_of_one_client_reach_an_object_in_the_order_in_which_they_were_sent(service: Service) -> None:
    ask_at_once(service, "Witnessing", "one client", [("note", number) for number in range(200)])
    assert service.call("Witnessing", "one client", "came") == list(range(200))


@pytest.mark.parametrize("direct", [True, False], ids=["straight to the worker", "through the router"])
def test_calls_through_one_stub_of_the_python_client_arrive_in_order(service: Service, direct: bool) -> None:
    async def call() -> list[int]:
        async with tidegate.connect(service.endpoint, direct=direct) as client:
            stub = client.stub("Witnessing", f"client stub {direct}")
            await asyncio.gather(*(stub.note(number) for number in range(200)))
            came: list[int] = await stub.came()
            return came

    assert asyncio.run(call()) == list(range(200))


@pytest.mark.parametrize("method", ["send_all", "send_all_and_write"])
@pytest.mark.parametrize("target_worker", [0, 1])
def test_calls_through_one_stub_of_an_object_arrive_in_order_on_any_worker(
    service: Service, target_worker: int, method: str
) -> None:
    sender = name_on(service, 0, "Sender", method)
    target = name_on(service, target_worker, "Witnessing", f"{method}{target_worker} ")
    service.call("Sender", sender, method, target, 100)
    assert service.call("Witnessing", target, "came") == list(range(100))


@pytest.mark.parametrize("workers", [(0, 0), (0, 1)], ids=["of one worker", "of two workers"])
def test_a_chain_of_calls_that_comes_back_to_its_first_object_does_not_deadlock(
    service: Service, workers: tuple[int, int]
) -> None:
    first, second = (name_on(service, worker, "Ping", f"{place} {workers} ") for place, worker in enumerate(workers))
    assert service.call("Ping", first, "chain", [second, first]) == [first, second, first]
    assert service.call("Ping", first, "chain", [second, first] * 10) == [first, second] * 10 + [first]
    assert service.call("Ping", first, "seen") == 2 + 11


def test_an_object_may_call_itself(service: Service) -> None:
    assert service.call("Ping", "self", "chain", ["self", "self"]) == ["self"] * 3


@pytest.mark.parametrize("workers", [(0, 0), (0, 1)], ids=["of one worker", "of two workers"])
def test_a_chain_that_comes_back_is_delivered_in_its_section_and_refused_by_its_transaction(
    service: Service, workers: tuple[int, int]
) -> None:
    first, second = (name_on(service, worker, "Ping", f"{place} back {workers} ") for place, worker in enumerate(workers))
    assert service.call("Ping", first, "chain_in", "section", [second, first]) == [first, second, first]
    assert service.call("Ping", first, "chain_in", "section", [first] * 3) == [first] * 4
    with tidegate.connect_sync(service.endpoint) as client:
        for path in ([first], [second, first]):
            ring = " -> ".join(f"Ping/{name}" for name in (first, *path))
            with pytest.raises(tidegate.CallError, match=re.escape(f"{ring}: chain comes back into an open transaction")):
                client.stub("Ping", first).chain_in("transaction", path)
    assert service.call("Ping", first, "seen") == 2 + 4, "what was refused has left no trace"


@pytest.mark.parametrize("worker", [0, 1])
def test_an_exception_of_another_object_is_raised_where_it_was_called(service: Service, worker: int) -> None:
    caller, callee = name_on(service, 0, "Ping", "caller"), name_on(service, worker, "Ping", "callee")
    assert service.call("Ping", caller, "raise_there", callee) == "ValueError: no"
    assert service.call("Ping", callee, "seen") == 0


def test_many_objects_that_call_each_other_all_get_their_answers(service: Service) -> None:
    names = [f"crowd{number}" for number in range(20)]
    clients = start_clients(service, 2, names, calls=200, window=32, cls="Ping", method="chain", args=[names[:8]])
    finish(clients)
    assert all(len(result) == 9 for client in clients for _, result in client.confirmed)
    assert sum(len(client.confirmed) for client in clients) == 400
    assert sum(service.call("Ping", name, "seen") for name in names) == 400 * 9
