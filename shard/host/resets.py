"""How an object is reset: its instance, and what it has written that is in no commit yet, are gone.

Guarantee: everybody who waited for the object is told at once, and once; what its messages revealed and is lost takes those with
it who have seen it; calls that had not been started go to the next instance, in order, unless it is the start that has failed.
Nothing of the instance runs on: its code is cancelled, and ends within a few seconds (see `task.Ending`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tidegate.runtime.errors import CallError, ObjectReset, StartFailed
from tidegate.runtime.limits import RESET_CLEANUP_S
from tidegate.runtime.wire.exceptions import line_of
from tidegate.shard.core.cache import ObjectCache
from tidegate.shard.core.states import Event, InvalidTransition
from tidegate.shard.host.activation import Activation
from tidegate.shard.host.call import Call
from tidegate.shard.loop.raised import let_go
from tidegate.shard.neutral import NEUTRAL

if TYPE_CHECKING:
    from tidegate.shard.host.host import Host


class Resets:
    def __init__(self, host: Host) -> None:
        self.count = 0
        self._host = host

    def start_failed(self, activation: Activation, error: BaseException, callers: list[Call]) -> None:
        """Its `__init__` or `on_start` raised: `callers`, and all who wait at its gate, are answered `start_failed`."""
        self._host.log.failed(activation.id, "could not be started", error, "on_start", level=logging.ERROR)
        failure = StartFailed(f"{activation.id} could not be started: {line_of(error)}")
        let_go(error)
        for call in callers:
            self._host.answer_error(call.origin, call.request.id, failure, call.request.cls)
        self._break(activation, failure, by=Event.FAILED, queued_too=True)

    def reset(self, activation: Activation, error: CallError) -> None:
        """Something in the object asks for it: `abort`, a broken critical section; StartFailed: in its `on_start`."""
        if activation.broken is None:
            self.count += 1
            self._host.log.was_reset(activation.id, str(error))
            self._break(activation, error, by=Event.FAILED, queued_too=isinstance(error, StartFailed))

    def shard_stopped(self, activation: Activation, error: CallError) -> None:
        """What its shard has on disk is damaged. What was queued for it is answered when it finds no shard."""
        if activation.broken is None:
            self.count += 1
            self._break(activation, error)

    def moved(self, activation: Activation, error: CallError) -> None:
        """Its shard has gone to another worker. Nobody waits for it, but code of its own that nobody has called runs still."""
        if activation.broken is None:
            self._break(activation, error)

    def mistaken(self, activation: Activation, error: InvalidTransition) -> None:
        """The runtime has made a mistake with it. Whatever that was, the next activation begins anew."""
        self._host.log.error("%s", error)
        if activation.broken is None:
            self.count += 1
            text = f"{activation.id} was reset: the runtime has made a mistake; the log of the service says which"
            self._break(activation, ObjectReset(text))

    def lose(self, activation: Activation, error: CallError, seq: int) -> None:
        """It has written to commit `seq`, or has seen who did, and that is lost. Later messages revealed it, too: whoever has
        seen those goes with it."""
        if activation.broken is None:
            self.count += 1
            self._host.log.was_reset(activation.id, f"{activation.id} was reset: {error}")
            self._break(activation, error, inherited=True)
        else:  # It was reset while the commit was under way. Whoever has seen its writes since has seen what is lost now.
            for heir in self._host.output_gate.heirs_of(activation.cache):
                self._reset_heir(heir, error)
        activation.lost_seq = min(activation.lost_seq, self._host.output_gate.first_of(seq))

    def _reset_heir(self, heir: ObjectCache, error: CallError) -> None:
        """It has seen writes that are lost."""
        if heir.owner.broken is None:
            self.count += 1
            text = f"{heir.owner.id} was reset with an object whose undurable writes it had seen"
            self._host.log.was_reset(heir.owner.id, text)
            self._break(heir.owner, error, inherited=True)

    def _break(
        self,
        activation: Activation,
        error: CallError,
        *,
        by: Event = Event.LOST,
        queued_too: bool = False,
        inherited: bool = False,
    ) -> None:
        host, cache = self._host, activation.cache
        activation.end(by, error)
        activation.lost_seq = host.output_gate.first_of(host.output_gate.open_seq)
        host.table.remove(activation)
        heirs = host.output_gate.heirs_of(cache) if inherited or cache.dirty or cache.cleared else []
        host.output_gate.take_answers(cache)
        discarded = host.output_gate.forget(cache)
        cache.break_with(error)
        for message in discarded:
            host.discard(message, error)
        queued = [waiter for waiter in activation.gate.drain() if isinstance(waiter, Call)]
        self._end_tasks(activation, error)
        activation.orphan_callbacks()
        for call in queued:
            host.book.dropped(call)
        if queued_too:
            for call in queued:
                host.answer_error(call.origin, call.request.id, error, call.request.cls)
            queued = []
        host.waiting.settle(cache, queued)
        for heir in heirs:
            self._reset_heir(heir, error)
        host.turn.end_soon()

    def _end_tasks(self, activation: Activation, error: CallError) -> None:
        for task in list(activation.tasks):
            if task.call is not None:
                origin, request_id, _ = task.call
                task.call = None
                self._host.book.ended(task)
                self._host.answer_error(origin, request_id, error, activation.id.class_name)
            task.abandon()
        if activation.tasks:
            self.hurry_later(activation)

    def hurry_later(self, activation: Activation) -> None:
        """Its tasks may clean up for a while."""
        self._host.loop.call_later(RESET_CLEANUP_S, self._hurry, activation, context=NEUTRAL)

    def _hurry(self, activation: Activation) -> None:
        for task in list(activation.tasks):
            task.hurry()
