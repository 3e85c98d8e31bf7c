"""Calls that have come through a critical section, an open transaction or a start: where they are let in, and where refused.

Guarantee: a call that comes back into the critical section whose code has started it is delivered in that section. One that comes
back into an open transaction, or into a start, is refused at once with the chain that it has come along: there it would wait for
its own end, or act in the middle of what is all or nothing. A call that closes a ring of objects of this worker which wait for
each other is refused too. Calls without a chain are never looked at.

Rule: what is known here makes a wait shorter, never an end of it: the bounds of sections, transactions and starts hold for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from tidegate.runtime.errors import CallError, Deadlock
from tidegate.runtime.wire.protocol import Request
from tidegate.shard.core.chain import Chain, extended, labels_since, ring, tokens_in, tokens_of
from tidegate.shard.core.input_gate import Section
from tidegate.shard.host.activation import Activation
from tidegate.shard.host.call import Call
from tidegate.shard.host.keyed_calls import KeyedRun
from tidegate.shard.host.outbound import LocalOrigin
from tidegate.shard.loop.context import CHAIN, Attribution
from tidegate.shard.loop.cpython import gathered_by, group_awaited_by
from tidegate.shard.loop.task import ObjectTask
from tidegate.shard.objects.methods import NO_ARGUMENTS, Method
from tidegate.shard.objects.refusals import method_raised

if TYPE_CHECKING:
    from tidegate.shard.host.host import Host

TOKEN_BITS = 63
FUTURES_LOOKED_AT_MAX = 1_000
"""To find out what one task waits for."""


class ChainedCalls:
    def __init__(self, host: Host) -> None:
        self._host = host
        self._open: dict[asyncio.Future[Any], LocalOrigin] = {}
        """Calls that are not answered yet, by what their callers wait for."""
        self._new_token = partial(host.random.getrandbits, TOKEN_BITS)

    # Made by objects of this worker

    def chain_from(self, activation: Activation) -> Chain | None:
        """Of a call that the code which runs now makes. None: it is in no section, and neither was who called it."""
        chain = CHAIN.get(None)
        gate = activation.gate
        if gate.active is not gate.root:
            tokens = tokens_in(activation.current_section(), self._new_token)
            if tokens:
                return extended(chain or (), str(activation.id), tokens)
        return None if chain is None else extended(chain, str(activation.id), ())

    def begin(self, origin: LocalOrigin) -> None:
        self._open[origin.future] = origin

    def end(self, origin: LocalOrigin) -> None:
        self._open.pop(origin.future, None)

    # Made to objects of this worker

    def place(self, activation: Activation, call: Call, chain: Chain) -> Section | None:
        """The section in which the call is an event of its object. None: it is refused."""
        section = activation.gate.named(tokens_of(chain))
        if section is None:
            return activation.gate.root
        around: Section | None = section
        while around is not None:
            if around.holder is not None and not around.holder.lets_in:
                labels = [*labels_since(chain, section.token), str(activation.id)]
                where = f"{call.request.method} comes back into {around.holder.kind} of {activation.id}, which waits for it"
                error = Deadlock(f"{ring(labels)}: {where}; {around.holder.way_out}")
                self._host.answer_error(call.origin, call.request.id, error, call.request.cls)
                return None
            around = around.parent
        return section

    def run(self, activation: Activation, method: Method, call: Call, section: Section) -> None:
        """Starts the call. The gate has let it in, and nothing else runs."""
        host, request, origin = self._host, call.request, call.origin
        run: KeyedRun | None = None
        if call.key is not None:
            run = host.keyed.begin(activation, method, call, call.key)
            if run is None:
                return
        try:
            if method.empty_ok and bytes(request.args) in NO_ARGUMENTS:
                coro = method.function(activation.instance)
            else:
                positional, keywords = method.arguments(request.args, json=origin.json)
                coro = method.function(activation.instance, *positional, **keywords)
        except BaseException as exc:
            error = exc if isinstance(exc, CallError) else method_raised(exc, dev=host.settings.dev)
            host.answer_error(run or origin, request.id, error, request.cls)
            return
        section = activation.gate.living(section)
        context = activation.context_in(section, call.chain)
        if call.trace is not None:
            call.trace.begins_in(context)
        if run is not None:
            Attribution(None, run).within(context)
        task = ObjectTask(host.loop).adopt(coro, activation, section, context)
        task.call, task.keyed = (run or origin, request.id, method.name), run
        task.began_s = host.turn.clock()
        host.book.started(task)
        if isinstance(origin, LocalOrigin):
            origin.place = task
        task.start_running()
        task.deliver()

    # Who waits for whom

    def closes_ring(self, activation: Activation, call: Call) -> Deadlock | None:
        """Whether whoever keeps the gate of that object closed waits for the end of this very call."""
        origin = call.origin
        if origin.__class__ is not LocalOrigin:
            return None
        found = self._path(activation, origin, set())
        if found is None:
            return None
        text = f"{ring([str(origin.caller.id), *found])}: {call.request.method} would wait for objects that wait for its own end"
        return Deadlock(f"{text}; do not call each other in sections or transactions")

    def _path(self, activation: Activation, wanted: LocalOrigin, seen: set[Section]) -> list[str] | None:
        """From an object behind whose gate somebody waits."""
        todo: list[tuple[Activation, tuple[str, ...]]] = [(activation, ())]
        while todo:
            at, labels = todo.pop()
            section = at.gate.active
            if section in seen or section.holder is None:
                continue
            seen.add(section)
            labels = (*labels, str(at.id))
            for call, via in self._awaited(section.holder.task, labels):
                if call is wanted:
                    return [*via]
                if isinstance(call.place, Call) and call.place.activation is not None:
                    todo.append((call.place.activation, via))
        return None

    def awaited_by(self, task: ObjectTask) -> Request | None:
        """A call to another object for which the task waits."""
        return next((call.request for call, _ in self._awaited(task, ())), None)

    def _awaited(self, task: Any, labels: tuple[str, ...]) -> Iterator[tuple[LocalOrigin, tuple[str, ...]]]:
        """The calls without whose end the task does not go on, also those that these wait for in their turn."""
        todo: list[tuple[Any, tuple[str, ...]]] = [(task, labels)]
        seen: set[Any] = set()
        while todo and len(seen) < FUTURES_LOOKED_AT_MAX:
            each, via = todo.pop()
            if not isinstance(each, asyncio.Future) or each in seen:  # None, or a class of the app's own that acts as one.
                continue
            seen.add(each)
            if isinstance(each, ObjectTask):
                todo.append((each._fut_waiter, via))
                todo += [(task, via) for task in group_awaited_by(each.get_coro())]
            elif (call := self._open.get(each)) is not None:
                yield call, via
                if isinstance(call.place, ObjectTask):
                    owner = call.place._owner
                    todo.append((call.place, via if owner is None else (*via, str(owner.id))))
            else:
                todo += [(child, via) for child in gathered_by(each)]
