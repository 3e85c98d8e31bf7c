"""The asynchronous client against real sockets (`echo_service`)."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from tests.support.echo_client import run
from tests.support.echo_service import EchoService
from tests.support.waiting import WITHIN_S, wait_until_in_loop
from tidegate.runtime.client.asynchronous import Client, connect
from tidegate.runtime.client.synchronous import connect_sync
from tidegate.runtime.client.terms import SESSION_NAME
from tidegate.runtime.errors import (
    BadArguments,
    BadRequest,
    DeadlineExceeded,
    Internal,
    MethodRaised,
    ObjectReset,
    Overloaded,
    ShardLost,
    TooLarge,
    Unavailable,
)
from tidegate.runtime.limits import CALL_BYTES_MAX, MESSAGE_BYTES_MAX
from tidegate.runtime.wire.stub import Stub


@dataclass
class Point:
    x: int
    y: int


class Echo:
    """What the service runs, as a client's code would know it."""

    async def echo(self, value: int) -> list[int]: ...
    async def where(self) -> str: ...
    async def hold(self) -> str: ...


class Points:
    async def echo(self, *points: Point) -> list[Point]: ...


def test_a_call_through_a_typed_stub_returns_the_annotated_type(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        assert await client.stub(Echo, "a").echo(7) == [7]
        assert await client.stub(Points, "a").echo(Point(1, 2), Point(3, 4)) == [Point(1, 2), Point(3, 4)]

    run(tmp_path, body)


def test_a_call_through_an_untyped_stub_carries_plain_values_both_ways(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)

    async def body(service: EchoService, client: Client) -> None:
        values = [1, -(2**63), "ü", b"\0", None, True, 1.5, [1, [2]], {"k": {"n": 1}}, now]
        assert await client.stub("Echo", "a").echo(*values) == values
        assert await client.stub("Echo", "a").echo(x=1, y="z") == {"x": 1, "y": "z"}
        assert await client.stub("Echo", "a").echo() is None

    run(tmp_path, body)


def test_a_result_that_does_not_fit_its_annotation_is_an_error_that_says_executed(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        with pytest.raises(Internal, match=r"Echo\.echo.*int.*str") as caught:
            await client.stub(Echo, "a").echo("seven")  # type: ignore[arg-type]  # wrong on purpose
        assert caught.value.outcome == "executed"

    run(tmp_path, body)


def test_arguments_are_a_snapshot_of_the_moment_of_the_call(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        value = [1]
        call = client.stub("Echo", "a").echo(value)
        value.append(2)
        assert await call == [[1]]

    run(tmp_path, body)


def test_a_call_is_taken_by_whatever_takes_a_coroutine_and_calls_are_sent_in_the_order_in_which_they_were_made(
    tmp_path: Path,
) -> None:
    async def body(service: EchoService, client: Client) -> None:
        stub = client.stub(Echo, "a")
        first = stub.echo(1)
        async with asyncio.TaskGroup() as tasks:
            second = tasks.create_task(stub.echo(2))
            third = asyncio.create_task(client.stub("Echo", "a", timeout=5).echo(3))
            tasks.create_task(client.ping())
        assert [await first, second.result(), await third] == [[1], [2], [3]]
        seen = [msgspec.msgpack.decode(request.args) for index in (0, 1) for request in service.worker(index).seen]
        assert seen == [[1], [2], [3]]
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(client.stub("Echo", "a", retry=False).error(Overloaded("busy").to_wire()))
        assert caught.group_contains(Overloaded)

    run(tmp_path, body)


def test_a_call_made_in_another_thread_is_sent_by_the_loop_that_it_is_given_to(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        stub, loop = client.stub("Echo", "a"), asyncio.get_running_loop()

        def in_thread() -> list[Any]:
            value = [1]
            calls = [stub.echo(value), stub.echo(x=2), stub.echo(), client.stub(Echo, "a").echo(3)]
            value.append(2)
            return [asyncio.run_coroutine_threadsafe(call, loop).result(5) for call in calls]

        assert await asyncio.to_thread(in_thread) == [[[1]], {"x": 2}, None, [3]]
        assert await stub.echo(4) == [4]

    run(tmp_path, body)


def test_a_call_made_in_another_loop_says_what_to_use_instead(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        async def elsewhere() -> None:
            await client.stub("Echo", "a").echo(1)

        with pytest.raises(RuntimeError, match=r"another event loop.*run_coroutine_threadsafe.*connect_sync"):
            await asyncio.to_thread(asyncio.run, elsewhere())
        assert await client.stub("Echo", "a").echo(2) == [2]

    run(tmp_path, body)


@pytest.mark.parametrize("ended", [False, True])
def test_a_call_made_in_another_loop_of_the_same_thread_says_so_and_is_never_sent(tmp_path: Path, ended: bool) -> None:
    """As where each test of a user has a loop of its own, and the client is that of an earlier one."""
    first = asyncio.new_event_loop()
    service = first.run_until_complete(_start(tmp_path))
    client = connect(service.endpoint, direct=False)
    first.run_until_complete(client.__aenter__())
    stub = client.stub("Echo", "a")
    while (
        client._shell is not None and client._shell.flushing
    ):  # What it has to say stays for its loop, if that stops before; the next call is then checked.
        first.run_until_complete(asyncio.sleep(0))
    if ended:
        service.close()
        first.close()

    async def elsewhere() -> None:
        for make in (lambda: stub.echo(1), client.ping, lambda: client.stub("Echo", "b").echo(1)):
            with pytest.raises(RuntimeError, match=r"another event loop.*run_coroutine_threadsafe.*connect_sync"):
                await make()

    asyncio.run(elsewhere())
    if ended:
        with pytest.raises(RuntimeError, match="another event loop"):
            stub.echo(1)
        client.close()
        return
    early = stub.echo(2)  # Where none runs it waits for the one it belongs to.
    assert first.run_until_complete(early) == [2]
    assert len(service.router.seen) == 1
    client.close()
    with pytest.raises(Unavailable, match="closed"):
        asyncio.run(_ask(stub))
    service.close()
    first.close()


def test_a_client_whose_loop_is_closed_is_closed_whatever_is_in_flight(tmp_path: Path) -> None:
    """Its question for the topology, and a call that a task of the loop still waits for. Nobody is left to be told."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as silent:
        silent.bind(f"ipc://{tmp_path}/silent")
        loop = asyncio.new_event_loop()
        client = connect(f"ipc://{tmp_path}/silent", direct=False)
        loop.run_until_complete(client.__aenter__())
        task = loop.create_task(client.call("Echo", "a", "echo", (1,)))
        loop.run_until_complete(asyncio.sleep(0.01))
        descriptors = len(os.listdir("/proc/self/fd"))
        loop.close()
        client.close()
        client.close()
        assert len(os.listdir("/proc/self/fd")) < descriptors - 3, "its sockets are closed, too"
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # as the test has left it


async def _start(directory: Path) -> EchoService:
    return EchoService(directory, workers=0)


async def _ask(stub: Any) -> Any:
    return await stub.echo(1)


def test_a_client_that_was_not_entered_says_how_to_enter_it(tmp_path: Path) -> None:
    async def body(service: EchoService, _: Client) -> None:
        client = connect(service.endpoint)
        stub = client.stub("Echo", "a")
        with pytest.raises(RuntimeError, match=r"not been entered.*async with"):
            stub.echo(1)
        with pytest.raises(RuntimeError, match="not been entered"):
            await client.ping()
        async with client:
            assert await stub.echo(1) == [1]
        with pytest.raises(Unavailable, match="closed"):
            stub.echo(1)

    run(tmp_path, body)


def test_what_cannot_be_sent_is_refused_at_the_call_and_the_stub_stays_usable(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        stub = client.stub("Echo", "a")
        with pytest.raises(BadArguments, match="object"):
            stub.echo(object())
        with pytest.raises(BadArguments, match="ints"):
            stub.echo(2**64)
        with pytest.raises(TooLarge):
            stub.echo(b"x" * CALL_BYTES_MAX)
        with pytest.raises(TypeError, match="from the class"):
            stub.echo(1, x=2)
        assert await stub.echo(1) == [1]

    run(tmp_path, body)


def test_names_that_are_no_unicode_are_refused_and_disturb_no_other_call_of_the_same_turn(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        good = client.stub("Echo", "a").echo(1)
        with pytest.raises(BadRequest):
            client.stub("Echo", "\ud800").echo(1)
        bad = getattr(client.stub("Echo", "a"), "\ud800")()
        other = client.stub("Echo", "a").echo(2)
        assert await good == [1]
        assert await other == [2]
        with pytest.raises(BadRequest):
            await bad

    run(tmp_path, body)


def test_all_calls_of_one_turn_leave_in_one_message_per_link(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        stubs = [client.stub("Echo", str(number)) for number in range(200)]
        await asyncio.gather(*(stub.where() for stub in stubs))  # The links are open from now on.
        before = [service.worker(index).messages for index in (0, 1)]
        assert set(await asyncio.gather(*(stub.where() for stub in stubs))) == {"worker 0", "worker 1"}
        assert [service.worker(index).messages for index in (0, 1)] == [before[0] + 1, before[1] + 1]

    run(tmp_path, body)


def test_calls_go_straight_to_the_worker_that_owns_the_object(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        assert await client.stub("Echo", "a").where() in ("worker 0", "worker 1")
        assert service.router.seen == []
        assert client.statistics().slots_direct == 16_384

    run(tmp_path, body)


def test_without_direct_every_call_goes_through_the_router(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        assert await client.stub("Echo", "a").where() == "router"
        assert client.statistics().links_connected == 1

    run(tmp_path, body, direct=False)


def test_a_worker_whose_socket_is_not_on_this_machine_is_called_through_the_router(tmp_path: Path) -> None:
    async def main() -> None:
        service = EchoService(tmp_path)
        os.unlink(service.worker(0).endpoint.removeprefix("ipc://"))
        try:
            async with connect(service.endpoint) as client, asyncio.timeout(WITHIN_S):
                ways = {await client.stub("Echo", str(number)).where() for number in range(50)}
                assert ways == {"router", "worker 1"}
        finally:
            service.close()

    asyncio.run(main())


def test_a_call_answered_moved_is_sent_again_through_the_router(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        stub = client.stub("Echo", "a")
        assert (await stub.where()).startswith("worker")
        for index in (0, 1):
            service.worker(index).moved = True
        assert await stub.where() == "router"

    run(tmp_path, body)


def test_calls_behind_a_moved_one_arrive_in_the_order_in_which_they_were_made(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        stub = client.stub("Echo", "a")
        await stub.where()
        for index in (0, 1):
            service.worker(index).moved = True
        held = stub.hold()  # The worker keeps this one for itself, moved or not.
        first = [stub.echo(number) for number in range(5)]
        await wait_until_in_loop(lambda: sum(service.worker(index).messages for index in (0, 1)) >= 2, "a message at the worker")
        await asyncio.sleep(0)
        then = [stub.echo(number) for number in range(5, 10)]
        await asyncio.sleep(0)
        assert not any(call.done() for call in first + then), "they wait for what the worker still has"
        for index in (0, 1):
            service.worker(index).release()
        await asyncio.gather(held, *first, *then)
        assert [msgspec.msgpack.decode(request.args)[0] for request in service.router.seen] == list(range(10))

    run(tmp_path, body)


def test_calls_in_flight_to_a_worker_that_is_lost_fail_with_an_unknown_outcome(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        stubs = [client.stub("Echo", str(number)) for number in range(20)]
        held = [stub.hold() for stub in stubs]
        await wait_until_in_loop(lambda: sum(len(service.worker(index).seen) for index in (0, 1)) == 20, "calls at the workers")
        service.lose_worker(0)
        await wait_until_in_loop(lambda: any(call.done() for call in held), "the calls that were lost")
        lost = [call for call in held if call.done()]
        for call in lost:
            assert isinstance(call.exception(), ShardLost)
            assert call.exception().outcome == "unknown"
        service.worker(1).release()
        assert len(lost) + sum(result == "worker 1" for result in await asyncio.gather(*(set(held) - set(lost)))) == 20
        ways = {await stub.where() for stub in stubs}
        assert ways == {"router", "worker 1"}

    run(tmp_path, body, retry=False)


def test_a_restarted_worker_is_talked_to_directly_again(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        stubs = [client.stub("Echo", str(number)) for number in range(20)]
        await asyncio.gather(*(stub.where() for stub in stubs))
        service.lose_worker(0)
        await wait_until_in_loop(lambda: client.statistics().links_connected == 2, "the lost link to be given up")
        service.start_worker(0)
        async with asyncio.timeout(WITHIN_S):
            while {await stub.where() for stub in stubs} != {"worker 0", "worker 1"}:
                await asyncio.sleep(0.02)

    run(tmp_path, body)


def test_calls_in_flight_when_the_router_is_lost_fail_and_later_ones_are_answered_by_the_next(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        stub = client.stub("Echo", "a")
        held = stub.hold()
        await wait_until_in_loop(lambda: len(service.router.seen) == 1, "the call at the router")
        service.router.close()
        with pytest.raises(ShardLost):
            await held
        waiting = stub.where()
        next_service = EchoService(tmp_path, workers=0)
        try:
            assert await waiting == "router"
        finally:
            next_service.close()

    run(tmp_path, body, direct=False, retry=False)


def test_a_service_that_starts_later_is_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with connect(f"ipc://{tmp_path}/router", direct=False) as client, asyncio.timeout(WITHIN_S):
            waiting = client.stub("Echo", "a").where()
            await asyncio.sleep(0)
            service = EchoService(tmp_path)
            try:
                assert await waiting == "router"
            finally:
                service.close()

    asyncio.run(main())


def test_a_call_never_sent_is_reported_as_not_executed_when_its_time_is_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with connect(f"ipc://{tmp_path}/nobody", timeout=0.05, direct=False) as client:
            with pytest.raises(DeadlineExceeded, match="nobody") as caught:
                await client.stub("Echo", "a").where()
            assert caught.value.outcome == "not_executed"

    asyncio.run(main())


def test_a_call_to_a_service_that_is_down_says_so_after_the_time_for_connecting(tmp_path: Path) -> None:
    async def main() -> None:
        async with connect(f"ipc://{tmp_path}/nobody", connect_timeout=0.05, direct=False) as client:
            with pytest.raises(Unavailable, match=r"no connection to .*/nobody for 0.05 s; the call was not sent") as caught:
                await client.stub("Echo", "a").where()
            assert caught.value.outcome == "not_executed"
            service = EchoService(tmp_path, listen=f"ipc://{tmp_path}/nobody")
            await wait_until_in_loop(lambda: client.statistics().links_connected == 1, "the lost links to be given up")
            assert await client.stub("Echo", "a").where() == "router"
            service.close()

    asyncio.run(main())


def test_a_name_that_is_unknown_is_said_to_be(tmp_path: Path) -> None:
    async def main() -> None:
        async with connect("tcp://no-such-host.invalid:7", connect_timeout=0.3) as client:
            with pytest.raises(Unavailable, match=r"no connection to tcp://no-such-host.invalid:7 \(.*(?i:name).*\) for"):
                await client.ping()

    asyncio.run(main())


@pytest.mark.parametrize(("seconds", "error"), [(math.nan, ValueError), (-1, ValueError), ("5", TypeError), (True, TypeError)])
def test_a_timeout_that_is_no_duration_is_refused_where_it_is_given(tmp_path: Path, seconds: Any, error: type[Exception]) -> None:
    for option in ("timeout", "connect_timeout"):
        for make in (connect, connect_sync):
            with pytest.raises(error, match=f"{option} must be a number of seconds"):
                make("tcp://127.0.0.1:1", **{option: seconds})

    async def body(service: EchoService, client: Client) -> None:
        with pytest.raises(error, match="timeout must be"):
            client.stub("Echo", "a", timeout=seconds)
        with pytest.raises(error, match="timeout must be"):
            client.call("Echo", "a", "where", timeout=seconds)
        for endless in (math.inf, 1e300, 10**9):
            assert (await client.stub("Echo", "a", timeout=endless).where()).startswith("worker")

    run(tmp_path, body)


def test_a_call_not_answered_in_time_has_an_unknown_outcome(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        patient = client.stub("Echo", "a").hold()
        with pytest.raises(DeadlineExceeded) as caught:
            await client.stub("Echo", "b", timeout=0.05).hold()
        assert caught.value.outcome == "unknown"
        assert not patient.done()
        for index in (0, 1):
            service.worker(index).release()
        assert (await patient).startswith("worker")
        assert client.statistics().calls_in_flight == 0

    run(tmp_path, body)


def test_the_service_is_told_of_a_timeout_that_was_named_and_only_then(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        await client.stub("Echo", "a").where()
        await client.stub("Echo", "a", timeout=1.5).where()
        options = [msgspec.msgpack.decode(request.options) for request in service.router.seen]
        assert options == [None, {"deadline_ms": 1_400}], "its answer is to come in time"

    run(tmp_path, body, direct=False, retry=False)


def test_every_call_has_a_key_of_its_own_but_where_it_was_named_or_not_wanted(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        for _ in range(2):
            await client.stub("Echo", "a").where()
        await client.stub("Echo", "a", timeout=1.5).where()
        await client.stub("Echo", "a", key="order-17").where()
        await client.stub("Echo", "a", retry=False).where()
        await client.call("Echo", "a", "where", timeout=1.5, key="order-18", retry=False)
        first, second, *others = [msgspec.msgpack.decode(request.options) for request in service.router.seen]
        session, _, number = first["key"].rpartition(".")
        assert SESSION_NAME.fullmatch(session)
        assert first["answered"] <= int(number) < int(second["key"].rpartition(".")[2])
        assert second["key"].startswith(f"{session}.")
        assert others[0]["deadline_ms"] == 1_400
        assert others[0]["key"].startswith(f"{session}.")
        assert others[1:] == [{"key": "order-17"}, None, {"deadline_ms": 1_400, "key": "order-18"}]
        for key in ("", "k" * 65, "ü" * 33):
            with pytest.raises(ValueError, match="a key has 1 to 64 bytes"):
                client.stub("Echo", "a", key=key)
        with pytest.raises(TypeError, match="a key is a text, not 17"):
            client.stub("Echo", "a", key=17)  # type: ignore[call-overload]  # That is the test.

    run(tmp_path, body, direct=False)


def test_a_client_whose_entering_is_cancelled_leaves_nothing_behind() -> None:
    """Its block was never entered, so nobody would leave it."""

    async def enter() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.02), connect("tcp://127.0.0.1:1"):
                raise AssertionError("nobody is there")

    async def body() -> None:
        await enter()  # What the first one takes for the process stays.
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            await enter()
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(body())


def test_a_cancelled_call_is_forgotten_and_harms_no_other(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        stub = client.stub("Echo", "a")
        cancelled = stub.hold()
        await wait_until_in_loop(lambda: service.worker(0).seen or service.worker(1).seen, "the call at a worker")
        cancelled.cancel()
        for index in (0, 1):
            service.worker(index).release()
        assert (await stub.where()).startswith("worker")
        assert client.statistics().calls_in_flight == 0

    run(tmp_path, body)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        ({"code": "exception", "type": "ValueError", "message": "no"}, ValueError("no")),
        ({"code": "exception", "type": "KeyError", "message": "'k'"}, KeyError("k")),
        ({"code": "exception", "type": "TimeoutError", "message": "t"}, TimeoutError("t")),
        ({"code": "exception", "type": "InsufficientFunds", "message": "3 < 4"}, MethodRaised("3 < 4")),
        ({"code": "exception", "type": "SystemExit", "message": "1"}, MethodRaised("1")),
        ({"code": "exception", "type": "UnicodeDecodeError", "message": "u"}, MethodRaised("u")),
        ({"code": "exception", "type": "StopIteration", "message": ""}, MethodRaised("")),
        ({"code": "exception", "type": "print", "message": "p"}, MethodRaised("p")),
        ({"code": "object_reset", "message": "disk"}, ObjectReset("disk")),
        ({"code": "overloaded", "message": "full"}, Overloaded("full")),
        ({"code": "from_the_future", "message": "?"}, Internal("?")),
    ],
)
def test_every_error_is_raised_as_its_class(tmp_path: Path, error: dict[str, Any], raised: Exception) -> None:
    async def body(service: EchoService, client: Client) -> None:
        with pytest.raises(type(raised)) as caught:
            await client.stub("Echo", "a").error(error)
        assert type(caught.value) is type(raised)
        assert str(caught.value) == str(raised)
        if error["code"] == "exception" and not isinstance(caught.value, MethodRaised):
            assert isinstance(caught.value.__cause__, MethodRaised)
            assert caught.value.__cause__.type == error["type"]

    run(tmp_path, body)


def test_large_calls_of_one_turn_are_split_into_messages_the_service_takes(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        large = bytes(MESSAGE_BYTES_MAX // 3)
        results = await asyncio.gather(*(client.stub("Echo", "a").echo(large, number) for number in range(7)))
        assert [result[1] for result in results] == list(range(7))

    run(tmp_path, body)


def test_100_000_calls_in_flight_are_all_answered_in_order_per_object(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        stubs = [client.stub("Echo", str(number)) for number in range(100)]
        calls = [stubs[number % 100].echo(number) for number in range(100_000)]
        assert await asyncio.gather(*calls) == [[number] for number in range(100_000)]
        for index in (0, 1):
            seen: dict[str, int] = {}
            for request in service.worker(index).seen:
                number = msgspec.msgpack.decode(request.args)[0]
                assert seen.get(request.name, -1) < number
                seen[request.name] = number

    run(tmp_path, body)


def test_leaving_the_client_answers_what_is_in_flight_and_refuses_what_comes_later(tmp_path: Path) -> None:
    async def main() -> None:
        service = EchoService(tmp_path)
        try:
            async with connect(service.endpoint) as client:
                stub = client.stub("Echo", "a")
                sent = stub.hold()
                await wait_until_in_loop(lambda: service.worker(0).seen or service.worker(1).seen, "the call at a worker")
                unsent = stub.hold()
            with pytest.raises(ShardLost):
                await sent
            with pytest.raises(Unavailable):
                await unsent
            with pytest.raises(Unavailable, match="closed"):
                await stub.where()
        finally:
            service.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "endpoint",
    ["nonsense", "", "tcp://", "tcp://:7711", "tcp://localhost", "tcp://localhost:", "tcp://localhost:seven", "tcp://h:70000",
     "tcp://a b:7711", "tcp://host/path:7711", "ipc://", "http://localhost:7711", None, 7711, b"tcp://127.0.0.1:7711"],
)  # fmt: skip
def test_an_endpoint_that_is_none_is_refused_where_it_is_given(endpoint: Any) -> None:
    with pytest.raises(ValueError, match=r"must be an endpoint such as tcp://127.0.0.1:7711"):
        connect(endpoint)


def test_replies_that_arrived_before_the_link_was_lost_are_delivered(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        calls = [client.stub("Echo", str(number)).hold() for number in range(50)]
        await wait_until_in_loop(lambda: sum(len(service.worker(index).seen) for index in (0, 1)) == 50, "calls at the workers")
        for index in (0, 1):
            service.worker(index).release()
            service.lose_worker(index)
        assert set(await asyncio.gather(*calls)) == {"worker 0", "worker 1"}

    run(tmp_path, body)


def test_a_worker_process_killed_with_calls_in_flight_leaves_none_hanging(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[2]); import asyncio, pathlib\n"
        "from tests.support.echo_service import EchoService\n"
        "async def main():\n"
        "    EchoService(pathlib.Path(sys.argv[1])); print('ready', flush=True); await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(Path(__file__).parents[3])]

    async def main() -> None:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            async with connect(f"ipc://{tmp_path}/router", retry=False) as client, asyncio.timeout(WITHIN_S):
                stubs = [client.stub("Echo", str(number)) for number in range(50)]
                await asyncio.gather(*(stub.where() for stub in stubs))
                held = [stub.hold() for stub in stubs]
                await asyncio.gather(*(stub.where() for stub in stubs))  # Sent after the held ones: those are there.
                process.send_signal(signal.SIGKILL)
                outcomes = await asyncio.gather(*held, return_exceptions=True)
                assert {type(outcome) for outcome in outcomes} == {ShardLost}

    asyncio.run(main())


def test_a_stub_names_what_it_is_and_refuses_what_is_not_public(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        untyped = client.stub("Echo", "a")
        assert isinstance(untyped, Stub)
        assert repr(untyped) == "<stub of Echo/a>"
        for attribute in ("_private", "on_start", "alarm"):
            with pytest.raises(AttributeError):
                getattr(untyped, attribute)

    run(tmp_path, body)
