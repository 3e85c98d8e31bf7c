"""Calls that took long: each is named in the log, with where its time went.

Guarantee: a call that is answered fast is looked at once more at most, by a comparison; those of one message that run at once by
one comparison together. What is known of a call that waits for its commit is kept until then, of few calls at a time.

Where it went: *queue*, from the arrival until it was looked at or started; *gate*, behind the input gate of its object; *run*,
its code and all that it awaited; *commit*, from its end until what it had written, or seen, was durable.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tidegate.runtime.ids import ObjectId
from tidegate.runtime.limits import SLOW_CALLS_NOTED_MAX
from tidegate.runtime.wire.protocol import Message
from tidegate.shard.host.counting import UNKNOWN
from tidegate.shard.host.keyed_calls import KeyedRun
from tidegate.shard.host.object_log import ObjectLog

if TYPE_CHECKING:
    from tidegate.shard.core.output_gate import HeldMessage
    from tidegate.shard.host.activation import Activation

KEPT_CALLS = 100
"""So many of those that were slow are kept, for whoever asks."""
_NOTED_SHARE = 4
"""From this part of the bound on it is kept what is known of a call, which may become slow."""


class _Ended(NamedTuple):
    """A call whose answer waits for a commit."""

    method: str
    label: Any
    began_s: float
    ended_s: float
    gate_s: float


class SlowCalls:
    __slots__ = ("_ended", "_gates", "_log", "_newest", "bound_s", "noted_s")

    def __init__(self, log: ObjectLog, bound_s: float) -> None:
        self._log = log
        self.bound_s = bound_s
        """What takes as long is named."""
        self.noted_s = bound_s / _NOTED_SHARE
        self._gates: dict[tuple[ObjectId, Any], float] = {}
        """How long calls have waited at a gate that have not ended, the oldest first."""
        self._ended: dict[tuple[ObjectId, Any], _Ended] = {}
        self._newest: deque[dict[str, Any]] = deque(maxlen=KEPT_CALLS)

    def let_in(self, object_id: ObjectId, request_id: Any, waited_s: float) -> None:
        """By the gate of its object."""
        if waited_s >= self.noted_s:
            _keep(self._gates, (object_id, request_id), waited_s)

    def ended(
        self, activation: Activation, origin: Any, call: tuple[Any, str], began_s: float, now_s: float, *, is_held: bool
    ) -> None:
        """`call`: its id, and the name of its method. It has taken a part of the bound so far. `is_held`: its answer waits."""
        request_id, method = call
        key = activation.id, request_id
        label = origin.label if isinstance(origin, KeyedRun) else request_id
        ended = _Ended(method, label, began_s, now_s, self._gates.pop(key, 0.0))
        if is_held:
            _keep(self._ended, key, ended)
        elif now_s - origin.arrived_s >= self.bound_s:
            self._say(activation.id, origin.arrived_s, ended, now_s)

    def at_once(self, message: Message, classes: Container[str], began_s: float, now_s: float) -> None:
        """The calls of a message have run, one after the other; which of them it was is not known."""
        origin, ran, cls = message.origin, len(message.requests), message.requests[0].cls
        which = "a call" if ran == 1 else f"{ran} calls of one message, one after the other,"
        queue_s, run_s = began_s - origin.arrived_s, now_s - began_s
        line = f"{which} took {now_s - origin.arrived_s:.3f} s: queue {queue_s:.3f} s, run {run_s:.3f} s"
        object_id = ObjectId(cls if cls in classes else UNKNOWN, "")
        self._log.was_slow(object_id, "", None, line)
        self._remember(object_id, which, now_s - origin.arrived_s, {"queue": queue_s, "run": run_s})

    def released(self, held: Iterable[HeldMessage], now_s: float) -> None:
        """A commit is durable, and of these messages one has waited for long at least."""
        for sender, origin, request_id, *_ in held:
            if sender is None or not getattr(origin, "arrived_s", 0.0) or now_s - origin.arrived_s < self.bound_s:
                continue
            ended = self._ended.pop((sender.id, request_id), None)
            if ended is None:
                ended = _Ended("", request_id, origin.arrived_s, origin.arrived_s, 0.0)
            self._say(sender.id, origin.arrived_s, ended, now_s)

    def _say(self, object_id: ObjectId, arrived_s: float, ended: _Ended, now_s: float) -> None:
        queue_s = max(0.0, ended.began_s - arrived_s - ended.gate_s)
        parts = {
            "queue": queue_s,
            "gate": ended.gate_s,
            "run": ended.ended_s - ended.began_s,
            "commit": now_s - ended.ended_s,
        }
        told = ", ".join(f"{name} {part_s:.3f} s" for name, part_s in parts.items())
        self._log.was_slow(object_id, ended.method, ended.label, f"took {now_s - arrived_s:.3f} s: {told}")
        self._remember(object_id, ended.method, now_s - arrived_s, parts)

    def _remember(self, object_id: ObjectId, method: str, took_s: float, parts: Mapping[str, float]) -> None:
        self._newest.append(
            {
                "class": object_id.class_name,
                "name": object_id.name,
                "method": method,
                "time_ms": time.time_ns() // 1_000_000,
                "took_s": round(took_s, 3),
                **{f"{part}_s": round(parts.get(part, 0.0), 3) for part in ("queue", "gate", "run", "commit")},
            }
        )

    def newest(self) -> list[dict[str, Any]]:
        """Calls that were slow lately, with where their time went, the newest first."""
        return list(reversed(self._newest))


def _keep(noted: dict[tuple[ObjectId, Any], Any], key: tuple[ObjectId, Any], what: Any) -> None:
    if len(noted) >= SLOW_CALLS_NOTED_MAX:
        del noted[next(iter(noted))]
    noted[key] = what
