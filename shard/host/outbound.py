"""Calls that object code makes to other objects.

Guarantee: a call leaves the worker only when everything its object has written before is durable, and calls of one object to
another leave in the order in which they were made. A call to an object of the same worker waits for no disk: the other object
inherits what the call reveals, and the caller what the reply does (see `output_gate.py`). The result is delivered to the object
through its input gate, because it is awaited as an ordinary future.
"""

from __future__ import annotations

import asyncio
import itertools
from _thread import get_ident
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from tidegate.runtime.errors import BadRequest, CallError, Internal, ObjectReset
from tidegate.runtime.ids import check_object_id
from tidegate.runtime.wire.encoding import encode_arguments, error_from_raw, exception_for_caller, result_decoder
from tidegate.runtime.wire.exceptions import text_of
from tidegate.runtime.wire.pending import CoroutineFuture
from tidegate.runtime.wire.protocol import ERROR, Origin, Request, cannot_be_sent, encode
from tidegate.runtime.wire.stub import MethodShape, bind_call
from tidegate.shard.core.chain import Chain
from tidegate.shard.host.call import Call
from tidegate.shard.loop.context import keyed_here
from tidegate.shard.neutral import NEUTRAL

if TYPE_CHECKING:
    from tidegate.shard.host.activation import Activation
    from tidegate.shard.host.tracing import CallTrace
    from tidegate.shard.loop.task import ObjectTask
    from tidegate.shard.objects.object import DurableObject

from tidegate.shard.objects.storage import LEFT_MEMORY

_numbers = itertools.count(1).__next__


class InternalOrigin(Origin):
    """A call that came from this process. Its reply is an `answer` here, not a message."""

    __slots__ = ()

    def __init__(self) -> None:
        self.client = b""  # Nothing else of an Origin is asked of one that no message came from.
        self.json = False
        self.arrived_s = 0.0
        self.of_class = None

    def answer(self, status: int, result: Any) -> None:
        """`result` is Raw, or what would be encoded into it."""
        raise AssertionError("every kind of origin says what it does with a reply")

    def fail(self, error: CallError) -> None:
        self.answer(ERROR, error.to_wire())

    def asked_by(self, request_id: Any) -> tuple[Origin, Any]:
        """On whose behalf: of a caller outside, its own id of the call too."""
        return self, request_id


class BuiltIn(InternalOrigin):
    """A call of the runtime's own to an object: its method, too, which no class has."""

    __slots__ = ("trace",)

    name = ""
    empty_ok = True

    def __init__(self) -> None:
        super().__init__()
        self.trace: CallTrace | None = None

    async def function(self, instance: DurableObject) -> None:
        """The gate has let it in."""
        raise AssertionError("every kind says what it does")

    def not_in_memory(self) -> bool:
        """The object has left memory, or never was there. False: it is to be brought."""
        return False


class Permit(InternalOrigin):
    """No reply at all: something else that has to wait at the output gate. `go_on` is called once it may leave, `give_up` if
    it never may."""

    __slots__ = ("_give_up", "_go_on")

    def __init__(self, go_on: Callable[[], object], give_up: Callable[[CallError], object]) -> None:
        super().__init__()
        self._go_on = go_on
        self._give_up = give_up

    def answer(self, status: int, result: Any) -> None:
        self._go_on()

    def fail(self, error: CallError) -> None:
        self._give_up(error)


class LocalOrigin(InternalOrigin):
    """The reply goes to a future of this process."""

    __slots__ = ("caller", "chain", "confirm_seq", "future", "place", "request", "result_type", "trace")

    def __init__(
        self, caller: Activation, future: asyncio.Future[Any], result_type: Any, request: Request, chain: Chain | None
    ) -> None:
        super().__init__()
        self.arrived_s = caller.host.turn.clock()
        self.caller = caller
        self.confirm_seq = caller.cache.confirm_seq
        """What the caller had written when it made the call."""
        self.future = future
        self.result_type = result_type
        self.chain = chain
        self.request = None if chain is None else request
        self.trace: CallTrace | None = None
        self.place: Call | ObjectTask | None = None
        """Where a call that has a chain is, on this worker."""

    def begin(self, activation: Activation) -> bool:
        """The call is to be started: its object sees what the call reveals. False when that has been lost; then it must not run,
        and has been answered."""
        caller = self.caller
        if caller.broken is not None and self.confirm_seq >= caller.lost_seq:
            self.fail(caller.broken)
            return False
        caller.host.output_gate.inherit(activation.cache, caller.cache, self.confirm_seq)
        return True

    def answer(self, status: int, result: Any) -> None:
        if self.trace is not None:
            self.trace.answered(status, result)
        if self.chain is not None:
            self.caller.host.chained.end(self)
        future = self.future
        if future.done():  # The caller no longer waits.
            return
        try:
            raw = result if isinstance(result, msgspec.Raw) else encode(result)
        except Exception as exc:
            future.set_exception(exception_for_caller(cannot_be_sent(exc)))
            return
        try:
            if status == ERROR:
                future.set_exception(exception_for_caller(error_from_raw(raw)))
            else:
                future.set_result(result_decoder(self.result_type)(raw))
        except BaseException as exc:  # A user's `__post_init__` may raise whatever it likes.
            text = f"the result is not what its annotation says: {text_of(exc)}"
            future.set_exception(Internal(text, outcome="executed"))

    def fail(self, error: CallError) -> None:
        if self.trace is not None:
            self.trace.answered(ERROR, error.to_wire())
        if self.chain is not None:
            self.caller.host.chained.end(self)
        if not self.future.done():
            self.future.set_exception(error.again())
            self.future.exception()  # Retrieved: the object that asked may have been reset.


class Caller:
    """What the stubs of one instance call through, as long as it is in memory."""

    __slots__ = ("_activation", "_host", "_life")

    def __init__(self, activation: Activation) -> None:
        self._activation = activation
        self._host = activation.host
        self._life = activation.life

    def bind(self, class_name: str, name: str, method: str, shape: MethodShape | None) -> Callable[..., Awaitable[Any]]:
        """See `tidegate.runtime.wire.stub.Binder`."""
        return bind_call(self.call, class_name, name, method, shape)

    def call(
        self, class_name: str, name: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], result_type: Any = Any
    ) -> Coroutine[Any, Any, Any]:
        if get_ident() != self._host.thread:
            return self._call_in_loop(class_name, name, method, args, kwargs, result_type)
        activation = self._activation
        if activation.life != self._life:
            raise ObjectReset(LEFT_MEMORY)
        problem = check_object_id(class_name, name)
        if problem is not None:
            raise BadRequest(problem)
        future: CoroutineFuture[Any] = CoroutineFuture(loop=self._host.loop)
        raw = encode_arguments(args, kwargs)  # At once: what the caller changes later does not travel.
        request = Request(_numbers(), class_name, name, method, raw)
        chained = self._host.chained
        chain = chained.chain_from(activation)
        origin = LocalOrigin(activation, future, result_type, request, chain)
        if chain is not None:
            chained.begin(origin)
        self._send(activation, request, origin)
        return future

    def _send(self, activation: Activation, request: Request, origin: LocalOrigin) -> None:
        """To another worker it goes when everything that the object has written is durable."""
        host = self._host
        call = Call(request, origin, origin.chain)
        keyed = keyed_here()
        if keyed is not None:
            call.key = keyed.call_key(request.cls, request.name, request.method)
        if host.tracing is not None:
            call.traceparent = host.tracing.current()
        if activation.broken is not None:
            origin.fail(activation.broken)
        elif host.activator.owns(call):
            if host.tracing is not None and (host.tracing.begins or call.traceparent is not None):
                call.trace = origin.trace = host.tracing.begin(call.traceparent, request, origin.arrived_s)
            if host.settings.proves and call.shard_of(host.settings.shards_total) != activation.cache.shard:
                host.hold(activation, activation.cache.confirm_seq, lambda: host.deliver_soon(call), origin.fail)
            else:
                host.deliver_soon(call)
        else:
            if origin.chain is not None or call.key is not None or call.traceparent is not None:
                request.options = call.options()
            if activation.cache.confirm_seq <= host.output_gate.durable_seq:
                self._leave(request, origin)
            else:
                host.hold(activation, activation.cache.confirm_seq, lambda: self._leave(request, origin), origin.fail)

    def _leave(self, request: Request, origin: LocalOrigin) -> None:
        self._host.call_soon(self._host.send, request, origin, context=NEUTRAL)

    async def _call_in_loop(self, *call: Any) -> Any:
        """A call made in a thread, which gives it to `asyncio.run_coroutine_threadsafe`: it is sent when the loop runs this."""
        if get_ident() != self._host.thread:
            raise RuntimeError("in a thread, give the call to asyncio.run_coroutine_threadsafe(call, the loop of the object)")
        return await self.call(*call)
