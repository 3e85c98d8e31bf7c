"""Load by raw DEALER clients, which remember every call and what became of it, and the judge of what they remember.

The judge knows three things about a counter that gives each number once, whatever was killed meanwhile:
no number was confirmed twice; a client which asks one counter again gets a higher number; and what the counter will give
next is at least the count of confirmed calls, and at most that plus the calls whose outcome is unknown. So a lost write, a
repeated one and a call that ran though its caller was told `not_executed` are all seen.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, Protocol, TypeVar

import msgspec
import zmq

from tests.support.service import Service
from tests.support.waiting import wait_until

SILENCE_S = 30.0
"""A client that waits this long for any answer says that the service hangs."""
CONNECTION_LOST = ("connection_lost", "unknown")
UNKNOWN_CODES = {"shard_lost": "unknown", "object_reset": "unknown"}
REFUSED_CODES = {"unavailable": "not_executed", "overloaded": "not_executed"}


class BookKeeper(Protocol):
    """A client of any kind that keeps book of what it was told."""

    name: str
    names: Sequence[str]
    confirmed: list[tuple[str, int]]
    unknown: collections.Counter[str]
    errors: collections.Counter[tuple[str, str]]


B = TypeVar("B", bound=BookKeeper)


class LoadClient(threading.Thread):
    """One DEALER socket with `window` calls in flight, sent in batches. Ends after `calls` calls, or when told to stop, or
    (`until_refused`) at the first error; in any case only when every call has been answered or its connection was lost."""

    def __init__(
        self,
        endpoint: str,
        number: int,
        names: Sequence[str],
        *,
        calls: int = 1_000_000_000,
        window: int = 64,
        batch: int = 16,
        cls: str = "Counter",
        method: str = "get_unique_number",
        args: Sequence[Any] = (),
        until_refused: bool = False,
    ) -> None:
        super().__init__(name=f"client {number}", daemon=True)
        self.endpoint = endpoint
        self.names = names
        self.calls = calls
        self.window = window
        self.batch = batch
        self.request = (cls, method)
        self.args = tuple(args)
        self.until_refused = until_refused
        self.confirmed: list[tuple[str, Any]] = []
        """Object and result, in the order of the calls' being sent to each object."""
        self.unknown: collections.Counter[str] = collections.Counter()
        """By object: calls that may have been executed."""
        self.errors: collections.Counter[tuple[str, str]] = collections.Counter()
        """By code and outcome."""
        self.latencies_s: list[float] = []
        self.sent = 0
        self.hung = 0
        """Calls that nobody answered though the connection stood."""
        self._random = Random(number)
        self._stopped = threading.Event()
        self._in_flight: dict[int, tuple[str, float]] = {}
        self._lost: dict[int, str] = {}
        """Calls whose connection was lost: an answer may come nevertheless, over the next one."""

    def stop(self) -> None:
        self._stopped.set()

    @property
    def answered(self) -> int:
        return len(self.latencies_s)

    def run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.sndhwm = dealer.rcvhwm = 0
            dealer.reconnect_ivl = 20
            monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            dealer.connect(self.endpoint)
            poller = zmq.Poller()
            poller.register(dealer, zmq.POLLIN)
            poller.register(monitor, zmq.POLLIN)
            self._talk(dealer, monitor, poller)
            dealer.disable_monitor()
            monitor.close(0)

    def _talk(self, dealer: zmq.Socket[Any], monitor: zmq.Socket[Any], poller: zmq.Poller) -> None:
        heard_at = time.monotonic()
        while self._wants_more or self._in_flight:
            while self._wants_more and len(self._in_flight) <= self.window - self.batch:
                self._send(dealer)
            ready = dict(poller.poll(200))
            now = time.monotonic()
            if dealer in ready:
                heard_at = now
                with contextlib.suppress(zmq.Again):
                    while True:
                        for row in msgspec.msgpack.decode(dealer.recv(zmq.NOBLOCK)):
                            self._take(row, now)
            elif monitor in ready:
                monitor.recv_multipart()
                heard_at = now
                self._connection_lost()
            elif now - heard_at > SILENCE_S:
                self.hung = len(self._in_flight)
                return

    @property
    def _wants_more(self) -> bool:
        return self.sent < self.calls and not self._stopped.is_set()

    def _send(self, dealer: zmq.Socket[Any]) -> None:
        cls, method = self.request
        rows = []
        for _ in range(min(self.batch, self.calls - self.sent)):
            name = self._random.choice(self.names)
            rows.append((self.sent, cls, name, method, self.args))
            self._in_flight[self.sent] = (name, time.monotonic())
            self.sent += 1
        dealer.send(msgspec.msgpack.encode(rows))

    def _take(self, row: list[Any], now: float) -> None:
        call, status, result = row
        if call in self._in_flight:
            name, sent_at = self._in_flight.pop(call)
            self.latencies_s.append(now - sent_at)
        else:  # Answered over the next connection, and no longer unknown.
            name = self._lost.pop(call)
            self.unknown[name] -= 1
            self.errors[CONNECTION_LOST] -= 1
        if status == 0:
            self.confirmed.append((name, result))
            return
        self.errors[result["code"], result["outcome"]] += 1
        if result["outcome"] == "unknown":
            self.unknown[name] += 1
        if self.until_refused:
            self.stop()

    def _connection_lost(self) -> None:
        for call, (name, _) in self._in_flight.items():
            self._lost[call] = name
            self.unknown[name] += 1
            self.errors[CONNECTION_LOST] += 1
        self._in_flight.clear()
        if self.until_refused:
            self.stop()


def start_clients(service: Service, count: int, names: Sequence[str], **options: Any) -> list[LoadClient]:
    clients = [LoadClient(service.endpoint, number, names, **options) for number in range(count)]
    for client in clients:
        client.start()
    return clients


def finish(clients: Iterable[LoadClient], within_s: float = 120.0) -> None:
    """Waits until every client has done what it was told, and asserts that none of them waited in vain."""
    give_up_at = time.monotonic() + within_s
    for client in clients:
        client.join(max(0.0, give_up_at - time.monotonic()))
        assert not client.is_alive(), f"{client.name}: {client.answered} of {client.sent} answered, then nothing; {client.errors}"
        assert client.hung == 0, f"{client.name}: {client.hung} calls without an answer; {client.errors}"


def wait_for_answers(clients: Sequence[LoadClient], count: int) -> None:
    """Until every client has had `count` answers."""
    wait_until(lambda: min(client.answered for client in clients) >= count, "answers", seen=lambda: [c.answered for c in clients])


def wait_for_new_answers(clients: Sequence[LoadClient]) -> None:
    """Until every client has had answers to calls that it has yet to make."""
    enough = [client.answered + client.window + 1 for client in clients]
    wait_until(
        lambda: all(client.answered >= count for client, count in zip(clients, enough, strict=True)),
        "answers to new calls",
        seen=lambda: list(zip((client.answered for client in clients), enough, strict=True)),
    )


@contextlib.contextmanager
def under_load(service: Service, count: int, names: Sequence[str], **options: Any) -> Any:
    """Load from when every client has its first answers until the end of the block, in which all calls are answered."""
    clients = start_clients(service, count, names, **options)
    try:
        wait_for_answers(clients, 1)
        yield clients
    finally:
        for client in clients:
            client.stop()
        finish(clients)


def total(clients: Iterable[B], get: Callable[[B], Any]) -> int:
    return sum(len(what) if hasattr(what := get(client), "__len__") else what for client in clients)


def errors_of(clients: Iterable[BookKeeper]) -> dict[tuple[str, str], int]:
    summed: collections.Counter[tuple[str, str]] = collections.Counter()
    for client in clients:
        summed += client.errors
    return dict(summed)


def assert_only(clients: Iterable[BookKeeper], allowed: dict[str, str]) -> None:
    """Every error has a code that the test allows, and the outcome which the contract gives to that code."""
    wrong = {error: count for error, count in errors_of(clients).items() if allowed.get(error[0]) != error[1]}
    assert not wrong, wrong


def read_many(
    endpoint: str, names: Sequence[str], cls: str = "Counter", method: str = "current", batch: int = 2_000
) -> list[Any]:
    """The result of a method of many objects, in their order. Every call must succeed."""
    results: dict[int, Any] = {}
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.rcvtimeo = 30_000
        dealer.connect(endpoint)
        for start in range(0, len(names), batch):
            rows = [(start + n, cls, name, method) for n, name in enumerate(names[start : start + batch])]
            dealer.send(msgspec.msgpack.encode(rows))
            while len(results) < start + len(rows):
                for call, status, result in msgspec.msgpack.decode(dealer.recv()):
                    assert status == 0, (names[call], result)
                    results[call] = result
    return [results[n] for n in range(len(names))]


def judge(endpoint: str, clients: Iterable[BookKeeper], cls: str = "Counter", method: str = "current") -> list[str]:
    """What is wrong with the numbers that the clients were given, all the clients since the counters were new. Empty if
    nothing is. The counters are read now, by a method that tells the next number."""
    clients = list(clients)
    names = sorted({name for client in clients for name in client.names})
    confirmed: dict[str, list[int]] = {name: [] for name in names}
    unknown: collections.Counter[str] = collections.Counter()
    wrong = []
    for client in clients:
        newest: dict[str, int] = {}
        for name, number in client.confirmed:
            confirmed[name].append(number)
            if number <= newest.get(name, -1):
                wrong.append(f"{client.name}: {name} gave {number} after {newest[name]}")
            newest[name] = number
        unknown += client.unknown
    for name, next_number in zip(names, read_many(endpoint, names, cls, method), strict=True):
        numbers = confirmed[name]
        if len(set(numbers)) < len(numbers):
            wrong.append(f"{name}: a number was confirmed twice")
        if numbers and next_number <= max(numbers):
            wrong.append(f"{name}: confirmed {max(numbers)}, but {next_number} would be next")
        if not len(numbers) <= next_number <= len(numbers) + unknown[name]:
            wrong.append(f"{name}: {len(numbers)} confirmed and {unknown[name]} unknown, but {next_number} would be next")
    return wrong
