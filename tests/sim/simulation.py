"""One run: a service, its clients and its accidents, all from one seed; and the judgement of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec

from examples.counter import Counter, MemoryCounter, StartedCounter, TransactionCounter
from tests.sim.clients import ACCOUNTS, COUNTERS, Call, Client, balance_of
from tests.sim.disk import Disk, SimPath
from tests.sim.history import History
from tests.sim.keyed_clients import KeyedClient
from tests.sim.network import Network
from tests.sim.objects import START_BALANCE, Account, Journal
from tests.sim.patches import replaced
from tests.sim.processes import LISTEN, Service, WatchedHost
from tests.sim.scenario import Scenario, make_scenario
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.wire.supervisor_messages import Topology
from tidegate.shard.store.answers import ANSWERS_KEY
from tidegate.shard.store.recovery import recover
from tidegate.shard.store.store import ShardStore
from tidegate.testing.virtual_loop import VirtualTime

CLASSES = [Counter, TransactionCounter, MemoryCounter, StartedCounter, Journal, Account]
PATIENCE_S = 600.0
"""Virtual time after which a call that was not answered never will be."""
QUIET_S = 120.0
TURNS_MAX = 600_000
CIRCLES = (1, 2, 7)
"""Remainders of the seeds in which objects call each other in circles. Not drawn, and none of those in which something was found
before there were circles: their scenarios stay what they were."""
DEADLY = 7
"""The same, of those in which alarms end their process."""


KEYED = (8, 13)
"""Remainders by 16 of the seeds whose clients have keys; neither are these of any in which something was found before."""


class Result:
    def __init__(self, seed: int, scenario: Scenario, history: History, time: VirtualTime, disk: Disk, calls: int) -> None:
        self.seed = seed
        self.scenario = scenario
        self.problems = history.problems
        self.story = history.story
        self.counts = {**history.counts, "appends": disk.appends, "failed appends": disk.failures, "torn": disk.torn}
        self.virtual_s = time.now
        self.turns = time.turns
        self.calls = calls

    @property
    def digest(self) -> tuple[Any, ...]:
        """Equal for two runs of one seed."""
        return self.turns, self.virtual_s, self.calls, sorted(self.counts.items()), self.problems

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {len(self.problems)} problems; python -m tests.sim --seed {self.seed} -v"]
        return "\n  ".join([*lines, *self.problems[:5]])


class Simulation:
    def __init__(self, seed: int, *, story: bool = False, patience_s: float = PATIENCE_S) -> None:
        self.seed = seed
        self.patience_s = patience_s
        random = Random(seed)
        self.scenario = scenario = make_scenario(
            random, circles=seed % 8 in CIRCLES, deadly=seed % 8 == DEADLY, keys=seed % 16 in KEYED
        )
        self.random = random
        self.time = VirtualTime(Random(random.random()))
        self.disk = Disk(self.time, Random(random.random()), scenario)
        self.history = History(self.disk, self.time.clock)
        self.history.keep_story = story
        self.network = Network(self.time, Random(random.random()), scenario.network_quanta)
        self.service = Service(
            self.time, Random(random.random()), scenario, self.network, self.disk, self.history, CLASSES, self._check_leaves
        )
        self.service.topology_changed = self._topology_changed
        client = KeyedClient if scenario.keys else Client
        self.clients = [
            client(f"client{n}", self.time, Random(random.random()), scenario, self.network, self.history, self._answered)
            for n in range(scenario.clients)
        ]
        self.told: dict[tuple[str, str], int] = {}
        """By counter: the largest value that its state must have."""

    # The run

    def run(self) -> Result:
        with quiet_logs(), replaced(self.time, self.disk, self.scenario, WatchedHost):
            for workers in self.scenario.workers:
                self._run_start(workers)
            self._check_end()
        calls = sum(len(client.calls) for client in self.clients)
        return Result(self.seed, self.scenario, self.history, self.time, self.disk, calls)

    def _run_start(self, workers: int) -> None:
        service, history = self.service, self.history
        self.disk.healthy = False
        service.begin(workers)
        for client in self.clients:
            client.calm_until = None
            client.begin(f"{LISTEN}.{service.start}", self.scenario.calls)
        self._plan_kill(service.start)
        stop_early = self.random.random() < 0.3
        if stop_early:
            self._run_until(self.time.now + self.random.random() * 0.1)
        else:
            self._run_until(self.time.now + self.patience_s)
        self.disk.healthy = True
        if self.scenario.drains:
            for client in self.clients:
                client.calm_until = self.time.now
            self.time.after(0.5, self._stop_clients)
            service.drain()
            self.time.run(self.time.now + self.patience_s, lambda: service.is_down)
            if not service.is_down:
                history.problem("drain", "the service did not stop")
            self.time.run(self.time.now + 1.0)  # The last replies arrive.
        elif not stop_early:
            self.time.run(self.time.now + QUIET_S)  # What runs in the background comes to its end.
            history.check_alarms()
            for worker in service.workers:
                if worker.alive:
                    worker.check_invariants(quiet=True)
        if self.scenario.drains or not stop_early:
            self._check_answered()
        self._stop_clients()
        service.kill_everything()
        for client in self.clients:
            client.disconnect()

    def _run_until(self, until: float) -> None:
        finished = False

        def done() -> bool:
            nonlocal finished
            if self.time.turns % 16 == 0:
                finished = all(client.finished for client in self.clients)
                if self.time.turns % 256 == 0:
                    self._check_workers()
                if self.time.turns > TURNS_MAX:
                    self.history.problem("hang", "the run does not come to an end")
                    finished = True
            return finished

        self.time.run(until, done)

    def _check_workers(self) -> None:
        for worker in self.service.workers:
            if worker.alive:
                worker.check_invariants(quiet=False)

    def _stop_clients(self) -> None:
        for client in self.clients:
            client.stop()

    def _plan_kill(self, start: int) -> None:
        delay = self.random.expovariate(1.0 / self.scenario.crash_mean_s)
        self.time.after(delay, self._kill, start)

    def _kill(self, start: int) -> None:
        service = self.service
        busy = any(not client.finished for client in self.clients)
        if busy and service.start == start and not service.draining and not self.disk.healthy:
            service.kill(self.random.randrange(len(service.workers)))
            self._plan_kill(start)

    def _topology_changed(self, topology: Topology) -> None:
        for client in self.clients:
            client.told_at = max(client.told_at, self.time.now + self.random.random() * 0.01)
            self.time.at(client.told_at, client.topology_changed, topology)

    # Judgement

    def _check_leaves(self, cls: str, name: str, method: str, status: int, result: Any) -> None:
        """A reply leaves its worker: what it reveals must be durable."""
        history = self.history
        value = decode_result(result)
        if cls == "Journal":
            if status and value["code"] == "exception" and value["message"].startswith("{"):
                history.leaves(f"an exception of {name}", msgspec.json.decode(value["message"])["seen"])
            elif not status:
                history.leaves(f"a reply of {name}", value["seen"])
        elif cls in COUNTERS and not status:
            durable = history.durable_rows(cls, name).get("counter", 0)
            if durable < value + (method == "get_unique_number"):
                history.problem("output gate", f"{cls}/{name} says {value}, durable is {durable}")
        elif method == "audit" and not status and value != history.durable_rows(cls, name):
            self._check_audit_leaves(name, value)

    def _check_audit_leaves(self, name: str, rows: dict[str, Any]) -> None:
        durable = self.history.durable_rows("Account", name)
        missing = [key for key in rows if key not in durable]
        if missing:
            self.history.problem("output gate", f"Account/{name} reveals {missing}, which are not durable")

    def _answered(self, call: Call) -> None:
        if call.cls in COUNTERS and call.status == 0:
            key = call.cls, call.name
            value = call.value + (call.method == "get_unique_number")
            self.told[key] = max(self.told.get(key, 0), value)

    def _check_answered(self) -> None:
        for client in self.clients:
            for call in client.calls:
                if call.answered is None and not call.lost:
                    self.history.problem("answers", f"{call} of {client.name} was not answered")

    def _check_end(self) -> None:
        states = self.disk.open_states(range(self.scenario.shards))
        directory: Any = SimPath(self.disk)
        try:
            recover(directory, states, self.service.start + 1, 0)
        except OperatorError as error:
            self.history.problem("recovery", str(error))
        recovered: dict[bytes, bytes] = {}
        for state in states:
            recovered.update(state.rows)
        self.history.check_recovered({key: raw for key, raw in recovered.items() if not key.startswith(ANSWERS_KEY)})
        self._check_answers_kept(states)
        for cls in COUNTERS:
            for name in ("c0", "c1", "c2"):
                self._check_counter(cls, name)
        self._check_bank()

    def _check_answers_kept(self, states: list[Any]) -> None:
        """What was answered to keys is there after the last recovery, if its session has not said that it has arrived."""
        for state in states:
            store = ShardStore(state)
            store.load_answers()
            store.answers.check_invariants()
            for (name, key), answer in self.disk.answers_of(state.shard).items():
                told = group.told(key) if (group := store.answers.groups.get(name)) else None
                if told is None or told[:2] != (answer.digest, answer.status):
                    self.history.problem("key", f"the answer to {key} of {name} in shard {state.shard} is lost: {answer}")

    def _check_counter(self, cls: str, name: str) -> None:
        history = self.history
        stored = history.durable_rows(cls, name).get("counter", 0)
        calls = [call for client in self.clients for call in client.calls if (call.cls, call.name) == (cls, name)]
        numbers = [call for call in calls if call.method == "get_unique_number"]
        given = sorted(call.value for call in numbers if call.status == 0)
        if len(set(given)) != len(given):
            history.problem("unique", f"{cls}/{name} gave {given}")
        if stored < self.told.get((cls, name), 0):
            history.problem("lost", f"{cls}/{name} ends with {stored}, told was {self.told[cls, name]}")
        executed = [call for call in numbers if not (call.status == 1 and call.value["outcome"] == "not_executed")]
        if self.scenario.keys and all(call.status == 0 for call in numbers):
            history.count("counters that were called exactly so often" if stored else "counters that were not called")
            if stored != len(numbers):
                history.problem("exactly once", f"{cls}/{name} ends with {stored} after {len(numbers)} calls that were answered")
        if stored > len(executed):
            history.problem("gap-free", f"{cls}/{name} ends with {stored} after at most {len(executed)} calls")
        if all(call.status == 0 for call in executed) and given != list(range(stored)):
            history.problem("gap-free", f"{cls}/{name} gave {given} and ends with {stored}")
        self._check_real_time(f"{cls}/{name}", [call for call in calls if call.status == 0])

    def _check_real_time(self, what: str, calls: list[Call]) -> None:
        """A call that was sent after another one had been answered sees what that one did; so does one sent later on the same
        connection."""
        floor = 0
        answers = sorted((call.answered or 0.0, call.value + (call.method == "get_unique_number")) for call in calls)
        at = 0
        newest: dict[str, tuple[int, int]] = {}
        for call in sorted(calls, key=lambda call: (call.sent_at, call.number)):
            while at < len(answers) and answers[at][0] < call.sent_at:
                floor = max(floor, answers[at][1])
                at += 1
            if call.value < floor:
                self.history.problem("stale", f"{what} says {call.value} to call {call.number}, after it had reached {floor}")
        for client in self.clients:
            newest.clear()
            for call in client.calls:
                if call in calls:
                    number, value = newest.get(call.path, (-1, -1))
                    if call.value < value:
                        self.history.problem("order", f"{what} says {call.value} to call {call.number}, {value} to {number}")
                    newest[call.path] = call.number, call.value + (call.method == "get_unique_number")

    def _check_bank(self) -> None:
        history = self.history
        accounts = {f"a{n}": history.durable_rows("Account", f"a{n}") for n in range(ACCOUNTS)}
        for name, rows in accounts.items():
            if balance_of(rows) != rows.get("balance", START_BALANCE):
                history.problem("atomicity", f"Account/{name} ends with {rows}")
            for key, value in rows.items():
                kind, _, number = key.partition(":")
                source = number.split(":")[1] if kind == "in" else ""
                if kind == "in" and number.startswith("t:") and f"out:{number}" not in accounts[source]:
                    history.problem("causality", f"{name} got {number}, which {source} has lost")
                if kind == "paid" and f"in:{number}" not in accounts[value[0]]:
                    history.problem("causality", f"{name} paid {number}, which {value[0]} has lost")
        for client in self.clients:
            for call in client.calls:
                if call.cls == "Account" and call.status == 0 and call.method != "audit":
                    kept, prefix = accounts[call.name], "paid" if call.method == "transfer_together" else "out"
                    if f"{prefix}:{call.args[2]}" not in kept or f"in:{call.args[2]}" not in accounts[call.args[0]]:
                        history.problem("lost", f"the transfer {call.args[2]} was confirmed and is lost")


def decode_result(result: Any) -> Any:
    """What a host hands out: a plain value, or the bytes of a result in the codec of the caller."""
    if not isinstance(result, msgspec.Raw):
        return result
    raw = bytes(result)
    return msgspec.json.decode(raw) if raw[:1] in (b"{", b"[") and len(raw) > 1 else msgspec.msgpack.decode(raw)


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """What goes wrong on purpose is not to be read."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def simulate(seed: int, *, story: bool = False, patience_s: float = PATIENCE_S) -> Result:
    """Runs one seed."""
    return Simulation(seed, story=story, patience_s=patience_s).run()
