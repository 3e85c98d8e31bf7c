"""`map` of both clients: many calls, awaited once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client_machine import Machine
from tests.support.client_world import Answer
from tests.support.echo_client import run
from tests.support.echo_service import EchoService, echo_thread
from tidegate.runtime.client.asynchronous import Client, connect
from tidegate.runtime.client.bulk import Map
from tidegate.runtime.client.machine import NO_SLOT
from tidegate.runtime.client.synchronous import connect_sync
from tidegate.runtime.errors import BadArguments, BadRequest, CallError, DeadlineExceeded, MethodRaised, Overloaded, Unavailable
from tidegate.runtime.limits import CLIENT_CALLS_MAX
from tidegate.runtime.wire.encoding import decode_any
from tidegate.runtime.wire.protocol import NO_RAW, OK, encode


class Echo:
    async def echo(self, value: int) -> list[int]: ...
    async def error(self, **error: Any) -> int: ...
    async def hold(self) -> str: ...
    async def on_start(self) -> None: ...
    def plain(self) -> None: ...


def new_map(machine: Machine, calls: Any, at_once: int) -> Map:
    return Map(machine.core, "C", "m", int, calls, at_once, None)


def answer_all(machine: Machine, links: set[int], count: int, numbers: list[int]) -> None:
    """So many of the oldest calls that were sent on those links, each with its own number."""
    for link, rows in machine.sent():
        links.add(link)
        numbers += [row[0] for row in rows]
    for number in numbers[:count]:
        for link in links:
            machine.core.message_received(link, encode([(number, OK, number)]), 0.0)
    del numbers[:count]


def test_what_makes_the_calls_may_make_others_meanwhile() -> None:
    machine = Machine()
    made: list[Answer] = []

    def names() -> Iterator[str]:
        for number in range(5):
            made.append(machine.call(name=f"other-{number}"))
            yield f"object-{number}"

    work = new_map(machine, names(), 10)
    assert work.fill(0.0)
    machine.core.take_messages(0.0)
    machine.core.link_connected(2, 0.0)
    ((link, rows),) = machine.sent()
    assert [row[0] for row in rows] == [*range(rows[0][0], rows[0][0] + 10)], "each call has a number of its own"
    machine.answer(link, *((row[0], OK, number) for number, row in enumerate(rows)))
    assert [answer.answers for answer in made] == [[0], [2], [4], [6], [8]]
    assert work.end(return_exceptions=False) == [1, 3, 5, 7, 9]


def test_results_stand_in_the_order_of_the_calls_whatever_the_window(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        for at_once in (1, 3, 100, 5_000):
            calls = ((f"object-{number % 17}", number) for number in range(500))
            assert await client.map(Echo, Echo.echo, calls, at_once=at_once) == [[number] for number in range(500)]
        assert await client.map("Echo", "echo", ["a", ("b",), ("c", 1, 2)]) == [None, None, [1, 2]]
        assert await client.map(Echo, Echo.echo, []) == []
        assert client.statistics().calls_in_flight == 0

    run(tmp_path, body)


def test_the_synchronous_client_has_the_same(tmp_path: Path) -> None:
    with echo_thread(tmp_path) as running, connect_sync(running.service.endpoint) as client:
        for at_once in (1, 3, 5_000):
            calls = [(f"object-{number % 17}", number) for number in range(200)]
            assert client.map(Echo, Echo.echo, calls, at_once=at_once) == [[number] for number in range(200)]
        assert client.map("Echo", "echo", ["a"]) == [None]
        with pytest.raises(MethodRaised, match="first"):
            client.map("Echo", "error", [("a", {"code": "exception", "message": "first", "type": "Odd"})])


def errors(*texts: str) -> list[tuple[Any, ...]]:
    return [("a", {"code": "exception", "type": "Odd", "message": text}) if text else ("a", 1) for text in texts]


def test_the_error_of_the_first_call_that_failed_is_raised_when_all_have_been_made(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        with pytest.raises(MethodRaised, match="first"):
            await client.map("Echo", "error", errors("first", "second", "third"), at_once=1)
        both = await client.map("Echo", "error", errors("first", "second"), return_exceptions=True)
        assert [str(error) for error in both] == ["first", "second"]
        assert all(isinstance(error, CallError) for error in both)

    run(tmp_path, body)


def test_an_iterable_is_read_as_calls_are_answered() -> None:
    machine = Machine(direct=False)
    read: list[int] = []

    def names() -> Iterator[str]:
        for number in range(1_000_000):
            read.append(number)
            yield f"object-{number}"

    work = new_map(machine, names(), at_once=8)
    assert not work.fill(0.0)
    assert (len(read), work.in_flight) == (8, 8)
    assert not work.fill(0.0), "there is no room"
    assert len(read) == 8
    woken: list[int] = []
    assert work.wait(lambda: woken.append(work.in_flight), for_all=False)
    answer_all(machine, set(), 3, [])
    assert woken == [6], "a quarter has been answered, and that is told once"
    assert work.results[:4] == [1, 2, 3, None]


@pytest.mark.parametrize(
    ("calls", "error"),
    [
        (["a", 7, "b"], (TypeError, "call 1 of the map is neither a name nor a tuple")),
        (["a", (), "b"], (TypeError, "call 1 of the map")),
        (["a", (1, "x")], (TypeError, "call 1 of the map")),
        (["a", ("b", object())], (BadArguments, "MessagePack cannot carry a object")),
        (["a", "\ud800"], (BadRequest, "must be valid Unicode")),
        ((1 / number if number == 0 else "a" for number in (2, 1, 0)), (ZeroDivisionError, "division")),
    ],
)
def test_what_is_no_call_ends_the_map_after_the_calls_before_it(tmp_path: Path, calls: Any, error: Any) -> None:
    async def body(service: EchoService, client: Client) -> None:
        with pytest.raises(error[0], match=error[1]):
            await client.map("Echo", "where", calls)
        statistics = client.statistics()
        assert (statistics.calls_in_flight, statistics.calls_unsent) == (0, 0), "it has been waited for"
        assert await client.map("Echo", "echo", [("a", 1)]) == [[1]]

    run(tmp_path, body)


def test_what_is_no_method_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    class Foreign:
        async def echo(self, value: int) -> int: ...

    async def body(service: EchoService, client: Client) -> None:
        untyped: Any = client
        for target, method, error in (
            (Echo, Foreign.echo, "is no method of Echo"),
            ("Echo", Echo.echo, "map takes a class and a method of it"),
            (7, "echo", "map takes a class and a method of it"),
            (Echo, 7, "map takes a class and a method of it"),
        ):
            with pytest.raises(TypeError, match=error):
                await untyped.map(target, method, ["a"])
        for uncallable in (Echo.on_start, Echo.plain, "nothing", "_hidden"):
            with pytest.raises(AttributeError):
                await untyped.map(Echo, uncallable, ["a"])
        with pytest.raises(ValueError, match="at least one call at once, not 0"):
            await client.map(Echo, Echo.echo, ["a"], at_once=0)
        assert not service.router.seen

    run(tmp_path, body)


def test_each_call_has_its_own_deadline_and_the_map_is_over_when_all_have_passed(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        began = time.monotonic()
        late = await client.map("Echo", "hold", ["a", "b"], timeout=0.2, return_exceptions=True)
        assert [type(error) for error in late] == [DeadlineExceeded] * 2
        assert time.monotonic() - began < 5

    run(tmp_path, body, retry=False)


def test_a_map_that_is_cancelled_leaves_the_client_usable_and_its_late_answers_are_nobodys(tmp_path: Path) -> None:
    async def body(service: EchoService, client: Client) -> None:
        waiting = asyncio.create_task(client.map("Echo", "hold", ["a", "b"]))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await client.map("Echo", "echo", [("c", 1)]) == [[1]]

    run(tmp_path, body)


def test_calls_of_others_that_fill_the_client_are_waited_for_and_nothing_is_lost() -> None:
    machine, links, numbers = Machine(direct=False), set[int](), list[int]()
    for _ in range(CLIENT_CALLS_MAX - 3):
        machine.core.call(Answer(), NO_SLOT, "C", "a", "m", NO_RAW, decode_any, None, 0.0)
    work = new_map(machine, ["a"] * 5, at_once=5)
    assert not work.fill(0.0)
    assert (work.in_flight, len(work.results)) == (3, 3)
    woken: list[bool] = []
    assert work.wait(lambda: woken.append(True), for_all=False)
    answer_all(machine, links, CLIENT_CALLS_MAX - 2, numbers)
    assert woken == [True]
    assert work.fill(0.0)
    assert work.in_flight == 4
    assert work.wait(lambda: woken.append(True), for_all=True)
    answer_all(machine, links, 4, numbers)
    assert woken == [True, True]
    results = work.end(return_exceptions=False)
    assert results == sorted(results)
    assert len(results) == 5


def test_a_client_that_is_full_of_others_calls_refuses_a_map() -> None:
    machine = Machine(direct=False)
    for _ in range(CLIENT_CALLS_MAX):
        machine.core.call(Answer(), NO_SLOT, "C", "a", "m", NO_RAW, decode_any, None, 0.0)
    work = new_map(machine, ["a"], at_once=5)
    assert work.fill(0.0)
    with pytest.raises(Overloaded):
        work.end(return_exceptions=True)


def test_a_client_that_is_closed_or_was_not_entered_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        service = EchoService(tmp_path, workers=1)
        try:
            client = connect(service.endpoint)
            with pytest.raises(RuntimeError, match="has not been entered"):
                await client.map("Echo", "echo", ["a"])
            async with client:
                pass
            with pytest.raises(Unavailable, match="closed"):
                await client.map("Echo", "echo", ["a"])
        finally:
            service.close()

    asyncio.run(main())
