"""The socket to one worker, with a plain ROUTER at the other end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tidegate.runtime.limits import TURN_MESSAGES_MAX
from tidegate.runtime.sockets.backend import Backend, own_door
from tidegate.runtime.wire.protocol import Reply, encode


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    with zmq.Context() as context:
        yield context
        context.destroy(linger=0)


def run(
    context: zmq.Context[Any], directory: Path, answers: list[bytes], replied: Callable[[list[Reply]], None], until: int
) -> tuple[int, int]:
    """A worker sends the answers at once. How many bodies were not readable, and how many turns ended, when `replied` has been
    called `until` times or nothing came for a second."""
    endpoint = f"ipc://{directory}/worker"

    async def main() -> tuple[int, int]:
        worker = context.socket(zmq.ROUTER)
        worker.bind(own_door(endpoint))
        loop, over, turns, calls = asyncio.get_running_loop(), asyncio.Event(), 0, 0
        loop.set_exception_handler(lambda *_: None)

        def count(replies: list[Reply]) -> None:
            nonlocal calls
            calls += 1
            if calls == until:
                over.set()
            replied(replies)

        def end_turn() -> None:
            nonlocal turns
            turns += 1

        backend = Backend(context, endpoint, loop, count, end_turn)
        backend.send([b"call"])
        client, _ = await loop.run_in_executor(None, worker.recv_multipart)
        for answer in answers:
            worker.send_multipart([client, answer])
        await asyncio.wait([asyncio.ensure_future(over.wait())], timeout=1)
        backend.close()
        return backend.unreadable, turns

    return asyncio.run(main())


def answer(number: int) -> bytes:
    return encode([[number, 0, None]])


def test_replies_arrive_in_order_and_every_burst_ends_a_turn(context: zmq.Context[Any], tmp_path: Path) -> None:
    heard: list[Any] = []
    count = 2 * TURN_MESSAGES_MAX
    _, turns = run(context, tmp_path, [answer(number) for number in range(count)], lambda replies: heard.extend(replies), count)
    assert [reply.id for reply in heard] == list(range(count))
    assert turns > 1


def test_what_is_no_reply_is_counted_and_costs_nothing_else(context: zmq.Context[Any], tmp_path: Path) -> None:
    heard: list[Any] = []
    unreadable, _ = run(context, tmp_path, [answer(1), b"\xc1", b"", answer(2)], lambda replies: heard.extend(replies), 2)
    assert [reply.id for reply in heard] == [1, 2]
    assert unreadable == 2


def test_a_fault_in_handling_one_reply_loses_no_other_reply(context: zmq.Context[Any], tmp_path: Path) -> None:
    heard: list[Any] = []

    def replied(replies: list[Reply]) -> None:
        heard.extend(reply.id for reply in replies)
        raise RuntimeError("a fault of ours")

    run(context, tmp_path, [answer(number) for number in range(50)], replied, 50)
    assert heard == list(range(50))
