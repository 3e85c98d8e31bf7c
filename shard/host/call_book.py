"""The book of a worker's calls: which run, which wait, how many and how much, and whether there is room for one more to wait.

Guarantee: a call that waits to be started is in here, wherever it waits (see `waiting`), and is counted once; what waits is
bounded by count and bytes, for one object by count too. Who waits is not refused by the bounds of the worker because it has to
wait for something else: it takes no new room. At a gate the bound of its object is asked all the same.

Rule: the counts are changed in this file only. Calls that are answered without having suspended or waited never get here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from tidegate.runtime.errors import Overloaded
from tidegate.runtime.limits import CALLS_SHARE, OBJECT_CALLS_MAX, RETRY_UNREAD_MS, WAITING_CALLS_MAX, WORKER_CALLS_MAX
from tidegate.runtime.shares import Shares
from tidegate.runtime.wire.protocol import Origin
from tidegate.shard.core.input_gate import Section
from tidegate.shard.core.output_gate import OutputGate
from tidegate.shard.host.call import Call
from tidegate.shard.host.outbound import InternalOrigin
from tidegate.shard.loop.task import ObjectTask

if TYPE_CHECKING:
    from tidegate.shard.host.activation import Activation


class CallBook:
    __slots__ = (
        "_bytes_max", "_intake", "_output_gate", "_own", "_shares", "ended", "running", "started", "waiting", "waiting_bytes",
    )  # fmt: skip

    def __init__(self, output_gate: OutputGate, bytes_max: int, own: bytes) -> None:
        """`own`: what the routing ids of the service's own processes begin with."""
        self._output_gate = output_gate
        self._bytes_max = bytes_max
        self._own = own
        self.running: set[ObjectTask] = set()
        """Calls that have suspended."""
        self.started = self.running.add  # Bound once: a call that suspends pays for no more than that.
        self.ended = self.running.discard
        self.waiting: set[Call] = set()
        """Calls that are to be started, wherever they wait."""
        self.waiting_bytes = 0
        self._shares = Shares(WAITING_CALLS_MAX, lambda: (self._sharer(call.origin) for call in self.waiting))
        self._intake = Shares(WORKER_CALLS_MAX, lambda: (self._sharer(origin) for origin, _ in self._calls()))

    # Those that wait

    def refusal(self, call: Call, ahead: int) -> Overloaded | None:
        """Why the call cannot wait, where `ahead` calls wait for its object already."""
        if self.waiting_bytes + call.bytes > self._bytes_max:
            return Overloaded(f"{self.waiting_bytes} bytes of calls wait in the worker")
        if ahead >= OBJECT_CALLS_MAX:
            return Overloaded(f"{call.request.cls}/{call.request.name} has {ahead} calls waiting")
        waiting = len(self.waiting)
        if waiting * CALLS_SHARE >= WAITING_CALLS_MAX and not self._shares.takes(self._sharer(call.origin), waiting):
            whose = "" if waiting >= WAITING_CALLS_MAX else " too many of them of this client"
            return Overloaded(f"{waiting} calls wait in the worker{whose and ','}{whose}")
        return None

    def has_room(self, client: bytes, calls: int) -> bool:
        """Whether so many calls that have just come from the client may be looked at, where many are not answered yet."""
        return self._intake.takes(b"" if client.startswith(self._own) else client, self.unanswered, calls)

    def _sharer(self, origin: Any) -> bytes:
        """Whose share a call takes. None has what comes from inside, or from routers: those see to theirs."""
        if origin.__class__ is not Origin:
            origin = cast("InternalOrigin", origin).asked_by(0)[0]
        return b"" if origin.client.startswith(self._own) else origin.client

    def half_refusal(self, call: Call) -> Overloaded | None:
        """The same for calls that may take half of the room at most."""
        if len(self.waiting) * 2 >= WAITING_CALLS_MAX or (self.waiting_bytes + call.bytes) * 2 > self._bytes_max:
            return Overloaded(
                "too many calls wait until their clients read what they were answered", retry_after_ms=RETRY_UNREAD_MS
            )
        return None

    def queued(self, call: Call) -> None:
        """It begins to wait; where, is written on it."""
        self.waiting.add(call)
        self.waiting_bytes += call.bytes
        if call.activation is not None:
            call.activation.queued_calls += 1

    def dropped(self, call: Call) -> None:
        """It waits no longer: it is started, refused, answered at its deadline, or will wait for something else."""
        self.waiting.remove(call)
        self.waiting_bytes -= call.bytes
        if call.activation is not None:
            call.activation.queued_calls -= 1
        call.activation = call.queue = None

    # Numbers

    @property
    def unanswered(self) -> int:
        """Calls that were accepted and not answered yet."""
        return len(self.running) + len(self.waiting) + self._output_gate.messages_held

    def known_to(self, client: bytes) -> set[Any]:
        """Which calls of one caller are still to be answered, by their ids: asked for about those that take long. Where there are
        objects without calls nobody looks: there may be a million."""
        known = set()
        for origin, request_id in self._calls():
            if origin.__class__ is not Origin:
                origin, request_id = cast("InternalOrigin", origin).asked_by(request_id)
            if origin.client == client:
                known.add(request_id)
        return known

    def _calls(self) -> Iterator[tuple[Origin, Any]]:
        gone = [task for task in self.running if task.call is None or task.done()]
        self.running.difference_update(gone)  # Code that reaches for what is not its own can make a call vanish.
        for task in self.running:
            yield task.call[:2]
        for call in self.waiting:
            yield call.origin, call.request.id
        for _, origin, request_id, *_ in self._output_gate.messages():
            yield origin, request_id

    def check(self, activations: Iterable[Activation], queues: Iterable[Iterable[Call]]) -> None:
        """Counts anew, from the places where calls wait. For tests."""
        found = [call for queue in queues for call in queue]
        assert all(call.activation is None for call in found)
        for activation in activations:
            at_gate = list(_at_gate(activation))
            assert all(call.activation is activation and call.queue is None for call in at_gate), activation.id
            assert activation.queued_calls == len(at_gate), activation.id
            found += at_gate
            running = {task for task in activation.tasks if task.call is not None and not task.done()}
            assert running <= self.running, activation.id
        assert len(found) == len(self.waiting)
        assert set(found) == self.waiting
        assert sum(call.bytes for call in found) == self.waiting_bytes
        assert len(found) <= WAITING_CALLS_MAX
        assert self.waiting_bytes <= self._bytes_max


def _at_gate(activation: Activation) -> Iterator[Call]:
    section: Section | None = activation.gate.root
    while section is not None:
        yield from (waiter for waiter in section.waiters if isinstance(waiter, Call))
        section = section.child
