"""What each layer costs: the product's own code, one layer at a time, without the layers around it.

Every figure is the least of many runs, in µs of CPU per call: what the code costs when nothing disturbs it. Calls come in
batches of 64, as they do under load. The sums stand beside the budgets of the design; what a process costs in a real run
(`compare`) is more by its sockets, its loop and cold caches.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import zmq

from tidegate.benchmarks.load.app import Counter
from tidegate.benchmarks.processes import scratch_folder
from tidegate.router.machine import RouterMachine
from tidegate.runtime.client.machine import ClientMachine
from tidegate.runtime.client.terms import Terms
from tidegate.runtime.ids import ObjectId, slot_of
from tidegate.runtime.wire.protocol import (
    KEYS,
    NO_RAW,
    OK,
    Message,
    Origin,
    Request,
    decode_replies,
    encode,
    encode_replies,
    parse_body,
)
from tidegate.runtime.wire.supervisor_messages import Topology
from tidegate.shard.core.cache import Budget, ObjectCache
from tidegate.shard.core.codec import encode as encode_value
from tidegate.shard.core.input_gate import InputGate
from tidegate.shard.core.output_gate import OutputGate, PendingCommit
from tidegate.shard.host.host import Host
from tidegate.shard.host.settings import HostSettings
from tidegate.shard.host.turn import Turn
from tidegate.shard.log.commit_log import CommitLog
from tidegate.shard.loop.loop import new_worker_loop
from tidegate.shard.loop.spare import SpareTask
from tidegate.shard.objects.methods import ObjectClass
from tidegate.shard.store.record import CommitRecord, encode_record
from tidegate.shard.store.state.memory_state import MemoryState
from tidegate.shard.store.store import ShardState, ShardStore

BATCH = 64
_RUNS = 300
_SMOKE_RUNS = 3
_SHARDS = 4
METHOD = "get_unique_number"
_NAMES = tuple(f"object-{index}" for index in range(BATCH))
_TOPOLOGY = Topology(1, (0,) * _SHARDS, ("ipc://worker",))
_NOW_S = 1.0


class Cost(msgspec.Struct, frozen=True):
    layer: str
    what: str
    us: float
    """µs of CPU, per call unless `per` says otherwise."""
    per: str = "call"
    budget_us: float | None = None
    counted: bool = True
    """Part of the layer's sum; else a part of another row, shown for itself."""


def measure_all(*, smoke: bool = False) -> list[Cost]:
    runs = _SMOKE_RUNS if smoke else _RUNS
    costs: list[Cost] = []
    for measured in (_protocol, _router, _gates_and_cache, _host, _log, _client, _client_with_keys):
        costs += measured(runs)
    budgets = {"router": 6.0, "worker": 8.0, "client": 5.0}
    for layer, budget in budgets.items():
        total = sum(cost.us for cost in costs if cost.layer == layer and cost.counted and cost.per == "call")
        costs.append(Cost(layer, "sum", round(total, 2), budget_us=budget, counted=False))
    return costs


def best_us(run: Callable[[], object], runs: int, count: int = BATCH, prepare: Callable[[], object] = lambda: None) -> float:
    """The least time of `run`, which does something `count` times; `prepare` is not measured."""
    clock, best = time.perf_counter_ns, float("inf")
    for _ in range(runs):
        prepare()
        started = clock()
        run()
        best = min(best, clock() - started)
    return round(best / count / 1e3, 3)


def _repeat(step: Callable[[], object], runs: int, count: int = 1_000) -> float:
    """The same for something so short that the clock would be most of it."""
    numbers = range(count)

    def run() -> None:
        for _ in numbers:
            step()

    empty = best_us(lambda: [None for _ in numbers], runs, count)
    return round(max(0.0, best_us(run, runs, count) - empty), 3)


def _requests_body() -> bytes:
    return encode([(number, "Counter", name, METHOD) for number, name in enumerate(_NAMES)])


def _origin() -> Origin:
    return Origin(b"client", envelope=None, json=False, single=False, requests=BATCH)


def _protocol(runs: int) -> list[Cost]:
    body, rows = _requests_body(), [(number, OK, number) for number in range(BATCH)]
    replies = encode_replies(rows, json=False, single=False)
    return [
        Cost("worker", "read requests", best_us(lambda: parse_body(b"client", body), runs)),
        Cost("worker", "write replies", best_us(lambda: encode_replies(rows, json=False, single=False), runs)),
        Cost("protocol", "read replies", best_us(lambda: decode_replies(replies), runs)),
        Cost("protocol", "place an object (slot)", best_us(lambda: [slot_of("Counter", name) for name in _NAMES], runs)),
        _message_cost(runs),
    ]


def _message_cost(runs: int) -> Cost:
    """A frame of 64 requests through a socket pair of ZeroMQ: the two I/O threads too, so it is elapsed time."""
    context = zmq.Context[zmq.Socket[bytes]]()
    one, other = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    body = _requests_body()
    try:
        with scratch_folder(None) as folder:
            one.bind(f"ipc://{folder}/pair")
            other.connect(f"ipc://{folder}/pair")

            def cross() -> None:
                one.send(body)
                other.recv()

            return Cost("protocol", f"one way through a socket, {BATCH} calls", best_us(cross, runs, 1), per="message")
    finally:
        context.destroy(linger=0)


def _router(runs: int) -> list[Cost]:
    body, now = _requests_body(), _NOW_S
    rows: list[tuple[Any, int, Any]] = []
    machine = RouterMachine(_TOPOLOGY, lambda origin, number, status, result: rows.append((number, status, result)))
    (worker,) = machine.workers
    replies: list[Any] = []

    def forward() -> None:
        machine.handle(parse_body(b"client", body), now)
        worker.take_bodies()

    def forwarded() -> None:
        rows.clear()
        forward()
        tokens = list(worker.unanswered)
        replies[:] = [encode_replies([(token, OK, 7) for token in tokens], json=False, single=False)]

    def give_back() -> None:
        machine.replied(worker, decode_replies(replies[0]))
        encode_replies(rows, json=False, single=False)

    forwarded()
    give_back()
    there = best_us(forward, runs, prepare=lambda: machine.replied(worker, decode_replies(_all_replies(worker.unanswered))))
    machine.replied(worker, decode_replies(_all_replies(worker.unanswered)))
    back = best_us(give_back, runs, prepare=forwarded)
    machine.check_invariants()
    return [Cost("router", "forward requests", there), Cost("router", "give replies back", back)]


def _all_replies(tokens: Any) -> bytes:
    return encode_replies([(token, OK, 7) for token in tokens], json=False, single=False) if tokens else b"\x90"


def _gates_and_cache(runs: int) -> list[Cost]:
    gate = InputGate()
    output_gate = OutputGate()
    state = ShardStore(MemoryState(0))
    cache = ObjectCache(b"k" * 16, ObjectId("Counter", "a"), state, output_gate, Budget(1 << 20))
    cache.write("counter", encode_value(1), 1)
    numbers = iter(range(10**9))

    def write() -> None:
        value = next(numbers)
        cache.write("counter", encode_value(value), value)

    async def empty() -> int:
        return 1

    loop = new_worker_loop()
    try:
        task_us = _driver_cost(SpareTask(loop), empty, runs)
        create_us = _create_task_cost(loop, empty, runs)
    finally:
        loop.close()
    return [
        Cost("parts", "input gate: may it pass", _repeat(lambda: gate.passes(gate.root), runs)),
        Cost("parts", "cache: read", _repeat(lambda: cache.read("counter"), runs)),
        Cost("parts", "cache: write an int", _repeat(write, runs)),
        Cost("parts", "task driver: a coroutine that does not wait", task_us),
        Cost("parts", "the same as an asyncio task", create_us),
    ]


def _driver_cost(spare: SpareTask, empty: Callable[[], Any], runs: int) -> float:
    context, send = contextvars.copy_context(), spare.task.send

    def run() -> None:
        for _ in range(BATCH):
            context.copy().run(send, empty())

    return best_us(run, runs)


def _create_task_cost(loop: asyncio.AbstractEventLoop, empty: Callable[[], Any], runs: int) -> float:
    async def run() -> float:
        best = float("inf")
        for _ in range(runs):
            started = time.perf_counter_ns()
            await asyncio.gather(*(loop.create_task(empty()) for _ in range(BATCH)))
            best = min(best, time.perf_counter_ns() - started)
        return round(best / BATCH / 1e3, 3)

    return loop.run_until_complete(run())


class BareHost:
    """The worker's core over memory: calls in, replies into a list, commits durable when asked."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        keyed: bool = False,
        states: Sequence[ShardState] = (),
        cache_bytes: int = 256 << 20,
    ) -> None:
        """`states`: of all shards, over files; without, they are in memory."""
        self.keyed = keyed
        self.calls = 0
        states = states or [MemoryState(shard) for shard in range(_SHARDS)]
        self.stores = {state.shard: ShardStore(state) for state in states}
        self.replies: list[tuple[Any, int, Any]] = []
        self.host = Host(
            loop,
            [ObjectClass(Counter)],
            self.stores,
            HostSettings(len(states), cache_bytes, slow_call_s=float("inf")),  # Under a profiler every call would seem slow.
            reply=lambda _, *reply: self.replies.append(reply),
            reply_rows=lambda _: self.replies,
            turn=Turn(loop, end=lambda: None),
            send=_unexpected,
            system=_unexpected,
        )
        self.host.hot.left = 1 << 40  # Under load one call in hundreds is looked at, and at first each.

    def committed(self, commit: PendingCommit) -> None:
        for each in commit.shards:
            self.stores[each.shard].apply(each.seq, each.objects, each.answers, each.rolls)
        self.host.committed(commit)

    def message(self, method: str, names: Sequence[str] = _NAMES) -> Message:
        """A call of each object; of a session that has got all answers, if it is to have keys."""
        requests = [Request(number, "Counter", name, method) for number, name in enumerate(names, self.calls)]
        if self.keyed:
            requests.insert(0, Request(0, "", "6fX3q_9aPzLw", KEYS, msgspec.Raw(encode([self.calls]))))
            self.calls += BATCH
        return Message(_origin(), requests, [])

    def call_all(self, method: str, names: Sequence[str] = _NAMES) -> None:
        """The calls of a message, and their commit, as it is encoded for the log."""
        self.host.handle(self.message(method, names))
        if self.host.output_gate.can_cut:
            commit = self.host.cut()
            encode_record(CommitRecord(1, commit.shards))
            self.committed(commit)


def _unexpected(*_: object) -> None:
    raise AssertionError("every shard is here, and nobody makes system calls")


def _host(runs: int) -> list[Cost]:
    loop = new_worker_loop()
    try:
        return [*_host_costs(BareHost(loop), runs, "worker"), *_host_costs(BareHost(loop, keyed=True), runs, "worker, keys")]
    finally:
        loop.close()


def _host_costs(bare: BareHost, runs: int, layer: str) -> Iterator[Cost]:
    host, replies = bare.host, bare.replies
    messages: list[Message] = []

    def prepare(method: str) -> None:
        replies.clear()
        messages[:] = [bare.message(method)]

    def handle() -> None:
        host.handle(messages[0])

    def settle() -> None:
        if host.output_gate.can_cut:
            host.cut()
        committed()

    def committed() -> None:
        if (commit := host.output_gate.in_flight) is not None:
            bare.committed(commit)

    def prepare_write() -> None:
        settle()
        prepare(METHOD)

    def prepare_cut() -> None:
        prepare_write()
        handle()

    def cut_and_encode() -> None:
        encode_record(CommitRecord(1, host.cut().shards))

    def prepare_commit() -> None:
        prepare_cut()
        host.cut()

    bare.call_all(METHOD)
    yield Cost(layer, "run read-modify-write, hold its reply", best_us(handle, runs, prepare=prepare_write))
    yield Cost(layer, "cut a commit and encode it", best_us(cut_and_encode, runs, prepare=prepare_cut))
    yield Cost(layer, "apply it, release replies", best_us(committed, runs, prepare=prepare_commit))
    settle()
    yield Cost(layer, "run a cached read", best_us(handle, runs, prepare=lambda: prepare("current")), counted=False)
    assert len(replies) == BATCH


def _log(runs: int) -> list[Cost]:
    """On the disk: elapsed time of an append with its fdatasync, and of the write alone."""
    with scratch_folder(None) as folder:
        log, record = CommitLog(folder / "log"), b"x" * 6_000
        try:
            append_us = best_us(lambda: log.append(record), min(runs, 200), 1)
        finally:
            log.close()
    return [Cost("log", "append 6,000 bytes with fdatasync (elapsed)", append_us, per="commit")]


class _Waiter:
    """A future without a loop."""

    __slots__ = ("result",)

    def done(self) -> bool:
        return False

    def set_result(self, result: Any, /) -> None:
        self.result = result

    def set_exception(self, exception: Any, /) -> None:
        raise exception


def _client(runs: int) -> list[Cost]:
    return _client_costs(runs, "client", retries=False)


def _client_with_keys(runs: int) -> list[Cost]:
    return _client_costs(runs, "client, retries", retries=True)


class BareClient:
    """The client's machine without sockets: calls in, replies made up for whatever it sends."""

    def __init__(self, *, retries: bool) -> None:
        self.machine = ClientMachine(
            "tcp://127.0.0.1:1",
            terms=Terms(60.0, is_told=False, retries=retries),
            direct=True,
            session="micro",
            chance=random.random,
        )
        self.machine.link_connected(1, _NOW_S)
        self.machine.topology_received(_TOPOLOGY, frozenset(("ipc://worker",)), _NOW_S)
        self._decode = msgspec.msgpack.Decoder().decode
        self._slots = [(name, self.machine.slot_of("Counter", name)) for name in _NAMES]  # A stub asks once.
        self._sent: list[tuple[int, bytes]] = []
        self._arrived = b""
        self.call()
        for link in range(2, 2 + len(_TOPOLOGY.endpoints)):
            self.machine.link_connected(link, _NOW_S)
        self._sent = self._sent or self.machine.take_messages(_NOW_S)
        self.settle()

    def call(self) -> None:
        """One of each object."""
        for name, slot in self._slots:
            self.machine.call(_Waiter(), slot, "Counter", name, METHOD, NO_RAW, self._decode, None, _NOW_S)
        self._sent = self.machine.take_messages(_NOW_S)

    def answer(self) -> None:
        rows = msgspec.msgpack.decode(self._sent[0][1])
        self._arrived = encode_replies([(row[0], OK, 7) for row in rows], json=False, single=False)

    def receive(self) -> None:
        self.machine.message_received(self._sent[0][0], self._arrived, _NOW_S)

    def settle(self) -> None:
        self.answer()
        self.receive()

    def called(self) -> None:
        self.call()
        self.answer()


def _client_costs(runs: int, part: str, *, retries: bool) -> list[Cost]:
    bare = BareClient(retries=retries)
    bare.call()
    call_us = best_us(bare.call, runs, prepare=bare.settle)
    bare.settle()
    receive_us = best_us(bare.receive, runs, prepare=bare.called)
    bare.machine.check_invariants()
    return [Cost(part, "make calls, write requests", call_us), Cost(part, "read replies, give results", receive_us)]
