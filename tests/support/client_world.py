"""A small world for `ClientMachine`: a router, two workers, links that come and go, all stepped by a seed.

Nothing here waits or has a clock of its own. Every queue is first in, first out, as ZeroMQ's are; between them anything may
happen in any order. The world knows what was executed, and judges order and answers at the end.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tidegate.runtime.client.links import AskTopology, Close, Open
from tidegate.runtime.client.machine import NO_SLOT, ClientMachine
from tidegate.runtime.errors import DeadlineExceeded, Moved, Overloaded, ShardLost, Unavailable
from tidegate.runtime.wire.encoding import decode_any, encode_arguments
from tidegate.runtime.wire.protocol import ERROR, NO_RAW, OK, encode
from tidegate.runtime.wire.slots import SlotTable, topology_from_reply, topology_reply
from tidegate.runtime.wire.supervisor_messages import Topology

ROUTER = "tcp://router"
NAMES = ("a", "b", "c", "d", "{a}2")


class Answer:
    def __init__(self) -> None:
        self.answers: list[Any] = []

    def done(self) -> bool:
        return bool(self.answers)

    def set_result(self, result: Any) -> None:
        assert not self.answers, "answered twice"
        self.answers.append(result)

    def set_exception(self, exception: BaseException) -> None:
        self.set_result(exception)


@dataclass
class Pipe:
    """One link between the client and a server: what travels on it each way."""

    link: int
    endpoint: str
    reconnect: bool
    up: bool = False
    requests: deque[Any] = field(default_factory=deque)
    replies: deque[bytes] = field(default_factory=deque)


@dataclass
class Arrived:
    """A request at a worker. `pipe`: where its reply goes; dead pipes swallow it."""

    pipe: Pipe
    request: list[Any]


class World:
    def __init__(self, seed: int, *, direct: bool = True) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.incarnations = [1, 1]
        self.owners: tuple[int, ...] = (0, 1, 0, 1)
        self.epoch = 1
        self.queues: list[deque[Arrived]] = [deque(), deque()]
        self.pipes: dict[int, Pipe] = {}
        self.asked: list[Answer] = []
        self.calls: dict[str, list[tuple[int, Answer]]] = {name: [] for name in NAMES}
        self.executed: dict[str, list[int]] = {name: [] for name in NAMES}
        self.ways: set[str] = set()
        self.made = 0
        self.machine = ClientMachine(ROUTER, timeout=10.0, direct=direct, deadline_to_server=False)
        self.steps = (
            [self.call] * 8 + [self.flush] * 6 + [self.connect] * 3 + [self.deliver_request] * 10 + [self.execute] * 8
            + [self.deliver_reply] * 10 + [self.answer_topology] * 3 + [self.pass_time] * 2
            + [self.kill_worker, self.move_shard, self.drop_link]
        )  # fmt: skip

    def endpoint(self, worker: int) -> str:
        return f"ipc://worker-{worker}.{self.incarnations[worker]}"

    def topology(self) -> Topology:
        return Topology(self.epoch, self.owners, (self.endpoint(0), self.endpoint(1)))

    # Steps

    def step(self) -> None:
        self.random.choice(self.steps)()
        self.machine.check_invariants()

    def call(self) -> None:
        name = self.random.choice(NAMES)
        self.made += 1
        answer = Answer()
        self.calls[name].append((self.made, answer))
        timeout = self.random.choice((None, None, None, 0.5))
        args = encode_arguments((self.made,), {})
        self.machine.call(answer, self.machine.slot_of("C", name), "C", name, "m", args, decode_any, timeout, self.now)

    def flush(self) -> None:
        while self.machine.has_work():
            for link, body in self.machine.take_messages(self.now):
                assert self.pipes[link].up, "sent on a link that is not connected"
                self.pipes[link].requests.extend(msgspec.msgpack.decode(body))
            for effect in self.machine.take_effects():
                match effect:
                    case Open():
                        self.pipes[effect.link] = Pipe(effect.link, effect.endpoint, effect.reconnect)
                    case Close():
                        self.pipes.pop(effect.link, None)
                    case AskTopology():
                        asked = Answer()
                        self.asked.append(asked)
                        self.machine.call(asked, NO_SLOT, "", "", "topology", NO_RAW, decode_any, None, self.now)

    def connect(self) -> None:
        for pipe in list(self.pipes.values()):
            if not pipe.up and self.random.random() < 0.7:
                if pipe.endpoint in (ROUTER, self.endpoint(0), self.endpoint(1)):
                    pipe.up = True
                    self.machine.link_connected(pipe.link, self.now)
                else:
                    self.machine.link_lost(pipe.link, self.now)

    def deliver_request(self) -> None:
        waiting = [pipe for pipe in self.pipes.values() if pipe.requests]
        if not waiting:
            return
        pipe = self.random.choice(waiting)
        request = pipe.requests.popleft()
        if request[1] == "":
            pipe.replies.append(encode([[request[0], OK, topology_reply(SlotTable(self.topology()))]]))
            return
        worker = SlotTable(self.topology()).worker_of(request[1], request[2])
        if pipe.endpoint != ROUTER:
            worker = 0 if pipe.endpoint == self.endpoint(0) else 1
        self.ways.add("router" if pipe.endpoint == ROUTER else "direct")
        self.queues[worker].append(Arrived(pipe, request))

    def execute(self) -> None:
        worker = self.random.randrange(2)
        if not self.queues[worker]:
            return
        arrived = self.queues[worker].popleft()
        call_id, _, name, _, args = arrived.request[:5]
        if self.refuse_foreign(worker, arrived):
            return
        self.executed[name].append(args[0])
        arrived.pipe.replies.append(encode([[call_id, OK, args[0]]]))

    def refuse_foreign(self, worker: int, arrived: Arrived) -> bool:
        """Answers `moved` where the worker does not own the object."""
        if SlotTable(self.topology()).worker_of(arrived.request[1], arrived.request[2]) == worker:
            return False
        arrived.pipe.replies.append(encode([[arrived.request[0], ERROR, Moved().to_wire()]]))
        self.ways.add("moved")
        return True

    def deliver_reply(self) -> None:
        waiting = [pipe for pipe in self.pipes.values() if pipe.replies]
        if waiting:
            pipe = self.random.choice(waiting)
            self.machine.message_received(pipe.link, pipe.replies.popleft(), self.now)

    def answer_topology(self) -> None:
        """The shell's part: the answer of a call is handed to the machine."""
        for answer in [answer for answer in self.asked if answer.done()]:
            self.asked.remove(answer)
            if isinstance(answer.answers[0], dict):
                reachable = {self.endpoint(0), self.endpoint(1)} if self.random.random() < 0.8 else {self.endpoint(0)}
                self.machine.topology_received(topology_from_reply(answer.answers[0]), reachable, self.now)

    def pass_time(self) -> None:
        self.now += self.random.choice((0.001, 0.1, 2.0))
        if self.machine.next_deadline() <= self.now:
            self.machine.handle_timer(self.now)
            assert self.machine.next_deadline() > self.now

    def kill_worker(self) -> None:
        worker = self.random.randrange(2)
        old = self.endpoint(worker)
        for arrived in self.queues[worker]:
            if arrived.pipe.endpoint == ROUTER:  # The router answers for the worker it lost.
                arrived.pipe.replies.append(encode([[arrived.request[0], ERROR, ShardLost().to_wire()]]))
        self.queues[worker].clear()
        self.incarnations[worker] += 1
        self.epoch += 1
        for pipe in [pipe for pipe in self.pipes.values() if pipe.endpoint == old]:
            self.lose(pipe)

    def move_shard(self) -> None:
        """The old owner refuses what it has queued, so that nothing of it can run once the shard has come back."""
        shard = self.random.randrange(4)
        old = self.owners[shard]
        self.owners = (*self.owners[:shard], 1 - old, *self.owners[shard + 1 :])
        self.epoch += 1
        queued, self.queues[old] = self.queues[old], deque()
        for arrived in queued:
            if not self.refuse_foreign(old, arrived):
                self.queues[old].append(arrived)

    def drop_link(self) -> None:
        pipes = [pipe for pipe in self.pipes.values() if pipe.up]
        if pipes and self.random.random() < 0.3:
            self.lose(self.random.choice(pipes))

    def lose(self, pipe: Pipe) -> None:
        while pipe.replies and self.random.random() < 0.5:
            self.machine.message_received(pipe.link, pipe.replies.popleft(), self.now)
        pipe.requests.clear()
        if pipe.up or not pipe.reconnect:
            pipe.up = False
            self.machine.link_lost(pipe.link, self.now)

    # The end

    def settle(self) -> None:
        """Nothing breaks any more; everything that travels arrives."""
        for _ in range(400):
            for step in (self.flush, self.connect, self.deliver_request, self.execute, self.deliver_reply, self.answer_topology):
                step()
                self.machine.check_invariants()
        self.now += 100.0
        self.machine.handle_timer(self.now)

    def judge(self) -> None:
        """Every call answered once; results are the right ones; executed in the order made, except what was given up."""
        for name, calls in self.calls.items():
            given_up = set()
            ran = self.executed[name]
            assert len(set(ran)) == len(ran), f"{name}: a call ran twice: {ran}"
            for number, answer in calls:
                assert len(answer.answers) == 1, (name, number)
                got = answer.answers[0]
                if isinstance(got, DeadlineExceeded):
                    given_up.add(number)
                    assert got.outcome == "unknown" or number not in ran, (name, number)
                elif isinstance(got, Exception):
                    assert isinstance(got, ShardLost | Moved | Overloaded | Unavailable), repr(got)
                    assert got.outcome == "unknown" or number not in ran, (name, number)
                else:
                    assert got == number
                    assert number in ran
            in_order = [number for number in ran if number not in given_up]
            assert in_order == sorted(in_order), f"{name}: {in_order}"
        assert self.machine.statistics().calls_in_flight == 0
        assert self.machine.statistics().calls_unsent == 0
