"""The start of an object: its `on_start`, in the section that keeps the gate closed meanwhile.

Guarantee: until `on_start` has ended whoever calls waits at the gate. If it raises, is cancelled or takes 30 s, all of them are
answered `start_failed`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tidegate.runtime.limits import SECTION_TIMEOUT_S
from tidegate.shard.core.chain import Chain
from tidegate.shard.core.input_gate import Section
from tidegate.shard.core.states import Event
from tidegate.shard.loop.task import ObjectTask

if TYPE_CHECKING:
    from tidegate.shard.host.activation import Activation


class Start:
    __slots__ = ("_section", "activation", "since_s", "task")

    kind = "on_start"
    lets_in = False
    way_out = "call after on_start has finished"

    def __init__(self, activation: Activation) -> None:
        self.activation = activation
        self.task = ObjectTask(activation.host.loop)
        self._section: Section
        self.since_s = 0.0

    def begin(self, chain: Chain | None) -> None:
        """Raises what `on_start` raises where it is no coroutine function."""
        activation, task = self.activation, self.task
        coro = activation.object_class.cls.on_start(activation.instance)
        gate = activation.gate
        self._section, running = gate.enter(gate.root, self)
        assert running
        task.adopt(coro, activation, self._section, activation.context_in(self._section, chain))
        activation.host.gates.closed_by(self)
        task.when_done = self._done
        task.start_running()
        task.deliver()

    def _done(self, task: ObjectTask) -> None:
        activation = self.activation
        resets = activation.host.resets
        activation.host.gates.left(self)
        if activation.broken is not None:
            _ = task.cancelled() or task.exception()  # Retrieved: who waits is told of the reset.
        elif task.cancelled():
            resets.start_failed(activation, asyncio.CancelledError(), [])
        elif task.exception() is not None:
            resets.start_failed(activation, task.take_exception(), [])
        else:
            activation.move(Event.STARTED)
            activation.gate.leave(self._section)
            activation.schedule_pump()

    def expire(self) -> None:
        self.activation.fail(f"on_start took longer than {SECTION_TIMEOUT_S:g} s")
