"""What a router does when it has nearly as much memory as it may: real connections, and a heap that says what the test wants."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections import Counter
from contextlib import ExitStack

import pytest
import zmq

from tests.support.raw_zmtp import greeted
from tests.support.waiting import wait_until_in_loop
from tidegate.runtime import heap
from tidegate.runtime.sockets import connections
from tidegate.runtime.sockets.connections import Connections
from tidegate.runtime.sockets.unfinished import Unfinished

MIB = 1 << 20
MESSAGE_MIB = 16
BOUND_MIB = 400


class Heap:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: Counter[str] = Counter()
        self.memory_mib, self.allocated_mib = 0, 0

        def in_memory() -> int:
            self.asked["in memory"] += 1
            return self.memory_mib * MIB

        def allocated() -> int:
            self.asked["allocated"] += 1
            return self.allocated_mib * MIB

        def give_back() -> None:
            self.asked["give back"] += 1

        for function in (in_memory, allocated, give_back):
            monkeypatch.setattr(connections, function.__name__, function)

    async def looks(self, number: int) -> None:
        want = self.asked["in memory"] + number
        await wait_until_in_loop(lambda: self.asked["in memory"] >= want, "looks")


class Listening:
    """With room for one message that has begun."""

    def __init__(self) -> None:
        self._open = ExitStack()
        context = self._open.enter_context(zmq.Context())
        router = self._open.enter_context(context.socket(zmq.ROUTER))
        rounds = itertools.count()
        self.unfinished = Unfinished(MESSAGE_MIB * MIB, (MESSAGE_MIB + 4) * MIB)
        self.connections = Connections(
            context, router, None, self.unfinished, lambda: next(rounds), lambda: None, heap_bytes_max=BOUND_MIB * MIB
        )
        router.bind("tcp://127.0.0.1:0")
        self.address = router.getsockopt_string(zmq.LAST_ENDPOINT)
        self.connections.start(asyncio.get_running_loop())

    async def begin(self, mib: int) -> None:
        """A message of which so much comes, and then nothing."""
        sender = self._open.enter_context(await asyncio.to_thread(greeted, self.address))
        await asyncio.to_thread(sender.sendall, b"\x02" + struct.pack(">Q", MESSAGE_MIB * MIB) + bytes(mib * MIB))

    def close(self) -> None:
        self.connections.close()
        self._open.close()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Heap:
    return Heap(monkeypatch)


def test_with_much_memory_and_no_large_messages_the_heap_is_not_asked_and_given_back_once(told: Heap) -> None:
    asyncio.run(_at_rest(told))


async def _at_rest(told: Heap) -> None:
    listening = Listening()
    try:
        for _ in range(3):
            await listening.begin(0)
        told.memory_mib = told.allocated_mib = BOUND_MIB + 50
        await told.looks(8)
        assert (told.asked["allocated"], told.asked["give back"], listening.unfinished.turned_out) == (0, 1, 0)
    finally:
        listening.close()


def test_messages_that_have_begun_are_given_up_only_when_memory_is_in_use_and_nearly_all(told: Heap) -> None:
    asyncio.run(_three_that_stop(told))


async def _three_that_stop(told: Heap) -> None:
    listening = Listening()
    unfinished = listening.unfinished
    try:
        told.memory_mib, told.allocated_mib = BOUND_MIB - 100, BOUND_MIB + 1_000
        for _ in range(3):
            await listening.begin(2)
        await wait_until_in_loop(lambda: unfinished.to_come > 2 * MESSAGE_MIB * MIB, "three that have begun")
        await told.looks(5)
        assert (told.asked["allocated"], told.asked["give back"]) == (0, 0), "there is room for the rest of them"
        told.memory_mib, told.allocated_mib = BOUND_MIB + 100, 0
        await told.looks(5)
        assert unfinished.turned_out == 0, "the C library does not say"
        told.allocated_mib = BOUND_MIB - 10
        await told.looks(5)
        assert unfinished.turned_out == 0, "much is free, and goes back"
        assert told.asked["give back"] == 1
        told.allocated_mib = BOUND_MIB + 100
        await wait_until_in_loop(lambda: listening.connections.open == 1, "those for which there is no room are closed")
        await told.looks(5)
        assert (unfinished.turned_out, listening.connections.open) == (2, 1), "one has room"
    finally:
        listening.close()


def test_where_the_c_library_does_not_say_what_is_in_use_it_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_mallinfo2", lambda: None)
    assert heap.allocated() == 0
