"""Critical sections and open transactions, as the code of an object enters and leaves them.

Guarantee: the body runs only while its section runs in the gate; whoever is cancelled or reset while it waits to begin gives back
what it was granted. 30 s in its body (see `gate_watch`) end a critical section by a reset. They end a transaction by a rollback:
its task is cancelled, and what it wrote until its block has been left is undone too; if it does not leave it within a second, the
object is reset, since nobody can tell what its code goes on to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, cast

from tidegate.runtime.limits import SECTION_TIMEOUT_S, TRANSACTION_UNWIND_S
from tidegate.runtime.wire.exceptions import line_of
from tidegate.shard.core.input_gate import Section
from tidegate.shard.loop.context import SECTION
from tidegate.shard.loop.task import EntryFuture, ObjectTask, section_of
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.objects.storage import TransactionTimeout

if TYPE_CHECKING:
    from tidegate.shard.host.activation import Activation


class CriticalSection:
    """Async context manager: while its body runs, only events that it started itself are delivered to the object.

    With `undo` it is a transaction. Without, an exception that escapes it, or 30 s in its body, resets the object."""

    __slots__ = ("_cancels", "_future", "_section", "_undo", "_withdrawn", "activation", "expired", "since_s", "task")

    way_out = "call before or after the transaction, or use self.block_concurrency()"

    def __init__(self, activation: Activation, undo: Callable[[], None] | None) -> None:
        self.activation = activation
        self._undo = undo
        self.task: ObjectTask
        self._section: Section | None = None
        self._future: EntryFuture | None = None
        self._withdrawn = False
        self.since_s = 0.0
        """When its body began."""
        self.expired = False
        """It has taken too long."""
        self._cancels = 0
        """Cancellations of its task that others had asked for when it expired."""

    @property
    def kind(self) -> str:
        return "a critical section" if self._undo is None else "an open transaction"

    @property
    def lets_in(self) -> bool:
        """Whether a call that its own code has started may come back into it."""
        return self._undo is None

    async def __aenter__(self) -> CriticalSection:
        activation = self.activation
        task = asyncio.current_task()
        section = section_of(task, activation)
        if section is None:
            if activation.broken is not None:
                raise activation.broken.again()
            raise RuntimeError(
                f"a critical section or transaction of {activation.id} can be entered in a task of the object only: in a method, "
                "or in what self.spawn or asyncio.create_task has started there"
            )
        if self._section is not None:
            raise RuntimeError("a critical section is entered once; call self.block_concurrency() again")
        if activation.broken is not None:
            raise activation.broken.again()
        gate = activation.gate
        self.task = cast("ObjectTask", task)
        self._section, running = gate.enter(section, self)
        if not running:
            self._future = EntryFuture(loop=activation.host.loop)
            activation.schedule_pump()
            try:
                await self._future
            except BaseException:
                self._give_up()
                raise
        self.task.section = self._section
        SECTION.set(self._section)
        activation.host.gates.closed_by(self)
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
        if self._withdrawn or self.activation.broken is not None:
            return
        if self._future.cancelled():
            self.activation.gate.withdraw(self._section)
            self.activation.schedule_pump()
        else:
            self._leave()

    def _leave(self) -> None:
        assert self._section is not None
        gate = self.activation.gate
        gate.leave(self._section)
        if not gate.open:  # Else nobody waits.
            self.activation.schedule_pump()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        activation = self.activation
        activation.host.gates.left(self)
        assert self._section is not None
        if activation.broken is None and not self._section.over:
            self.task.section = self._section.parent
            self._leave()
            if error is not None and self._undo is None:
                activation.fail(f"an exception escaped a critical section (block_concurrency): {line_of(error)}")
        if self.expired and activation.broken is None:
            cancelled = self.task.uncancel() <= self._cancels and issubclass(type(error), asyncio.CancelledError)
            if cancelled or error is None:
                raise TransactionTimeout(self._said()) from error

    def _said(self) -> str:
        return f"{self.activation.id}: a transaction was not over after {SECTION_TIMEOUT_S:g} s and has been rolled back"

    def expire(self) -> None:
        """It has taken too long."""
        activation = self.activation
        if self._undo is None:
            activation.fail(f"a critical section (block_concurrency) took longer than {SECTION_TIMEOUT_S:g} s")
            return
        self.expired = True
        activation.host.log.warn_of(activation.id, self._said())
        if not self._end_unattended():
            self._cancels = self.task.cancelling()
            self.task.cancel()
            activation.host.loop.call_later(TRANSACTION_UNWIND_S, self._end, context=NEUTRAL)

    def _end_unattended(self) -> bool:
        """A transaction whose task has ended without leaving it."""
        if not self.task.done():
            return False
        assert self._undo is not None
        self._undo()
        self._leave()
        return True

    def _end(self) -> None:
        activation = self.activation
        assert self._section is not None
        if not self._section.over and activation.broken is None and not self._end_unattended():
            text = f"a transaction took longer than {SECTION_TIMEOUT_S:g} s and its code did not end when it was cancelled"
            activation.fail(text)
