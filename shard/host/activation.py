"""One object in memory: its instance, gate, cache and tasks.

Guarantee: at most one activation of an object is alive on its worker. A *broken* one takes no more events: its callers have
been answered, its code is being cancelled, its memory counts no longer, and its storage refuses.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from gc import get_referents
from typing import TYPE_CHECKING, Any, NoReturn
from zlib import crc32

from tidegate.runtime.errors import CallError, ObjectReset, StartFailed
from tidegate.runtime.logs.tracebacks import whole_traceback
from tidegate.runtime.wire.pending import CoroutineFuture
from tidegate.shard.core.alarms import Alarm, shown_for
from tidegate.shard.core.cache import LEFT, ObjectCache
from tidegate.shard.core.chain import Chain
from tidegate.shard.core.input_gate import InputGate, Section
from tidegate.shard.core.states import FIRST, Event, InvalidTransition, State
from tidegate.shard.host.call import Call
from tidegate.shard.host.critical_section import CriticalSection
from tidegate.shard.host.disk_wait import DiskWait
from tidegate.shard.host.outbound import Caller
from tidegate.shard.loop.callbacks import GatedCallback
from tidegate.shard.loop.context import CHAIN, CURRENT, LIFE, SECTION, Attribution, kept_for, keyed_here
from tidegate.shard.loop.done import DONE
from tidegate.shard.loop.places import Runs, enters, name_of_code
from tidegate.shard.loop.raised import let_go
from tidegate.shard.loop.task import ObjectTask, count_own_task, section_of
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.objects.methods import Method, ObjectClass
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.objects.storage import Storage
from tidegate.shard.store.interface import Done

if TYPE_CHECKING:
    from tidegate.shard.host.host import Host

ASLEEP, STARTED, EVICTED = State.ASLEEP, Event.STARTED, Event.EVICTED
"""To ask an enum for a member takes 0.1 µs before Python 3.12."""
NO_TASKS: frozenset[ObjectTask] = frozenset()
NO_CALLBACKS: frozenset[GatedCallback] = frozenset()
BLANK_REFERENTS = 4
"""What an instance refers to that has kept nothing: its class, id, storage and activation."""
GRANTS_PER_TURN = 100
"""Events delivered to one object before others get their chance."""


class Aborted(BaseException):
    """Unwinds the code that called `abort`. Not an Exception, so that no handler of the object swallows it."""


class Activation:
    __slots__ = (
        "_caller",
        "attribution",
        "broken",
        "cache",
        "callbacks",
        "context",
        "count",
        "gate",
        "host",
        "id",
        "instance",
        "kept_until_s",
        "last_used_s",
        "life",
        "lost_seq",
        "object_class",
        "own_tasks",
        "pumping",
        "queued_calls",
        "state",
        "storage",
        "tasks",
    )

    def __init__(self, host: Host, object_class: ObjectClass, cache: ObjectCache) -> None:
        count = host.counting.kept.get((object_class.name, cache.store.shard))
        self.host = host
        self.object_class = object_class
        self.id = cache.id
        self.cache = cache
        cache.owner = self
        self.count = host.counting.of(object_class.name, cache.store.shard) if count is None else count
        self.gate = InputGate()
        self.tasks: set[ObjectTask] | frozenset[ObjectTask] = NO_TASKS
        self.callbacks: set[GatedCallback] | frozenset[GatedCallback] = NO_CALLBACKS
        """Scheduled, and not delivered yet."""
        self.own_tasks = 0
        """Of `tasks`, those that its code has started."""
        self.life = 0
        """How many instances have left memory while the activation stayed."""
        self.kept_until_s = 0.0
        """Until then they keep the object in memory."""
        self.queued_calls = 0
        self.last_used_s = host.turn.now_s
        self.pumping = False
        self.state = FIRST
        self.broken: CallError | None = None
        """What everybody is told who reaches for it, once its state is one of the last: see `end`."""
        self.lost_seq = sys.maxsize
        """The first commit of which something is lost that the object had written or seen."""
        self.storage: Storage
        self.instance: DurableObject
        self._caller: Caller | None = None
        self.context: contextvars.Context | None = None
        """What code of the object begins in is a copy of it. Made when it is needed, see `new_context`."""
        self.attribution: Attribution | None = None
        """That of its next call with a key, while it is used."""

    def begin(self) -> None:
        """Makes the user's instance, where no code of its class runs for that: it has started."""
        host = self.host
        self.state = host.table.stories.move(self.id, self.state, STARTED, self.last_used_s)  # No mistake: it is new.
        cls = self.object_class.cls
        instance = self.instance = cls.__new__(cls)
        instance.id = self.id
        instance.storage = self.storage = host.storage_class(self.cache, self)
        instance._activation = self

    def construct(self) -> None:
        """Makes the user's instance. `__init__` may use `self.id` and `self.storage`. Raises what `__init__` raises."""
        self.move(Event.BEGUN)
        self.storage = self.host.storage_class(self.cache, self)
        cls = self.object_class.cls
        instance = self.instance = cls.__new__(cls)
        if self.object_class.sets_plainly:
            instance.id, instance.storage, instance._activation = self.id, self.storage, self
        else:
            for name, value in (("id", self.id), ("storage", self.storage), ("_activation", self)):
                object.__setattr__(instance, name, value)  # Whatever the class makes of it.
        if self.object_class.has_init:
            GatedCallback.running_for = self
            try:
                self.new_context().run(cls.__init__, instance)
            finally:
                GatedCallback.running_for = None

    def new_context(self) -> contextvars.Context:
        """In which code of the object begins."""
        context = self.context
        if context is None:
            context = self.context = contextvars.Context()
            context.run(CURRENT.set, self)
            if self.life:
                context.run(LIFE.set, self.life)
        return context.copy()

    @property
    def caller(self) -> Caller:
        """What the stubs that its instance makes call through."""
        if self._caller is None:
            self._caller = Caller(self)
        return self._caller

    # States

    def move(self, event: Event) -> None:
        """Raises InvalidTransition, an error of the runtime: it has been logged and the object reset then."""
        host = self.host
        try:
            self.state = host.table.stories.move(self.id, self.state, event, host.turn.now_s)
        except InvalidTransition as exc:
            host.resets.mistaken(self, exc)
            raise

    def end(self, event: Event, error: CallError) -> None:
        """It takes no more events: who reaches for it gets `error`."""
        self.move(event)
        self.broken = error

    def is_idle(self, now_s: float) -> bool:
        """Nothing runs, waits or is undurable: it may be evicted, which loses only memory."""
        cache = self.cache
        return (
            not self.tasks
            and not (self.callbacks and now_s < self.kept_until_s)
            and self.gate.open
            and not self.queued_calls
            and not cache.dirty
            and cache.committing is None
            and not cache.cleared
            and cache.told_seq <= self.host.output_gate.durable_seq
        )

    def is_blank(self) -> bool:
        """Whether the next instance would be no different: this one holds nothing of its own, and nobody else holds it."""
        return (
            self.object_class.starts_blank
            and not self.callbacks
            and len(get_referents(self.instance)) == BLANK_REFERENTS
            and sys.getrefcount(self.instance) == 2
            and sys.getrefcount(self.storage) == 3
            and (self._caller is None or sys.getrefcount(self._caller) == 2)
        )

    def lay_down(self) -> None:
        """The instance leaves memory. Whoever has kept it, or something of it, reaches the object no more."""
        self.move(Event.LAID_DOWN)
        self.life += 1
        if self.callbacks:
            self.orphan_callbacks()
        self.drop_attribution()
        instance = self.instance
        for name in ("storage", "_activation"):
            try:
                object.__delattr__(instance, name)
            except AttributeError:  # Its own code has taken it away.
                pass
        self.storage.detach()
        self._caller = self.context = None
        del self.instance, self.storage

    def leave_memory(self) -> None:
        """Cuts the references in which an activation and its parts hold each other, so that an evicted one is freed at once
        and not by a pass of the collector over a million others."""
        had_instance = self.state is not ASLEEP
        self.end(EVICTED, LEFT)
        self.cache.leave_memory()
        if self.callbacks:
            self.orphan_callbacks()
        if had_instance:
            del self.instance, self.storage
        if self.attribution is not None:
            self.drop_attribution()
        self._caller = self.context = None

    @property
    def module(self) -> str:
        """Where its class is defined."""
        return self.object_class.cls.__module__

    # Tasks

    def current_section(self) -> Section:
        """Where work that is started now belongs."""
        section = section_of(asyncio.current_task(), self) or SECTION.get(None)
        return self.gate.root if section is None else self.gate.living(section)

    def attribution_for(self, method: Method) -> Attribution:
        """For the next call, of that method."""
        attribution = self.attribution
        if attribution is None or attribution.context is None:
            context = self.new_context()
            attribution = self.attribution = Attribution(context).within(context)
        attribution.method, attribution.digest = method, crc32(self.cache.key) ^ method.digest
        return attribution

    def drop_attribution(self) -> None:
        """Whatever has it keeps it; of the two, each holds the other."""
        if self.attribution is not None:
            self.attribution.keep()
            self.attribution = None

    def context_in(self, section: Section, chain: Chain | None) -> contextvars.Context:
        """For code that begins there, and has come along that chain."""
        context = self.new_context()
        if section is not self.gate.root:
            context.run(SECTION.set, section)
        if chain is not None:
            context.run(CHAIN.set, chain)
        return context

    def add_task(self, task: ObjectTask) -> None:
        if isinstance(self.tasks, set):
            self.tasks.add(task)
        else:
            self.tasks = {task}

    def task_done(self, task: ObjectTask) -> None:
        if isinstance(self.tasks, set):
            self.tasks.discard(task)
        self.last_used_s = self.host.turn.now_s
        if task.call is not None:
            self.host.call_done(self, task)
        elif task.when_done is not None:
            when_done, task.when_done = task.when_done, None  # It may know the task.
            when_done(task)
        elif self.broken is not None and not task.cancelled() and task.exception() is not None:
            let_go(task.take_exception())  # Retrieved: nobody is left who would look.

    def spawn(self, coro: Coroutine[Any, Any, Any]) -> ObjectTask:
        count_own_task(self, coro)
        section = self.current_section()
        task = ObjectTask(self.host.loop).adopt(coro, self, section, self.context_in(section, CHAIN.get(None)))
        task.when_done = self._log_failure
        task.belongs_to(kept_for())
        task.start_running()
        task.schedule()
        return task

    def own_task_done(self, task: ObjectTask) -> None:
        self.own_tasks -= 1
        if self.broken is not None and not task.cancelled() and task.exception() is not None:
            let_go(task.take_exception())  # Retrieved: nobody is left who would look.

    def _log_failure(self, task: ObjectTask) -> None:
        self.own_tasks -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            code = name_of_code(task.get_coro())
            self.host.log.failed(self.id, "a background task failed", error, code, level=logging.ERROR)

    # Callbacks

    def add_callback(self, callback: GatedCallback) -> None:
        if isinstance(self.callbacks, set):
            self.callbacks.add(callback)
        else:
            self.callbacks = {callback}

    def callback_over(self, callback: GatedCallback) -> None:
        if isinstance(self.callbacks, set):
            self.callbacks.discard(callback)

    def callback_failed(self, error: BaseException) -> None:
        if not issubclass(type(error), Aborted):
            self.host.log.failed(self.id, "a callback failed", error, level=logging.ERROR)

    def orphan_callbacks(self) -> None:
        for callback in list(self.callbacks):
            callback.orphan()

    # Gate

    def pump(self) -> None:
        """Delivers waiting events, one at a time, for as long as the gate lets them in."""
        self.pumping = False
        self.host.turn.end_soon()
        for _ in range(GRANTS_PER_TURN):
            waiter = self.gate.grant()
            if waiter is None:
                return
            try:
                waiter.deliver()
            except BaseException as exc:  # Those behind it go on.
                self.host.log.error("%s: an event could not be delivered: %s", self.id, whole_traceback(exc))
        self.schedule_pump()

    def schedule_pump(self) -> None:
        if not self.pumping and self.gate.has_waiters:
            self.pumping = True
            self.host.call_soon(self.pump, context=NEUTRAL)

    @property
    def oldest_wait_s(self) -> float | None:
        """Since when the call that is let in next has waited, if it is a call."""
        waiters = self.gate.root.waiters
        return waiters[0].since_s if waiters and isinstance(waiters[0], Call) else None

    def enter_section(self, undo: Callable[[], None] | None) -> CriticalSection:
        return CriticalSection(self, undo)

    # Alarm

    def alarm_at(self, when: datetime.datetime | datetime.timedelta | float) -> Alarm:
        return self.host.alarms.alarm_at(self, when)

    def alarm_shown(self, alarm: Alarm) -> datetime.datetime:
        return shown_for(alarm, self.host.alarms.ahead_us(self.cache.shard))

    # Durability

    def wait_durable(self) -> Awaitable[None]:
        """Completes when every write made so far is durable. Raises ObjectReset when one of them fails."""
        if self.broken is not None:
            raise self.broken.again()
        output_gate = self.host.output_gate
        seq = output_gate.durable_with(self.cache)
        if seq <= output_gate.durable_seq:
            return DONE
        future: CoroutineFuture[Any] = CoroutineFuture(loop=self.host.loop)
        self.host.hold(self, seq, lambda: _settle(future), lambda error: _fail(future, error))
        return future

    @property
    def may_reveal(self) -> bool:
        """Whether a message may leave now."""
        return self.cache.confirm_seq <= self.host.output_gate.durable_seq and self.cache.confirm_seq < self.lost_seq

    def wait_confirmed(self) -> Awaitable[None]:
        """Completes when a message that leaves now may leave: the output gate for what is not a reply."""
        if self.may_reveal:
            return DONE
        future: CoroutineFuture[Any] = CoroutineFuture(loop=self.host.loop)
        self.hold(lambda: _settle(future), lambda error: _fail(future, error))
        return future

    def hold(self, release: Callable[[], object], discard: Callable[[CallError], object]) -> None:
        """Keeps a message that leaves now behind the output gate, and calls one of the two."""
        self.host.hold(self, self.cache.confirm_seq, release, discard)

    @staticmethod
    def runs_keyed_call() -> bool:
        return keyed_here() is not None

    def wait_capacity(self) -> Awaitable[None]:
        """Backpressure: keeps the gate closed until the open commit has been cut and is durable."""
        future = DiskWait(self, "writes that are not durable yet").begin()
        self.host.hold(self, self.host.output_gate.open_seq, lambda: _settle(future), lambda error: _fail(future, error))
        return future

    def asked_first(self, keys: Sequence[str]) -> None:
        """Objects of the class that are read from disk are read with these from now on."""
        self.object_class.asked_first(keys)

    def wait_fetched(
        self, begin: Callable[[Done], object], finish: Callable[[Any], Any], concurrent: bool
    ) -> asyncio.Future[Any]:
        """What `finish` makes of the result of the read that `begin` begins. The gate is closed until it has been delivered,
        unless `concurrent`; whoever asked may be gone by then."""

        def done(result: Any, error: Exception | None) -> None:
            try:
                if error is not None:
                    raise error
                result = finish(result)  # Also if nobody waits any longer: what was read may be kept.
            except Exception as exc:
                _fail(future, exc)
            else:
                _settle(future, result)

        begin(done)  # If it raises, nothing has been closed.
        future = CoroutineFuture(loop=self.host.loop) if concurrent else DiskWait(self, "a read from disk").begin()
        return future

    def abort(self, reason: str) -> NoReturn:
        self.fail(reason)
        raise Aborted(reason)

    def fail(self, reason: str) -> None:
        """The object is reset, and its own code is to blame. While it starts it would do the same again for the same callers."""
        if self.broken is None:
            if self.state is State.STARTING:
                self.host.resets.reset(self, StartFailed(f"{self.id} could not be started: {reason}"))
            else:
                self.host.resets.reset(self, ObjectReset(f"{self.id} was reset: {reason}"))


def _of_start(activation: Activation, *_: object) -> Runs:
    return Runs(activation, "__init__")


enters(Activation, "construct", _of_start)


def _settle(future: asyncio.Future[Any], result: Any = None) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error.again() if isinstance(error, CallError) else error)
        future.exception()  # Retrieved: an object that is reset may never look.
