"""Objects that the simulation runs: real durable objects whose code checks, at every step, what it was promised.

`Journal` runs scripts (see `tests.sim.scripts`) and keeps beside its storage a plain dict, its *mirror*, that must always agree.
A *scope* is its own idea of critical sections: which code may run now.
"""

from __future__ import annotations

import asyncio
import datetime
import sys
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import msgspec

from tests.sim.history import ALARM_KEY, EPOCH_S, VERSION, History, Seen
from tests.sim.scenario import Scenario
from tidegate.runtime.errors import CallError
from tidegate.shard.core.alarms import AlarmInfo
from tidegate.shard.host.activation import Activation
from tidegate.shard.loop.task import StorageFuture
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.objects.storage import TransactionTimeout

Script = list[Any]
START_BALANCE = 100


class ScriptFailed(Exception):
    """A script was told to raise."""


def history_of(instance: DurableObject) -> History:
    history: History = instance._activation.host.loop.process.history  # type: ignore[attr-defined]  # the simulator's loop
    return history


class Scope:
    """The root, or one critical section, or one transaction."""

    def __init__(self, parent: Scope | None, *, transaction: bool = False) -> None:
        self.parent = parent
        self.over = False
        self.in_transaction: bool = transaction or (parent is not None and parent.in_transaction)

    def living(self) -> Scope:
        scope = self
        while scope.over:
            assert scope.parent is not None
            scope = scope.parent
        return scope


Chain = list[tuple[str, int]]
"""In which sections the calls were made that led to a call: the instance and its number for the section, outermost first."""

Asked = tuple[str, Any, Any]
"""What was asked of a storage, the awaitable it gave, and what it must give."""


class View:
    """What a script reads and writes: the storage, or a transaction on it, and the mirror of that."""

    def __init__(self, target: Any, mirror: dict[str, Any]) -> None:
        self.target = target
        self.mirror = mirror

    def apply(self, operation: list[Any]) -> list[Asked]:
        """Its answers, which may come later, and what they must be."""
        kind, *rest = operation
        mirror = self.mirror
        if kind == "put":
            self.target.put(rest[0], rest[1])
            mirror[rest[0]] = rest[1]
        elif kind == "many":
            self.target.put_many(rest[0])
            mirror.update(rest[0])
        elif kind == "delete":
            asked = self.target.get(rest[0]), mirror.get(rest[0])
            existed: int = mirror.pop(rest[0], self) is not self
            return [("get before a delete", *asked), ("delete", self.target.delete(rest[0]), existed)]
        elif kind == "delete_many":
            asked = self.target.list(prefix="k"), {key: mirror[key] for key in sorted(mirror) if key.startswith("k")}
            existed = sum(mirror.pop(key, self) is not self for key in rest[0])
            return [("list before a delete", *asked), ("delete_many", self.target.delete_many(rest[0]), existed)]
        elif kind == "alarm":
            self.target.set_alarm(datetime.timedelta(seconds=rest[0]))
            self.target.put(ALARM_KEY, rest[1])
            mirror[ALARM_KEY] = rest[1]
        elif kind == "no_alarm":
            self.target.delete_alarm()
            self.target.delete(ALARM_KEY)
            mirror.pop(ALARM_KEY, None)
        elif kind == "clear":
            self.target.delete_all()
            version = mirror.get(VERSION, 0)
            mirror.clear()
            mirror[VERSION] = version
            self.target.put(VERSION, version)
        else:
            raise AssertionError(kind)
        return []


class Journal(DurableObject):
    if TYPE_CHECKING:  # A class may not annotate what the runtime gives to every object.
        _activation: Activation

    async def on_start(self) -> None:
        history = history_of(self)
        self.root = self.active = Scope(None)
        self.scopes: dict[int, Scope] = {}
        """Those in which it has called somebody."""
        self.putting: object = None
        self.ringing = False
        self.lock = asyncio.Lock()
        self.calls_out = 0
        self.sender = f"{self.id} #{history.next_instance()}"
        history.instance_runs(self)
        trouble = self._activation.host.loop.process.start_trouble()  # type: ignore[attr-defined]  # the simulator's loop
        if trouble == "raise":
            raise ScriptFailed("on_start was told to raise")
        rows = await self.storage.list()
        self.seen: Seen = {}
        self.mirror: dict[str, Any] = rows
        history.journal_loaded(self.id.name, dict(rows))
        segment = history.lineage(self.id.name).segments.get(self.version)
        if segment is not None and self.version:
            self.seen = {self.id.name: (self.version, segment.stamp)}
        if trouble in ("sleep", "abort"):
            await asyncio.sleep(0.003)
            await self._check_storage(View(self.storage, self.mirror), self)
        if trouble == "abort":
            self.abort("on_start was told to abort")

    @property
    def version(self) -> int:
        return int(self.mirror.get(VERSION, 0))

    async def run(self, sender: str, number: int, table: int, script: Script, chain: Chain) -> dict[str, int]:
        history = history_of(self)
        section = next((number for instance, number in reversed(chain) if instance == self.sender), None)
        scope = self.root if section is None else self.scopes[section].living()
        # A call into a section overtakes those that wait for its end.
        history.delivered(sender, number, f"Journal/{self.id.name}" + ("" if section is None else f", section {section}"))
        self._see(table)
        run = Run(self, scope, View(self.storage, self.mirror), chain)
        if chain:
            history.count("calls in a chain")
        if scope.in_transaction:
            history.problem("deadlock", f"{self.id}: a call that comes back was delivered into a transaction")
        if scope is not self.root:
            history.count("calls into their section")
        await run.steps(script)
        return {"seen": history.table_of(self.seen)}

    async def alarm(self, info: AlarmInfo) -> None:
        """Takes away the mark that was written with the alarm: so there is a mark only as long as there is an alarm."""
        history = history_of(self)
        loop = asyncio.get_running_loop()
        run = Run(self, self.root, View(self.storage, self.mirror), [])
        self._resumed(self.root, run)
        history.count("alarms")
        history.note(lambda: f"{self.id.name} is rung, retry {info.retry_count}")
        if self.ringing:
            history.problem("alarm", f"{self.id}: two handlers run at once")
        if info.scheduled_for.timestamp() > EPOCH_S + loop.time() + 0.000_01:
            history.problem("alarm", f"{self.id}: the handler runs too early")
        mark = self.mirror.get(ALARM_KEY)
        if self._is_deadly(mark):
            assert mark is not None
            history.alarm_dies(self.id.name, mark)
            loop.process.end_itself()  # type: ignore[attr-defined]  # the simulator's loop
            await asyncio.Event().wait()
        self.ringing = True
        try:
            trouble = loop.process.start_trouble()  # type: ignore[attr-defined]  # of a ProcessLoop
            if trouble == "raise" and info.retry_count < 3:
                raise ScriptFailed("the handler was told to raise")
            if trouble:
                await asyncio.sleep(0.002)
                self._resumed(self.root, run)
            await self._check_storage(run.view, run)
            if mark is not None and self.mirror.get(ALARM_KEY) == mark:
                await run.steps([["write", [["delete", ALARM_KEY]], True]])
        finally:
            self.ringing = False

    def _is_deadly(self, mark: int | None) -> bool:
        """The handler of this alarm ends its process, so that the alarm is given up in the end."""
        scenario: Scenario = self._activation.host.loop.process.service.scenario  # type: ignore[attr-defined]  # the simulator's loop
        return scenario.deadly and mark is not None and mark % 4 == 0

    def _see(self, table: int) -> None:
        """A message has told what is in that table."""
        for name, (version, stamp) in history_of(self).table(table).items():
            if self.seen.get(name, (0, 0))[0] <= version:
                self.seen[name] = (version, stamp)

    def _resumed(self, scope: Scope, who: object) -> None:
        """Code of the object was let in."""
        history = history_of(self)
        if self._activation.broken is not None:
            return
        history.instance_runs(self)
        if scope.living() is not self.active:
            history.problem("input gate", f"{self.id}: code outside of the critical section runs")
        if self.putting is not None and self.putting is not who:
            history.problem("input gate", f"{self.id}: an event was delivered while a storage operation waits")
        history.check_remembers_nothing_lost(self.id.name, self.seen)

    def _wrote(self, *, confirmed: bool) -> None:
        """A segment ends; its version is in the mirror."""
        if self._activation.broken is not None:
            return  # It writes into a transaction that will never be committed.
        history = history_of(self)
        name, version = self.id.name, self.version
        stamp = history.journal_wrote(name, version, dict(self.mirror), dict(self.seen), confirmed=confirmed)
        if confirmed:
            self.seen[name] = (version, stamp)

    async def _check_storage(self, view: View, who: object) -> None:
        """Everything that can be read agrees with the mirror. What is in memory is answered at once, and while the rest is
        fetched no event is delivered, so nothing can change meanwhile."""
        if self._activation.broken is not None:
            return
        target, mirror = view.target, view.mirror
        keys = sorted({*mirror, "k0", "k1", "absent"})
        await self._compare(who, [("list", target.list(), dict(sorted(mirror.items())))])
        await self._compare(who, [("get_many", target.get_many(keys), dict(sorted(mirror.items())))])
        for key in keys:
            await self._compare(who, [(f"get({key!r})", target.get(key), mirror.get(key))])
        mark = mirror.get(ALARM_KEY)
        if mark is not None and not (self.ringing or self._is_deadly(mark)) and _now(target.get_alarm()) is None:
            history_of(self).problem("alarm", f"{self.id}: there is a mark and no alarm")
        last = sorted((key for key in mirror if "k0" <= key < "k9"), reverse=True)[:2]
        last_first = target.list(start="k0", end="k9", reverse=True, limit=2)
        await self._compare(who, [("a reverse list", last_first, {key: mirror[key] for key in last})])

    async def _compare(self, who: object, answers: list[Asked]) -> None:
        """Answers that are there come without yielding; for the others the gate is closed."""
        for what, awaitable, expected in answers:
            if isinstance(awaitable, StorageFuture):
                self.putting = who
                try:
                    found = await awaitable
                finally:
                    self.putting = None
            else:
                found = _now(awaitable)
            if self._activation.broken is None and (found != expected or _order(found) != _order(expected)):
                history_of(self).problem("reading", f"{self.id}: {what} gives {found}, written was {expected}")


def _order(answer: Any) -> list[Any]:
    return list(answer) if isinstance(answer, dict) else []


def _now(awaitable: Any) -> Any:
    """The result of an awaitable that must not yield."""
    try:
        awaitable.__await__().send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a storage operation answered from memory yielded")


class Run:
    """One thread of a script: the call itself, or a sub-task of it."""

    def __init__(self, journal: Journal, scope: Scope, view: View, chain: Chain) -> None:
        self.journal = journal
        self.scope = scope
        self.view = view
        self.chain = chain

    def branch(self) -> Run:
        return Run(self.journal, self.scope.living(), self.view, self.chain)

    async def steps(self, script: Script) -> None:
        self.journal._resumed(self.scope, self)
        for kind, *rest in script:
            await getattr(self, f"_do_{kind}")(*rest)
            self.journal._resumed(self.scope, self)

    async def _do_write(self, operations: list[list[Any]], confirmed: bool) -> None:
        """One segment, without a suspension before its end."""
        journal = self.journal
        answers, waiting = self._write(operations, confirmed)
        if waiting is None:
            await journal._compare(self, answers)
            return  # The transaction is the segment.
        journal.putting, before = self, journal.putting
        if before is not None and before is not self:
            history_of(journal).problem("input gate", f"{journal.id}: a write while another one waits")
        try:
            await waiting
        finally:
            journal.putting = None
        await journal._compare(self, answers)

    def _write(self, operations: list[list[Any]], confirmed: bool) -> tuple[list[Asked], Awaitable[None] | None]:
        """What the operations answer, and what the last `put` returns; None in a transaction."""
        journal, view = self.journal, self.view
        answers = [asked for operation in operations for asked in view.apply(operation)]
        if view.target is not journal.storage:
            return answers, None
        version = journal.version + 1
        waiting = journal.storage.put(VERSION, version, allow_unconfirmed=not confirmed)
        view.mirror[VERSION] = version
        # What the operations wrote was confirmed, so that only a segment without any is not.
        journal._wrote(confirmed=confirmed or bool(operations))
        return answers, waiting

    async def _do_check(self) -> None:
        await self.journal._check_storage(self.view, self)

    async def _do_sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _do_txn(self, script: Script, end: str) -> None:
        """A transaction; nested ones are part of the outermost one's segment."""
        journal, outer = self.journal, self.view
        nested = outer.target is not journal.storage
        try:
            async with journal.storage.transaction() as txn:
                scope = self._enter(transaction=True)
                try:
                    inner = View(txn, dict(outer.mirror))
                    await Run(journal, scope, inner, self.chain).steps(script)
                    if end == "raise":
                        raise ScriptFailed("in a transaction")
                    if end == "rollback":
                        txn.rollback()
                    elif not nested:
                        inner.mirror[VERSION] = journal.version + 1
                        txn.put(VERSION, inner.mirror[VERSION])
                finally:
                    self._leave(scope)
        except ScriptFailed:
            if end != "raise":
                raise
            return
        except TransactionTimeout:  # As if it had been rolled back.
            history_of(journal).count("transactions that took too long")
            return
        if end == "commit":
            outer.mirror.clear()
            outer.mirror.update(inner.mirror)
            if not nested:
                journal._wrote(confirmed=True)

    async def _do_section(self, script: Script) -> None:
        async with self.journal.block_concurrency():
            scope = self._enter()
            try:
                await Run(self.journal, scope, self.view, self.chain).steps(script)
            finally:
                self._leave(scope)

    def _enter(self, *, transaction: bool = False) -> Scope:
        journal = self.journal
        if self.scope.living() is not journal.active and journal._activation.broken is None:
            history_of(journal).problem("input gate", f"{journal.id}: a section starts while another one runs")
        scope = journal.active = Scope(self.scope.living(), transaction=transaction)
        return scope

    def _leave(self, scope: Scope) -> None:
        assert scope.parent is not None
        scope.over = True
        self.journal.active = scope.living()

    async def _do_gather(self, scripts: list[Script]) -> None:
        await asyncio.gather(*[self.branch().steps(script) for script in scripts])

    async def _do_group(self, scripts: list[Script]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for script in scripts:
                    group.create_task(self.branch().steps(script))
        except* ScriptFailed:
            task = asyncio.current_task()
            if sys.version_info < (3, 13) and group._parent_cancel_requested and task is not None:  # type: ignore[attr-defined]  # private
                task.uncancel()  # asyncio forgets to, and a timeout around it would end in CancelledError: seed 903516.

    async def _do_timeout(self, seconds: float, script: Script) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.branch().steps(script)
        except TimeoutError:
            pass

    async def _do_spawn(self, script: Script) -> None:
        # What it does later is not part of a transaction that is open now.
        run = Run(self.journal, self.scope.living(), View(self.journal.storage, self.journal.mirror), self.chain)
        if self.view.target is self.journal.storage:
            self.journal.spawn(run.steps(script))

    async def _do_callback(self, seconds: float, operations: list[list[Any]]) -> None:
        """A timer, which writes a segment of its own."""
        run = Run(self.journal, self.scope.living(), View(self.journal.storage, self.journal.mirror), self.chain)
        if self.view.target is self.journal.storage:
            asyncio.get_running_loop().call_later(seconds, run.write_at_once, operations)

    def write_at_once(self, operations: list[list[Any]]) -> None:
        journal = self.journal
        history_of(journal).count("callbacks")
        journal._resumed(self.scope, self)
        self._write(operations, confirmed=True)

    async def _do_lock(self, script: Script) -> None:
        async with self.journal.lock:
            await self.branch().steps(script)

    async def _do_call(self, name: str, script: Script) -> None:
        journal = self.journal
        history = history_of(journal)
        journal.calls_out += 1
        table = history.table_of(journal.seen)
        scenario: Scenario = journal._activation.host.loop.process.service.scenario  # type: ignore[attr-defined]  # the simulator's loop
        chain, scope = list(self.chain), self.scope.living()
        if scope is not journal.root:
            journal.scopes[len(journal.scopes)] = scope
            chain.append((journal.sender, len(journal.scopes) - 1))
        try:
            result = await journal.stub(Journal, name).run(journal.sender, journal.calls_out, table, script, chain)
        except CallError as error:
            history.count(f"inner {error.code}")
            never = {"internal", "bad_request", "bad_arguments", "moved", "unknown_class", "unknown_method"}
            if scenario.flawless or error.code in never or (error.code == "deadlock" and not scenario.circles):
                history.problem("error", f"a call of {journal.id} ended in {error!r}")
        else:
            history.count("inner ok")
            journal._see(result["seen"])

    async def _do_sync(self) -> None:
        journal = self.journal
        seen = dict(journal.seen)
        version = journal.version
        await journal.storage.sync()
        if journal._activation.broken is None:
            history = history_of(journal)
            own = {name: entry for name, entry in seen.items() if name == journal.id.name}
            history.leaves(f"sync() of {journal.id}", history.table_of(own))
            if history.durable_rows("Journal", journal.id.name).get(VERSION, 0) < version and self.view.target is journal.storage:
                history.problem("sync", f"{journal.id}: sync() returned before version {version} was durable")

    async def _do_raise(self) -> None:
        raise ScriptFailed(msgspec.json.encode({"seen": history_of(self.journal).table_of(self.journal.seen)}).decode())

    async def _do_abort(self) -> None:
        self.journal.abort("the script says so")

    async def _do_guard(self, script: Script) -> None:
        """Code that cleans up after a reset: nothing that it does may count."""
        try:
            await self.steps(script)
        finally:
            if self.journal._activation.broken is not None:
                await self._misbehave()
                loop = asyncio.get_running_loop()
                began = loop.time()
                await asyncio.sleep(0.001)
                if loop.time() < began + 0.000_999:
                    history_of(self.journal).problem("task", "a sleep of a reset object's code ended too early")

    async def _misbehave(self) -> None:
        storage = self.journal.storage
        for operation in (
            lambda: storage.delete_all(),
            lambda: storage.put("k0", "from beyond"),
            lambda: storage.get("k0"),
            lambda: storage.delete("k1"),
            lambda: storage.put_many({"k2": 1}),
            lambda: storage.list(),
        ):
            try:
                operation()
            except CallError:
                pass


class Account(DurableObject):
    """A bank account. Every transfer has a number, recorded on both sides."""

    async def transfer(self, to: str, amount: int, number: str) -> int:
        """The debit is written first, and not even awaited: the deposit must not be durable without it."""
        balance: int = await self.storage.get("balance", START_BALANCE)
        if balance < amount:
            raise ValueError("not enough money")
        self.storage.put("balance", balance - amount)
        self.storage.put(f"out:{number}", [to, amount])
        await self.stub(Account, to).deposit(amount, number)
        self.storage.put(f"acknowledged:{number}", True)
        return balance - amount

    async def transfer_together(self, to: str, amount: int, number: str) -> int:
        """The same in a transaction: here the deposit is durable before the debit."""
        async with self.storage.transaction() as txn:
            balance: int = await txn.get("balance", START_BALANCE)
            if balance < amount:
                raise ValueError("not enough money")
            txn.put("balance", balance - amount)
            txn.put(f"paid:{number}", [to, amount])
            await self.stub(Account, to).deposit(amount, number)
        return balance - amount

    async def deposit(self, amount: int, number: str) -> None:
        balance: int = await self.storage.get("balance", START_BALANCE)
        await self.storage.put_many({"balance": balance + amount, f"in:{number}": amount})

    async def audit(self) -> dict[str, Any]:
        return await self.storage.list()
