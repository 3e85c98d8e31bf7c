"""Critical sections and open transactions, as the code of an object enters and leaves them.

Guarantee: the body runs only while its section runs in the gate; whoever is cancelled or reset while it waits to begin gives back
what it was granted.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, cast

from runtime.limits import SECTION_TIMEOUT_S
from shard.input_gate import Section
from shard.task import NEUTRAL, SECTION, ObjectTask, StorageFuture, section_of

if TYPE_CHECKING:
    from shard.activation import Activation


class CriticalSection:
    """Async context manager: while its body runs, only events that it started itself are delivered to the object.

    With `breaks`, an exception that escapes it, or 30 s in its body, resets the object."""

    __slots__ = ("_activation", "_breaks", "_future", "_section", "_timer", "_withdrawn", "task")

    def __init__(self, activation: Activation, *, breaks: bool) -> None:
        self._activation = activation
        self._breaks = breaks
        self.task: ObjectTask
        self._section: Section | None = None
        self._future: StorageFuture | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._withdrawn = False

    @property
    def lets_in(self) -> bool:
        """Whether a call that its own code has started may come back into it."""
        return self._breaks

    @property
    def kind(self) -> str:
        return "a critical section" if self._breaks else "an open transaction"

    way_out = "call before or after the transaction, or use self.block_concurrency()"

    async def __aenter__(self) -> CriticalSection:
        activation = self._activation
        task = asyncio.current_task()
        section = section_of(task, activation)
        if section is None:
            raise activation.broken or RuntimeError(
                f"a critical section or transaction of {activation.id} can be entered in a task of the object only: in a method, "
                "or in what self.spawn or asyncio.create_task has started there"
            )
        if self._section is not None:
            raise RuntimeError("a critical section is entered once; call self.block_concurrency() again")
        if activation.broken is not None:
            raise activation.broken
        gate = activation.gate
        self._section, running = gate.enter(section, self)
        if not running:
            self._future = StorageFuture(loop=activation.host.loop)
            activation.schedule_pump()
            try:
                await self._future
            except BaseException:
                self._give_up()
                raise
        self.task = cast("ObjectTask", task)
        self.task.section = self._section
        SECTION.set(self._section)
        if self._breaks:
            self._timer = activation.host.loop.call_later(SECTION_TIMEOUT_S, self._timed_out, context=NEUTRAL)
        return self

    def deliver(self) -> None:
        """The gate has started the section."""
        assert self._future is not None
        if self._future.done():  # Cancelled while it waited: what was granted is given back at once.
            self._withdrawn = True
            self._leave()
        else:
            self._future.set_result(None)

    def _give_up(self) -> None:
        assert self._section is not None
        assert self._future is not None
        if self._withdrawn or self._activation.broken is not None:
            return
        if self._future.cancelled():
            self._activation.gate.withdraw(self._section)
            self._activation.schedule_pump()
        else:
            self._leave()

    def _leave(self) -> None:
        assert self._section is not None
        self._activation.gate.leave(self._section)
        self._activation.schedule_pump()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        activation = self._activation
        if activation.broken is not None:
            return
        assert self._section is not None
        self.task.section = self._section.parent
        self._leave()
        if error is not None and self._breaks:
            activation.fail(f"an exception escaped a critical section (block_concurrency): {error!r}")

    def _timed_out(self) -> None:
        self._activation.fail(f"a critical section (block_concurrency) took longer than {SECTION_TIMEOUT_S:g} s")
