"""Clients of the simulated service: what they ask, and what they may conclude from the answers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import zmq

from tests.sim.history import History
from tests.sim.network import QUANTUM_S, Network, SimContext, SimSocket
from tests.sim.objects import START_BALANCE
from tests.sim.scenario import Scenario
from tests.sim.scripts import ScriptMaker
from tidegate.runtime.wire.slots import SlotTable
from tidegate.runtime.wire.supervisor_messages import Topology
from tidegate.testing.virtual_loop import ProcessLoop, VirtualTime

COUNTERS = ("Counter", "TransactionCounter", "MemoryCounter", "StartedCounter")
JOURNALS = 5
ACCOUNTS = 4
NOT_EXECUTED = {"unavailable", "overloaded", "start_failed"}
LATE_S_MAX = 0.3
"""What the answer at a deadline may take: to be noticed between two syncs, and to arrive."""
UNKNOWN = {"object_reset", "shard_lost"}


class Call:
    __slots__ = (
        "answered", "args", "cls", "deadline_s", "lost", "method", "name", "number", "path", "sent_at", "status", "value"
    )  # fmt: skip

    def __init__(self, number: int, cls: str, name: str, method: str, args: list[Any]) -> None:
        self.number = number
        self.cls = cls
        self.name = name
        self.method = method
        self.args = args
        self.path = ""
        self.sent_at = 0.0
        self.deadline_s: float | None = None
        self.answered: float | None = None
        self.lost = False
        """The other end of its connection is gone: nobody will answer."""
        self.status = -1
        self.value: Any = None

    def __repr__(self) -> str:
        return f"{self.cls}/{self.name}.{self.method} #{self.number}"


class Connection:
    """A DEALER of a client, to the router or to one worker."""

    def __init__(self, client: Client, endpoint: str, path: str) -> None:
        self.endpoint = endpoint
        self.path = path
        self.unanswered: dict[int, Call] = {}
        self.socket = SimSocket(client.network, client, router=False)
        client.by_socket[self.socket] = self
        self.socket.connect(endpoint)


class Client:
    """Sends its calls, some at once, and judges each answer."""

    loop: ProcessLoop | None = None

    def __init__(
        self, name: str, time: VirtualTime, random: Random, scenario: Scenario, network: Network, history: History,
        answered: Callable[[Call], None],
    ) -> None:  # fmt: skip
        self.name = name
        self.alive = True
        self.time = time
        self.random = random
        self.scenario = scenario
        self.network = network
        self.history = history
        self.calls: list[Call] = []
        self.by_socket: dict[SimSocket, Connection] = {}
        self.direct = scenario.direct and random.random() < 0.6
        self.json = not self.direct and random.random() < 0.2
        self.calm_until: float | None = None
        """From then on refusals are no surprise."""
        self.told_at = 0.0
        self._answered = answered
        self._scripts = ScriptMaker(random, scenario, JOURNALS)
        self._context = SimContext(network, self)
        self._router: Connection | None = None
        self._workers: dict[str, Connection] = {}
        self._table: SlotTable | None = None
        self._left = 0
        self._asleep = False
        self._favourites = [self._target() for _ in range(random.choice((1, 2, 10)))]

    def clock(self) -> float:
        return self.time.now

    # What is asked

    def _target(self) -> tuple[str, str]:
        random = self.random
        draw = random.random()
        if draw < 0.45:
            return random.choice(COUNTERS), f"c{random.randrange(3)}"
        if draw < 0.8:
            return "Journal", f"j{random.randrange(JOURNALS)}"
        return "Account", f"a{random.randrange(ACCOUNTS)}"

    def _make_call(self) -> Call:
        random = self.random
        cls, name = random.choice(self._favourites)
        number = len(self.calls)
        call = Call(number, cls, name, "", [])
        if cls == "Journal":
            call.method = "run"
            call.args = ["", number, self.history.table_of({}), self._scripts.script(int(name[1:])), []]
        elif cls == "Account":
            self._make_transfer(call, int(name[1:]))
        elif cls == "Counter" and random.random() < 0.2:
            call.method = "current"
        else:
            call.method = "get_unique_number"
        return call

    def _make_transfer(self, call: Call, own: int) -> None:
        random = self.random
        amount = random.randrange(1, 30)
        if random.random() < 0.2:
            call.method = "audit"
        elif random.random() < 0.3 and (self.scenario.circles or own + 1 < ACCOUNTS):
            # Upwards only, unless transactions may wait for each other in a circle.
            to = f"a{random.randrange(0 if self.scenario.circles else own + 1, ACCOUNTS)}"
            call.method, call.args = "transfer_together", [to, amount, f"p:{call.name}:{self.name}.{call.number}"]
        else:
            to = f"a{random.choice([other for other in range(ACCOUNTS) if other != own])}"
            call.method, call.args = "transfer", [to, amount, f"t:{call.name}:{self.name}.{call.number}"]

    # Sending

    def begin(self, router: str, calls: int) -> None:
        """A new start of the service: calls that the old one has not answered never will be."""
        self.disconnect()
        self._router = Connection(self, router, f"router {router}")
        self._left = calls
        self._go_on()

    def disconnect(self) -> None:
        for connection in list(self.by_socket.values()):
            self._lose(connection)
        self._router, self._workers = None, {}

    def _lose(self, connection: Connection) -> None:
        connection.socket.close()
        self.by_socket.pop(connection.socket, None)
        for call in connection.unanswered.values():
            call.lost = True
        connection.unanswered = {}

    def topology_changed(self, topology: Topology) -> None:
        if not self.direct or self._router is None:
            return
        self._table = SlotTable(topology)
        for endpoint in [endpoint for endpoint in self._workers if endpoint not in topology.endpoints]:
            self._lose(self._workers.pop(endpoint))
        self._go_on()

    @property
    def waiting(self) -> int:
        return sum(len(connection.unanswered) for connection in self.by_socket.values())

    @property
    def finished(self) -> bool:
        return not self._left and not self.waiting

    def stop(self) -> None:
        """Asks nothing more."""
        self._left = 0

    def _go_on(self) -> None:
        if not self._asleep and self._left:
            self._asleep = True
            pause = self.random.choice((0, 1, 10, 100)) * QUANTUM_S
            self.time.after(pause, self._ask)

    def _ask(self) -> None:
        self._asleep = False
        batches: dict[Connection, list[Call]] = {}
        room = min(self._left, self.scenario.window - self.waiting)
        for _ in range(self.random.randrange(room + 1) if room > 0 else 0):
            call = self._make_call()
            self.calls.append(call)
            self._left -= 1
            connection = self._connection(call)
            call.path, call.sent_at = connection.path, self.time.now
            if call.cls == "Journal":
                call.args[0] = f"{self.name} by {connection.path}"
            connection.unanswered[call.number] = call
            batches.setdefault(connection, []).append(call)
        for connection, calls in batches.items():
            self._send(connection, calls)
        if self.waiting < self.scenario.window:
            self._go_on()

    def _connection(self, call: Call) -> Connection:
        assert self._router is not None
        if self._table is None or not self.direct:
            return self._router
        endpoint = self._table.endpoints[self._table.worker_of(call.cls, call.name)]
        if endpoint is None:
            return self._router
        found = self._workers.get(endpoint)
        if found is None:
            found = self._workers[endpoint] = Connection(self, endpoint, endpoint)
        return found

    def _send(self, connection: Connection, calls: list[Call]) -> None:
        rows = []
        for call in calls:
            options = {"deadline_ms": self.random.choice((1, 20, 10_000))} if self.random.random() < self._deadlines else None
            call.deadline_s = options["deadline_ms"] / 1_000 if options else None
            rows.append([call.number, call.cls, call.name, call.method, call.args, options])
        encode = msgspec.json.encode if self.json else msgspec.msgpack.encode
        connection.socket.send(encode(rows))
        self.history.note(lambda: f"{self.name} sends {calls} by {connection.path}")

    @property
    def _deadlines(self) -> float:
        return 0.0 if self.scenario.calm else 0.1

    # Answers

    def readable(self, socket: SimSocket) -> None:
        connection = self.by_socket.get(socket)
        while connection is not None:
            try:
                body = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            decode: Any = msgspec.json.decode if self.json else msgspec.msgpack.decode
            for number, status, value in decode(body):
                self._take(connection, number, status, value)
        self._go_on()

    def bounced(self, socket: SimSocket, frames: list[bytes]) -> None:
        """Nobody has read these requests: the other end was gone."""
        connection = self.by_socket.get(socket)
        decode: Any = msgspec.json.decode if self.json else msgspec.msgpack.decode
        for row in decode(frames[-1]):
            call = connection.unanswered.pop(row[0], None) if connection is not None else None
            if call is not None:
                call.lost = True

    def _take(self, connection: Connection, number: int, status: int, value: Any) -> None:
        call = connection.unanswered.pop(number, None)
        if call is None:
            self.history.problem("answered twice", f"{self.name} got an answer to {number} that it does not wait for: {value}")
            return
        call.answered, call.status, call.value = self.time.now, status, value
        self.history.note(lambda: f"{self.name} gets {value} for {call}")
        if call.deadline_s is not None and call.answered > call.sent_at + call.deadline_s + LATE_S_MAX:
            self.history.problem("deadline", f"{call} was answered {call.answered - call.sent_at:.3f} s after it was made")
        if status:
            self._judge_error(call)
        else:
            self.history.count("answers")
            if call.cls == "Journal":
                self.history.told(value["seen"])
            elif call.method == "audit":
                self._judge_audit(call)
        self._answered(call)

    def _judge_error(self, call: Call) -> None:
        error = call.value
        code, outcome = error["code"], error["outcome"]
        self.history.count(f"error {code}")
        expected = "executed" if code == "exception" else "unknown" if code in UNKNOWN else "not_executed"
        if code == "deadline_exceeded":
            self.history.count(f"error deadline_exceeded, {outcome}")
            if outcome not in ("not_executed", "unknown"):
                self.history.problem("error", f"{call} ended in {error}")
        elif code not in NOT_EXECUTED | UNKNOWN | {"exception"} or outcome != expected:
            self.history.problem("error", f"{call} ended in {error}")
        elif code == "exception":
            self._judge_exception(call)
        elif self.scenario.flawless and (self.calm_until is None or code != "unavailable"):
            self.history.problem("error", f"nothing was wrong, but {call} ended in {error}")

    def _judge_exception(self, call: Call) -> None:
        kind, message = call.value["type"], call.value["message"]
        if kind == "ScriptFailed" and message.startswith("{"):
            self.history.told(msgspec.json.decode(message)["seen"])
        elif kind in (("Deadlock", "TransactionTimeout") if self.scenario.circles else ()):
            self.history.count(f"exception {kind}")
        elif call.cls == "Account" and kind == "ValueError":
            pass
        elif self.scenario.flawless or kind not in (  # Also during a stop nothing that was accepted fails.
            "ObjectReset",
            "ShardLost",
            "Unavailable",
            "StartFailed",
            "Overloaded",
            "TransactionTimeout",
        ):
            self.history.problem("error", f"{call} ended in {call.value}")

    def _judge_audit(self, call: Call) -> None:
        expected, found = balance_of(call.value), call.value.get("balance", START_BALANCE)
        if expected != found:
            self.history.problem("atomicity", f"{call.name} has {found}, but its transfers add up to {expected}")


def balance_of(rows: dict[str, Any]) -> int:
    """What the transfers of an account add up to."""
    balance = START_BALANCE
    for key, value in rows.items():
        if key.startswith("in:"):
            balance += value
        elif key.startswith(("out:", "paid:")):
            balance -= value[1]
    return balance
