"""The host: everything between a request and its reply, inside one worker.

Guarantee: every request handed to `handle` is answered exactly once through `answer`; a reply leaves only when every write
that it may reveal is durable; at most one activation of an object is alive.

Rule 1: no socket, thread or file, and no wall clock. The shell (worker or simulator) hands in messages, takes replies, and
makes commits durable: it calls `cut`, then, once the stores have what was cut, `committed`; or else `commit_failed`.
Rule 2: a call that touches only cached storage is finished inside `_run`; it allocates no task.
Rule 3: what opens or closes a gate is decided in `core.input_gate`, what waits for which commit in `core.output_gate`, where a
call waits in `waiting`, and whether there is room for it in `call_book`.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from _thread import get_ident
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import length_hint
from random import Random, SystemRandom
from typing import Any, Protocol, cast
from zlib import crc32

from tidegate.runtime.errors import BadRequest, CallError, Internal, ObjectReset, Overloaded
from tidegate.runtime.limits import (
    CALLS_SHARE,
    COMMIT_BYTES_MAX,
    HELD_BYTES_MAX,
    LARGE_BYTES,
    UNDURABLE_BYTES_MAX,
    WORKER_CALLS_MAX,
)
from tidegate.runtime.logs.tracebacks import whole_traceback
from tidegate.runtime.wire.protocol import ERROR, NO_RAW, OK, Message, Origin, Request, parse_options
from tidegate.runtime.wire.sessions import are_numbered, give_key, is_head, without_head
from tidegate.shard.core.cache import KeptAnswers, ObjectCache, Store
from tidegate.shard.core.codec import NUMBERS, TEXTS
from tidegate.shard.core.input_gate import Section
from tidegate.shard.core.output_gate import HeldMessage, OutputGate, PendingCommit
from tidegate.shard.core.proving import ProvingCache, ProvingGate
from tidegate.shard.host.activation import Activation
from tidegate.shard.host.activator import Activator
from tidegate.shard.host.alarm_clock import AlarmClock
from tidegate.shard.host.call import Call, CallKey
from tidegate.shard.host.call_book import CallBook
from tidegate.shard.host.chained_calls import ChainedCalls
from tidegate.shard.host.counting import MIXED, ClassCounts, Counting
from tidegate.shard.host.deadlines import Deadlines, TimedOrigin
from tidegate.shard.host.gate_watch import GateWatch
from tidegate.shard.host.hot_objects import HotObjects
from tidegate.shard.host.keyed_calls import KeyedCalls, KeyedRun, KnownCalls
from tidegate.shard.host.listing import Listing
from tidegate.shard.host.long_calls import LongCalls
from tidegate.shard.host.moving_shards import MovingShards
from tidegate.shard.host.object_log import ObjectLog
from tidegate.shard.host.outbound import BuiltIn, InternalOrigin, LocalOrigin, Permit
from tidegate.shard.host.outcomes import Outcomes
from tidegate.shard.host.piles import Piles
from tidegate.shard.host.resets import Resets
from tidegate.shard.host.settings import HostSettings, HostStatistics
from tidegate.shard.host.slow_calls import SlowCalls
from tidegate.shard.host.stopped_shards import StoppedShards
from tidegate.shard.host.table import ActivationTable
from tidegate.shard.host.tracing import Tracing, trace_call
from tidegate.shard.host.turn import Turn
from tidegate.shard.host.waiting import EveryoneReads, Readers, WaitingRoom, client_of
from tidegate.shard.host.wishes import Wishes
from tidegate.shard.loop.context import Attribution, kept_for
from tidegate.shard.loop.cpython import enter_task, leave_task, references_to, weak_references_to
from tidegate.shard.loop.places import Runs, enters
from tidegate.shard.loop.raised import let_go
from tidegate.shard.loop.spare import SpareTask
from tidegate.shard.loop.task import ObjectTask
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.objects.methods import NO_ARGUMENTS, Method, ObjectClass
from tidegate.shard.objects.offload import Offload
from tidegate.shard.objects.refusals import unknown_class, unknown_method
from tidegate.shard.objects.storage import Storage
from tidegate.shard.objects.web import Web
from tidegate.shard.store.interface import ObjectWrites, ShardCommit, ShardDamaged


class KeptAnswerTable(KeptAnswers, Protocol):
    """As the host looks at it."""

    count: int
    bytes: int
    dropped: int

    def limit(self, *, per_object: int, kept_s: int, bytes_max: int) -> None: ...


class DurableShard(Store, Protocol):
    """The durable state of one shard, as the host uses it."""

    seq: int
    """Sequence of the newest commit that was applied."""

    @property
    def answers(self) -> KeptAnswerTable: ...

    def look_for_names(self) -> Iterable[None]: ...

    def counted(self) -> Mapping[str, int]: ...

    def uncounted(self) -> Iterable[Sequence[bytes]]: ...

    def difference(self, keys: Sequence[bytes], headers: Sequence[bytes | None]) -> Iterable[tuple[str, int]]: ...


_MANY_CALLS = WORKER_CALLS_MAX // CALLS_SHARE
"""From so many on it is asked whose they are."""


class Host:
    __slots__ = (  # An object with more than 30 attributes in a dict is slow to ask for any, and for its methods.
        "_commits_done", "_outcomes", "_readers", "_reply", "_reply_rows", "_spare", "_system", "activator", "alarms", "book",
        "call_soon", "chained", "classes", "counting", "deadlines", "gates", "hot", "keyed", "listing", "log", "long_calls",
        "loop", "monotonic_us", "moving", "new_cache", "objects_committed", "offload", "output_gate", "piles", "proves", "random",
        "resets", "send", "settings", "slow", "stopped", "stores", "table", "thread", "tracing", "turn", "waiting", "wall_us",
        "web", "wishes",
    )  # fmt: skip

    storage_class = Storage
    """What objects are given: another one where it is watched what they do with it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        classes: Iterable[ObjectClass],
        stores: Mapping[int, DurableShard],
        settings: HostSettings,
        *,
        reply: Callable[[Origin, Any, int, Any], None],
        reply_rows: Callable[[Origin], list[tuple[Any, int, Any]] | None] = lambda _: None,
        turn: Turn,
        send: Callable[[Request, LocalOrigin], None],
        wall_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
        monotonic_us: Callable[[], int] | None = None,
        random: Random | None = None,
        system: Callable[[Request, Origin], None],
        stopped: Mapping[int, ShardDamaged] | None = None,
        readers: Readers | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """`reply` sends a reply to a caller outside, in this turn; `reply_rows` is where replies to a message may be put instead,
        None: nowhere; `turn` is asked for an end of turn where a commit may be due, or replies
        may have to be flushed; `send` carries a call to an object of another worker; `system` answers calls to the empty class;
        `wall_us` is Unix time, for alarms, and `monotonic_us` tells when that was set; `random` gives their retries jitter;
        `stopped`: see `StoppedShards`; `readers` says who has too many replies to take: nobody unless given."""
        self.loop, self.thread = loop, get_ident()
        self.call_soon = cast("Any", loop).call_soon_directly
        self.output_gate = ProvingGate(turn.end_soon) if settings.proves else OutputGate()
        self.new_cache: type[ObjectCache] = ProvingCache if settings.proves else ObjectCache
        self.log = ObjectLog(loop)
        self.piles, self.long_calls = Piles(settings.cache_bytes, self.log.warn_of), LongCalls(self, settings.slow_call_s)
        self.table = ActivationTable(classes, settings.cache_bytes, settings.idle_evict_s, self._look_at)
        self.classes = self.table.classes
        self.stores = stores
        self.stopped = StoppedShards(self, {} if stopped is None else stopped)
        self.settings, self.proves = settings, settings.proves
        self.slow = SlowCalls(self.log, settings.slow_call_s)
        self.turn = turn
        self.hot = HotObjects(self.classes, turn.clock())
        self.counting = Counting([kept.counts for kept in self.classes.values()], turn.clock)
        self._reply = reply
        self._reply_rows = reply_rows
        self.tracing, self.send, self._system = tracing, send, system
        self.wall_us = wall_us
        self.monotonic_us = monotonic_us or (lambda: round(loop.time() * 1e6))
        self.resets = Resets(self)
        self.web = Web()
        self.offload = Offload(loop, settings.offload_processes, settings.offload_s)
        self.random = random or SystemRandom()
        self.alarms = AlarmClock(self, stores, self.random)
        self._spare = SpareTask(loop, used_again=settings.spare_task)
        self._outcomes = Outcomes(self)
        self._readers = EveryoneReads() if readers is None else readers
        self.book = CallBook(self.output_gate, settings.call_bytes_max, settings.own_clients)
        self.waiting = WaitingRoom(loop, self.book, self._deliver_call, self.answer_error, turn, self._readers.crowded)
        self.deadlines = Deadlines(loop, reply, turn, self.waiting.take_out, self.counting.error)
        self.activator = Activator(self)
        self.chained = ChainedCalls(self)
        self.keyed = KeyedCalls(self)
        self.gates, self.wishes, self.listing, self.moving = GateWatch(self), Wishes(self), Listing(self), MovingShards(self)
        self._commits_done = self.objects_committed = 0

    # Calls in

    def handle(self, message: Message) -> None:
        """All requests of one message, in order. Must be called from the loop, not from object code."""
        requests, session = message.requests, None
        if len(requests) > 1 and is_head(requests[0]) and (session := self._session(message)) is None:
            return
        if not (count := len(requests)):
            return
        book, hot = self.book, self.hot
        if len(book.running) + len(book.waiting) + len(self.output_gate.held) > _MANY_CALLS and self._are_too_many(message):
            return
        if self._readers.crowded:
            self.waiting.is_closed = True
        hot.left -= count
        if hot.left <= 0:
            hot.look(requests)
        origin, counting, now_s = message.origin, self.counting, self.turn.now_s
        each_apart = (self.tracing is not None and self.tracing.begins) or not (session is None or are_numbered(requests))
        if origin.arrived_s:  # The rest of a large one.
            counting.resume(origin, count)
        else:  # What `resume` does, without a look at the clock.
            origin.arrived_s = counting.arrived_s = counting.now_s = now_s
            counting.left = count
            counting.at_once = counting.suspended = 0
        if each_apart:
            for request in requests:
                if session is None or self._gives_key(session, request, origin):
                    self.deliver(request, origin)
            return
        self._handle(message, session)
        if counting.now_s - now_s >= self.slow.bound_s:
            self.slow.at_once(message, self.classes, now_s, counting.now_s)

    def _handle(self, message: Message, session: KnownCalls | None) -> None:
        origin, requests, waiting, output_gate = message.origin, iter(message.requests), self.waiting, self.output_gate
        loop, spare, counting = self.loop, self._spare, self.counting
        spare_run, now_s = None if session is None else self.keyed.spare(origin, session), self.turn.now_s
        run = method = method_name = None
        of_class = counting.first_stretch(origin, kept := self.classes.get(class_name := message.requests[0].cls))
        enter_task(loop, spare.task)  # Once for all calls that need nothing else.
        try:
            for request in requests:
                if request.cls != class_name:  # Most are of the class and method of the one before.
                    stretch, class_name, method_name = kept, request.cls, None
                    if (kept := self.classes.get(class_name)) is not stretch:
                        of_class = counting.next_stretch(origin, of_class, length_hint(requests) + 1, kept)
                if request.method != method_name:
                    method = None if kept is None else kept.methods.get(method_name := request.method)
                if (  # The other case is near: a far jump costs an instruction more, and takes a comparison its short cut.
                    method is None
                    or output_gate.open_bytes >= UNDURABLE_BYTES_MAX
                    or waiting.is_closed
                    or (
                        ((activation := kept.activations.find(request.name)) is None or not activation.gate.open)  # type: ignore[union-attr]  # it has the method
                        and (activation := self.activator.bring_at_once(kept, request, activation)) is None  # type: ignore[arg-type]  # the same
                    )
                    or (
                        (
                            (request.options is not NO_RAW and len(request.options) >= 2)
                            or (session is not None and session.newest >= (number := request.id))  # type: ignore[operator]  # see `are_numbered`
                        )
                        and (run := self.keyed.begin_at_once(activation, method, request, origin)) is None
                    )
                ):
                    self._handle_apart(request, origin, session, of_class, length_hint(requests))
                    continue
                activation.last_used_s, context = now_s, activation.context
                try:
                    if (keyed := run or spare_run) is None:
                        context = activation.new_context() if context is None else context.copy()
                        self._run(activation, method, request, origin, context)
                        continue
                    run = None
                    if (attribution := activation.attribution) is None or attribution.method is not method:
                        attribution = activation.attribution_for(method)
                    if keyed is spare_run:  # What `KeyedRun.begin` does.
                        if not keyed.is_spare:
                            keyed = spare_run = self.keyed.spare(origin, session)  # type: ignore[arg-type]  # there is one
                        session.newest = keyed.key = keyed.request_id = number  # type: ignore[union-attr]  # the same
                        digest, args, cache = attribution.digest, request.args, activation.cache
                        keyed.digest = digest if args is NO_RAW or len(args) < 2 else crc32(args, digest)
                        keyed.cache, keyed.before, keyed.before_bytes = cache, cache.dirty, cache.dirty_bytes
                    attribution.keyed = keyed
                    self._run(activation, method, request, keyed, attribution.context.copy())  # type: ignore[union-attr]  # it has a method
                    if attribution.context is not None:
                        attribution.keyed = None
                except BaseException as exc:
                    self._broke_off(activation, keyed or origin, request, exc)
                    enter_task(loop, spare.task)
        finally:
            leave_task(loop, spare.task)
            self.keyed.keep_spare(spare_run)
        counting.end_stretch(of_class)

    def _broke_off(self, activation: Activation, origin: Origin | KeyedRun, request: Request, error: BaseException) -> None:
        activation.drop_attribution()
        self._went_wrong(origin, request.id, error, request.cls)

    def _handle_apart(
        self, request: Request, origin: Origin, session: KnownCalls | None, of_class: ClassCounts, left: int
    ) -> None:
        """A call at which has to be looked more closely, among others of its message, of which so many are left."""
        self.counting.end_stretch(of_class, left + 1)
        leave_task(self.loop, self._spare.task)
        try:
            if session is None or self._gives_key(session, request, origin):
                self.deliver(request, origin)
        finally:
            enter_task(self.loop, self._spare.task)
        self.counting.resume(origin, left)

    def _are_too_many(self, message: Message) -> bool:
        """There are many: whether it has calls for which its client has no room. They have been refused."""
        origin = message.origin
        if self.book.has_room(origin.client, len(message.requests)):
            return False
        refusal = Overloaded("the worker has too many calls in flight, or the client has").to_wire()
        for request in message.requests:
            self.counting.error(request.cls, Overloaded.code)
            self.answer(origin, request.id, ERROR, refusal)
        self.turn.end_soon()
        return True

    def _session(self, message: Message) -> KnownCalls | None:
        """Whose calls these are, as the head of the message says; it is taken off. None: they have been refused."""
        head, origin = message.requests[0], message.origin
        requests = without_head(message)
        try:
            return self.keyed.begin_batch(head, origin.json)
        except BadRequest as exc:
            for request in requests:
                self.answer_error(origin, request.id, exc, request.cls)
            return None

    def _gives_key(self, session: KnownCalls, request: Request, origin: Origin) -> bool:
        """To a call of the session that is looked at twice. False: it has been refused."""
        try:
            if request.cls:
                give_key(session, request, json=origin.json)
        except BadRequest as exc:
            self.answer_error(origin, request.id, exc, request.cls)
            return False
        return True

    def deliver(self, request: Request, origin: Origin) -> None:
        """One call arrives. Must be called from the loop, not from object code."""
        call = Call(request, origin)
        if request.options is NO_RAW:
            if self.tracing is not None and request.cls and self.tracing.begins:
                trace_call(call, None, self.tracing, self._reply, self.turn.now_s)
        elif request.cls:
            try:
                options = parse_options(request.options, json=origin.json)
                call.chain = options.chain
                if options.key is not None:
                    call.key = CallKey(options.key, options.answered)
                late = None if options.deadline_ms is None else self.deadlines.watch(call, options.deadline_ms, options.due_s)
                if self.tracing is not None and (self.tracing.begins or options.traceparent is not None):
                    trace_call(call, options.traceparent, self.tracing, self._reply, self.turn.now_s)
                if late is not None:
                    self.answer_error(call.origin, request.id, late, request.cls)
                    return
            except BadRequest as exc:
                self.answer_error(origin, request.id, exc, request.cls)
                return
            except BaseException as exc:
                self._went_wrong(origin, request.id, exc, request.cls)
                return
        self._deliver_call(call)

    def _deliver_call(self, call: Call) -> None:
        """It has arrived, or what it waited for has come."""
        try:
            self._deliver(call)
        except BaseException as exc:
            self._went_wrong(call.origin, call.request.id, exc, call.request.cls)

    def _went_wrong(self, origin: Origin | KeyedRun, request_id: Any, error: BaseException, class_name: str) -> None:
        """Something raised where nothing should: it is the error of this call alone. Perhaps the call had been answered; who
        made it knows no second answer. Afterwards no task is the current one."""
        self._spare.recover()
        if isinstance(error, ShardDamaged):
            self.answer_error(origin, request_id, StoppedShards.answer(error), class_name)
            return
        self.log.error("a call could not be handled: %s", whole_traceback(error))
        let_go(error)
        internal = Internal("the call could not be handled; the log of the service says why")
        self.answer_error(origin, request_id, internal, class_name)

    def _deliver(self, call: Call) -> None:
        request, origin = call.request, call.origin
        kept = self.classes.get(request.cls)
        if kept is None:
            if not request.cls:
                self._system(request, origin)
                return
            self.answer_error(origin, request.id, unknown_class(request, self.classes), request.cls)
            return
        activation = kept.activations.find(request.name)
        if activation is None:
            activation = self.activator.bring(kept, call)
            if activation is None:
                return
        elif activation.gate.resting:
            self.table.rouse(activation, self.turn.now_s)
        method = kept.methods.get(request.method)
        if method is None and isinstance(origin, BuiltIn):
            method = cast("Method", origin)
        if method is None:
            self.answer_error(origin, request.id, unknown_method(request, kept.object_class), request.cls)
            return
        activation.last_used_s = self.turn.now_s
        waiting, output_gate = self.waiting, self.output_gate
        if waiting.stalled or output_gate.open_bytes >= UNDURABLE_BYTES_MAX or output_gate.held_bytes >= HELD_BYTES_MAX:
            waiting.stall(call)
            return
        if waiting.is_closed:
            if waiting.until_read(call):
                return
            waiting.look()
        gate, chain = activation.gate, call.chain
        section = gate.root if chain is None else self.chained.place(activation, call, chain)
        if section is None:
            return
        if gate.open or (chain is not None and gate.passes(section)):
            self.start(activation, method, call, section)
        elif (refusal := self.book.refusal(call, activation.queued_calls)) is not None:
            self.answer_error(origin, request.id, refusal, request.cls)
        elif chain is not None and (deadlock := self.chained.closes_ring(activation, call)) is not None:
            self.answer_error(origin, request.id, deadlock, request.cls)
        else:
            self.waiting.at_gate(call, activation, method, section)

    def start(self, activation: Activation, method: Method, call: Call, section: Section) -> None:
        """Starts a call. The gate has let it in."""
        request, origin = call.request, call.origin
        if origin.__class__ is LocalOrigin and not origin.begin(activation):
            return
        if origin.__class__ is TimedOrigin and not origin.begin(self.loop.time()):
            return
        run: KeyedRun | None = None
        self.counting.resume(origin)
        try:
            if call.chain is not None:
                activation.count.calls += 1
                self.chained.run(activation, method, call, section)
                return
            enter_task(self.loop, self._spare.task)
            context = activation.new_context()
            if call.trace is not None:
                call.trace.begins_in(context)
            if call.key is None:
                self._run(activation, method, request, origin, context)
            elif (run := self.keyed.begin(activation, method, call, call.key)) is not None:
                Attribution(None, run).within(context)
                self._run(activation, method, request, run, context)
            leave_task(self.loop, self._spare.task)
            if call.trace is not None:
                call.trace.stepped()
            if call.key is None or run is not None:
                self._first_step_over(activation, method, request.id, run or origin)
        except BaseException as exc:
            self._went_wrong(run or origin, request.id, exc, request.cls)

    def _first_step_over(self, activation: Activation, method: Method, request_id: Any, origin: Origin | KeyedRun) -> None:
        """Of a call that had waited to be started; for most it was all."""
        counting, has_ended = self.counting, not self.counting.suspended
        is_held, began_s = not counting.at_once, counting.now_s
        counting.end_stretch(activation.count.of_class)
        now_s = counting.now_s
        if has_ended and origin.arrived_s and now_s - origin.arrived_s >= self.slow.noted_s:
            self.slow.ended(activation, origin, (request_id, method.name), began_s, now_s, is_held=is_held)

    def _run(self, activation: Activation, method: Method, request: Request, origin: Any, context: contextvars.Context) -> None:
        """The first step of a call of an `Origin` or a `KeyedRun`, which for most is all. The spare task is the current one."""
        activation.count.calls += 1
        args = request.args
        try:
            if method.empty_ok and (args is NO_RAW or (len(args) == 1 and bytes(args) in NO_ARGUMENTS)):
                coro = method.function(activation.instance)
            else:
                positional, keywords = method.arguments(args, json=origin.json)
                coro = method.function(activation.instance, *positional, **keywords)
        except CallError as exc:
            self.answer_error(origin, request.id, exc, request.cls)
            return
        except BaseException as exc:  # Of a plain function that is marked as a coroutine function.
            self._outcomes.finish_error(activation, origin, request.id, method.name, exc)
            return
        task = self._spare.task
        task._owner = activation
        task.section = activation.gate.root
        task._context = context
        try:
            result = context.run(task.send, coro)
        except BaseException as exc:
            self._spare.replace()
            self._outcomes.finish_error(activation, origin, request.id, method.name, exc)
            task.end_early(None, exc)  # Without the frames that it held.
            return
        if task._driver.gi_yieldfrom is not None:
            self._suspended(activation, task, (origin, request.id, method.name), result)
            return
        if references_to(self._spare.task) > task.references_max or weak_references_to(task):
            self._spare.replace()  # Somebody kept it, as current_task(), or cancelled or named it.
            task.end_early(result, None)
            if task.cancelled():
                self._outcomes.finish_error(activation, origin, request.id, method.name, asyncio.CancelledError())
                return
        kind, asker, output_gate = result.__class__, origin.__class__, self.output_gate
        is_number = kind in NUMBERS
        if (is_number or (kind in TEXTS and len(result) < LARGE_BYTES)) and activation.broken is None:
            if asker is KeyedRun:
                if is_number and origin.is_spare:
                    confirm_seq = activation.cache.confirm_seq
                    if confirm_seq == output_gate.open_seq and (not self.proves or origin.has_written):
                        output_gate.held.append((activation, origin.inner, origin.key, OK, result, origin.known, origin.digest))
                        return  # The message is the answer that is kept. (That of a read is not, where all answers wait.)
                    if confirm_seq <= output_gate.durable_seq and not origin.has_written:
                        self.keyed.answered_at_once(origin, result)
                        return
                origin = self.keyed.finished(origin, OK, result)
                asker = origin.__class__
            if asker is Origin:  # What `Outcomes.finish` would do in the end, for the commonest cases.
                confirm_seq = activation.cache.confirm_seq
                if confirm_seq == output_gate.open_seq:
                    output_gate.held.append((activation, origin, request.id, OK, result, None, 0))
                    return
                if confirm_seq <= output_gate.durable_seq:
                    self.counting.at_once += 1
                    self._reply(origin, request.id, OK, result)
                    return
        self._outcomes.finish(activation, origin, request.id, method.name, result)

    def _suspended(self, activation: Activation, task: ObjectTask, call: tuple[Any, Any, str], yielded: Any) -> None:
        """The coroutine of a call waits, after its first step."""
        self._spare.replace()
        self.counting.suspended += 1
        task.began_s = self.turn.clock()
        if activation.broken is None:
            self.book.started(task)
            task.call = call
            if isinstance(call[0], KeyedRun):
                task.keyed = kept_for(task._context)
                call[0].end_step()
        else:  # It has broken its object and goes on.
            self.answer_error(*call[:2], activation.broken, activation.id.class_name)
            self.resets.hurry_later(activation)
        task.start_running()
        task.suspend_on(yielded)

    def call_done(self, activation: Activation, task: ObjectTask) -> None:
        """A call that had suspended has finished."""
        origin, request_id, method = task.call
        task.call = None
        self.book.ended(task)
        self.counting.resume(origin)
        if (trace := origin.trace) is not None:
            trace.stepped()
        try:
            if task.cancelled():
                self._outcomes.finish_error(activation, origin, request_id, method, asyncio.CancelledError())
            elif task.exception() is not None:
                self._outcomes.finish_error(activation, origin, request_id, method, task.take_exception())
            else:
                self._outcomes.finish(activation, origin, request_id, method, task.result())
            now_s = self.counting.end(activation.count.of_class, origin, task.began_s)
            if origin.arrived_s and now_s - origin.arrived_s >= self.slow.noted_s:
                is_held = not self.counting.at_once
                self.slow.ended(activation, origin, (request_id, method), task.began_s, now_s, is_held=is_held)
        except BaseException as exc:
            self._went_wrong(origin, request_id, exc, activation.id.class_name)

    def answer(self, origin: Origin | KeyedRun, request_id: Any, status: int, result: Any) -> None:
        if origin.__class__ is Origin:
            self._reply(origin, request_id, status, result)
        else:
            cast("InternalOrigin", origin).answer(status, result)

    def answer_error(self, origin: Origin | KeyedRun, request_id: Any, error: CallError, class_name: str) -> None:
        """`class_name`: of what was called."""
        self.counting.error(class_name, error.code)
        self.answer(origin, request_id, ERROR, error.to_wire())
        self.turn.end_soon()

    def large_result(self, activation: Activation, origin: Origin | KeyedRun, method: str, size: int) -> None:
        """A call has answered so much: before more is run that does, what waits for a commit or a reader must be less."""
        output_gate, waiting = self.output_gate, self.waiting
        client = client_of(origin)
        if not client:
            return  # It does not leave the process.
        waiting.large.add((activation.id.class_name, method))
        if activation.cache.confirm_seq > output_gate.durable_seq:
            output_gate.held_bytes += size
            waiting.is_closed |= output_gate.held_bytes >= HELD_BYTES_MAX
        else:
            self._readers.made(client, size)
            waiting.is_closed |= bool(self._readers.crowded)

    # Calls out

    def deliver_soon(self, call: Call) -> None:
        """A call from one object of this worker to another."""
        self.call_soon(self._deliver_later, call, context=NEUTRAL)

    def _deliver_later(self, call: Call) -> None:
        self.hot.left -= 1
        if self.hot.left <= 0:
            self.hot.look([call.request])
        self._deliver_call(call)
        self.turn.end_soon()

    def deliver_wish_soon(self, call: Call) -> None:
        """One of an operator, who looks at the object: it is not among those that are called most for that."""
        self.call_soon(self._deliver_wish_later, call, context=NEUTRAL)

    def _deliver_wish_later(self, call: Call) -> None:
        self._deliver_call(call)
        self.turn.end_soon()

    def is_apart(self, one: Activation, other: Activation) -> bool:
        """Whether what they have written may be durable one without the other."""
        return self.proves and one.cache.shard != other.cache.shard

    def hold(self, activation: Activation, seq: int, go_on: Callable[[], object], give_up: Callable[[CallError], object]) -> None:
        """Keeps something other than a reply behind the output gate."""
        if activation.broken is not None and seq >= activation.lost_seq:
            give_up(activation.broken)
        else:
            self.output_gate.hold(seq, activation, Permit(go_on, give_up), 0, OK, None)

    # Commits

    def cut(self) -> PendingCommit:
        """Closes the open commit. Its `shards` are what has to become durable; to be given back to `committed` or
        `commit_failed`."""
        commit = self.output_gate.cut(COMMIT_BYTES_MAX)
        alarms = self.alarms
        by_shard: dict[int, ShardCommit] = {}
        for cache in commit.members:
            part = by_shard.get(shard := cache.store.shard) or self._new_part(by_shard, shard)
            part.objects.append(cache.begin_commit())
            if cache.alarm is not cache.indexed or cache.abandoned:
                part.objects.extend(alarms.cut_alarm(cache))
        for (shard, key), rows in commit.own.items():
            if shard in self.stores:  # Else it was stopped, or has gone.
                self.part_of(by_shard, shard).objects.append(ObjectWrites(key, False, rows))
        if self.proves:
            for sender, *_ in commit.held:
                if sender is not None and sender.cache.shard in self.stores:
                    self.part_of(by_shard, sender.cache.shard)
        if alarms.marking:
            alarms.cut_marks()
        if commit.answers or self.keyed.has_numbered:
            self.keyed.cut(commit, by_shard)
        commit.shards = [*by_shard.values()]
        return commit

    def part_of(self, by_shard: dict[int, ShardCommit], shard: int) -> ShardCommit:
        """What a commit that is being cut has of the shard."""
        return by_shard.get(shard) or self._new_part(by_shard, shard)

    def _new_part(self, by_shard: dict[int, ShardCommit], shard: int) -> ShardCommit:
        part = by_shard[shard] = ShardCommit(shard, self.stores[shard].seq + 1, [])
        return part

    def committed(self, commit: PendingCommit) -> None:
        """It is durable, and the stores have taken it over: the held messages leave."""
        self._commits_done += 1
        self.objects_committed += len(commit.members)
        for cache in commit.members:
            cache.committing = None
        if self.alarms.awaits_commit:
            self.alarms.committed()
        self.output_gate.succeeded(commit)
        reply, reply_rows, counting, clock = self._reply, self._reply_rows, self.counting, self.turn.clock
        now_s = clock()
        held = iter(commit.held)
        message: Origin | None = None
        rows: list[tuple[Any, int, Any]] | None = None
        released: list[tuple[Any, Origin, int]] = []
        for sender, origin, request_id, status, result, _, _ in held:
            try:
                if origin is not message:
                    released.append((sender, origin, length_hint(held)))
                    message = None if origin.of_class is MIXED else origin
                    rows = reply_rows(origin) if origin.__class__ is Origin else None
                if rows is not None:
                    rows.append((request_id, status, result))
                elif origin.__class__ is Origin:
                    reply(origin, request_id, status, result)
                else:
                    cast("InternalOrigin", origin).answer(status, result)
            except BaseException as exc:  # The others leave all the same.
                self.log.error("what waited for a commit could not leave: %s", whole_traceback(exc))
        if counting.released(released, now_s) >= self.slow.bound_s:
            self.slow.released(commit.held, now_s)
        self.waiting.commit_ended()

    def commit_failed(self, commit: PendingCommit, problem: str) -> None:
        """It is not durable and never will be: its objects are reset, their messages never leave."""
        self.output_gate.failed(commit)
        self.alarms.commit_failed()
        error = ObjectReset(f"a write could not be made durable: {problem}")
        for message in commit.held:
            self.discard(message, error)
        for cache in commit.members:
            cache.committing = None
        for cache in commit.members:
            self.resets.lose(cache.owner, error, commit.seq)
        for heir, _ in commit.heirs:
            self.resets.lose(heir.owner, error, commit.seq)
        for message in commit.held:  # Its code has just been told of a failure: then nothing of it may go on.
            if message[0] is not None:
                self.resets.lose(message[0], error, commit.seq)
        self.waiting.commit_ended()

    def committed_but_for(self, commit: PendingCommit, lost: Mapping[int, CallError]) -> None:
        """What it has of these shards is not durable, for reasons that callers are told. The rest is: nothing of it rests on
        what was lost, since objects of two shards hear of each other what is durable only."""
        members, held = commit.members, commit.held
        gone: list[tuple[HeldMessage, CallError]] = []
        commit.members, commit.held = [cache for cache in members if cache.shard not in lost], []
        for message in held:
            error = _lost_with(message, lost)
            if error is None:
                commit.held.append(message)
            else:
                gone.append((message, error))
        self.output_gate.lose_own(commit, lost)
        self.alarms.commit_failed(lost)
        self.committed(commit)
        for message, error in gone:
            self.discard(message, error)
        unwritten = [cache for cache in members if cache.shard in lost]
        for cache in unwritten:
            cache.committing = None
        heirs = [heir for heir, source in commit.heirs if source.shard in lost]
        senders = [message[0] for message, _ in gone if message[0] is not None]
        for owner in (*(cache.owner for cache in (*unwritten, *heirs)), *senders):
            self.resets.lose(owner, lost[owner.cache.shard], commit.seq)

    def discard(self, message: HeldMessage, error: CallError) -> None:
        """It must not leave: whoever waits for it is told why."""
        sender, origin, request_id = message[:3]
        if isinstance(origin, Permit | KeyedRun):
            origin.fail(error)
        else:
            self.answer_error(origin, request_id, error, "" if sender is None else sender.id.class_name)

    # Numbers

    def _look_at(self, activation: Activation, now_s: float) -> None:
        """It stays in memory."""
        self.piles.look(activation, now_s)
        self.long_calls.look(activation, now_s)

    def check_book(self) -> None:
        """Counts anew what is kept incrementally. For tests."""
        self.book.check((each for kept in self.classes.values() for each in kept.activations.values()), self.waiting.queues())

    @property
    def unanswered(self) -> int:
        """Calls that were accepted and not answered yet."""
        return self.book.unanswered

    def statistics(self) -> HostStatistics:
        return HostStatistics(
            activations=len(self.table),
            tasks=len(self.book.running),
            queued_calls=len(self.book.waiting),
            held_messages=self.output_gate.messages_held,
            cache_bytes=self.table.budget.used_bytes,
            calls=self.counting.calls,
            commits=self._commits_done,
            commit_writes=self.objects_committed,
            resets=self.resets.count,
            evictions=self.table.evictions,
            alarms_rung=self.alarms.rung,
            alarms_abandoned=self.alarms.given_up.count,
            newest_abandoned=list(self.alarms.given_up.newest),
            waiting_objects=self.gates.waiting(),
            long_calls=self.long_calls.named(),
            piles=self.piles.named(),
            hot_objects=self.hot.newest(self.turn.clock()),
            hot_objects_minute=self.hot.of_last_minute(),
            shard_calls=self.counting.by_shard(),
            answers=sum(store.answers.count for store in self.stores.values()),
            answers_bytes=sum(store.answers.bytes for store in self.stores.values()),
            answers_dropped=sum(store.answers.dropped for store in self.stores.values()),
            repeats=self.keyed.repeats,
            alarm_due_ms=None if (due_us := self.alarms.next_due_us) is None else due_us // 1_000,
        )


def _of_call(_: Host, activation: Activation, method: Method, request: Request, *rest: object) -> Runs:
    return Runs(activation, method.name, request.id)


enters(Host, "_run", _of_call, "activation", "method", "request")


def _lost_with(message: HeldMessage, lost: Mapping[int, CallError]) -> CallError | None:
    """Why a message must not leave where these shards have lost what they had in its commit. What the runtime itself says may
    rest on any of them."""
    sender = message[0]
    return next(iter(lost.values()), None) if sender is None else lost.get(sender.cache.shard)
