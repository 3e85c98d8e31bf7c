"""What becomes of a call that has run: its result or its exception, through the output gate, exactly once.

Guarantee: whatever the code of the object has returned or raised, and whatever that does when it is encoded or asked for its
text, the answer is one result or one error; afterwards nothing of the call is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from tidegate.runtime.errors import CallError, ObjectReset, TooLarge
from tidegate.runtime.limits import LARGE_BYTES, REPLY_BYTES_MAX
from tidegate.runtime.wire.encoding import encode_value, encode_value_json, one_value, one_value_json, why_not_sent
from tidegate.runtime.wire.exceptions import text_of
from tidegate.runtime.wire.protocol import ERROR, OK, Origin
from tidegate.shard.core.codec import SCALARS, TEXTS
from tidegate.shard.host.activation import Aborted, Activation
from tidegate.shard.host.keyed_calls import KeyedRun
from tidegate.shard.host.outbound import LocalOrigin
from tidegate.shard.loop.raised import let_go
from tidegate.shard.objects.refusals import method_raised

if TYPE_CHECKING:
    from tidegate.shard.host.host import Host


class Outcomes:
    def __init__(self, host: Host) -> None:
        self._host = host
        self._output_gate = host.output_gate

    def finish(self, activation: Activation, origin: Origin | KeyedRun, request_id: Any, method: str, value: Any) -> None:
        if activation.broken is not None:
            self._host.answer_error(origin, request_id, activation.broken, activation.id.class_name)
            return
        if value.__class__ not in SCALARS or (value.__class__ in TEXTS and len(value) >= LARGE_BYTES):  # type: ignore[arg-type]  # they have lengths
            try:
                raw = one_value_json(encode_value_json(value)) if origin.json else one_value(encode_value(value))
            except BaseException as exc:  # The result's own code may run.
                error = TypeError(f"the result cannot be sent: {why_not_sent(exc)}")
                self.finish_error(activation, origin, request_id, method, error.with_traceback(exc.__traceback__))
                return
            if len(raw) > REPLY_BYTES_MAX:
                text = f"the result has {len(raw)} bytes; the limit is {REPLY_BYTES_MAX}"
                self._finish_with(activation, origin, request_id, TooLarge(text, outcome="executed"))
                return
            if len(raw) >= LARGE_BYTES:
                self._host.large_result(activation, origin, method, len(raw))
            value = raw
        self.finish_status(activation, origin, request_id, OK, value)

    def finish_status(self, activation: Activation, origin: Origin | KeyedRun, request_id: Any, status: int, value: Any) -> None:
        """Through the output gate."""
        if isinstance(origin, KeyedRun):
            origin = self._host.keyed.finished(origin, status, value)
        if activation.cache.confirm_seq <= self._output_gate.durable_seq:
            self._host.counting.at_once += 1
            self._host.answer(origin, request_id, status, value)
        elif origin.__class__ is LocalOrigin and not self._host.is_apart(origin.caller, activation):
            caller = origin.caller
            if caller.broken is not None:
                origin.fail(caller.broken)
                return
            self._output_gate.inherit(caller.cache, activation.cache, activation.cache.confirm_seq)
            self._host.counting.at_once += 1
            self._host.answer(origin, request_id, status, value)
        else:
            self._output_gate.hold(activation.cache.confirm_seq, activation, cast("Origin", origin), request_id, status, value)

    def _finish_with(self, activation: Activation, origin: Origin | KeyedRun, request_id: Any, error: CallError) -> None:
        self._host.counting.error(activation.id.class_name, error.code)
        self.finish_status(activation, origin, request_id, ERROR, error.to_wire())

    def finish_error(
        self, activation: Activation, origin: Origin | KeyedRun, request_id: Any, method: str, error: BaseException
    ) -> None:
        keyed = self._host.keyed
        if activation.broken is not None or issubclass(type(error), Aborted):
            reset = activation.broken or ObjectReset(text_of(error))
            self._host.answer_error(origin, request_id, reset, activation.id.class_name)
        elif isinstance(origin, KeyedRun) and isinstance(error, CallError) and keyed.may_run_again(origin, error):
            keyed.let_go(origin)
            self._host.counting.error(activation.id.class_name, error.code)
            told = {**error.to_wire(), "outcome": "unknown"}  # Of what it has asked others.
            self.finish_status(activation, origin.inner, request_id, ERROR, told)
        else:
            call = origin.label if isinstance(origin, KeyedRun) else request_id
            self._host.log.failed(activation.id, "raised", error, method, call)
            self._finish_with(activation, origin, request_id, method_raised(error, dev=self._host.settings.dev))
        let_go(error)
