"""Calls with a key against real processes that are killed: a plain ZeroMQ client that repeats what was not answered."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

import msgspec
import pytest
import zmq

from tests.support.service import FULL, KILLED_BY_TEST, Serve, Service
from tests.support.waiting import wait_until
from tidegate.runtime.limits import TURN_REQUESTS_MAX

CALLS = 4_000 if FULL else 600
KILLS = 40 if FULL else 4
OBJECTS = [f"k{number}" for number in range(10)]
SEED = int(os.environ.get("SEED", "5"))
WITHIN_S = 120.0
PATIENCE_S = 1.0
"""A call that is not answered by then is sent again."""


class Repeater:
    """Sends each call until it has an answer other than one that asks for patience. Every call may leave several times."""

    def __init__(self, service: Service, *, plain: bool, heads: bool) -> None:
        """`heads`: what its session is, it says once for each message."""
        self._service = service
        self._random = random.Random(SEED)
        self._session = f"repeater{self._random.getrandbits(30)}"
        self._plain = plain
        self._heads = heads
        self.answers: dict[int, Any] = {}
        self.names = [self._random.choice(OBJECTS) for _ in range(CALLS)]
        self.sent = 0
        self.kills = 0
        self._context = zmq.Context[zmq.Socket[bytes]]()
        self._socket = self._connect()

    def _connect(self) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(self._service.endpoint)
        return socket

    def run(self) -> None:
        until_s = time.monotonic() + WITHIN_S
        waiting: dict[int, float] = {}
        begun = 0
        while len(self.answers) < CALLS:
            assert time.monotonic() < until_s, f"{len(self.answers)} of {CALLS} answered, seed {SEED}"
            if self.kills < KILLS and len(self.answers) > (self.kills + 1) * CALLS // (KILLS + 2):
                self._kill()
            while begun < CALLS and len(waiting) < 16:
                waiting[begun] = 0.0
                begun += 1
            now_s = time.monotonic()
            due = [number for number, sent_s in waiting.items() if now_s - sent_s > PATIENCE_S]
            if due:
                self._send(due, min(waiting))
                waiting.update(dict.fromkeys(due, now_s))
            if self._socket.poll(20):
                self._receive(waiting)

    def _kill(self) -> None:
        """A worker, or the whole service."""
        self.kills += 1
        if self.kills % 4 == 0:
            self._service.kill_everything()
            self._service.start(2)
            self._socket.close()
            self._socket = self._connect()
        elif pids := self._service.worker_pids():
            os.kill(self._random.choice(pids), signal.SIGKILL)

    def _send(self, numbers: list[int], answered: int) -> None:
        rows: list[Any] = []
        for number in numbers:
            key: dict[str, Any] | None = {"key": f"{self._session}.{number}", "answered": answered}
            if self._plain:
                key = {"key": f"{self._session}.{number}"}
            elif self._heads:
                key = None
            row = [number, "Counter", self.names[number], "get_unique_number", [], key]
            rows += [row] * self._random.choice((1, 1, 2))
        self._random.shuffle(rows)
        self.sent += len(rows)
        if self._heads:
            rows.insert(0, [0, "", self._session, "keys", [answered]])
        self._socket.send(msgspec.msgpack.encode(rows))

    def _receive(self, waiting: dict[int, float]) -> None:
        for number, status, result in msgspec.msgpack.decode(self._socket.recv()):
            if status:
                late = result["code"] == "bad_request" and result["outcome"] == "unknown" and number in self.answers
                assert result["retryable"] or late, result
                if number in waiting:
                    waiting[number] -= PATIENCE_S * 0.9
            else:
                assert self.answers.setdefault(number, result) == result, f"call {number} was answered twice, differently"
                waiting.pop(number, None)

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("plain", "heads"), [(False, False), (False, True), (True, False)], ids=["session", "heads", "plain"])
def test_calls_that_are_repeated_while_everything_is_killed_run_exactly_once(serve: Serve, plain: bool, heads: bool) -> None:
    service = serve(2)
    service.expect(KILLED_BY_TEST, "keeps failing")
    repeater = Repeater(service, plain=plain, heads=heads)
    try:
        repeater.run()
    finally:
        repeater.close()
    assert repeater.kills == KILLS
    for name in OBJECTS:
        numbers = sorted(repeater.answers[number] for number in range(CALLS) if repeater.names[number] == name)
        assert numbers == list(range(len(numbers))), f"{name} gave {numbers}, seed {SEED}"
        assert service.call("Counter", name, "current") == len(numbers)
    wait_until(lambda: kept_of(service, "calls") > 0, "the status has the workers' numbers")
    if plain:
        wait_until(lambda: kept_of(service, "answers") == CALLS, "every answer is kept")
    assert plain or kept_of(service, "answers") < 200, "a session's answers are freed as they arrive"
    print(f"seed {SEED}: {repeater.kills} kills, {CALLS} calls sent {repeater.sent} times")


def test_a_req_socket_that_says_its_session_gets_one_answer_for_each_message(serve: Serve) -> None:
    service = serve(1)
    worker = service.call("", "", "topology")["shards"][0]["endpoint"]
    calls = [[number, "Counter", "a", "get_unique_number"] for number in (1, 2, 3)]
    with zmq.Context() as context:
        for n, endpoint in enumerate((service.endpoint, worker, service.endpoint)):
            with context.socket(zmq.REQ) as req:
                req.linger, req.rcvtimeo = 0, 20_000
                req.connect(endpoint)
                req.send(msgspec.msgpack.encode([[0, "", "a-session", "keys", [0]], *calls, [10 + n, "Counter", "a", "current"]]))
                answers = sorted(msgspec.msgpack.decode(req.recv()))
                assert answers == [[1, 0, 0], [2, 0, 1], [3, 0, 2], [10 + n, 0, 3]]


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ], ids=["dealer", "req"])
def test_a_message_of_more_calls_than_a_turn_has_that_comes_again_runs_nothing(serve: Serve, kind: int) -> None:
    service, count = serve(1), 3 * TURN_REQUESTS_MAX
    worker = service.call("", "", "topology")["shards"][0]["endpoint"]
    calls = [[number, "Counter", "a", "get_unique_number"] for number in range(1, count + 1)]
    assert service.call("Counter", "a", "current") == 0  # It is in memory, so that none has to wait there.
    with zmq.Context() as context:
        for _ in range(2):
            with context.socket(kind) as socket:
                socket.linger, socket.rcvtimeo = 0, 20_000
                socket.connect(worker)
                socket.send(msgspec.msgpack.encode([[0, "", "a-session", "keys", [0]], *calls]))
                answers: list[Any] = []
                while len(answers) < count:
                    answers += msgspec.msgpack.decode(socket.recv())
                assert sorted(answers) == [[number, 0, number - 1] for number in range(1, count + 1)]
    assert service.call("Counter", "a", "current") == count


def kept_of(service: Service, number: str) -> int:
    return sum(process.get("statistics", {}).get(number, 0) for process in service.status()["processes"])
