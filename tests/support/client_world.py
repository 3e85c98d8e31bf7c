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

from tests.support.requests import rows_in
from tidegate.runtime.client.links import AskTopology, Close, Open
from tidegate.runtime.client.machine import NO_SLOT, ClientMachine
from tidegate.runtime.client.terms import Terms, other_terms
from tidegate.runtime.errors import (
    LEAVING,
    BadRequest,
    CallError,
    DeadlineExceeded,
    Moved,
    ObjectReset,
    Overloaded,
    ShardLost,
    Unavailable,
)
from tidegate.runtime.wire.encoding import decode_any, encode_arguments
from tidegate.runtime.wire.protocol import ERROR, NO_RAW, OK, encode
from tidegate.runtime.wire.slots import SlotTable, topology_from_reply, topology_reply
from tidegate.runtime.wire.supervisor_messages import Topology

ROUTER = "tcp://router"
SESSION = "a-session"
NAMES = ("a", "b", "c", "d", "{a}2")


GIVEN_UP = object()


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
    lost: bool = False
    """For good: a link that was lost never comes up again."""
    requests: deque[Any] = field(default_factory=deque)
    replies: deque[bytes] = field(default_factory=deque)


@dataclass
class Arrived:
    """A request at a worker. `pipe`: where its reply goes; dead pipes swallow it."""

    pipe: Pipe
    request: list[Any]


class World:
    def __init__(self, seed: int, *, direct: bool = True, retries: bool = False, keys_kept: bool = True) -> None:
        """With `retries` workers refuse calls now and then, and objects are reset; with `keys_kept` they know a key again."""
        self.random = random.Random(seed)
        self.retries = retries
        self.keys_kept = keys_kept
        self.now = 0.0
        self.incarnations = [1, 1]
        self.leaving: set[int] = set()
        """Workers that are being replaced: they refuse those who talk straight to them; calls of the router wait."""
        self.left: set[int] = set()
        """Links whose client was told so."""
        self.owners: tuple[int, ...] = (0, 1, 0, 1)
        self.epoch = 1
        self.queues: list[deque[Arrived]] = [deque(), deque()]
        self.pipes: dict[int, Pipe] = {}
        self.asked: list[Answer] = []
        self.calls: dict[str, list[tuple[int, Answer]]] = {name: [] for name in NAMES}
        self.executed: dict[str, list[int]] = {name: [] for name in NAMES}
        self.ways: set[str] = set()
        self.troubled = True
        self.made = 0
        self.alone: int | None = None
        """So many calls were made before there was a connection: they wait for one for a while only."""
        self.callers: dict[int, str] = {}
        self.hurried: set[int] = set()
        """Calls with little time."""
        self.refused: dict[int, str] = {}
        """The object by the id of the call."""
        self.untold: set[str] = set()
        """Objects of which a call was refused without the client's knowledge, while later ones were on their way: these may run
        before it can send that one again."""
        self.told: list[tuple[str, int, CallError]] = []
        """Failures that callers have seen, found by `judge`."""
        self.kept: dict[int, int] = {}
        """Results by the number of the key."""
        self.answered = 0
        """Calls with a lower number will not be sent again, the client has said."""
        terms = Terms(1_000.0 if retries else 10.0, is_told=False, retries=retries)
        self.hasty = other_terms(terms, 0.5, None, None)
        self.machine = ClientMachine(ROUTER, terms=terms, direct=direct, session=SESSION, chance=self.random.random)
        self.machine.keys_told(kept=keys_kept)
        self.steps = (
            [self.call] * 8 + [self.flush] * 6 + [self.connect] * 3 + [self.deliver_request] * 10 + [self.execute] * 8
            + [self.deliver_reply] * 10 + [self.answer_topology] * 3 + [self.pass_time] * 2
            + [self.kill_worker, self.replace_worker, self.move_shard, self.drop_link, self.give_up]
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
        terms = self.random.choice((None, None, None, self.hasty))
        if terms is not None:
            self.hurried.add(self.made)
        self.callers[self.made] = self.random.choice(("Ann", "Bob"))
        args, caller = encode_arguments((self.made,), {}), self.callers[self.made]
        if self.random.random() < 0.5:
            self.machine.call_each([(answer, name, args)], "C", "m", decode_any, terms, self.now, caller)
        else:
            self.machine.call(answer, self.machine.slot_of("C", name), "C", name, "m", args, decode_any, terms, self.now, caller)

    def give_up(self) -> None:
        """A caller waits no longer, as one that is cancelled."""
        waiting = [answer for calls in self.calls.values() for _, answer in calls if not answer.done()]
        if waiting and self.random.random() < 0.3:
            self.random.choice(waiting).answers.append(GIVEN_UP)

    def flush(self) -> None:
        while self.machine.has_work():
            for link, body in self.machine.take_messages(self.now):
                assert self.pipes[link].up, "sent on a link that is not connected"
                assert link not in self.left, "sent to a worker that has said that it leaves"
                self.pipes[link].requests.extend(rows_in(body))
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
            if not pipe.up and not pipe.lost and self.random.random() < 0.7:
                if pipe.endpoint in (ROUTER, self.endpoint(0), self.endpoint(1)):
                    pipe.up = True
                    if pipe.endpoint == ROUTER and self.alone is None:
                        self.alone = self.made
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
        queue = self.queues[worker]
        if worker in self.leaving:
            arrived = next((each for each in queue if each.pipe.endpoint != ROUTER), None)
            if arrived is not None:
                queue.remove(arrived)
                self.fail(arrived, self.refusal_of_leaving())
            return
        if not queue:
            return
        arrived = queue.popleft()
        call_id, _, name, _, args = arrived.request[:5]
        if self.refuse_foreign(worker, arrived) or (self.retries and self.refuse(arrived)):
            return
        number = self.number_of(arrived.request)
        if number is None or number not in self.kept:
            self.executed[name].append(args[0])
        if number is not None:
            self.kept[number] = args[0]
        arrived.pipe.replies.append(encode([[call_id, OK, args[0]]]))

    def refusal_of_leaving(self) -> CallError:
        if self.retries and self.random.random() < 0.5:
            return Unavailable("the service is stopping", details=LEAVING)
        return Moved("the worker is being replaced", details=LEAVING)

    def number_of(self, request: list[Any]) -> int | None:
        """Of the key, where keys are kept."""
        options = request[5] if len(request) > 5 else {}
        if not self.keys_kept or "key" not in options:
            return None
        session, number = options["key"].split(".")
        assert session == SESSION
        assert options["answered"] <= int(number)
        self.answered = max(self.answered, options["answered"])
        self.kept = {number: result for number, result in self.kept.items() if number >= self.answered}
        return int(number)

    def refuse(self, arrived: Arrived) -> bool:
        """By chance; and what the client has said it will not send any more, always."""
        number = self.number_of(arrived.request)
        error: CallError = BadRequest("answered long ago")
        if number is None or number >= self.answered:
            if not self.troubled or self.random.random() > 0.1 or number in self.kept:
                return False
            error = self.random.choice(
                (Unavailable("draining"), Overloaded("full", details={"retry_after_ms": 100}), ObjectReset("a write failed"))
            )
        self.fail(arrived, error)
        return True

    def fail(self, arrived: Arrived, error: CallError) -> None:
        self.ways.add(error.code)
        arrived.pipe.replies.append(encode([[arrived.request[0], ERROR, error.to_wire()]]))
        self.refused[arrived.request[0]] = arrived.request[2]
        if not arrived.pipe.up:
            self.untold.add(arrived.request[2])

    def refuse_foreign(self, worker: int, arrived: Arrived) -> bool:
        """Answers `moved` where the worker does not own the object."""
        if SlotTable(self.topology()).worker_of(arrived.request[1], arrived.request[2]) == worker:
            return False
        self.fail(arrived, Moved())
        return True

    def deliver_reply(self) -> None:
        waiting = [pipe for pipe in self.pipes.values() if pipe.replies]
        if waiting:
            self.deliver(self.random.choice(waiting))

    def deliver(self, pipe: Pipe) -> None:
        body = pipe.replies.popleft()
        ((_, status, result),) = msgspec.msgpack.decode(body)
        if status == ERROR and result.get("leaving"):
            self.left.add(pipe.link)
        self.machine.message_received(pipe.link, body, self.now)

    def answer_topology(self) -> None:
        """The shell's part: the answer of a call is handed to the machine."""
        for answer in [answer for answer in self.asked if answer.done()]:
            self.asked.remove(answer)
            if isinstance(answer.answers[0], dict):
                reachable = {self.endpoint(0), self.endpoint(1)} if self.random.random() < 0.8 else {self.endpoint(0)}
                self.machine.keys_told(kept=self.keys_kept)
                self.machine.topology_received(topology_from_reply(answer.answers[0]), reachable, self.now)

    def pass_time(self) -> None:
        passes_s = self.random.choice((0.001, 0.1, 2.0))
        is_connected = any(pipe.up for pipe in self.pipes.values() if pipe.endpoint == ROUTER)
        self.now += passes_s if is_connected or not self.retries else 0.001  # Who has no router for long is told so.
        if self.machine.next_deadline() <= self.now:
            self.machine.handle_timer(self.now)
            assert self.machine.next_deadline() > self.now

    def kill_worker(self) -> None:
        self.end_worker(self.random.randrange(2))

    def replace_worker(self) -> None:
        """It is asked to leave, and does so the next time, when it has refused everybody who had called it by then."""
        worker = self.random.randrange(2)
        if worker not in self.leaving:
            self.leaving.add(worker)
        elif all(arrived.pipe.endpoint == ROUTER for arrived in self.queues[worker]):
            self.end_worker(worker)

    def end_worker(self, worker: int) -> None:
        old = self.endpoint(worker)
        parked = list(self.queues[worker]) if worker in self.leaving else []
        for arrived in self.queues[worker]:
            if arrived.pipe.endpoint == ROUTER and arrived not in parked:  # The router answers for the worker it lost.
                self.fail(arrived, ShardLost())
        self.queues[worker] = deque(arrived for arrived in parked if arrived.pipe.endpoint == ROUTER)
        self.leaving.discard(worker)
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
            self.deliver(pipe)
        for body in pipe.replies:
            ((call_id, status, _),) = msgspec.msgpack.decode(body)
            if status == ERROR:
                self.untold.add(self.refused[call_id])
        pipe.requests.clear()
        if pipe.up or not pipe.reconnect:
            pipe.up, pipe.lost = False, True
            self.machine.link_lost(pipe.link, self.now)
            self.flush()  # As the shell does, at once: time goes on while a link is being made, not before.

    # The end

    def settle(self) -> None:
        """Nothing breaks any more; everything that travels arrives."""
        self.troubled = False
        self.leaving.clear()
        for _ in range(400):
            for step in (self.flush, self.connect, self.deliver_request, self.execute, self.deliver_reply, self.answer_topology):
                step()
                self.machine.check_invariants()
            if self.retries and self.machine.next_deadline() < self.now + 5.0:
                self.now = max(self.now, self.machine.next_deadline())
                self.machine.handle_timer(self.now)
        self.now += 10_000.0
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
                if got is GIVEN_UP:
                    given_up.add(number)
                elif isinstance(got, DeadlineExceeded):
                    given_up.add(number)
                    assert got.outcome == "unknown" or number not in ran, (name, number)
                elif isinstance(got, Exception):
                    assert isinstance(got, ShardLost | Moved | Overloaded | Unavailable | ObjectReset), repr(got)
                    assert got.outcome == "unknown" or number not in ran, (name, number)
                    self.told.append((name, number, got))
                else:
                    assert got == number
                    assert number in ran
            if self.retries and self.keys_kept:
                self.judge_told(name, calls)
            in_order = [number for number in ran if number not in given_up]
            if not (self.retries and name in self.untold):
                for caller in ("Ann", "Bob"):
                    ran = [number for number in in_order if caller == self.callers[number] or not self.retries]
                    assert ran == sorted(ran), f"{name}: {ran}"
        assert self.machine.statistics().calls_in_flight == 0
        assert self.machine.statistics().calls_held == 0
        assert self.machine.statistics().calls_unsent == 0

    def judge_told(self, name: str, calls: list[tuple[int, Answer]]) -> None:
        """A failure is kept from the caller: but when a later call may have run, or the object was reset again and again."""
        may_have_run = {number for number, answer in calls if getattr(answer.answers[0], "outcome", "executed") != "not_executed"}
        for told, number, error in self.told:
            if told == name:
                passed = any(later > number and self.callers[later] == self.callers[number] for later in may_have_run)
                alone = self.alone is None or number <= self.alone
                assert passed or "tried 4 times" in error.message or number in self.hurried or alone, (name, number, repr(error))
