"""Callers of four kinds, each a thread that calls until it is told to stop: the two Python clients, and two that speak the wire
protocol themselves, one MessagePack and one JSON, with several calls in flight.

Rule 1: a call that was not answered is `unknown`, unless an error says that it was not executed.
Rule 2: with keys, a call is one call however often it is sent: the raw callers send it again themselves, as protocol.md tells
users, and the Python clients do so by themselves.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

import msgspec
import zmq

from tidegate.runtime.chaos.calls.recorder import Recorder
from tidegate.runtime.chaos.calls.watched_dealer import WatchedDealer, watched_dealer
from tidegate.runtime.chaos.calls.workload import Roster, Workload
from tidegate.runtime.chaos.verdict.history import Operation
from tidegate.runtime.client.asynchronous import connect
from tidegate.runtime.client.synchronous import connect_sync
from tidegate.runtime.errors import CallError

KINDS = 6
TASKS = 4
"""Calls in flight of an asynchronous caller."""
WINDOW = 8
"""The same of a raw one."""
AGAIN_S = 0.1
"""Before a raw caller sends a call again."""
POLL_MS = 50
GREETING_S_MAX = 5.0
"""For a router that has been connected to."""
CONNECTION_LOST = {"code": "connection_lost", "message": "", "outcome": "unknown", "retryable": True}


class Contract(NamedTuple):
    """What all callers have in common."""

    endpoints: Sequence[str]
    """Of the router, or of that of each host."""
    side_doors: Sequence[str]
    """Of the same routers, over connections that may be broken."""
    recorder: Recorder
    roster: Roster
    keys: bool
    """Calls have keys, and are sent again until they are answered or their time is over."""
    rate: float
    """Calls a second of each caller, at most. 0: as many as are answered."""


class Pace:
    """When the next call is due, at a steady rate; what was missed is not made up for beyond a second."""

    def __init__(self, rate: float) -> None:
        self._gap_s = 1 / rate if rate else 0.0
        self._due_at = time.monotonic()

    def next_delay_s(self) -> float:
        """Until the next one, which is counted as made by that."""
        now = time.monotonic()
        delay_s = max(0.0, self._due_at - now)
        self._due_at = max(self._due_at, now - 1.0) + self._gap_s
        return delay_s


class CallerThread(threading.Thread):
    def __init__(self, kind: str, number: int, seed: int, contract: Contract) -> None:
        super().__init__(name=f"{kind} {number}", daemon=True)
        self.number = number
        self.contract = contract
        self.recorder = contract.recorder
        self.workload = Workload(contract.roster, Random(f"{seed} caller {number}"), number, keys=contract.keys)
        self.at = number + number // KINDS
        """Which of the routers it talks to, counted round."""
        self.failure: BaseException | None = None
        """Of the caller itself, which is a fault of chaos or of a client."""

    def run(self) -> None:
        try:
            self.call_until_stopped()
        except BaseException as error:  # It is told with the report.
            self.failure = error

    def call_until_stopped(self) -> None:
        """Returns when every call has ended."""
        raise AssertionError("of each kind")

    def endpoint(self, *, direct: bool) -> str:
        doors = self.contract.endpoints if direct else self.contract.side_doors
        return doors[self.at % len(doors)]

    def pace(self, parts: int = 1) -> Pace:
        return Pace(self.contract.rate / parts)

    def begin(self) -> Operation:
        return self.recorder.begin(self.name, self.workload.next_call())

    def end(self, operation: Operation, result: Any) -> None:
        self.workload.seen((operation.class_name, operation.name, operation.method, operation.args), result)
        self.recorder.answer(operation, result)

    def end_by(self, operation: Operation, error: Exception) -> None:
        """By what a Python client raised."""
        reply = error if isinstance(error, CallError) else error.__cause__
        if not isinstance(reply, CallError):
            raise error
        if reply.code == "exception":
            self.recorder.answer(operation, ("raised", str(reply.details.get("type"))))
        else:
            self.recorder.fail(operation, reply.code, reply.message, unknown=reply.outcome != "not_executed")


def client_options(caller: CallerThread, direct: bool) -> dict[str, Any]:
    return {"timeout": caller.recorder.timeout_s, "direct": direct, "retry": caller.contract.keys}


class AsyncCaller(CallerThread):
    """The asynchronous client, with several tasks."""

    def __init__(self, direct: bool, *common: Any) -> None:
        super().__init__("async-direct" if direct else "async-router", *common)
        self.direct = direct

    def call_until_stopped(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        async with connect(self.endpoint(direct=self.direct), **client_options(self, self.direct)) as client:
            await asyncio.gather(*(self._task(client) for _ in range(TASKS)))

    async def _task(self, client: Any) -> None:
        pace = self.pace(TASKS)
        while not self.recorder.stopping.is_set():
            await asyncio.sleep(pace.next_delay_s())
            operation = self.begin()
            try:
                result = await client.call(operation.class_name, operation.name, operation.method, operation.args)
            except Exception as error:  # Whatever a method may raise.
                self.end_by(operation, error)
                await asyncio.sleep(AGAIN_S)
            else:
                self.end(operation, result)


class SyncCaller(CallerThread):
    """The synchronous client, one call at a time."""

    def __init__(self, direct: bool, *common: Any) -> None:
        super().__init__("sync-direct" if direct else "sync-router", *common)
        self.direct = direct

    def call_until_stopped(self) -> None:
        pace = self.pace()
        with connect_sync(self.endpoint(direct=self.direct), **client_options(self, self.direct)) as client:
            while not self.recorder.stopping.wait(pace.next_delay_s()):
                operation = self.begin()
                try:
                    result = client.call(operation.class_name, operation.name, operation.method, operation.args)
                except Exception as error:  # Whatever a method may raise.
                    self.end_by(operation, error)
                    self.recorder.stopping.wait(AGAIN_S)
                else:
                    self.end(operation, result)


class Attempt(NamedTuple):
    operation: Operation
    key: str
    may_have_run: bool
    """By what an earlier attempt was told."""
    not_before: float


class RawCaller(CallerThread):
    """One DEALER socket with several calls in flight, sent one by one or in batches; a new one when the connection is lost, to
    the next host where there are several."""

    def __init__(self, codec: Any, kind: str, *common: Any) -> None:
        super().__init__(kind, *common)
        self._codec = codec
        self._in_flight: dict[int, Attempt] = {}
        self._again: list[Attempt] = []
        self._ids = itertools.count(1).__next__
        self._chance = Random(f"batches {self.number}")

    def call_until_stopped(self) -> None:
        with zmq.Context() as context:
            pace, due_at = self.pace(), time.monotonic()
            while not self._is_over():
                with watched_dealer(context, self.endpoint(direct=False)) as dealer:
                    due_at = self._talk(dealer, pace, due_at)
                self.at += 1
                self._connection_lost()
                self._drop_overdue()

    def _is_over(self) -> bool:
        return self.recorder.stopping.is_set() and not self._in_flight and not self._again

    def _talk(self, dealer: WatchedDealer, pace: Pace, due_at: float) -> float:
        """Until the connection is lost, or all is over; when the next call is due then."""
        if not self._is_answered(dealer):
            return due_at
        while not self._is_over():
            now = time.monotonic()
            batch = [attempt for attempt in self._again if attempt.not_before <= now]
            self._again = [attempt for attempt in self._again if attempt.not_before > now]
            wanted = self._chance.choice((1, 1, 3))
            while len(self._in_flight) + len(batch) < WINDOW and len(batch) < wanted and due_at <= now:
                if self.recorder.stopping.is_set():
                    break
                operation = self.begin()
                batch.append(Attempt(operation, f"{self.name} {operation.number}", False, now))
                due_at = now + pace.next_delay_s()
            if batch:
                self._send(dealer, batch)
            full = len(self._in_flight) >= WINDOW or self.recorder.stopping.is_set()
            if not dealer.wait(POLL_MS if full else int(min(POLL_MS, max(1.0, (due_at - now) * 1_000)))):
                break
            for body in dealer.receive():
                self._take(body)
            self._drop_overdue()
        return due_at

    def _is_answered(self, dealer: WatchedDealer) -> bool:
        """Whether somebody is there: what is sent before would only be lost."""
        dealer.send(self._codec.encode([0, "", "", "ping"]))
        until = time.monotonic() + GREETING_S_MAX
        while time.monotonic() < until and dealer.wait(POLL_MS):
            if next(dealer.receive(), None):
                return True
        self.recorder.stopping.wait(AGAIN_S)
        return False

    def _send(self, dealer: WatchedDealer, attempts: list[Attempt]) -> None:
        rows = []
        for attempt in attempts:
            operation, call = attempt.operation, self._ids()
            self._in_flight[call] = attempt
            left_s = operation.began_at + self.recorder.timeout_s - time.monotonic()
            options: dict[str, Any] = {"deadline_ms": max(1, int(left_s * 1_000))}
            if self.contract.keys:
                options["key"] = attempt.key
            rows.append([call, operation.class_name, operation.name, operation.method, operation.args, options])
        dealer.send(self._codec.encode(rows if len(rows) > 1 else rows[0]))

    def _take(self, body: bytes) -> None:
        decoded = self._codec.decode(body)
        for call, status, result in decoded if isinstance(decoded[0], list) else [decoded]:
            attempt = self._in_flight.pop(call, None)
            if attempt is None:
                continue  # Its time was over here before it was there.
            if status == 0:
                self.end(attempt.operation, result)
            elif result["code"] == "exception":
                self.recorder.answer(attempt.operation, ("raised", result["type"]))
            else:
                self._failed(attempt, result)

    def _failed(self, attempt: Attempt, error: Mapping[str, Any]) -> None:
        may_have_run = attempt.may_have_run or error["outcome"] != "not_executed"
        not_before = time.monotonic() + AGAIN_S
        if self.contract.keys and error["retryable"] and not_before < attempt.operation.began_at + self.recorder.timeout_s:
            attempt.operation.attempts += 1
            self._again.append(attempt._replace(may_have_run=may_have_run, not_before=not_before))
        else:
            self.recorder.fail(attempt.operation, error["code"], error["message"], unknown=may_have_run)

    def _connection_lost(self) -> None:
        lost, self._in_flight = self._in_flight, {}
        for attempt in lost.values():
            self._failed(attempt, CONNECTION_LOST)

    def _drop_overdue(self) -> None:
        """What the recorder has given up, because nobody answered."""
        for call in [call for call, attempt in self._in_flight.items() if attempt.operation.fate != "running"]:
            del self._in_flight[call]
        self._again = [attempt for attempt in self._again if attempt.operation.fate == "running"]


def start_callers(count: int, seed: int, contract: Contract) -> list[CallerThread]:
    """Of all kinds, in turn."""
    kinds: list[Callable[..., CallerThread]] = [
        lambda *common: AsyncCaller(True, *common),
        lambda *common: RawCaller(msgspec.msgpack, "pyzmq", *common),
        lambda *common: SyncCaller(True, *common),
        lambda *common: RawCaller(msgspec.json, "json", *common),
        lambda *common: AsyncCaller(False, *common),
        lambda *common: SyncCaller(False, *common),
    ]
    assert len(kinds) == KINDS
    callers = [kinds[number % KINDS](number, seed, contract) for number in range(count)]
    for caller in callers:
        caller.start()
    return callers
