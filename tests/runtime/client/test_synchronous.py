"""The synchronous client against real sockets in another thread (`echo_service`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.echo_service import echo_thread
from tests.support.waiting import wait_until
from tidegate.runtime.client.synchronous import connect_sync
from tidegate.runtime.errors import DeadlineExceeded, MethodRaised, ShardLost, Unavailable


@dataclass
class Point:
    x: int


class Points:
    async def echo(self, *points: Point) -> list[Point]: ...


def test_calls_return_results_typed_and_untyped(tmp_path: Path) -> None:
    with echo_thread(tmp_path) as running, connect_sync(running.service.endpoint) as client:
        assert client.stub("Echo", "a").echo(1, "two") == [1, "two"]
        assert client.stub("Echo", "a").echo(x=1) == {"x": 1}
        points = client.stub(Points, "a")
        assert points(Points.echo, Point(1), Point(2)) == [Point(1), Point(2)]
        untold: Any = points
        assert untold.echo(Point(1)) == [Point(1)]
        assert client.call("Echo", "a", "echo", (1,), {}, timeout=5) == [1]
        assert client.ping() == "pong"
        assert client.topology().slots == 16_384


def test_a_stub_is_called_with_a_method_of_its_class_or_one_that_it_overrides_and_nothing_else(tmp_path: Path) -> None:
    class Base:
        async def echo(self, *points: Point) -> list[Any]: ...
        async def where(self) -> str: ...

    class Derived(Base):
        async def echo(self, *points: Point) -> list[Point]: ...

        async def call(self, method: int) -> dict[str, int]: ...

    class Foreign:
        async def echo(self) -> int: ...
        async def on_start(self) -> None: ...

    with echo_thread(tmp_path) as running, connect_sync(running.service.endpoint) as client:
        stub = client.stub(Derived, "a", timeout=5)
        assert stub(Derived.where).startswith("worker")
        assert stub(Base.where).startswith("worker")
        assert stub(Base.echo, Point(1)) == [Point(1)], "as the class of the object has it"
        assert stub(Derived.call, method=3) == {"method": 3}, "no name is taken from the methods of an object"
        untold: Any = stub
        for wrong in (Foreign.echo, "echo", None, Derived, len):
            with pytest.raises(TypeError, match=r"<stub of Derived/a> is called with a method of the class, as in"):
                untold(wrong)
        with pytest.raises(AttributeError, match="has no method ech"):
            untold.ech()
        with pytest.raises(AttributeError, match="hook"):
            client.stub(Foreign, "a")(Foreign.on_start)
        assert client.stub("Derived", "a")(Foreign.echo, 7) == [7], "of a class by name nothing is known"


def test_what_a_service_says_of_itself_is_read_into_frozen_records(tmp_path: Path) -> None:
    with echo_thread(tmp_path) as running, connect_sync(running.service.endpoint) as client:
        first = client.topology().shards[0]
        assert (first.shard, first.slots, first.worker) == (0, (0, 4_095), 0)
        assert first.endpoint == running.service.worker(0).endpoint
        with pytest.raises(AttributeError):
            first.worker = 1  # type: ignore[misc]  # wrong on purpose


def test_calls_go_straight_to_the_worker_unless_told_not_to(tmp_path: Path) -> None:
    with echo_thread(tmp_path) as running:
        with connect_sync(running.service.endpoint) as client:
            assert client.stub("Echo", "a").where().startswith("worker")
        with connect_sync(running.service.endpoint, direct=False) as client:
            assert client.stub("Echo", "a").where() == "router"


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_client_that_was_made_before_a_fork_works_in_the_child_and_goes_on_in_the_parent(tmp_path: Path) -> None:
    """As in a server that loads its application before it forks its workers."""
    with echo_thread(tmp_path) as running, connect_sync(running.service.endpoint) as client:
        assert client.stub("Echo", "a").echo(1) == [1]
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(10)  # Instead of waiting for ever.
                answered = [client.call("Echo", "a", "echo", (number,), timeout=5) for number in range(3)]
                client.close()
                os._exit(0 if answered == [[0], [1], [2]] else 1)
            except BaseException:
                os._exit(2)
        assert client.stub("Echo", "a").echo(2) == [2]
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.stub("Echo", "a").echo(3) == [3]


def test_errors_of_methods_are_raised_as_themselves(tmp_path: Path) -> None:
    with echo_thread(tmp_path) as running, connect_sync(running.service.endpoint) as client:
        stub = client.stub("Echo", "a")
        with pytest.raises(ValueError, match="no") as caught:
            stub.error({"code": "exception", "type": "ValueError", "message": "no"})
        assert isinstance(caught.value.__cause__, MethodRaised)
        assert stub.echo(1) == [1]


def test_many_threads_share_one_client(tmp_path: Path) -> None:
    with echo_thread(tmp_path) as running, connect_sync(running.service.endpoint) as client:

        def work(thread: int) -> list[int]:
            stub = client.stub("Echo", f"object {thread}")
            return [stub.echo(number)[0] for number in range(100)]

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))) == [list(range(100))] * 8
        doors = (running.service.worker(0), running.service.worker(1))
        assert sum(len(door.seen) for door in doors) == 800
        for door in doors:
            for name in {request.name for request in door.seen}:
                numbers = [msgspec.msgpack.decode(request.args)[0] for request in door.seen if request.name == name]
                assert numbers == sorted(numbers)


def test_a_call_to_a_service_that_is_down_says_so_after_the_time_for_connecting(tmp_path: Path) -> None:
    with (
        connect_sync(f"ipc://{tmp_path}/nobody", connect_timeout=0.05, direct=False) as client,
        pytest.raises(Unavailable, match=r"no connection to ipc://.*/nobody for 0.05 s; the call was not sent"),
    ):
        client.stub("Echo", "a").where()
    with (
        connect_sync("tcp://no-such-host.invalid:7", connect_timeout=0.05) as client,
        pytest.raises(Unavailable, match=r"no connection to tcp://no-such-host.invalid:7 \(.*(?i:name).*\) for"),
    ):
        client.ping()


@pytest.mark.parametrize("options", [{"connect_timeout": 0.05}, {"timeout": 0.05}])
def test_a_call_to_a_service_that_is_down_waits_no_longer_than_it_may(tmp_path: Path, options: dict[str, Any]) -> None:
    with connect_sync(f"ipc://{tmp_path}/nobody", **options) as client:
        started = time.monotonic()
        with pytest.raises((Unavailable, DeadlineExceeded)):
            client.ping()
        assert time.monotonic() - started < 0.9  # Not the second for which a topology is waited for.


def test_a_call_has_its_own_timeout(tmp_path: Path) -> None:
    with echo_thread(tmp_path) as running, connect_sync(running.service.endpoint) as client:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught:
            client.stub("Echo", "a", timeout=0.05).hold()
        assert caught.value.outcome == "unknown"
        assert 0.05 <= time.monotonic() - started < 5
        assert client.stub("Echo", "a").echo(1) == [1]


def test_a_service_that_is_not_there_is_waited_for_until_the_timeout(tmp_path: Path) -> None:
    with connect_sync(f"ipc://{tmp_path}/nobody", timeout=0.05, direct=False) as client:
        with pytest.raises(DeadlineExceeded, match="nobody") as caught:
            client.stub("Echo", "a").echo()
        assert caught.value.outcome == "not_executed"


def test_a_worker_lost_with_the_call_in_flight_is_reported_and_the_next_call_goes_round(tmp_path: Path) -> None:
    with echo_thread(tmp_path, workers=1) as running, connect_sync(running.service.endpoint, retry=False) as client:
        stub = client.stub("Echo", "a")
        assert stub.where() == "worker 0"
        seen = running.service.worker(0).seen
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(stub.hold)
            wait_until(lambda: len(seen) == 2, "the call at the worker")
            running.do(running.service.lose_worker, 0)
            with pytest.raises(ShardLost):
                call.result(10)
        assert stub.where() == "router"


def test_a_call_lost_with_its_worker_is_made_again_through_the_router_and_its_caller_sees_nothing(tmp_path: Path) -> None:
    with echo_thread(tmp_path, workers=1) as running, connect_sync(running.service.endpoint) as client:
        stub, lost = client.stub("Echo", "a"), running.service.worker(0)
        assert stub.where() == "worker 0"
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(stub.hold)
            wait_until(lambda: len(lost.seen) == 2, "the call at the worker")
            running.do(running.service.lose_worker, 0)
            wait_until(lambda: len(running.service.router.seen) == 1, "the call at the router")
            running.do(running.service.router.release)
            assert call.result(10) == "router"
        first, second = lost.seen[1], running.service.router.seen[0]
        keys = [msgspec.msgpack.decode(request.options)["key"] for request in (first, second)]
        assert keys[0] == keys[1]


def test_a_worker_lost_while_nobody_called_is_noticed_before_the_next_call_is_sent(tmp_path: Path) -> None:
    with echo_thread(tmp_path, workers=1) as running, connect_sync(running.service.endpoint) as client:
        stub = client.stub("Echo", "a")
        assert stub.where() == "worker 0"
        running.do(running.service.lose_worker, 0)
        running.do(lambda: None)
        answers = set()

        def goes_round() -> bool:
            with contextlib.suppress(ShardLost):  # The kernel had not told us yet.
                answers.add(stub.where())
            return "router" in answers

        wait_until(goes_round, "an answer by the router")
        assert answers == {"router"}


def test_it_works_where_a_loop_is_running(tmp_path: Path) -> None:
    async def main() -> None:
        with echo_thread(tmp_path) as running, connect_sync(running.service.endpoint) as client:
            assert client.stub("Echo", "a").echo(1) == [1]

    asyncio.run(main())


def test_a_closed_client_refuses_calls_and_lets_those_of_other_threads_finish(tmp_path: Path) -> None:
    with echo_thread(tmp_path, workers=0) as running:
        client = connect_sync(running.service.endpoint)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(client.stub("Echo", "a").hold)
            wait_until(lambda: running.service.router.seen, "the call at the router")
            client.close()
            with pytest.raises(Unavailable, match="closed"):
                client.stub("Echo", "a").echo(1)
            running.do(running.service.router.release)
            assert call.result(10) == "router"


def test_an_endpoint_that_is_none_is_refused_where_it_is_given() -> None:
    with pytest.raises(ValueError, match=r"nonsense.*tcp://127.0.0.1:7711"):
        connect_sync("nonsense")
