"""A storage operation that cannot be answered at once: its gate is closed until it has been delivered, or given up.

Guarantee: between the end of the operation and the code that awaits it no event of the object comes in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate.shard.core.input_gate import Section
from tidegate.shard.loop.task import StorageFuture
from tidegate.shard.neutral import NEUTRAL

if TYPE_CHECKING:
    from tidegate.shard.host.activation import Activation


class DiskWait:
    __slots__ = ("_section", "activation", "kind", "since_s")

    def __init__(self, activation: Activation, kind: str) -> None:
        """`kind`: what is waited for, as it is told to whoever asks who keeps the gate closed."""
        self.activation = activation
        self.kind = kind
        self._section: Section
        self.since_s = 0.0

    def begin(self) -> StorageFuture:
        """Closes the gate until the future is done."""
        activation = self.activation
        future = StorageFuture(loop=activation.host.loop)
        self._section = activation.current_section()
        activation.gate.lock(self._section)
        activation.host.gates.locked_by(self)
        # The first of the future's callbacks; whoever awaits it is the second and comes right after: nothing slips in between.
        future.add_done_callback(self._over, context=NEUTRAL)
        return future

    def _over(self, _: object) -> None:
        activation = self.activation
        activation.host.gates.unlocked(self)
        activation.gate.unlock(self._section)
        activation.schedule_pump()
